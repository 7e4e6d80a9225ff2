"""Tapes for the benchmarks: recorded minutes where they are, synthetic ones of any length otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import SYNTHETIC_KEY
from strategies.kit.synthetic import synthetic_sessions

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("RLTRADER_DATA", ROOT.parent / "shared" / "data"))
"""The folder of real data, beside the project where the variable names no other."""
SEED = 7
FIRST, LAST = "2022-01-03", "2025-06-30"


def recorded_minutes() -> Path | None:
    """The recorded SPY minutes of RLTRADER_DATA, None where they are missing."""
    tape = DATA / "spy_1min_2024.parquet"
    return tape if tape.is_file() else None


def synthetic_minutes(path: Path, bars: int) -> Path:
    """Write at least `bars` seeded synthetic one-minute bars of whole sessions as a labelled Parquet file."""
    sessions = SessionCalendar.load(FIRST, LAST).sessions
    chosen, minutes = [], 0
    for session in sessions:
        if minutes >= bars:
            break
        chosen.append(session)
        minutes += (session.close_ns - session.open_ns) // 60_000_000_000
    bars_made = list(synthetic_sessions(SEED, chosen))
    table = pa.table(
        {
            "symbol": [bar.symbol for bar in bars_made],
            "timestamp": pa.array([bar.start_ns for bar in bars_made], pa.timestamp("ns", "UTC")),
            "open": [bar.open for bar in bars_made],
            "high": [bar.high for bar in bars_made],
            "low": [bar.low for bar in bars_made],
            "close": [bar.close for bar in bars_made],
            "volume": [bar.volume for bar in bars_made],
        }
    )
    pq.write_table(table.replace_schema_metadata({SYNTHETIC_KEY: b"synthetic bars for benchmarks"}), path)
    return path
