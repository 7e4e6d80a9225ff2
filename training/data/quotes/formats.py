"""The formats of option quotes that `train-and-export convert` reads: a reader for each, and its name in `--from`."""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from daemon.tapes.files import missing_columns
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.schema import END_OF_DAY, MINUTE, SNAPSHOT
from rltrader.install import install_line
from strategies.kit.units import SECOND_NS
from training.data.quotes.columns import (
    INSTANT,
    ColumnChoice,
    ConvertError,
    Format,
    Named,
    Tables,
    counts,
    csv_tables,
    header_of,
    new_york_instants,
    occ_symbols,
    parsed_times,
    side,
    taken,
)

# LEAN's minute quotes of options: a zip for each day with a CSV file for each contract.
#
# Published at quantconnect.com/docs/v2/lean-engine/data-format/equity-options: no header; milliseconds since midnight
# of
# New York to the bar's start, then open, high, low, close and size of the bid, and of the ask. Prices are in 1/10,000
# USD, empty where the side is missing. Times without a row had no new quote.

MINUTE_MS = 60_000
_LEAN_SCALE = 10_000.0
_LEAN_NAMES = (
    "ms", "bid_open", "bid_high", "bid_low", "bid", "bid_size", "ask_open", "ask_high", "ask_low", "ask", "ask_size",
)  # fmt: skip
_LEAN_ENTRY = re.compile(
    r"(?P<date>\d{8})_(?P<root>[a-z]+)_minute_(?P<kind>quote|trade|openinterest)_(?:american|european)"
    r"_(?P<right>call|put)_(?P<strike>\d+)_(?P<expiry>\d{8})\.csv"
)
_LEAN_CURE = "give LEAN's option/usa/minute/SYMBOL/DATE_quote_STYLE.zip"


def read_lean(path: Path, request: ColumnChoice) -> Tables:
    """Yield one day's quotes, a table for each contract. Raises ConvertError."""
    position = 0
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not entries:
                raise ConvertError(f"{path}: the zip is empty; expected a CSV file for each contract: {_LEAN_CURE}")
            for entry in entries:
                match = _LEAN_ENTRY.fullmatch(entry.filename)
                if match is None or match["kind"] != "quote":
                    what = "no option's minutes" if match is None else f"of kind {match['kind']}, not quote"
                    raise ConvertError(f"{path}: {entry.filename} is {what}: {_LEAN_CURE}")
                position += entry.compress_size
                if entry.file_size:
                    table = _lean_contract(path, entry.filename, match, archive.read(entry))
                    yield taken(path, table, request), position
    except zipfile.BadZipFile as error:
        raise ConvertError(f"{path}: no zip, or damaged ({error}): fetch the file again") from error


def _lean_contract(path: Path, name: str, match: re.Match[str], data: bytes) -> Any:
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(data),
            read_options=pa.csv.ReadOptions(column_names=list(_LEAN_NAMES), use_threads=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={"ms": pa.int64()} | dict.fromkeys(_LEAN_NAMES[1:], pa.float64())
            ),
        )
    except pa.ArrowInvalid as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = re.sub(r"CSV column #(\d+)", lambda match: f"the column {_LEAN_NAMES[int(match[1])]}", reason)
        raise ConvertError(f"{path}: {name}: {reason}; expected the columns {', '.join(_LEAN_NAMES)}") from error
    midnight = np.datetime64(f"{match['date'][:4]}-{match['date'][4:6]}-{match['date'][6:]}", "ms").astype(np.int64)
    ends = pc.add(table.column("ms"), int(midnight) + MINUTE_MS)
    columns = pa.array([match["root"].upper()]), pa.array([match["expiry"]]), pa.array([match["right"]])
    symbol = occ_symbols(path, *columns, pa.array([int(match["strike"]) / _LEAN_SCALE]))[0].as_py()
    usd = {name: pc.divide(table.column(name), _LEAN_SCALE) for name in _LEAN_NAMES if name[:3] in ("bid", "ask")}
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


# ThetaData's option quotes at intervals, as CSV: `option/history/quote` of version 3, `bulk_hist/option/quote` of 2.
#
# Published at docs.thetadata.us/operations/option_history_quote.html and http-docs.thetadata.us: a row is the last
# quote
# at the interval's time, so at the minute's end. Version 3 has New York's wall time and dollars; version 2 milliseconds
# since midnight of New York and strikes in 1/10 cent.

