"""Cboe DataShop's Option Intervals: CSV, plain or zipped, at the interval that was ordered (here one minute).

Published at datashop.cboe.com/options-intervals-subscription: NBBO and sizes at `quote_datetime`, New York's wall time,
with bid and ask of the underlying. Further columns (trades, greeks, open interest) are ignored.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from training.data.quotes.columns import Named, counts, occ_symbols, parsed_times, side, taken
from training.data.quotes.csv_files import csv_tables
from training.data.quotes.source import Request, Tables

_TYPES = {
    "quote_datetime": pa.string(), "root": pa.string(), "expiration": pa.string(), "strike": pa.float64(),
    "option_type": pa.string(), "bid_size": pa.int64(), "bid": pa.float64(), "ask_size": pa.int64(),
    "ask": pa.float64(), "underlying_bid": pa.float64(), "underlying_ask": pa.float64(),
}  # fmt: skip
_NAMED = Named(right="option_type")


def read(path: Path, request: Request) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    for table, done in csv_tables(path, _TYPES):
        root, expiry, right, strike = (table.column(name) for name in ("root", "expiration", "option_type", "strike"))
        low, high = table.column("underlying_bid"), table.column("underlying_ask")
        known = pc.and_(pc.greater(low, 0.0), pc.greater(high, 0.0))
        made = {
            "symbol": occ_symbols(path, root, expiry, right, strike, _NAMED),
            "timestamp": parsed_times(path, table.column("quote_datetime"), "quote_datetime"),
            "underlying": pc.if_else(known, pc.divide(pc.add(low, high), 2.0), None),
        }
        made |= {name: side(table.column(name)) for name in ("bid", "ask")}
        made |= {name: counts(table.column(name)) for name in ("bid_size", "ask_size")}
        yield taken(path, pa.table(made), request), done
