"""A daily tape with one kind of bad input for each symbol: bundled synthetic days, changed by hand.

Nothing here computes an expected value; sessions are numbered from 0.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from daemon.tapes import DAILY_TAPE
from tests.support.models.daily_models import HEADER

SESSIONS = 500  # of the bundled tape
WHOLE, LATE, NOT_A_NUMBER, HOLE, SPLIT, SILENT, ENDED, NEW = "AAPL", "AMD", "AMZN", "BA", "BAC", "BRK.B", "CRM", "CSCO"
SYMBOLS = (WHOLE, LATE, NOT_A_NUMBER, HOLE, SPLIT, SILENT, ENDED, NEW)
LATE_FROM, NEW_FROM = 100, 365  # their first sessions
AT = 400  # the session of the bad bar, of the split, and the first of the hole
HOLE_TO = 405  # the first session after the hole
SILENT_FROM, SILENT_TO = 380, 445  # without any volume
LAST = 420  # the last session of what ends

Rows = list[list[str]]  # of one symbol, by session: start, open, high, low, close, volume


def faulty_tape(path: Path) -> Path:
    """Write the tape, sorted by symbol; returns `path`."""
    rows = _bundled()
    rows[NOT_A_NUMBER][AT][4] = "nan"
    cut = float(rows[SPLIT][AT - 1][4]) / 2.0 / float(rows[SPLIT][AT][1])  # the open is half the close before
    for row in rows[SPLIT][AT:]:
        row[1:5] = [f"{float(price) * cut:.4f}" for price in row[1:5]]
    for row in rows[SILENT][SILENT_FROM:SILENT_TO]:
        row[5] = "0"
    rows[LATE], rows[NEW] = rows[LATE][LATE_FROM:], rows[NEW][NEW_FROM:]
    del rows[HOLE][AT:HOLE_TO]
    del rows[ENDED][LAST + 1 :]
    lines = [",".join([symbol, *row]) for symbol in SYMBOLS for row in rows[symbol]]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def starts() -> list[int]:
    """When the bars of each session begin, in nanoseconds."""
    return [int(row[0]) for row in _bundled()[WHOLE]]


def _bundled() -> dict[str, Rows]:
    rows: dict[str, Rows] = {symbol: [] for symbol in SYMBOLS}
    with gzip.open(DAILY_TAPE, "rt") as file:
        for line in file:
            symbol, _, rest = line.strip().partition(",")
            if symbol in rows:
                rows[symbol].append(rest.split(","))
    return rows
