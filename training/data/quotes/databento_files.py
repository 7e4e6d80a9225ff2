"""Databento's `cbbo-1m` of OPRA, in DBN files, read by Databento's own library (the extra `databento`).

Published at databento.com/docs/schemas/cbbo: `ts_recv` is the interval's end. A minute in which neither quote nor trade
changed has no record. Symbols come from the file's own mappings.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from training.data.quotes.columns import INSTANT, counts, side, taken
from training.data.quotes.source import ConvertError, Request, Tables

SCHEMA_NAME = "cbbo-1m"
BATCH_ROWS = 500_000


def read(path: Path, request: Request) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    try:
        library = importlib.import_module("databento")
    except ModuleNotFoundError as error:
        raise ConvertError(
            f"{path}: DBN files need the extra databento ({error}): pip install -c constraints.txt -e '.[databento]'"
        ) from error
    try:
        store = library.DBNStore.from_file(path)
        found = str(store.schema)
    except (ValueError, RuntimeError, library.BentoError) as error:
        raise ConvertError(f"{path}: no DBN file, or damaged ({error}): fetch the file again") from error
    if found != SCHEMA_NAME:
        raise ConvertError(f"{path}: the schema is {found}; expected {SCHEMA_NAME}: request that schema of OPRA.PILLAR")
    seen, size = 0, path.stat().st_size
    total = max(size, 1)
    for frame in store.to_df(price_type="float", pretty_ts=False, map_symbols=True, count=BATCH_ROWS):
        seen += len(frame)
        if len(frame):
            yield (
                taken(path, _table(path, frame), request),
                min(seen * 20, total),
            )  # about 20 bytes a record, compressed


def _table(path: Path, frame: Any) -> Any:
    """Return a frame of the library as columns of the schema; its index is `ts_recv`."""
    frame = frame.reset_index()
    needed = ("ts_recv", "symbol", "bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00")
    if missing := [name for name in needed if name not in frame.columns]:
        raise ConvertError(
            f"{path}: the column {', '.join(missing)} is missing; found {', '.join(frame.columns)}: update databento"
        )
    table = pa.Table.from_pandas(frame[list(needed)], preserve_index=False)
    return pa.table(
        {
            "symbol": pc.replace_substring(pc.fill_null(table.column("symbol").cast(pa.string()), ""), " ", ""),
            "timestamp": table.column("ts_recv").cast(pa.int64()).cast(INSTANT),
            "bid": side(table.column("bid_px_00")),
            "ask": side(table.column("ask_px_00")),
            "bid_size": counts(table.column("bid_sz_00")),
            "ask_size": counts(table.column("ask_sz_00")),
        }
    )
