"""OptionsDX's end-of-day chains: CSV with a row for each expiry and strike, call and put side by side.

Names are in brackets, sizes are texts like `12 x 30`. `quote_unixtime` is in seconds UTC. The underlying's name is not
in the file, so --symbols gives it. One moment a day: for calibration alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from strategies.kit.units import SECOND_NS
from training.data.quotes.columns import INSTANT, Named, occ_symbols, side, taken
from training.data.quotes.csv_files import csv_tables
from training.data.quotes.source import ConvertError, Request, Tables

_TYPES = {
    "quote_unixtime": pa.int64(), "underlying_last": pa.float64(), "expire_date": pa.string(), "strike": pa.float64(),
    "c_bid": pa.float64(), "c_ask": pa.float64(), "c_size": pa.string(), "p_bid": pa.float64(), "p_ask": pa.float64(),
    "p_size": pa.string(),
}  # fmt: skip


def read(path: Path, request: Request) -> Tables:
    """Yield the quotes of one file, calls before puts. Raises ConvertError."""
    if len(request.roots) != 1:
        raise ConvertError(f"{path}: OptionsDX names no underlying; expected one: give it, such as --symbols SPY")
    (root,) = request.roots
    for table, done in csv_tables(path, _TYPES):
        yield taken(path, pa.concat_tables([_half(path, table, root, letter) for letter in "cp"]), request), done


def _half(path: Path, table: Any, root: str, letter: str) -> Any:
    """Return the calls or the puts."""
    rows = table.num_rows
    roots, rights = pa.array([root] * rows, pa.string()), pa.array([letter] * rows, pa.string())
    sizes = pc.extract_regex(table.column(f"{letter}_size"), r"^\s*(?P<bid>\d+)\s*x\s*(?P<ask>\d+)\s*$")
    return pa.table(
        {
            "symbol": occ_symbols(
                path,
                roots,
                table.column("expire_date").combine_chunks(),
                rights,
                table.column("strike").combine_chunks(),
                Named(expiry="expire_date"),
            ),
            "timestamp": pc.multiply(table.column("quote_unixtime"), SECOND_NS).cast(INSTANT),
            "bid": side(table.column(f"{letter}_bid")),
            "ask": side(table.column(f"{letter}_ask")),
            "bid_size": pc.struct_field(sizes, "bid").cast(pa.int32()),
            "ask_size": pc.struct_field(sizes, "ask").cast(pa.int32()),
            "underlying": table.column("underlying_last"),
        }
    )
