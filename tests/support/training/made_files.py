"""Small made-up daily files, from a seed: real New York sessions, driftless walks of whole cents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from strategies.kit.synthetic import synthetic_days
from tests.support.training.made_up import write_csv


def days(first: str, last: str, count: int | None = None) -> tuple[str, ...]:
    """The first `count` sessions from `first` on that are not after `last`, by date."""
    dates = [s.date for s in SessionCalendar.load(first, last).sessions if first <= s.date <= last]
    return tuple(dates[:count])


def write_days(path: Path, symbols: Sequence[str], dates: Sequence[str], seed: int = 3) -> Path:
    """A bar for each symbol on each date, as a file that daily strategies read."""
    return write_csv(path, synthetic_days(seed, symbols, map(midnight_ns, dates)))
