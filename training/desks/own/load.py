"""Read a bars file for a strategy of one's own."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

from daemon.core.limits import Trading
from daemon.tapes.minutes import TapeSource, scan
from strategies.registry import strategy as registered
from training.data.sessions import calendar_of
from training.desks.daily.table import read_table
from training.desks.own.data import Hooks
from training.desks.own.days import OwnDays
from training.desks.own.minutes import OwnMinutes


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
    return _LOADS[spec.decides](strategy, path, trading, hooks)


def _days(strategy: Any, path: Path, trading: Trading, hooks: Hooks) -> OwnDays:
    return OwnDays(read_table(path, strategy), strategy, trading, hooks)


def _minutes(strategy: Any, path: Path, trading: Trading, hooks: Hooks) -> OwnMinutes:
    spec = strategy.spec
    info = scan(path, spec.symbols, spec.bar_interval_s)
    calendar = calendar_of(info.first_date, info.last_date)
    source = TapeSource(path, info, calendar)
    dates = tuple(s.date for s in calendar.sessions if info.first_date <= s.date <= info.last_date)
    warm = ceil(spec.history_bars * spec.bar_interval_s / (6.5 * 3600)) + 1
    before = max(warm, _VOLATILITY[spec.holds](trading))
    return OwnMinutes(info, source, dates, before, strategy, trading, hooks)


_LOADS: dict[str, Callable[[Any, Path, Trading, Hooks], OwnDays | OwnMinutes]] = {"bar": _minutes, "session": _days}
_VOLATILITY: dict[str, Callable[[Trading], int]] = {
    "option": lambda trading: trading.paper.volatility_sessions + 2,
    "shares": lambda _: 0,
}
"""What a desk holds -> the sessions that its paper market needs before it quotes."""