_QUOTE = {"bid_size": pa.int64(), "bid": pa.float64(), "ask_size": pa.int64(), "ask": pa.float64()}
_THIRD = {
    "symbol": pa.string(), "expiration": pa.string(), "strike": pa.float64(), "right": pa.string(),
    "timestamp": pa.string(), **_QUOTE,
}  # fmt: skip
_SECOND = {
    "root": pa.string(), "expiration": pa.string(), "strike": pa.float64(), "right": pa.string(),
    "ms_of_day": pa.int64(), "date": pa.string(), **_QUOTE,
}  # fmt: skip


def read_thetadata(path: Path, request: ColumnChoice) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    second = "ms_of_day" in header_of(path)
    for table, position in csv_tables(path, _SECOND if second else _THIRD):
        names = Named("root" if second else "symbol")
        root = table.column(names.root)
        strike = pc.divide(table.column("strike"), 1000.0) if second else table.column("strike")
        columns = {
            "symbol": occ_symbols(path, root, table.column("expiration"), table.column("right"), strike, names),
            "timestamp": _second_times(path, table)
            if second
            else parsed_times(path, table.column("timestamp"), "timestamp"),
        }
        columns |= {name: side(table.column(name)) for name in ("bid", "ask")}
        columns |= {name: counts(table.column(name)) for name in ("bid_size", "ask_size")}
        yield taken(path, pa.table(columns), request), position


def _second_times(path: Path, table: Any) -> Any:
    days = pc.strptime(table.column("date"), format="%Y%m%d", unit="ms").cast(pa.int64())
    return new_york_instants(path, pc.add(days, table.column("ms_of_day")).cast(pa.timestamp("ms")), "date, ms_of_day")


# Databento's `cbbo-1m` of OPRA, in DBN files, read by Databento's own library (the extra `databento`).
#
# Published at databento.com/docs/schemas/cbbo: `ts_recv` is the interval's end. A minute in which neither quote nor
# trade
# changed has no record. Symbols come from the file's own mappings.

SCHEMA_NAME = "cbbo-1m"
BATCH_ROWS = 500_000


def read_databento(path: Path, request: ColumnChoice) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    try:
        library = importlib.import_module("databento")
    except ModuleNotFoundError as error:
        raise ConvertError(
            f"{path}: DBN files need the extra databento ({error}): {install_line('databento')}"
        ) from error
    try:
        store = library.DBNStore.from_file(path)
        schema = str(store.schema)
    except (ValueError, RuntimeError, library.BentoError) as error:
        raise ConvertError(f"{path}: no DBN file, or damaged ({error}): fetch the file again") from error
    if schema != SCHEMA_NAME:
        raise ConvertError(
            f"{path}: the schema is {schema}; expected {SCHEMA_NAME}: request that schema of OPRA.PILLAR"
        )
    row_count, size = 0, path.stat().st_size
    total = max(size, 1)
    for frame in store.to_df(price_type="float", pretty_ts=False, map_symbols=True, count=BATCH_ROWS):
        row_count += len(frame)
        if len(frame):
            yield (
                taken(path, _databento_table(path, frame), request),
                min(row_count * 20, total),
            )  # about 20 bytes a record, compressed


def _databento_table(path: Path, frame: Any) -> Any:
    """Return a frame of the library as columns of the schema; its index is `ts_recv`."""
    frame = frame.reset_index()
    needed = ("ts_recv", "symbol", "bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00")
    if missing := [name for name in needed if name not in frame.columns]:
        raise ConvertError(f"{path}: {missing_columns(missing)}; found {', '.join(frame.columns)}: update databento")
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


# Cboe DataShop's Option Intervals: CSV, plain or zipped, at the interval that was ordered (here one minute).
#
# Published at datashop.cboe.com/options-intervals-subscription: NBBO and sizes at `quote_datetime`, New York's wall
# time,
# with bid and ask of the underlying. Further columns (trades, greeks, open interest) are ignored.

_CBOE_TYPES = {
    "quote_datetime": pa.string(), "root": pa.string(), "expiration": pa.string(), "strike": pa.float64(),
    "option_type": pa.string(), "bid_size": pa.int64(), "bid": pa.float64(), "ask_size": pa.int64(),
    "ask": pa.float64(), "underlying_bid": pa.float64(), "underlying_ask": pa.float64(),
}  # fmt: skip
_CBOE_NAMED = Named(right="option_type")


