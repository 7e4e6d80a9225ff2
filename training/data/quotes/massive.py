"""Massive's (formerly Polygon's) flat files of stock minutes: CSV.gz, a file for each day with all US stocks.

Published at massive.com/docs/flat-files/stocks/minute-aggregates: `window_start` in nanoseconds UTC, the bar's start;
prices are not adjusted. The result is a file of bars (docs/DATA.md), which training, dry run and replay read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from daemon.host.whole_files import whole
from daemon.tapes.files import ADJUSTMENT_KEY, EARLIEST_NS
from training.data.quotes.columns import INSTANT, REPAIR, ConvertError, csv_tables
from training.data.quotes.convert import Progress, check_paths

_PRICES = ("open", "high", "low", "close", "volume")
_TYPES = {"ticker": pa.string(), "window_start": pa.int64()} | dict.fromkeys(_PRICES, pa.float64())


def convert_bars(paths: Sequence[Path], out: Path, symbols: frozenset[str], progress: Progress) -> int:
    """Write the bars of `symbols` in order to `out`, replacing what is there; return their count.

    Holds the bars of the wanted symbols in memory: about 100 bytes each. Raises ConvertError, OSError.
    """
    check_paths(paths, out)
    if not symbols:
        raise ConvertError(f"{out}: a flat file holds every stock; expected some: give --symbols, such as SPY,QQQ")
    symbol_array, tables, rows = pa.array(sorted(symbols)), list[Any](), 0
    for path in paths:
        for table, position in csv_tables(path, _TYPES):
            chosen = table.filter(pc.is_in(table.column("ticker"), symbol_array))
            if empty := [name for name in _TYPES if chosen.column(name).null_count]:
                raise ConvertError(f"{path}: a row has no {empty[0]}; expected one in every row: {REPAIR}")
            earliest = pc.min(chosen.column("window_start")).as_py()
            if earliest is not None and earliest < EARLIEST_NS:
                raise ConvertError(
                    f"{path}: the window_start {earliest} is before 1980 when read as nanoseconds; expected these, "
                    "as flat files have them: an answer of the REST interface has milliseconds, multiply them by 1e6"
                )
            tables.append(chosen)
            rows += chosen.num_rows
            progress(path, position, rows)
        progress(path, path.stat().st_size, rows)
    if not rows:
        raise ConvertError(f"{out}: no bar of {', '.join(sorted(symbols))}: check --symbols and the files")
    table = pa.concat_tables(tables).combine_chunks()
    missing = sorted(symbols - set(table.column("ticker").unique().to_pylist()))
    if missing:
        raise ConvertError(f"{out}: no bar of {', '.join(missing)} in the files: check --symbols")
    table = table.sort_by([("window_start", "ascending"), ("ticker", "ascending")])
    _refuse_twice(out, table)
    bars = pa.table(
        {
            "symbol": table.column("ticker"),
            "timestamp": table.column("window_start").cast(INSTANT),
            **{name: table.column(name) for name in _PRICES},
        }
    )
    metadata = {b"source": b"Massive flat files, stocks minute aggregates", ADJUSTMENT_KEY: b"raw"}
    with whole(out) as part:
        pa.parquet.write_table(bars.replace_schema_metadata(metadata), part, compression="zstd")
    return rows


def _refuse_twice(out: Path, table: Any) -> None:
    starts = table.column("window_start").to_numpy()
    names = table.column("ticker").to_numpy()
    twice = np.flatnonzero((starts[1:] == starts[:-1]) & (names[1:] == names[:-1]))
    if twice.size:
        when = np.datetime64(int(starts[twice[0]]), "ns").astype("datetime64[s]")
        raise ConvertError(f"{out}: {names[twice[0]]} has two bars at {when}Z: give each day's file once")
