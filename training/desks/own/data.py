"""A bars file made ready for a strategy of one's own: episodes to train on, and dry runs to judge it by.

Days and minutes differ in how their desks are made; everything else is common. Every figure comes from the desk itself,
and nothing here knows what the strategy's actions mean: the first one is what a desk does before a span begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, OrderFilled, PolicyAnswered, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.step import Core, Step
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.kit.contract import AnyStrategy, DailySpec, DailyStrategy, Float32Array, Spec
from strategies.registry import strategy as registered
from training.desks.daily import dry_run as daily
from training.desks.daily.table import DailyTable, read_table
from training.desks.kind import Compared, EnvSettings, Evaluator, Info, Learner, Span
from training.desks.minutes import Desk, desks_before, started
from training.desks.own.environment import CERTAIN, MODEL, DeskEnv, Episode, GymEnvironments, Outcome, answer_of, gain
from training.desks.own.network import ActorCritic
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.export.reference import Recorder, Watched
from training.rl.pool import stop_signals_blocked
from training.rl.protocols import Environment
from training.study.evaluation import Figures, SessionResult, figures
from training.study.study import Fold, PlayResult

RANDOM = "random"
RANDOM_DRAWS = 5
EPISODE_SESSIONS = 60  # of a daily desk
Player = Callable[[Tensor], Tensor]
"""Observations, float32 (1, *shape), to logits or actions, float32 (1, actions)."""


class Hooks(NamedTuple):
    """What a user brings to the training of a strategy; each has a default."""

    reward: Callable[[Outcome], float] = gain
    network: Callable[[Spec], nn.Module] | None = None  # raw observations to logits, or to actions in [-1, 1]
    environment: Callable[[OwnData, Span], gymnasium.Env[Any, Any]] | None = None


class OwnData(Protocol):
    """Bars made ready; see `training.desks.kind.TaskData`."""

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
        """What a player does on these sessions through the dry run."""

    def episode(self, span: Span, number: int) -> Episode:
        """The desk before the session of this number in the span, and the events from there on."""


class Common:
    """What both kinds of data answer alike."""

    def desk_env(self: OwnData, span: Span) -> DeskEnv:
        """The desk on these sessions as a gymnasium environment, with the strategy's reward."""
        return DeskEnv(self.spec, lambda number: self.episode(span, number), len(span.dates), self.hooks.reward)

    def network(self: OwnData, _name: str, seed: int, _train: Sequence[str]) -> Learner:
        """See `TaskData`."""
        return learner(self.spec, seed, self.hooks)

    def environment(self, span: Span, settings: EnvSettings) -> Environment:
        """See `TaskData`."""
        own: Any = self
        make = own.hooks.environment
        one = (lambda: own.desk_env(span)) if make is None else (lambda: make(own, span))
        return GymEnvironments(one, settings.count, settings.seed)

    def evaluator(self: OwnData, span: Span, _device: str) -> Evaluator:
        """See `TaskData`."""
        return lambda policy: self.play(policy, span).sessions

    def test(self: OwnData, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return self.play(policy, span)

    def watch(self: OwnData, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`."""
        recorder = Recorder()
        self.play(recorder.before(policy), span)
        return recorder.watched()

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`: what a random player sees."""
        own: Any = self
        rows: list[Float32Array] = []
        draw = random_player(own.spec, seed)

        def recorded(observations: Tensor) -> Tensor:
            rows.append(observations.numpy().copy())
            return draw(observations)

        for dates in (fold.test, fold.validate, fold.train):
            if len(rows) < count:
                own.play(recorded, Span(dates, "", own.trading))
        found: Float32Array = np.concatenate(rows)[:count]
        return found

    def compare(
        self: OwnData, policy: nn.Module, _: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> Compared:
        """See `TaskData`: each action without end, random players, twice the costs, and one decision late."""
        found: dict[str, PlayResult] = {}
        for name, player in constant_players(self.spec).items():
            found[name] = self.play(player, span)
            check_stop()
        draws = [self.play(random_player(self.spec, seed + number), span) for number in range(RANDOM_DRAWS)]
        check_stop()
        scenarios = {
            COSTS_TWICE: self.play(policy, replace(span, trading=dearer(span.trading))),
            ONE_BAR_LATE: self.play(Late(policy, self.spec), span),
        }
        totals = tuple(sum(session.pnl_usd for session in each.sessions) for each in draws)
        return Compared(found | {RANDOM: draws[0]}, totals, scenarios)


@dataclass(frozen=True, slots=True)
class OwnDays(Common):
    """Daily bars; one account goes through all sessions."""

    table: DailyTable
    strategy: DailyStrategy
    trading: Trading
    hooks: Hooks
    ready: dict[tuple[str, str, Trading], daily.Desk] = field(default_factory=dict)  # made when first needed

    @property
    def spec(self) -> DailySpec:
        """The strategy's."""
        return self.strategy.spec

    @property
    def info(self) -> DailyTable:
        """The file."""
        return self.table

    @property
    def days(self) -> Collection[str]:
        """The sessions before whose open the strategy is warm, ascending."""
        return self.table.dates[self.table.first_decision :]

    def figures(self, results: Sequence[SessionResult]) -> Figures:
        """See `TaskData`; of one account, so returns compound."""
        return figures(results, float(self.trading.paper.cash_usd), compounds=True)

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        return daily.dry_run(player, self._desk(span.dates, span.trading))

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: so many sessions from this one on."""
        desk = self._desk(span.dates[number : number + EPISODE_SESSIONS], span.trading)
        market = SharePaperBroker(desk.trading, self.spec.symbols)
        machine = Machine(Core(self.strategy), desk.state, market, desk.market_state)
        days = range(desk.first, desk.last + 1)
        return Episode(machine, chain.from_iterable(daily.feed(self.table, day, desk.trading) for day in days))

    def _desk(self, dates: Sequence[str], trading: Trading) -> daily.Desk:
        key = (dates[0], dates[-1], trading)
        if key not in self.ready:
            rules = daily.rules_for(trading, self.spec)
            self.ready[key] = daily.desk_before(self.table, dates, self.strategy, rules)
        return self.ready[key]


@dataclass(frozen=True, slots=True)
class OwnMinutes(Common):
    """Bars within sessions; each session begins on an account of its own."""

    tape: TapeInfo
    source: Iterable[Event]
    dates: tuple[str, ...]
    before: int  # sessions that warm the desk up
    strategy: AnyStrategy
    trading: Trading
    hooks: Hooks
    ready: dict[Trading, dict[str, Desk]] = field(default_factory=dict)  # made when first needed

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
        """The sessions that follow those which warm the desk up, ascending."""
        return self.dates[self.before :]

    def figures(self, results: Sequence[SessionResult]) -> Figures:
        """See `TaskData`; every session begins with the same capital, so returns add up."""
        return figures(results, float(self.trading.paper.cash_usd))

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        results: list[SessionResult] = []
        denials: Counter[str] = Counter()
        answering = _answering(player, self.spec)
        for date in span.dates:
            desk = self._desk(date, span.trading)
            machine = self._machine(desk, span.trading)
            watch = _Watch(machine)
            end = machine.run(desk.feed, answering, watch)
            before, stats = desk.state.stats, end.stats
            denials.update({gate: count - before.denials.get(gate, 0) for gate, count in stats.denials.items()})
            results.append(
                SessionResult(
                    date=date,
                    pnl_usd=float(end.book.equity - desk.state.book.equity),
                    trades=stats.trades - before.trades,
                    wins=stats.wins - before.wins,
                    fees_usd=float(end.book.fees - desk.state.book.fees),
                    premium_usd=watch.traded_usd(self.spec),
                    held_min=len(watch.held) * self.spec.bar_interval_s // 60,
                    minutes=stats.bars - before.bars,
                )
            )
        return PlayResult(tuple(results), {gate: count for gate, count in sorted(denials.items()) if count})

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: one session."""
        desk = self._desk(span.dates[number], span.trading)
        return Episode(self._machine(desk, span.trading), desk.feed)

    def _machine(self, desk: Desk, trading: Trading) -> Machine:
        return Machine(Core(self.strategy), desk.state, _broker(self.spec, trading), desk.market_state)

    def _desk(self, date: str, trading: Trading) -> Desk:
        if trading not in self.ready:
            answering = _answering(constant(self.spec, 0), self.spec)
            machine = started(self.strategy, trading, _broker(self.spec, trading))
            found = desks_before(self.source, machine, answering, tuple(self.days), len(self.dates))
            self.ready[trading] = {desk.date: desk for desk in found}
        return self.ready[trading][date]


def load(name: str, path: Path, trading: Trading, hooks: Hooks) -> OwnDays | OwnMinutes:
    """Read a bars file for the strategy of this name.

    Raises:
        TapeError, CalendarError: the file cannot be read; the text gives reason and cure.
        ValueError: the strategy is of a kind that is not trained here.
    """
    strategy: Any = registered(name)
    spec = strategy.spec
    if spec.rows_are_symbols or spec.recurrent_shape is not None:
        raise ValueError(f"{name} has rows of symbols or a memory: give it a TrainingKind of its own")
    if spec.decides == "session":
        return OwnDays(read_table(path, strategy), strategy, trading, hooks)
    info = scan(path, spec.symbols, spec.bar_interval_s)
    with stop_signals_blocked():  # the calendar asks a process of its own, which Ctrl-C would end
        calendar = SessionCalendar.load(info.first_date, info.last_date)
    source = TapeSource(path, info, calendar)
    dates = tuple(s.date for s in calendar.sessions if info.first_date <= s.date <= info.last_date)
    warm = ceil(spec.history_bars * spec.bar_interval_s / (6.5 * 3600)) + 1
    before = max(warm, trading.paper.volatility_sessions + 2) if spec.holds == "option" else warm
    return OwnMinutes(info, source, dates, before, strategy, trading, hooks)


def learner(spec: Spec, seed: int, hooks: Hooks) -> ActorCritic:
    """The strategy's own policy, or the usual one, with a critic; weights drawn from `seed`."""
    torch.manual_seed(seed)
    return ActorCritic(spec, seed, None if hooks.network is None else hooks.network(spec))


@torch.no_grad()
def check_answer(player: Player, spec: Spec) -> None:
    """Raise ValueError for a policy, a torch module, whose answers are not one number for each action."""
    if not isinstance(player, nn.Module):
        return
    found = player(torch.zeros(2, *spec.observation_shape))
    if not isinstance(found, Tensor) or tuple(found.shape) != (2, len(spec.actions)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the policy of {spec.name} answers two observations with {shape}, expected a tensor of shape "
            f"{(2, len(spec.actions))}: one number for each of {', '.join(spec.actions)}"
        )


def dearer(trading: Trading) -> Trading:
    """The same rules at twice the costs of shares and options."""
    paper = trading.paper
    twice = {
        name: 2 * getattr(paper, name)
        for name in (
            "share_cost_rate", "share_wait_rate", "commission_usd", "orf_usd", "occ_usd", "taf_usd", "sec_rate",
            "half_spread", "half_spread_min_usd",
        )
    }  # fmt: skip
    return replace(trading, paper=replace(paper, **twice))


def constant(spec: Spec, action: int) -> Player:
    """The player that always takes this action; of a continuous policy 0 everywhere."""
    answer = torch.tensor([[0.0] * len(spec.actions) if spec.continuous else answer_of(spec, action)])
    return lambda observations: answer.expand(len(observations), -1)


def constant_players(spec: Spec) -> Mapping[str, Player]:
    """The baselines by name: each action without end; of a continuous policy none changes."""
    if spec.continuous:
        return {"always 0": constant(spec, 0)}
    return {f"always {name}": constant(spec, place) for place, name in enumerate(spec.actions)}


def random_player(spec: Spec, seed: int) -> Player:
    """The player that draws each action."""
    generator = torch.Generator().manual_seed(seed)

    def draw(observations: Tensor) -> Tensor:
        drawn = torch.rand(len(observations), len(spec.actions), generator=generator)
        return 2.0 * drawn - 1.0 if spec.continuous else CERTAIN * drawn

    return draw


class Late:
    """A player one decision late; it begins with the first action."""

    def __init__(self, player: Player, spec: Spec) -> None:
        self._player, self._first = player, constant(spec, 0)
        self._before: Tensor | None = None

    def __call__(self, observations: Tensor) -> Tensor:
        """What the player answers to the observation before."""
        before, self._before = self._before, observations.clone()
        return self._first(observations) if before is None else self._player(before)


class _Watch:
    """The value that each order traded, and the bars at whose close something was held."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bought: dict[str, Decimal] = {}
        self._sold: dict[str, Decimal] = {}
        self.held: set[int] = set()

    def __call__(self, event: Event, _: Step) -> None:
        """Note one event of the session."""
        if isinstance(event, OrderFilled):
            (self._bought if event.side > 0 else self._sold)[event.client_order_id] = event.cumulative_cost
        elif isinstance(event, QuotesReceived) and event.closes_bar_ns and self._machine.state.book.positions:
            self.held.add(event.closes_bar_ns)

    def traded_usd(self, spec: Spec) -> float:
        """USD: of options the premium paid, of shares all that was traded."""
        bought, sold = sum(self._bought.values(), Decimal(0)), sum(self._sold.values(), Decimal(0))
        return 100.0 * float(bought) if spec.holds == "option" else float(bought + sold)


def _broker(spec: Spec, trading: Trading) -> Any:
    if spec.holds == "option":
        return PaperBroker(trading, spec.symbols[0])
    return SharePaperBroker(trading, spec.symbols, by_bar=True)


def _answering(player: Player, spec: Spec) -> Callable[[AskPolicy, int], PolicyAnswered]:
    """The player as the policy of a machine."""

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        given = player(torch.from_numpy(question.observation.array().copy()).unsqueeze(0))[0]
        answered = given.clamp(-1.0, 1.0) if spec.continuous else given
        return PolicyAnswered(now_ns, question.decision, tuple(answered.tolist()), b"", MODEL)

    return answer
