"""Folds and minute bars of a bars file for a user's own strategy. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.events import BarClosed, SessionScheduled
from daemon.core.limits import Trading
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.kit.contract import Spec
from training.data.sessions import calendar_of_bars
from training.study.folds import HistoryError, Walk
from training.study.study import SESSIONS_A_YEAR

SESSION_S = 390 * 60
VOLATILITY_CLOSES = {"option": 21, "shares": 0}
"""`Spec.holds` -> earlier sessions whose closes the prices depend on: those of the volatility of options."""


def walk_of(spec: Spec) -> Walk:
    """How sessions are cut into folds: years of days, or 20 sessions; between spans the look-back and one session."""
    return _WALKS[spec.decides](spec)


def _of_days(spec: Spec) -> Walk:
    return Walk(SESSIONS_A_YEAR, SESSIONS_A_YEAR, SESSIONS_A_YEAR, spec.history_bars + 1, years=True)


def _of_bars(spec: Spec) -> Walk:
    back = max(-(-spec.history_bars * spec.bar_interval_s // SESSION_S), VOLATILITY_CLOSES[spec.holds])
    return Walk(train=20, validate=20, test=20, purge=back + 1)


_WALKS = {"bar": _of_bars, "session": _of_days}


class Minutes(NamedTuple):
    """Bars within sessions: the file, its events, its sessions, and the number of warm-up sessions."""

    info: TapeInfo
    source: TapeSource
    dates: tuple[str, ...]
    warmup_sessions: int


def minutes_of(path: Path, spec: Spec, trading: Trading) -> Minutes:
    """Read a bars file. Raises TapeError, CalendarError, and HistoryError where it has no good bar."""
    info = scan(path, spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    tick_ns = MINUTE_WAIT_NS if len(spec.symbols) > 1 else 0  # as a replay is fed
    source = TapeSource(path, info, calendar_of_bars((path, info)), tick_ns=tick_ns)
    dates = _dates_with_bars(source)
    if not dates:
        raise HistoryError(f"{path} has no good bar of a regular session: choose another file. {source.counts.remark}")
    warm = ceil(spec.history_bars * spec.bar_interval_s / (6.5 * 3600)) + 1
    info = msgspec.structs.replace(info, remark=source.counts.remark)
    return Minutes(info, source, dates, max(warm, _VOLATILITY[spec.holds](trading)))


def _dates_with_bars(source: TapeSource) -> tuple[str, ...]:
    """The sessions that have a good bar, by New York date."""
    dates: list[str] = []
    session = ""
    for event in source:
        if isinstance(event, SessionScheduled):
            session = event.session.date
        elif isinstance(event, BarClosed) and dates[-1:] != [session]:
            dates.append(session)
    return tuple(dates)


_VOLATILITY: dict[str, Callable[[Trading], int]] = {
    "option": lambda trading: trading.paper.volatility_sessions + 2,
    "shares": lambda _: 0,
}
"""`Spec.holds` -> sessions that the paper market needs before it can quote."""
