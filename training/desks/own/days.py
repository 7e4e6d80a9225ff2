"""Daily bars made ready for a strategy of one's own: one account goes through all sessions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

from torch import nn

from daemon.core.limits import Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.step import Core, Machine
from strategies.kit.contract import DailySpec, DailyStrategy
from training.desks.daily import desk as daily
from training.desks.daily.desk import dry_run, relay
from training.desks.daily.table import DailyTable
from training.desks.kind import Span
from training.desks.own.data import Common, Hooks, check_answer
from training.desks.own.environment import Episode
from training.evaluate.machine import Player
from training.study.evaluation import SessionFigures, SessionResult, figures
from training.study.study import OneAccount, PlayResult

EPISODE_SESSIONS = 60  # of a daily desk


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

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """See `TaskData`; of one account, so returns compound."""
        return figures(results, float(self.trading.paper.cash_usd), compounds=True)

    def play(self, player: Player, span: Span) -> PlayResult:
        """See `OwnData`."""
        check_answer(player, self.spec)
        return dry_run(player, self._desk(span.dates, span.trading))

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`."""
        dates = [span.dates for span in spans]
        desk = self._desk([date for each in dates for date in each], spans[0].trading)
        return OneAccount(relay(policies, desk, dates))

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
