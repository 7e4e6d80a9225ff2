"""ThetaData's option quotes at intervals, as CSV: `option/history/quote` of version 3, `bulk_hist/option/quote` of 2.

Published at docs.thetadata.us/operations/option_history_quote.html and http-docs.thetadata.us: a row is the last quote
at the interval's time, so at the minute's end. Version 3 has New York's wall time and dollars; version 2 milliseconds
since midnight of New York and strikes in 1/10 cent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from training.data.quotes.columns import Named, counts, new_york_instants, occ_symbols, parsed_times, side, taken
from training.data.quotes.csv_files import csv_tables, header_of
from training.data.quotes.source import Request, Tables

_QUOTE = {"bid_size": pa.int64(), "bid": pa.float64(), "ask_size": pa.int64(), "ask": pa.float64()}
_THIRD = {
    "symbol": pa.string(), "expiration": pa.string(), "strike": pa.float64(), "right": pa.string(),
    "timestamp": pa.string(), **_QUOTE,
}  # fmt: skip
_SECOND = {
    "root": pa.string(), "expiration": pa.string(), "strike": pa.float64(), "right": pa.string(),
    "ms_of_day": pa.int64(), "date": pa.string(), **_QUOTE,
}  # fmt: skip


def read(path: Path, request: Request) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    second = "ms_of_day" in header_of(path)
    for table, done in csv_tables(path, _SECOND if second else _THIRD):
        named = Named("root" if second else "symbol")
        root = table.column(named.root)
        strike = pc.divide(table.column("strike"), 1000.0) if second else table.column("strike")
        made = {
            "symbol": occ_symbols(path, root, table.column("expiration"), table.column("right"), strike, named),
            "timestamp": _second_times(path, table)
            if second
            else parsed_times(path, table.column("timestamp"), "timestamp"),
        }
        made |= {name: side(table.column(name)) for name in ("bid", "ask")}
        made |= {name: counts(table.column(name)) for name in ("bid_size", "ask_size")}
        yield taken(path, pa.table(made), request), done


def _second_times(path: Path, table: Any) -> Any:
    days = pc.strptime(table.column("date"), format="%Y%m%d", unit="ms").cast(pa.int64())
    return new_york_instants(path, pc.add(days, table.column("ms_of_day")).cast(pa.timestamp("ms")), "date, ms_of_day")
