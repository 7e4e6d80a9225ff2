"""Data of a user's own strategy, of days or of minutes: episodes to train on, dry runs to evaluate it.

Days and minutes differ in how their desks are made. Every figure comes from the desk. Nothing here knows what the
strategy's actions mean; before a span begins, the desk takes the first action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.events import Event
from daemon.core.limits import Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.step import Core, Machine
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import AnyStrategy, DailySpec, DailyStrategy, Float32Array, Spec
from training.data.daily_table import DailyTable
from training.desks.daily.task_data import OneAccountOfDays
from training.desks.kind import EnvSettings, Evaluator, FoldComparison, Info, Learner, Span
from training.desks.own.environment import (
    DeskEnv,
    Episode,
    GymEnvironments,
    Outcome,
    check_made,
    check_repeats,
    gain,
)
from training.evaluate import days as daily
from training.evaluate.bars import BarDesk, SessionStart
from training.evaluate.days import dry_run
from training.evaluate.machine import Player
from training.evaluate.players import CERTAIN, Late, choosing, constant, with_costs
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.export.reference import AnswerRecorder, Watched
from training.rl.protocols import Environment
from training.study.study import Fold, OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures, figures


class SmallPolicy(nn.Module):
    """Two hidden layers of 64 units over the flattened observation: what is exported."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = math.prod(spec.observation_shape)
        self.layers = nn.Sequential(
            nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, len(spec.actions))
        )
        self._continuous = spec.continuous

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, actions); of a continuous policy actions in [-1, 1]."""
        outputs: Tensor = self.layers(observation.flatten(1))
        return torch.tanh(outputs) if self._continuous else outputs


class ActorCritic(nn.Module):
    """A policy, and a critic that only training sees. `log_std` makes PPO draw continuous actions."""

    def __init__(self, spec: Spec, seed: int, policy: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.policy = policy or SmallPolicy(spec)
        width = math.prod(spec.observation_shape)
        self.critic = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1))
        if spec.continuous:
            self.log_std = nn.Parameter(torch.full((len(spec.actions),), -0.5))

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations as they are: scaling belongs to the strategy or to the policy."""
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, actions) and values (batch,)."""
        return self.policy(prepared), self.critic(prepared.flatten(1)).squeeze(-1)


RANDOM = "random"
RANDOM_DRAWS = 5


class Hooks(NamedTuple):
    """The parts of training that a user may replace; each has a default."""

    reward: Callable[[Outcome], float] = gain
    network: Callable[[Spec], nn.Module] | None = None  # raw observations to logits, or to actions in [-1, 1]
    environment: Callable[[OwnData, Span], gymnasium.Env[Any, Any]] | None = None


_repeating: list[Callable[[OwnData, Span], gymnasium.Env[Any, Any]]] = []  # in this process


class OwnData(Protocol):
    """Bars made ready; see `training.desks.ppo.PpoData`."""

    hooks: Hooks

    @property
    def spec(self) -> Spec:
        """The strategy's."""

    @property
    def info(self) -> Info:
        """The file."""

    @property
    def days(self) -> Collection[str]:
        """The sessions that can be decided on, ascending."""

    def play(self, player: Player, span: Span) -> PlayResult:
        """The result of a player on these sessions through the dry run."""

    def episode(self, span: Span, number: int) -> Episode:
        """The desk before the span's session `number` (from 0), and the events from there on."""


