"""The last close of each session in a file of bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeError, TapeFile
from daemon.tapes.minutes import new_york_days


def closes_in(path: Path, symbol: str) -> dict[str, float]:
    """Return the last close of each New York date in a file of bars, days or minutes. Raises TapeError."""
    newest: dict[str, tuple[int, float]] = {}
    calendar: SessionCalendar | None = None
    for batch in TapeFile(path, (symbol,)).batches():
        if symbol not in batch.names:
            continue
        ours = np.flatnonzero(batch.codes == batch.names.index(symbol))
        days = new_york_days(batch.start_ns[ours])
        if calendar is None and ours.size:
            calendar = SessionCalendar.to_horizon(str(days.min()))
            ends = {session.date: session.close_ns for session in calendar.sessions}
        for row, day in zip(ours.tolist(), days.tolist(), strict=True):
            start, date = int(batch.start_ns[row]), str(day)
            if start < ends.get(date, 0) and start >= newest.get(date, (0, 0.0))[0]:
                newest[date] = start, float(batch.prices[3, row])
    if not newest:
        raise TapeError(f"{path}: no bar of {symbol} in a session: name a file of its bars, or the symbol of the bars")
    return {date: close for date, (_, close) in newest.items()}
