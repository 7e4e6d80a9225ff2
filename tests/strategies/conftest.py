"""The recorded minutes of SPY, read once. Sessions are taken from the file: its days have no missing session edge."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from strategies.contract import Bar, Session
from tests.strategies.minutes import MINUTE_NS, Minutes, minutes_of

DAY_NS = 86_400_000_000_000


@pytest.fixture(scope="session")
def spy_minutes(data_dir: Path) -> Minutes:
    """All of `spy_1min_2024.parquet`: 194 sessions, of which three are half days; no minute is missing."""
    table = pq.read_table(data_dir / "spy_1min_2024.parquet")
    times = table["timestamp"].cast("int64").to_pylist()
    prices = [table[name].to_pylist() for name in ("open", "high", "low", "close")]
    volumes = [float(v) for v in table["volume"].to_pylist()]
    bars = [Bar("SPY", t, *rest) for t, *rest in zip(times, *prices, volumes, strict=True)]
    sessions = []
    for day, group in groupby(times, key=lambda t: t // DAY_NS):  # regular hours lie within one day of UTC
        minutes = list(group)
        sessions.append(Session(str(day), minutes[0], minutes[-1] + MINUTE_NS))
    return minutes_of(bars, sessions)