def read_cboe(path: Path, request: ColumnChoice) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    for table, position in csv_tables(path, _CBOE_TYPES):
        root, expiry, right, strike = (table.column(name) for name in ("root", "expiration", "option_type", "strike"))
        low, high = table.column("underlying_bid"), table.column("underlying_ask")
        has_quote = pc.and_(pc.greater(low, 0.0), pc.greater(high, 0.0))
        columns = {
            "symbol": occ_symbols(path, root, expiry, right, strike, _CBOE_NAMED),
            "timestamp": parsed_times(path, table.column("quote_datetime"), "quote_datetime"),
            "underlying": pc.if_else(has_quote, pc.divide(pc.add(low, high), 2.0), None),
        }
        columns |= {name: side(table.column(name)) for name in ("bid", "ask")}
        columns |= {name: counts(table.column(name)) for name in ("bid_size", "ask_size")}
        yield taken(path, pa.table(columns), request), position


# OptionsDX's end-of-day chains: CSV with a row for each expiry and strike, call and put side by side.
#
# Names are in brackets, sizes are texts like `12 x 30`. `quote_unixtime` is in seconds UTC. The underlying's name is
# not
# in the file, so --symbols gives it. One moment a day: for calibration alone.

_OPTIONSDX_TYPES = {
    "quote_unixtime": pa.int64(), "underlying_last": pa.float64(), "expire_date": pa.string(), "strike": pa.float64(),
    "c_bid": pa.float64(), "c_ask": pa.float64(), "c_size": pa.string(), "p_bid": pa.float64(), "p_ask": pa.float64(),
    "p_size": pa.string(),
}  # fmt: skip


def read_optionsdx(path: Path, request: ColumnChoice) -> Tables:
    """Yield the quotes of one file, calls before puts. Raises ConvertError."""
    if len(request.roots) != 1:
        raise ConvertError(f"{path}: OptionsDX names no underlying; expected one: give it, such as --symbols SPY")
    (root,) = request.roots
    for table, position in csv_tables(path, _OPTIONSDX_TYPES):
        yield (
            taken(path, pa.concat_tables([_optionsdx_half(path, table, root, letter) for letter in "cp"]), request),
            position,
        )


def _optionsdx_half(path: Path, table: Any, root: str, letter: str) -> Any:
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


# Snapshots of whole chains in Parquet with the names of yfinance: `contract_symbol`, `bid`, `ask`, `underlying`.
#
# The time of a snapshot is its column `quote_time` or `approx_quote_time`, an instant with a zone. Sizes are unknown.
# For
# calibration alone.

_SNAPSHOT_NAMES = ("contract_symbol", "bid", "ask", "underlying")
_SNAPSHOT_TIMES = ("quote_time", "approx_quote_time")


def read_snapshots(path: Path, request: ColumnChoice) -> Tables:
    """Yield the quotes of one file. Raises ConvertError."""
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            time = next((name for name in _SNAPSHOT_TIMES if name in names), "")
            if missing := [
                *(name for name in _SNAPSHOT_NAMES if name not in names),
                *([] if time else [" or ".join(_SNAPSHOT_TIMES)]),
            ]:
                raise ConvertError(f"{path}: {missing_columns(missing)}; found {', '.join(names)}: rename the columns")
            if getattr(file.schema_arrow.field(time).type, "tz", None) is None:
                raise ConvertError(f"{path}: the column {time} has no time zone: write it as an instant in UTC")
            for batch in file.iter_batches(columns=[*_SNAPSHOT_NAMES, time], use_threads=False):
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


def _own(path: Path, request: ColumnChoice) -> Tables:
    """Yield the rows of a file that has the schema already."""
    file, row_count = QuoteFile(path), 0
    for table in file.tables():
        row_count += table.num_rows
        yield taken(path, table, request), path.stat().st_size * row_count // file.rows


FORMATS = {
    "lean": Format(read_lean, MINUTE, "LEAN's DATE_quote_STYLE.zip of options, minutes"),
    "thetadata": Format(read_thetadata, MINUTE, "CSV of ThetaData's option/history/quote at 1m"),
    "databento": Format(read_databento, MINUTE, "DBN of Databento's cbbo-1m (extra databento)"),
    "cboe": Format(read_cboe, MINUTE, "CSV of Cboe DataShop's Option Intervals at one minute"),
    "optionsdx": Format(read_optionsdx, END_OF_DAY, "CSV of OptionsDX's end-of-day chains, for calibration"),
    "snapshots": Format(read_snapshots, SNAPSHOT, "Parquet of chain snapshots (yfinance's names), for calibration"),
    "quotes": Format(_own, MINUTE, "files of this schema: joins and sorts them"),
}
BARS = {
    "massive": "CSV of Massive's (Polygon's) flat files of stock minutes: makes a file of bars",
    "implied-bars": "a file of this schema: makes bars of its underlying, by put-call parity where it is not recorded",
}
