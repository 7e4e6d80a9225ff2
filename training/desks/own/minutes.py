"""Bars within sessions made ready for a strategy of one's own: each session has an account of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from daemon.core.events import Event
from daemon.core.limits import Trading
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import AnyStrategy, Spec
from training.desks.kind import Span
from training.desks.own.data import Common, Hooks, check_answer, first_action
from training.desks.own.environment import Episode
from training.evaluate.bars import BarDesk, SessionStart
from training.evaluate.machine import Player
from training.study.evaluation import SessionFigures, SessionResult, figures
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
        """The sessions that follow those which warm the desk up, ascending."""
        return self.dates[self.before :]

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """See `TaskData`; every session begins with the same capital, so returns add up."""
        return figures(results, float(self.trading.paper.cash_usd))

    @property
    def desk(self) -> BarDesk:
        """Where figures come from: it has watched all sessions before, by the first action."""
        return BarDesk(self.strategy, lambda _date, _trading: (self.source, len(self.dates)), first_action(self.spec))

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        return self.desk.play(player, [self._start(date, span.trading) for date in span.dates], span.trading)

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`."""
        return OneAccount(self.desk.relay(policies, [span.dates for span in spans], spans[0].trading))

    def episode(self, span: Span, number: int) -> Episode:
        """See `OwnData`: one session."""
        start = self._start(span.dates[number], span.trading)
        return Episode(self.desk.machine(start, span.trading), start.feed)

    def _start(self, date: str, trading: Trading) -> SessionStart:
        if trading not in self.ready:
            starts = self.desk.before(tuple(self.days), trading)
            self.ready[trading] = {start.date: start for start in starts}
        return self.ready[trading][date]
