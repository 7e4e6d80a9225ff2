"""Daily bars, read and ready for training: what all strategies that decide once a session share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from torch import nn

from daemon.core.limits import Trading
from strategies.kit.contract import DailyStrategy
from strategies.regime_switcher import RegimeSwitcher
from strategies.registry import daily_strategy
from training.data.daily_table import DailyTable, read_table, table_cache
from training.desks.daily.markets.rebalancer import by_variant
from training.desks.kind import Evaluator, Span, on_cpu
from training.evaluate.days import Desk, desk_before, dry_run, relay, relay_each
from training.evaluate.sizes import at_sizes
from training.evaluate.together import playable_together
from training.export.reference import AnswerRecorder, Watched
from training.study.study import OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures, figures


class OneAccountOfDays:
    """Methods shared by all daily data: one account goes through all sessions. Subclasses add `desk`."""

    table: DailyTable
    trading: Trading

    def desk(self, span: Span) -> Desk:
        """The desk before these sessions."""
        raise NotImplementedError

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

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`; the reference account is that of `held`."""
        dates = [span.dates for span in spans]
        desk = self.desk(replace(spans[0], dates=[date for span_dates in dates for date in span_dates]))
        return OneAccount(relay(policies, desk, dates), *self.held(desk))

    def at_sizes(self, policy: nn.Module, span: Span) -> tuple[SizeFigures, ...]:
        """See `TaskData`."""
        return at_sizes(policy, self.desk(span))

    @staticmethod
    def held(desk: Desk) -> tuple[str, tuple[SessionResult, ...]]:
        """Name and results of the reference account over the desk's sessions; "" and () without one."""
        del desk
        return "", ()


@dataclass(frozen=True, slots=True)
class DailyTaskData(OneAccountOfDays):
    """Daily bars made ready, and what every desk that decides once a session has in common; see `TaskData`.

    A strategy's subclass adds `network`, `environment`, `compare` and `probes`; the rest plays the dry run.
    """

    path: Path
    table: DailyTable
    strategy: DailyStrategy
    trading: Trading
    ready: dict[tuple[tuple[str, ...], str, Trading], Desk] = field(default_factory=dict)  # made when first needed

    @classmethod
    def read(cls, name: str, path: Path, trading: Trading, symbols: tuple[str, ...] = ()) -> Self:
        """The bars of this file for the strategy of this name and these symbols, () for its own.

        Raises what `read_table` raises.
        """
        strategy = daily_strategy(name, symbols)
        return cls(path, read_table(path, strategy, table_cache()), strategy, trading)

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """See `TaskData`; it is played on the CPU, whatever trains."""
        return lambda policy: self.test(on_cpu(policy, device), span).sessions

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return dry_run(policy, self.desk(span))

    def alike_but_for_rules(self, spans: Sequence[Span]) -> bool:
        """See `PlaysTogether`."""
        return playable_together([span.trading for span in spans])

    def relay_each(
        self, policy: nn.Module, spans: Sequence[Span], check_stop: Callable[[], None]
    ) -> Sequence[PlayResult]:
        """See `PlaysTogether`."""
        rules = [by_variant(span.trading, span.variant) for span in spans]
        return relay_each(policy, self.table, spans[0].dates, self.strategy, rules, check_stop)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`; of a policy without a memory."""
        recorder = AnswerRecorder()
        dry_run(recorder.before(policy), self.desk(span))
        return recorder.watched()

    def desk(self, span: Span) -> Desk:
        """The desk before these sessions."""
        key = (tuple(span.dates), span.variant, span.trading)
        if key not in self.ready:
            rules = by_variant(span.trading, span.variant)
            self.ready[key] = desk_before(self.table, span.dates, self.strategy, rules)
        return self.ready[key]


ETF_FILE = "etf_daily_2010_2022.parquet"
"""Expected next to the file of stocks; the baseline SPY comes from there."""


def funds_beside(path: Path) -> DailyTable | None:
    """SPY, QQQ and IWM from the file of ETFs next to a file of stocks; None where there is none."""
    etfs = path.with_name(ETF_FILE)
    return read_table(etfs, RegimeSwitcher(), table_cache()) if etfs.is_file() else None
