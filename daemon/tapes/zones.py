"""Detect a tape whose times are hours off: rows outside the sessions that another zone would put inside.

All of them, or those of some sessions only: the times miss a change of daylight saving time.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.bars import open_bars
from strategies.kit.contract import Session
from strategies.kit.units import DAY_NS, HOUR_NS, MINUTE_NS

HALF_HOUR_NS = 30 * MINUTE_NS  # sessions begin and end at a half hour
OPENS_NS = 9 * HOUR_NS + HALF_HOUR_NS  # from midnight in New York
HOURS_MAX = 12
MORE = 1.5  # rows inside must increase by this factor to accept a shift,
ALL = 0.995  # or reach this share of all rows, if fewer are inside unshifted


class HalfHours(NamedTuple):
    """Count of rows that start in each half hour."""

    times: npt.NDArray[np.int64]  # (n,): its start, ns since 1970 UTC, ascending
    counts: npt.NDArray[np.int64]  # (n,): rows, 1 or more


class SessionsOff(NamedTuple):
    """Sessions whose rows are one hour off, while those of others are right."""

    hours: int  # 1: too early, -1: too late
    sessions: int
    first: str  # New York date
    last: str


def half_hours(path: Path, symbols: tuple[str, ...]) -> HalfHours:
    """Count the rows of these symbols by the half hour. Reads the whole tape. Raises TapeError as a reader does."""
    halves: Counter[int] = Counter()
    for rows in open_bars(path, symbols).batches():
        own_rows = np.isin(rows.codes, [code for code, name in enumerate(rows.names) if name in symbols])
        values, counts = np.unique(rows.start_ns[own_rows] // HALF_HOUR_NS, return_counts=True)
        halves.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    times = np.array(sorted(halves), dtype=np.int64) * HALF_HOUR_NS
    return HalfHours(times, np.array([halves[int(half)] for half in times // HALF_HOUR_NS], dtype=np.int64))


def hours_off(half_hours: HalfHours, calendar: SessionCalendar) -> int:
    """Return the hours by which the times are too early (above 0) or too late; 0 if they seem right."""
    times, weights = half_hours
    opens = np.array([session.open_ns for session in calendar.sessions])
    closes = np.array([session.close_ns for session in calendar.sessions])

    def inside(hours: int) -> int:
        shifted_times = times + hours * HOUR_NS
        at = np.searchsorted(opens, shifted_times, side="right") - 1
        return int(weights[(at >= 0) & (shifted_times < closes[at])].sum())

    best = max(range(-HOURS_MAX, HOURS_MAX + 1), key=lambda hours: (inside(hours), -abs(hours)))
    most, as_it_is = inside(best), inside(0)
    all_of_them = most > as_it_is and most >= ALL * int(weights.sum())
    return best if all_of_them or most > MORE * max(as_it_is, 1) else 0


def sessions_off(half_hours: HalfHours, calendar: SessionCalendar) -> SessionsOff | None:
    """Return the sessions that are one hour off, in the direction of most of them; None if there are none.

    Such a session, once shifted, has rows from its first to its last half hour, and none outside.
    """
    dates: dict[int, list[str]] = {1: [], -1: []}
    for session in calendar.sessions:
        midnight_ns = session.open_ns - OPENS_NS
        day = slice(*np.searchsorted(half_hours.times, (midnight_ns, midnight_ns + DAY_NS)))
        for hours, off in dates.items():
            if _fills(session, half_hours.times[day] + hours * HOUR_NS, half_hours.counts[day]):
                off.append(session.date)
    hours, off = max(dates.items(), key=lambda item: len(item[1]))
    return SessionsOff(hours, len(off), off[0], off[-1]) if off else None


def _fills(session: Session, times: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> bool:
    """Return whether rows at these times fill the session from its first to its last half hour, with few outside."""
    if not len(times) or session.open_ns not in times or session.close_ns - HALF_HOUR_NS not in times:
        return False
    inside = counts[(times >= session.open_ns) & (times < session.close_ns)]
    return bool(inside.sum() >= ALL * counts.sum())
