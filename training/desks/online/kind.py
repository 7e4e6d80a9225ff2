"""How `online_dqn` is trained: what a run is asked for, one trial of PQN, one fold as in the trainer's cold start.

A trial learns on the training sessions and looks at the validation sessions now and then; the weights with the best net
return there are kept, the earliest on a tie. Invariant: stopped or killed any number of times, it ends in the same
bytes (CPU). The policy is compared with baselines on the same test sessions, under other costs and one bar late.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from torch import nn

from daemon.core.limits import Trading
from strategies.online_dqn import spec_of
from strategies.online_dqn.model_config import PORTFOLIO, ModelConfig, of_text
from strategies.online_dqn.state_vector import history_bars, shipped
from training.desks.kind import (
    OWN_FOLDS,
    POLICY,
    Done,
    FoldResults,
    Passive,
    Procedure,
    Sources,
    Span,
    Start,
    Task,
    TrainingKind,
)
from training.desks.online.cold_start import trainer_of
from training.desks.online.data import FROM_OPEN, OnlineTaskData, flat, hold_from_open, load, play, random_trader
from training.desks.online.network import (
    COLD_PRESETS,
    ColdPreset,
    begin_passive,
    network_of,
    network_of_weights,
    passive_of,
)
from training.desks.trial import Diverged, News, Trained
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, RandomTrader, median_of, random_like, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.export.reference import each_column
from training.rl.coefficients import NotFiniteError
from training.rl.dimensions import Dimension, Plan, whole_rollouts
from training.rl.off_policy.learner import EXPLAINED
from training.rl.pool import Stopped
from training.rl.presets import PASSIVE, Preset
from training.study.folds import Cut, Walk, last_fold, walk
from training.study.progress import counted, phase
from training.study.study import Fold, PlayResult, SessionResult, ValidationCheck, figures

RANDOM_DRAWS = 1000  # random traders for the p-value
RANDOM_RUNS = 5  # random traders whose median is the baseline
ROWS = 4000  # accounts of the market for random traders played at once
FLAT, HOLD, RANDOM = "always flat", FROM_OPEN, "random"

BASELINES: Mapping[str, str] = {
    FLAT: "Never trades.",
    HOLD: "Buys at the second bar of every session and keeps it until the flatten before the close, through the dry "
    "run with all gates; after a stop or a target it buys again as soon as it may.",
    RANDOM: "Enters with a fixed chance a minute and leaves with another, both chosen so that trades and holding times "
    "come close to the chosen policy's. The median of a few; they and the draws behind the p-value go through the "
    "market that the policy learned on, which agrees with the dry run to the last digit.",
}


PLAYERS = (POLICY, *BASELINES, *COSTS, ONE_BAR_LATE)
"""All names that `play_one` knows, the policy's first."""


def play_one(
    player: str,
    policies: Sequence[nn.Module],
    data: OnlineTaskData,
    spans: Sequence[tuple[str, ...]],
    seed: int,
    check_stop: Callable[[], None],
) -> FoldResults:
    """Play one of `PLAYERS` on the sessions of each fold; every session has its own account."""
    results, random = [], []
    for policy, dates in zip(policies, spans, strict=True):
        check_stop()
        result, totals = _played(player, policy, data, dates, seed, check_stop)
        results.append(result)
        random.append(totals)
    return FoldResults(tuple(results), tuple(random) if player == RANDOM else ())


def _played(
    player: str,
    policy: nn.Module,
    data: OnlineTaskData,
    dates: tuple[str, ...],
    seed: int,
    check_stop: Callable[[], None],
) -> tuple[PlayResult, tuple[float, ...]]:
    trading = data.data.trading
    if player == RANDOM:
        return _random(policy, data, dates, seed, check_stop)
    if player == FLAT:
        return PlayResult(play(flat, data.data, dates, trading)), ()
    rules = with_costs(trading, COSTS[player]) if player in COSTS else trading
    return data.dry_run(_maker(player, policy), dates, rules, check_stop), ()


def _maker(player: str, policy: nn.Module) -> Callable[[], Player]:
    """A function that makes the player for one session."""
    if player == ONE_BAR_LATE:
        return lambda: Late(policy, flat)
    return lambda: hold_from_open if player == HOLD else policy


