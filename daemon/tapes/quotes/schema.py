"""Schema of recorded option quotes (docs/DATA.md): one row for each contract and minute.

A file is in order of time, then of symbol, without duplicates. Prices are in USD a share on a grid of 0.0001; 0: no
bid, or no offer. `timestamp` is the minute's end.
"""

from __future__ import annotations

import pyarrow as pa

VERSION = "1"
VERSION_KEY, FORMAT_KEY, INTERVAL_KEY, SYNTHETIC_KEY = b"quotes_version", b"format", b"interval", b"synthetic"
"""Keys of the file's metadata: the schema's version, where the quotes came from, their interval, and what made them up
(empty for recorded quotes)."""
MINUTE, SNAPSHOT, END_OF_DAY = "minute", "snapshot", "end_of_day"
"""Intervals. A simulation needs minutes; snapshots and ends of days serve only for calibration."""
INTERVALS = (MINUTE, SNAPSHOT, END_OF_DAY)
DECIMALS = 4  # of a price

EXTREMES = ("low_bid", "high_bid", "low_ask", "high_ask")
_SIZES = ("bid_size", "ask_size")
SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string()),
        pa.field("timestamp", pa.timestamp("ns", "UTC")),
        pa.field("bid", pa.float64()),
        pa.field("ask", pa.float64()),
        *(pa.field(name, pa.int32()) for name in _SIZES),  # contracts; null if unknown
        *(pa.field(name, pa.float64()) for name in EXTREMES),  # within the minute; null if unknown
        pa.field("underlying", pa.float64()),  # USD at the same time; null if the source lacks it
        pa.field("source", pa.string()),
    ]
)
REQUIRED = ("symbol", "timestamp", "bid", "ask", *_SIZES, "source")
