"""Sessions of the exchange's calendar, and the daily bars of a file as arrays over them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, BarRejected, Event, SessionScheduled
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import Session
from training.rl.pool import stop_signals_blocked


def calendar_of(first_date: str, last_date: str) -> SessionCalendar:
    """Return a calendar that covers two New York dates and all between them. Raises CalendarError.

    The calendar asks a process of its own, which Ctrl-C would end: stop signals wait until it has answered.
    """
    with stop_signals_blocked():
        return SessionCalendar.load(first_date, last_date)


def calendar_of_bars(*files: tuple[Path, TapeInfo]) -> SessionCalendar:
    """Return the calendar that covers all bars of these files. Raises CalendarError, which names them."""
    first, last = min(info.first_date for _, info in files), max(info.last_date for _, info in files)
    try:
        return calendar_of(first, last)
    except CalendarError as error:
        paths = ", ".join(str(path) for path, _ in files)
        raise CalendarError(f"{paths}: the bars are from {first} to {last}: {error}") from error


def sessions_between(first_date: str, last_date: str) -> list[Session]:
    """Return the exchange's sessions from one New York date to another, both included. Raises CalendarError."""
    return [day for day in calendar_of(first_date, last_date).sessions if first_date <= day.date <= last_date]


def days_of(
    feed: Iterable[Event], symbols: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], tuple[Session, ...], npt.NDArray[np.bool_]]:
    """The good bars, float64 (5, d, n) with NaN where there is none, the sessions, and where a bar was refused.

    Bars are open, high, low, close, volume; what was refused is bool (d, n). A feed without a session raises
    ValueError.
    """
    place = {symbol: index for index, symbol in enumerate(symbols)}
    sessions: list[Session] = []
    days: list[npt.NDArray[np.float64]] = []
    refused: list[npt.NDArray[np.bool_]] = []
    for event in feed:
        if isinstance(event, SessionScheduled):
            sessions.append(event.session)
            days.append(np.full((5, len(place)), np.nan))
            refused.append(np.zeros(len(place), dtype=np.bool_))
        elif isinstance(event, BarClosed):
            bar = event.bar
            days[-1][:, place[bar.symbol]] = bar.open, bar.high, bar.low, bar.close, bar.volume
        elif isinstance(event, BarRejected):
            refused[-1][place[event.symbol]] = True
    return np.stack(days, axis=1), tuple(sessions), np.stack(refused)
