"""Snapshots of whole chains in Parquet with the names of yfinance: `contract_symbol`, `bid`, `ask`, `underlying`.

The time of a snapshot is its column `quote_time` or `approx_quote_time`, an instant with a zone. Sizes are unknown. For
calibration alone.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from training.data.quotes.columns import INSTANT, side, taken
from training.data.quotes.source import ConvertError, Request, Tables

_NAMES = ("contract_symbol", "bid", "ask", "underlying")
_TIMES = ("quote_time", "approx_quote_time")


def read(path: Path, request: Request) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            time = next((name for name in _TIMES if name in names), "")
            if missing := [*(name for name in _NAMES if name not in names), *([] if time else [" or ".join(_TIMES)])]:
                raise ConvertError(
                    f"{path}: the column {', '.join(missing)} is missing; found {', '.join(names)}: rename the columns"
                )
            if getattr(file.schema_arrow.field(time).type, "tz", None) is None:
                raise ConvertError(f"{path}: the column {time} has no time zone: write it as an instant in UTC")
            for batch in file.iter_batches(columns=[*_NAMES, time], use_threads=False):
                unknown = pa.nulls(batch.num_rows, pa.int32())
                table = pa.table(
                    {
                        "symbol": batch.column("contract_symbol").cast(pa.string()),
                        "timestamp": batch.column(time).cast(INSTANT),
                        "bid": side(batch.column("bid").cast(pa.float64())),
                        "ask": side(batch.column("ask").cast(pa.float64())),
                        "bid_size": unknown,
                        "ask_size": unknown,
                        "underlying": batch.column("underlying").cast(pa.float64()),
                    }
                )
                yield taken(path, table, request), 0
    except (pa.ArrowInvalid, OSError) as error:
        raise ConvertError(f"{path}: no Parquet file, or damaged ({error}): fetch the file again") from error
