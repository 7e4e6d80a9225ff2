"""LEAN's minute quotes of options: a zip for each day with a CSV file for each contract.

Published at quantconnect.com/docs/v2/lean-engine/data-format/equity-options: no header; milliseconds since midnight of
New York to the bar's start, then open, high, low, close and size of the bid, and of the ask. Prices are in 1/10,000
USD, empty where the side is missing. Times without a row had no new quote.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from training.data.quotes.columns import counts, new_york_instants, occ_symbols, side, taken
from training.data.quotes.source import ConvertError, Request, Tables

MINUTE_MS = 60_000
_SCALE = 10_000.0
_NAMES = (
    "ms", "bid_open", "bid_high", "bid_low", "bid", "bid_size", "ask_open", "ask_high", "ask_low", "ask", "ask_size",
)  # fmt: skip
_ENTRY = re.compile(
    r"(?P<date>\d{8})_(?P<root>[a-z]+)_minute_(?P<kind>quote|trade|openinterest)_(?:american|european)"
    r"_(?P<right>call|put)_(?P<strike>\d+)_(?P<expiry>\d{8})\.csv"
)
_CURE = "give LEAN's option/usa/minute/SYMBOL/DATE_quote_STYLE.zip"


def read(path: Path, request: Request) -> Tables:
    """Yield one day's quotes, a table for each contract. Raises ConvertError."""
    done = 0
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not entries:
                raise ConvertError(f"{path}: the zip is empty; expected a CSV file for each contract: {_CURE}")
            for entry in entries:
                found = _ENTRY.fullmatch(entry.filename)
                if found is None or found["kind"] != "quote":
                    what = "no option's minutes" if found is None else f"of kind {found['kind']}, not quote"
                    raise ConvertError(f"{path}: {entry.filename} is {what}: {_CURE}")
                done += entry.compress_size
                if entry.file_size:
                    table = _contract(path, entry.filename, found, archive.read(entry))
                    yield taken(path, table, request), done
    except zipfile.BadZipFile as error:
        raise ConvertError(f"{path}: no zip, or damaged ({error}): fetch the file again") from error


def _contract(path: Path, name: str, found: re.Match[str], data: bytes) -> Any:
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data),
            read_options=pa.csv.ReadOptions(column_names=list(_NAMES), use_threads=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={"ms": pa.int64()} | dict.fromkeys(_NAMES[1:], pa.float64())
            ),
        )
    except pa.ArrowInvalid as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = re.sub(r"CSV column #(\d+)", lambda found: f"the column {_NAMES[int(found[1])]}", reason)
        raise ConvertError(f"{path}: {name}: {reason}; expected the columns {', '.join(_NAMES)}") from error
    midnight = np.datetime64(f"{found['date'][:4]}-{found['date'][4:6]}-{found['date'][6:]}", "ms").astype(np.int64)
    ends = pc.add(table.column("ms"), int(midnight) + MINUTE_MS)
    one = pa.array([found["root"].upper()]), pa.array([found["expiry"]]), pa.array([found["right"]])
    symbol = occ_symbols(path, *one, pa.array([int(found["strike"]) / _SCALE]))[0].as_py()
    usd = {name: pc.divide(table.column(name), _SCALE) for name in _NAMES if name[:3] in ("bid", "ask")}
    return pa.table(
        {
            "symbol": pa.repeat(pa.scalar(symbol), table.num_rows),
            "timestamp": new_york_instants(path, ends.cast(pa.timestamp("ms")), "ms"),
            "bid": side(usd["bid"]),
            "ask": side(usd["ask"]),
            "bid_size": counts(table.column("bid_size")),
            "ask_size": counts(table.column("ask_size")),
            "low_bid": usd["bid_low"],
            "high_bid": usd["bid_high"],
            "low_ask": usd["ask_low"],
            "high_ask": usd["ask_high"],
        }
    )
