"""Bars within sessions made ready for a strategy of one's own: each session has an account of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from daemon.core.events import Event
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.step import Core
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import AnyStrategy, Spec
from training.desks.kind import Span
from training.desks.minutes import Desk, desks_before, started
from training.desks.own.data import Common, Hooks
from training.desks.own.environment import Episode
from training.desks.own.machine import Watch, as_policy, broker_for
from training.desks.own.players import Player, check_answer, constant
from training.study.evaluation import Figures, SessionResult, figures
from training.study.study import PlayResult


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
        answering = as_policy(player, self.spec)
        for date in span.dates:
            desk = self._desk(date, span.trading)
            machine = self._machine(desk, span.trading)
            watch = Watch(machine)
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
        return Machine(Core(self.strategy), desk.state, broker_for(self.spec, trading), desk.market_state)

    def _desk(self, date: str, trading: Trading) -> Desk:
        if trading not in self.ready:
            answering = as_policy(constant(self.spec, 0), self.spec)
            machine = started(self.strategy, trading, broker_for(self.spec, trading))
            found = desks_before(self.source, machine, answering, tuple(self.days), len(self.dates))
            self.ready[trading] = {desk.date: desk for desk in found}
        return self.ready[trading][date]