def _random(
    policy: nn.Module, data: OnlineTaskData, dates: tuple[str, ...], seed: int, check_stop: Callable[[], None]
) -> tuple[PlayResult, tuple[float, ...]]:
    """The median of a few random traders that trade about as often as the policy, and the profits of many in USD."""
    material, trading = data.data, data.data.trading
    at_once = max(1, ROWS // len(material.on(dates)))

    def measure(trader: RandomTrader) -> Sequence[SessionResult]:
        return play(trader, material, dates, trading, at_once)

    with phase("a random trader like the policy"):
        goal = play(policy, material, dates, trading)
        trader = random_like(
            goal, lambda enter, leave: random_trader(enter, leave, seed, material.history.bar_min), measure
        )
    with phase("random traders, a few"):
        runs = counted(range(RANDOM_RUNS), "traders")
        few = [play(trader, material, dates, trading) for _ in runs]
    totals: list[float] = []
    with phase("random traders, all"):
        for _ in counted(range(-(-RANDOM_DRAWS // at_once)), f"rounds of {at_once} traders"):
            check_stop()
            results = measure(trader)
            totals.extend(round(_total(part), 2) for part in _draws(results, len(dates)))
    return PlayResult(few[median_of(few)]), tuple(totals[:RANDOM_DRAWS])


def _total(results: Sequence[SessionResult]) -> float:
    return math.fsum(result.pnl_usd for result in results)


def _draws(results: Sequence[SessionResult], sessions: int) -> list[Sequence[SessionResult]]:
    return [results[first : first + sessions] for first in range(0, len(results), sessions)]


@dataclass(frozen=True, slots=True)
class OnlinePlan(Plan):
    """The cold start with checks on validation sessions; a trial's steps replace the preset's."""

    members: int = 1  # there is one network; named in a run's settings alone
    cold: ColdPreset = field(default_factory=lambda: COLD_PRESETS["cold"])
    looks: int = 20  # at the validation sessions

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """See `Plan`."""
        return SPACE

    def trained_steps(self, steps: int, /) -> int:
        """See `Plan`."""
        rollout = self.cold.pqn.environments * self.cold.pqn.rollout_steps
        return whole_rollouts(steps, rollout) * rollout


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "cold": Preset("Q(lambda) on history, as the trainer's cold start", 1_000_000, plan=OnlinePlan()),
        "passive": Preset(
            "the same, from a network that mostly holds nothing", 1_000_000, begins=PASSIVE, plan=OnlinePlan()
        ),
        "smoke": Preset("does it run? A tiny network", 8192, plan=OnlinePlan(cold=COLD_PRESETS["smoke"], looks=2)),
    }
)

SPACE = (
    Dimension("cold.pqn.learning_rate", "the one that matters most", 1e-4, 3e-3, log=True),
    Dimension("cold.pqn.discount", "0.9 looks 10 bars ahead, 0.995 two hundred", 0.9, 0.995),
    Dimension("cold.pqn.trace", "how much of what followed counts instead of its value", 0.3, 0.95),
    Dimension("cold.pqn.epochs", "how much is learnt from what was seen", choices=(1, 2, 4)),
)


class RunningTrial:
    """A trial under way."""

    def __init__(self, task: Task[OnlineTaskData, OnlinePlan], fold: Fold) -> None:
        """Prepare, or go on from the keeper's checkpoint."""
        request, data, plan, keeper = task.request, task.data.data, task.plan, task.keeper
        self._task, self._request, self._data, self._fold, self._keeper = task, request, data, fold, keeper
        self._network = network_of(data.config, plan.cold, request.seed)
        if request.begins == PASSIVE:
            begin_passive(self._network)
        self._trainer = trainer_of(
            self._network, data, fold.train, plan.cold, request.seed, request.steps, request.precision
        )
        self._every = max(1, self._trainer.total_updates // plan.looks)
        self._weights: dict[str, Any] = {}
        self._validate: tuple[SessionResult, ...] = ()
        self._curve: list[ValidationCheck] = []
        self._seen: list[dict[str, float]] = []  # figures of each update since the last look
        self._chosen_steps, self._earned, self._without, self._seconds = 0, -math.inf, 0, 0.0
        self._gradient_steps = 0  # until the chosen checkpoint
        checkpoint = keeper.checkpoint()
        if checkpoint is not None:
            self._load(checkpoint)

    def run(self) -> Trained:
        """Train what is left. Raises `Stopped` after a checkpoint, `Diverged` for a loss that is not finite."""
        trainer, request, control = self._trainer, self._request, self._task.control
        began, earlier, steps_before, stopped = time.monotonic(), self._seconds, trainer.steps, ""
        with self._keeper.metrics(trainer.updates) as journal:
            while not trainer.done:
                if 0 < request.patience <= self._without:
                    stopped = f"no better validation in {request.patience} looks"
                    break
                line, point = self._update()
                journal.write(line)
                self._seconds = earlier + time.monotonic() - began
                total = trainer.total_updates * (trainer.steps // trainer.updates)
                best = point is not None and self._without == 0
                self._task.listen(News(request.name, trainer.steps, total, point, best, steps_before))
                if control.stop() or control.checkpoint_due():
                    self._keeper.save(self._state())
                    if control.stop() and not trainer.done:
                        raise Stopped(request.name)
        return Trained(
            weights=self._weights,
            validate=self._validate,
            chosen_steps=self._chosen_steps,
            steps=trainer.steps,
            seconds=self._seconds,
            stopped=stopped,
            curve=tuple(self._curve),
            gradient_steps=self._gradient_steps,
        )

    def _update(self) -> tuple[dict[str, Any], ValidationCheck | None]:
        """Run one update. Returns its figures, and the validation check where one was due, else None."""
        trainer = self._trainer
        try:
            progress = trainer.update()
        except NotFiniteError as error:
            raise Diverged(f"{self._request.name} stopped after step {trainer.steps:,}: {error}") from error
        figures = {"reward": progress.reward, "update_to_data": progress.update_to_data, **progress.figures}
        self._seen.append(figures)
        looked = trainer.updates % self._every == 0 or trainer.done
        point = self._look() if looked else None
        line: dict[str, Any] = {"agent": "pqn", "steps": progress.steps, **figures}
        if point is not None:
            line |= {"validate_return": point.validate_return, "validate_trades": point.validate_trades}
        return line, point

    def _look(self) -> ValidationCheck:
        data = self._data
        results = play(self._network, data, self._fold.validate, data.trading)
        earned = figures(results, float(data.trading.paper.cash_usd)).net_return
        means = _means(self._seen)
        point = ValidationCheck(
            steps=self._trainer.steps,
            reward=means.pop("reward"),
            entropy=0.0,
            kl=0.0,
            clip_fraction=0.0,
            explained_variance=means.pop(EXPLAINED, 0.0),
            validate_return=earned,
            validate_trades=sum(result.trades for result in results),
            agent="pqn",
            figures=means,
        )
        self._seen.clear()
        self._curve.append(point)
        self._without += 1
        if earned > self._earned:
            self._weights = copy.deepcopy(self._network.state_dict())
            self._validate, self._chosen_steps, self._earned, self._without = results, self._trainer.steps, earned, 0
            self._gradient_steps = self._trainer.gradient_steps
        return point

    def _state(self) -> dict[str, Any]:
        """All that the next updates depend on."""
        plain = (self._validate, self._curve, self._seen, self._chosen_steps, self._without, self._seconds)
        return {
            "trainer": self._trainer.state_dict(),
            "weights": self._weights,
            "earned": self._earned,
            "gradient_steps": self._gradient_steps,
            "plain": msgspec.json.encode(plain).decode(),
        }

    def _load(self, checkpoint: dict[str, Any]) -> None:
        self._trainer.load_state_dict(checkpoint["trainer"])
        self._weights, self._earned, self._gradient_steps = (
            checkpoint["weights"],
            checkpoint["earned"],
            checkpoint["gradient_steps"],
        )
        plain = tuple[tuple[SessionResult, ...], list[ValidationCheck], list[dict[str, float]], int, int, float]
        self._validate, self._curve, self._seen, self._chosen_steps, self._without, self._seconds = msgspec.json.decode(
            checkpoint["plain"], type=plain
        )


def _means(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(line[name] for line in lines) / len(lines) for name in lines[0]}


UNUSABLE = "that warm the indicators up"
SPAN = 10  # sessions between the begins of successive validation spans of a search
SESSION_MINUTES = 390


@dataclass(frozen=True, slots=True)
class FromHistory(Procedure[OnlineTaskData, OnlinePlan]):
    """See `training.desks.kind.Procedure`. Of one model configuration."""

    config: ModelConfig = field(default_factory=shipped)

    def lacks(self) -> Mapping[str, str]:
        """See `Procedure`."""
        return OWN_FOLDS | {
            "device": "its market is numpy on the CPU",
            "engine": "no SAC is trained for it",
            "members": "it is one network",
            "option_quotes": "it trades no options",
        }

    @property
    def walk(self) -> Walk:
        """How sessions are cut into folds: purged are the look-back and the session of one episode."""
        looked_back = -(-history_bars(self.config) * self.config.bar_minutes // SESSION_MINUTES)
        return Walk(train=60, validate=20, test=40, purge=looked_back + 1)

    def load(self, path: Path, trading: Trading, sources: Sources, _: OnlinePlan, /) -> OnlineTaskData:
        """See `Procedure`; several files hold one symbol each, in the order of the symbols."""
        return OnlineTaskData(load((path, *sources.files), self.config, sources.symbols, trading))

    def folds(self, dates: Sequence[str], _: OnlinePlan, cut: Cut, /) -> tuple[Fold, ...]:
        """See `Procedure`: one."""
        return (last_fold(dates, cut.rule, cut.unusable),)

    def search_folds(self, _: Sequence[str], __: OnlinePlan, folds: Sequence[Fold], count: int, /) -> tuple[Fold, ...]:
        """See `Procedure`: the fold without its test, or parts of what lies before the test."""
        dates = (*folds[0].train, *folds[0].validate)
        spans = Walk(train=1, validate=SPAN, test=SPAN, purge=self.walk.purge)
        fold_list = folds if count == 1 else walk(dates, spans, count)
        return tuple(Fold(fold.train, fold.validate, ()) for fold in fold_list)

    def trial(self, task: Task[OnlineTaskData, OnlinePlan], fold: Fold, /) -> Trained:
        """See `Procedure`."""
        return RunningTrial(task, fold).run()

    def start(self, task: Task[OnlineTaskData, OnlinePlan], _: Fold, __: nn.Module, ___: Mapping[str, Any], /) -> Start:
        """See `Procedure`: the network that the trial began as, which answers with values."""
        network = network_of(task.data.data.config, task.plan.cold, task.request.seed)
        if task.request.begins == PASSIVE:
            begin_passive(network)
        return Start(network.eval(), None)

    @property
    def players(self) -> Sequence[str]:
        """See `Procedure`."""
        return PLAYERS

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: OnlineTaskData,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
        /,
    ) -> FoldResults:
        """See `Procedure`; every session has an account of its own."""
        return play_one(player, policies, data, [tuple(span.dates) for span in spans], seed, check_stop)

    def for_report(
        self, _: OnlinePlan, policies: Sequence[nn.Module], data: OnlineTaskData, folds: Sequence[Fold], __: Done, /
    ) -> dict[str, Any]:
        """See `Procedure`: how good the heads are on the test sessions."""
        return data.heads_for_report(policies[-1], folds[-1])


def kind_of(config: ModelConfig) -> TrainingKind:
    """The training object for one model configuration: it fixes network, bars, inputs and folds."""
    spec, procedure = spec_of(config), FromHistory(config)

    def policy(_network: str, _seed: int, weights: Mapping[str, Any]) -> nn.Module:
        return network_of_weights(config, weights)

    return TrainingKind(
        strategy=spec.name,
        networks=("dueling",),
        variants=("gain",),
        presets=PRESETS,
        baselines=BASELINES,
        procedure=procedure,
        policy=policy,
        inputs=each_column(spec, range(len(spec.features)), of_the_desk=PORTFOLIO),
        unusable=UNUSABLE,
        walk=procedure.walk,
        passive=Passive("holds nothing", of=passive_of),
        with_config=lambda text: kind_of(of_text(text)),
    )


KIND = kind_of(shipped())