class Common:
    """Methods shared by both kinds of data."""

    def desk_env(self: OwnData, span: Span) -> DeskEnv:
        """The desk on these sessions as a gymnasium environment, with the strategy's reward."""
        return DeskEnv(self.spec, lambda number: self.episode(span, number), len(span.dates), self.hooks.reward)

    def gym_env(self, span: Span) -> gymnasium.Env[Any, Any]:
        """The strategy's own environment on these sessions, or the desk. Raises ValueError for other spaces."""
        data: Any = self
        if data.hooks.environment is None:
            desk: gymnasium.Env[Any, Any] = data.desk_env(span)
            return desk
        made: gymnasium.Env[Any, Any] = data.hooks.environment(data, span)
        check_made(made, data.spec)
        return made

    def network(self: OwnData, _name: str, seed: int, _train: Sequence[str]) -> Learner:
        """See `PpoData`."""
        return learner(self.spec, seed, self.hooks)

    def environment(self, span: Span, settings: EnvSettings) -> Environment:
        """See `PpoData`."""
        data: Any = self
        made = data.hooks.environment
        if made is not None and made not in _repeating:  # tried once, not for each trial
            check_repeats(data.gym_env(span), data.spec, settings.seed)
            _repeating.append(made)
        return GymEnvironments(lambda: data.gym_env(span), settings.count, settings.seed)

    def evaluator(self: OwnData, span: Span, _device: str) -> Evaluator:
        """See `TaskData`."""
        return lambda policy: self.play(policy, span).sessions

    def test(self: OwnData, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return self.play(policy, span)

    def watch(self: OwnData, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`."""
        recorder = AnswerRecorder()
        self.play(recorder.before(policy), span)
        return recorder.watched()

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`: observations of a random player."""
        data: Any = self
        rows: list[Float32Array] = []
        draw = random_player(data.spec, seed)

        def recorded(observations: Tensor) -> Tensor:
            rows.append(observations.numpy().copy())
            answers: Tensor = draw(observations)
            return answers

        for dates in (fold.test, fold.validate, fold.train):
            if len(rows) < count:
                data.play(recorded, Span(dates, "", data.trading))
        observations: Float32Array = np.concatenate(rows)[:count]
        return observations

    def compare(
        self: OwnData, policy: nn.Module, _: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> FoldComparison:
        """See `PpoData`: constant actions, random players, twice the costs, and one decision late."""
        results: dict[str, PlayResult] = {}
        for name, player in constant_players(self.spec).items():
            results[name] = self.play(player, span)
            check_stop()
        draws = [self.play(random_player(self.spec, seed + number), span) for number in range(RANDOM_DRAWS)]
        check_stop()
        scenarios = {
            COSTS_TWICE: self.play(policy, replace(span, trading=with_costs(span.trading, 2))),
            ONE_BAR_LATE: self.play(Late(policy, first_action(self.spec)), span),
        }
        totals = tuple(sum(session.pnl_usd for session in draw_result.sessions) for draw_result in draws)
        return FoldComparison(results | {RANDOM: draws[0]}, totals, scenarios)


def learner(spec: Spec, seed: int, hooks: Hooks) -> ActorCritic:
    """The strategy's own policy, or the usual one, with a critic; weights drawn from `seed`."""
    torch.manual_seed(seed)
    return ActorCritic(spec, seed, None if hooks.network is None else hooks.network(spec))


@torch.no_grad()
def check_answer(player: Player, spec: Spec) -> None:
    """Raise ValueError for a policy, a torch module, whose answers are not one number for each action."""
    if not isinstance(player, nn.Module):
        return
    answer = player(torch.zeros(2, *spec.observation_shape))
    if not isinstance(answer, Tensor) or tuple(answer.shape) != (2, len(spec.actions)):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(
            f"the policy of {spec.name} answers two observations with {shape}, expected a tensor of shape "
            f"{(2, len(spec.actions))}: one number for each of {', '.join(spec.actions)}"
        )


def first_action(spec: Spec) -> Player:
    """The player that always takes the first action; of a continuous policy 0 everywhere."""
    return constant([0.0] * len(spec.actions)) if spec.continuous else choosing(0, len(spec.actions))


def constant_players(spec: Spec) -> Mapping[str, Player]:
    """The baselines by name: one constant player for each action; for a continuous policy 0 everywhere."""
    if spec.continuous:
        return {"always 0": first_action(spec)}
    count = len(spec.actions)
    return {f"always {name}": choosing(place, count) for place, name in enumerate(spec.actions)}


def random_player(spec: Spec, seed: int) -> Player:
    """The player that draws each action."""
    generator = torch.Generator().manual_seed(seed)

    def draw(observations: Tensor) -> Tensor:
        numbers = torch.rand(len(observations), len(spec.actions), generator=generator)
        answers: Tensor = 2.0 * numbers - 1.0 if spec.continuous else CERTAIN * numbers
        return answers

    return draw


EPISODE_SESSIONS = 60  # sessions of an episode of a daily desk


@dataclass(frozen=True, slots=True)
class OwnDays(Common, OneAccountOfDays):
    """Daily bars."""

    table: DailyTable
    strategy: DailyStrategy
    trading: Trading
    hooks: Hooks
    ready: dict[tuple[str, str, Trading], daily.Desk] = field(default_factory=dict)  # made when first needed

    @property
    def spec(self) -> DailySpec:
        """The strategy's."""
        return self.strategy.spec

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        return dry_run(player, self.desk(span))

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: a fixed number of sessions from this one on."""
        desk = self.desk(replace(span, dates=span.dates[number : number + EPISODE_SESSIONS]))
        market = SharePaperBroker(desk.trading, self.spec.symbols)
        machine = Machine(Core(self.strategy, trades=False), desk.state, market, desk.market_state)
        days = range(desk.first, desk.last + 1)
        return Episode(machine, chain.from_iterable(daily.feed(self.table, day, desk.trading) for day in days))

    def desk(self, span: Span) -> daily.Desk:
        """The desk before these sessions."""
        key = (span.dates[0], span.dates[-1], span.trading)
        if key not in self.ready:
            self.ready[key] = daily.desk_before(self.table, span.dates, self.strategy, span.trading)
        return self.ready[key]


@dataclass(frozen=True, slots=True)
class OwnMinutes(Common):
    """Bars within sessions. Each session has its own account, unless shares are held overnight."""

    tape: TapeInfo
    source: Iterable[Event]
    dates: tuple[str, ...]
    warmup_sessions: int  # sessions that warm the desk up
    strategy: AnyStrategy
    trading: Trading
    hooks: Hooks
    ready: dict[Trading, dict[str, SessionStart]] = field(default_factory=dict)  # made when first needed

    @property
    def spec(self) -> Spec:
        """The strategy's."""
        return self.strategy.spec

    @property
    def info(self) -> TapeInfo:
        """The file."""
        return self.tape

    @property
    def days(self) -> Collection[str]:
        """The sessions after the warm-up, ascending."""
        return self.dates[self.warmup_sessions :]

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """See `TaskData`: returns add up where every session begins with the same capital, else they compound."""
        return figures(results, float(self.trading.paper.cash_usd), compounds=self.spec.compounds)

    @property
    def desk(self) -> BarDesk:
        """The desk for all figures; before a played session it has watched all earlier ones with the first action."""
        return BarDesk(self.strategy, lambda _date, _trading: (self.source, len(self.dates)), first_action(self.spec))

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        if self.spec.overnight:  # one account through the sessions of the span
            return self.desk.relay((player,), (span.dates,), span.trading)[0]
        return self.desk.play(player, [self._start(date, span.trading) for date in span.dates], span.trading)

    def at_sizes(self, policy: nn.Module, span: Span) -> tuple[SizeFigures, ...]:
        """See `TaskData`: each session has an account of its own."""
        del policy, span
        return ()

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`."""
        return OneAccount(self.desk.relay(policies, [span.dates for span in spans], spans[0].trading))

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: one session; where shares are held overnight, as many from it on as for daily bars."""
        dates = span.dates[number : number + (EPISODE_SESSIONS if self.spec.overnight else 1)]
        starts = [self._start(date, span.trading) for date in dates]
        return Episode(self.desk.machine(starts[0], span.trading), chain.from_iterable(start.feed for start in starts))

    def _start(self, date: str, trading: Trading) -> SessionStart:
        if trading not in self.ready:
            starts = self.desk.before(tuple(self.days), trading)
            self.ready[trading] = {start.date: start for start in starts}
        return self.ready[trading][date]
