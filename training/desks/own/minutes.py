"""Bars within sessions made ready for a strategy of one's own: each session has an account of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from daemon.core.events import Event
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.step import Core
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import AnyStrategy, Spec
from training.desks.kind import Span
from training.desks.minutes import Answering, Desk, desks_before, joined, relay, session_played, started
from training.desks.own.data import Common, Hooks
from training.desks.own.environment import Episode
from training.desks.own.machine import Watch, as_policy, broker_for
from training.desks.own.players import Player, check_answer, constant
from training.study.evaluation import Figures, SessionResult, figures
from training.study.study import OneAccount, PlayResult


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
        answering = as_policy(player, self.spec)
        ready = [self._desk(date, span.trading) for date in span.dates]
        return joined(
            [self._session(self._machine(desk, span.trading), desk.date, desk.feed, answering) for desk in ready]
        )

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`."""
        trading, hold = spans[0].trading, as_policy(constant(self.spec, 0), self.spec)
        machine = started(self.strategy, trading, broker_for(self.spec, trading))
        answering = [as_policy(policy, self.spec) for policy in policies]

        def play(nth: int, date: str, feed: Iterable[Event]) -> PlayResult:
            return self._session(machine, date, feed, answering[nth])

        return OneAccount(relay(self.source, machine, hold, [span.dates for span in spans], len(self.dates), play))

    def _session(self, machine: Machine, date: str, feed: Iterable[Event], answering: Answering) -> PlayResult:
        """Play one session on the machine as it stands, which goes on from there."""
        start, watch = machine.state, Watch(machine)
        end = machine.run(feed, answering, watch)
        held_min = len(watch.held) * self.spec.bar_interval_s // 60
        return session_played(
            date,
            start,
            end,
            premium_usd=watch.traded_usd(self.spec),
            held_min=held_min,
            overnight=self.spec.overnight,
        )

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: one session."""
        desk = self._desk(span.dates[number], span.trading)
        return Episode(self._machine(desk, span.trading), desk.feed)

    def _machine(self, desk: Desk, trading: Trading) -> Machine:
        return Machine(Core(self.strategy), desk.state, broker_for(self.spec, trading), desk.market_state)

    def _desk(self, date: str, trading: Trading) -> Desk:
        if trading not in self.ready:
            answering = as_policy(constant(self.spec, 0), self.spec)
            machine = started(self.strategy, trading, broker_for(self.spec, trading))
            found = desks_before(self.source, machine, answering, tuple(self.days), len(self.dates))
            self.ready[trading] = {desk.date: desk for desk in found}
        return self.ready[trading][date]
