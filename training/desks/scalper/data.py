"""A file of minute bars made ready for `option_scalper`: history, features, option prices, read once a process.

The same readers feed dry run and replay. Nothing here depends on how the sessions are split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.core.events import Event
from daemon.core.limits import Trading
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.kit.contract import AnyStrategy, Float32Array
from strategies.option_scalper import HOLD, SPEC
from training.data.sessions import calendar_of_bars
from training.desks.scalper.history import History, PriceTable, TradingDay, price_table, read_history
from training.desks.scalper.market import Market
from training.evaluate.bars import MODELLED, BarDesk, Venue
from training.evaluate.machine import Player
from training.evaluate.players import choosing
from training.study.folds import explained
from training.study.study import Fold

COUNT = len(SPEC.actions)
always_hold: Player = choosing(HOLD, COUNT)
"""The player that never trades."""


@dataclass(frozen=True, slots=True)
class Data:
    """A bars file made ready. `days` are the usable sessions by date, ascending."""

    info: TapeInfo
    source: TapeSource
    history: History
    prices: PriceTable
    days: dict[str, TradingDay]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the option prices for manifest and report, as JSON."""
        return {}

    @property
    def other_venues(self) -> dict[str, Venue]:
        """Further markets on which a report plays the policy, by name."""
        return {}

    @property
    def venue(self) -> Venue:
        """The market on which a dry run trades."""
        return MODELLED

    def desk(self, strategy: AnyStrategy) -> BarDesk:
        """The desk on this file."""
        return desk_of(self.source, strategy, self.venue)

    def market(self, days: Sequence[TradingDay], trading: Trading, **more: Any) -> Market:
        """The tensor market on these sessions; `more` are arguments of `Market`."""
        return Market(self.history, self.prices, days, trading, **more)

    def training_market(self, dates: Sequence[str], from_date: str, trading: Trading, **more: Any) -> Market:
        """The tensor market for training on these sessions, from `from_date` on."""
        del from_date
        return self.market(self.on(dates), trading, **more)

    def on(self, dates: Sequence[str]) -> tuple[TradingDay, ...]:
        """The sessions of these dates."""
        return tuple(self.days[date] for date in dates)

    def rows(self, dates: Sequence[str]) -> Float32Array:
        """The market features of these sessions, float32 (rows, 20)."""
        rows = [self.history.features[day.first : day.end] for day in self.on(dates)]
        return np.concatenate(rows).astype(np.float32)


def desk_of(source: Iterable[Event], strategy: AnyStrategy, venue: Venue = MODELLED) -> BarDesk:
    """The desk on a feed, after the sessions that warm the strategy up and give the volatility."""

    def fed(_: str, trading: Trading) -> tuple[Iterable[Event], int]:
        return source, trading.paper.volatility_sessions + 2

    def minutes(_: str, bars: int, trading: Trading) -> int:
        rules = trading.execution
        return bars - strategy.spec.window - rules.flat_before_close_min - rules.flatten_lead_min

    return BarDesk(strategy, fed, always_hold, venue, minutes, entries=True)


def load(path: Path, machine: AnyStrategy, trading: Trading) -> Data:
    """Read a bars file.

    Raises:
        TapeError, CalendarError, HistoryError: the file cannot be trained on; the text gives reason and cure.
    """
    spec = machine.spec
    info = scan(path, spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    calendar = calendar_of_bars((path, info))
    source = TapeSource(path, info, calendar)
    with explained(lambda: source.counts.remark):
        history = read_history(source, spec, trading)
    usable = history.usable
    info = msgspec.structs.replace(info, remark=source.counts.remark)
    return Data(info, source, history, price_table(history, usable, trading), {day.session.date: day for day in usable})


def observations(data: Data, fold: Fold, count: int, seed: int) -> Float32Array:
    """Up to `count` observations of the fold's sessions with made-up positions, float32 (n, *shape), to check exports.

    The positions are drawn: -1, 0 or 1 with a return and an age within their bounds.
    """
    random = np.random.default_rng(seed)
    days = data.on((*fold.train, *fold.validate, *fold.test))
    starts = np.concatenate([np.arange(day.first, day.end - 19) for day in days])
    chosen = random.choice(starts, size=min(count, len(starts)), replace=False)
    windows = chosen[:, None] + np.arange(20)
    market = data.history.features[windows]
    side = random.integers(-1, 2, size=(len(chosen), 20, 1))
    value, age = random.uniform(-1, 3, size=side.shape), random.uniform(0, 2, size=side.shape)
    position = np.where(side == 0, 0.0, np.concatenate([side, value, age], axis=2))
    return np.concatenate([market, position], axis=2).astype(np.float32)
