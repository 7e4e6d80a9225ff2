"""Whether a tape's times are hours off: rows outside of the sessions that another zone would put inside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeFile
from strategies.kit.units import HOUR_NS, MINUTE_NS

HALF_HOUR_NS = 30 * MINUTE_NS  # sessions begin and end at a half hour
HOURS_MAX = 12
MORE = 1.5  # so many times the rows must lie inside before a shift is believed,
ALL = 0.995  # or this share of all rows, where the times as they are leave more outside


def hours_off(path: Path, symbols: tuple[str, ...], calendar: SessionCalendar) -> int:
    """Return the hours by which the tape's times seem too early (above 0) or too late; 0 where they seem right.

    Reads the whole tape. Raises TapeError as a reader does.
    """
    halves: Counter[int] = Counter()
    for rows in TapeFile(path, symbols).batches():
        ours = np.isin(rows.codes, [code for code, name in enumerate(rows.names) if name in symbols])
        values, counts = np.unique(rows.start_ns[ours] // HALF_HOUR_NS, return_counts=True)
        halves.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    times = np.array(sorted(halves), dtype=np.int64) * HALF_HOUR_NS
    weights = np.array([halves[int(half)] for half in times // HALF_HOUR_NS])
    opens = np.array([session.open_ns for session in calendar.sessions])
    closes = np.array([session.close_ns for session in calendar.sessions])

    def inside(hours: int) -> int:
        moved = times + hours * HOUR_NS
        at = np.searchsorted(opens, moved, side="right") - 1
        return int(weights[(at >= 0) & (moved < closes[at])].sum())

    best = max(range(-HOURS_MAX, HOURS_MAX + 1), key=lambda hours: (inside(hours), -abs(hours)))
    found, as_it_is = inside(best), inside(0)
    all_of_them = found > as_it_is and found >= ALL * int(weights.sum())
    return best if all_of_them or found > MORE * max(as_it_is, 1) else 0
