"""`rltraderctl export`: the tables of a journal, or its option quotes, as Parquet.

Of tables, for pandas, DuckDB and the like: times become timestamps (UTC, without a zone, NULL for 0), amounts 64-bit
floats, a feature row a list of float32; JSON stays text. The journal has the exact amounts. Quantities are exact:
64-bit integers if the journal has no fractions, else decimals with nine places.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.core.events import BarClosed, Quote, QuotesReceived
from daemon.core.instruments.option_market import parse_occ
from daemon.core.records import ROW_TYPES, RoundTripRow, Row
from daemon.engine.state_dir import parts_of
from daemon.host.whole_files import whole
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.trade import Trade
from daemon.journal.trades import Wanted, read_trades
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.schema import MINUTE, SCHEMA
from daemon.tapes.quotes.writer import writing_quotes
from strategies.kit.quantity import PLACES, Quantity
from strategies.kit.units import DAY_NS, HOUR_NS, MINUTE_NS

SOURCE = "journal"
MADE_UP = "the option market of a replay (Black-Scholes)"
_DECODER = msgspec.json.Decoder(QuotesReceived | BarClosed)
TRADES = "trades"
_PAGE = 20_000
_AMOUNTS = ("_usd", "price", "cost")
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.list_(pa.float32())}
_FRACTIONS = pa.decimal128(38, PLACES)
_META = ("desk", "strategy", "mode", "tape", "synthetic")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    command.set_defaults(run=run)
    command.add_argument(
        "what",
        choices=("quotes", "tables"),
        help="quotes: bid and ask of options by the minute; tables: trades, decisions, orders, fills, equity and "
        "others as Parquet (docs/DATA.md)",
    )
    add_state_dir(command)
    out = "the file to write, replaced whole; of tables the folder, a file for each"
    command.add_argument("--out", type=Path, required=True, metavar="FILE|DIR", help=out)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the requested export; returns 0. Raises NotFound, JournalError, OSError."""
    if options.what == "tables":
        lead_on(options, "trades")
        return export_tables(options.state_dir / FILE, options.out, console)
    lead_on(options, "check-quotes", str(options.out), about=(), program="train-and-export")
    return export_quotes(options.state_dir, options.out, console)


# --- quotes, as a file for calibration and checks ---------------------------------------------------------------------


def export_quotes(state_dir: Path, out: Path, console: Console) -> int:
    """Write the file; returns 0. Raises NotFound, JournalError, OSError."""
    journal = state_dir / FILE
    parts = parts_of(journal)
    with closing(JournalReader(journal)) as reader:
        meta = reader.meta()
        synthetic = MADE_UP if meta.get("mode") == "replay" else meta.get("option_quotes_synthetic", "")
    try:
        with writing_quotes(out, source=SOURCE, interval=MINUTE, synthetic=synthetic) as writer:
            rows = 0
            for table in _quote_tables(parts):
                writer.add(table)
                rows += table.num_rows
            if not rows:
                raise NotFound(f"{state_dir} holds no option quote")
            summary = writer.finish()
    except TapeError as error:
        raise NotFound(str(error)) from error
    if synthetic:
        sys.stderr.write(f"rltraderctl: the quotes are made up by {synthetic}; the file says so\n")
    dates = sorted(summary.by_date)
    console.print(f"{out}: {summary.rows:,} quotes of {len(dates):,} sessions, {dates[0]} to {dates[-1]}")
    return 0


def _quote_tables(parts: list[Path]) -> Iterator[Any]:
    """Yield the last quote of each contract and minute, one New York date at a time."""
    quotes: dict[tuple[str, int], Quote] = {}
    bars: dict[str, dict[int, float]] = {}
    day = 0
    for event in _events(parts):
        if _day(event.time_ns) != day:
            if quotes:
                yield _quote_table(quotes, bars)
            quotes, bars, day = {}, {}, _day(event.time_ns)
        match event:
            case BarClosed():
                bars.setdefault(event.bar.symbol, {})[event.bar.start_ns] = event.bar.close
            case QuotesReceived():
                for quote in event.quotes:
                    _keep(quotes, quote, day)
    if quotes:
        yield _quote_table(quotes, bars)


def _keep(quotes: dict[tuple[str, int], Quote], quote: Quote, day: int) -> None:
    """Store an option's quote of this day under the end of its minute; the latest one wins."""
    if parse_occ(quote.symbol) is None or _day(quote.quoted_ns) != day:
        return
    key = quote.symbol, -(-quote.quoted_ns // MINUTE_NS) * MINUTE_NS
    if key not in quotes or quotes[key].quoted_ns <= quote.quoted_ns:
        quotes[key] = quote


def _quote_table(quotes: dict[tuple[str, int], Quote], bars: dict[str, dict[int, float]]) -> Any:
    """Return one day's quotes; the underlying is the close of its bar that ends with the quote's minute."""
    closes: dict[tuple[str, int], float] = {}
    for symbol, by_start in bars.items():
        starts = sorted(by_start)
        width = min((next_start - start for start, next_start in pairwise(starts)), default=MINUTE_NS)
        closes |= {(symbol, start + width): by_start[start] for start in starts}
    rows = [
        {
            "symbol": symbol,
            "timestamp": end_ns,
            "bid": float(quote.bid),
            "ask": float(quote.ask),
            "underlying": closes.get((occ.root, end_ns)) if (occ := parse_occ(symbol)) else None,
        }
        for (symbol, end_ns), quote in quotes.items()
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([item for item in SCHEMA if item.name != "source"]))


def _events(parts: list[Path]) -> Iterator[QuotesReceived | BarClosed]:
    """Yield the journal's bars and quotes in order, rotated files first."""
    for path in parts:
        with closing(JournalReader(path)) as reader:
            yield from map(_DECODER.decode, reader.payloads("BarClosed", "QuotesReceived"))


def _day(time_ns: int) -> int:
    """Return a number for the New York date; quotes end before 20:00."""
    return (time_ns - 4 * HOUR_NS) // DAY_NS


# --- tables -----------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """A column: its name in the journal and in the file, its type there, and the conversion of its values."""

    source: str
    name: str
    type: Any
    made: Callable[[Any], Any] | None


def export_tables(journal: Path, folder: Path, console: Console) -> int:
    """Write one file per table into the new folder `folder`; returns 0. Raises JournalError, OSError.

    Each file is written whole. A table that an older release's journal lacks becomes a file without rows.
    """
    with closing(JournalReader(journal)) as reader:
        meta = {name: text for name, text in reader.meta().items() if name in _META}
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            reason = "a file" if folder.is_file() else error.strerror or error
            raise NotFound(f"{folder}: {reason}; expected a folder, or a name for one: choose another --out") from error
        whole = not _has_fractions(reader)
        for row_type in (kind for kind in ROW_TYPES if kind is not RoundTripRow):  # `trades` is derived from those
            count = _write(
                folder / f"{row_type.TABLE}.parquet", _columns(row_type, whole), _pages(reader, row_type), meta
            )
            console.print(f"{folder / row_type.TABLE}.parquet: {count:,} rows")
        trades = [[dataclasses.asdict(trade) for trade in read_trades(reader, Wanted()).trades[::-1]]]
        count = _write(folder / f"{TRADES}.parquet", _columns(Trade, whole), trades, meta)
        console.print(f"{folder / TRADES}.parquet: {count:,} rows")
    return 0


def _has_fractions(reader: JournalReader) -> bool:
    """Return whether the journal holds any fraction, which is stored as text."""
    table_names = {row["name"] for row in reader.query("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    for row_type in ROW_TYPES:
        names = [field.name for field in msgspec.structs.fields(row_type) if field.type is Quantity]
        texts = " OR ".join(f"typeof({name}) = 'text'" for name in names)
        if (
            names
            and row_type.TABLE in table_names
            and reader.query(f"SELECT 1 FROM {row_type.TABLE} WHERE {texts} LIMIT 1")
        ):
            return True
    return False


def _columns(row_type: type[Row | Trade], whole: bool) -> list[_Column]:
    fields = dataclasses.fields(row_type) if dataclasses.is_dataclass(row_type) else msgspec.structs.fields(row_type)
    types = get_type_hints(row_type)
    return [_column(field.name, types[field.name], whole) for field in fields]


def _column(name: str, column_type: Any, whole: bool) -> _Column:
    kind = column_type if isinstance(column_type, type) else column_type.__args__[0]
    if name.endswith("_ns"):
        return _Column(name, f"{name.removesuffix('_ns')}_utc", pa.timestamp("ns"), lambda value: value or None)
    if kind is str and name.endswith(_AMOUNTS):
        return _Column(name, name, pa.float64(), float)
    if kind is Quantity:
        return _Column(name, name, pa.int64(), None) if whole else _Column(name, name, _FRACTIONS, Decimal)
    if kind is bytes:
        return _Column(name, name, _TYPES[kind], lambda value: np.frombuffer(value, "<f4"))
    return _Column(name, name, _TYPES[kind], None)


def _pages(reader: JournalReader, row_type: type[Row]) -> Iterator[list[Any]]:
    """Yield the rows of a table in the order of its key."""
    if not reader.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (row_type.TABLE,)):
        return
    names = [field.name for field in msgspec.structs.fields(row_type)]
    page = (
        f"SELECT {', '.join(names)} FROM {row_type.TABLE} ORDER BY {', '.join(names[: row_type.KEY])} LIMIT ? OFFSET ?"
    )
    row_count = 0
    while rows := reader.query(page, (_PAGE, row_count)):
        yield rows
        row_count += len(rows)


def _write(
    path: Path, columns: list[_Column], pages: Iterator[list[Any]] | list[list[Any]], meta: dict[str, str]
) -> int:
    """Write one file; returns the number of its rows."""
    schema = pa.schema([(column.name, column.type) for column in columns], metadata=meta)
    count = 0
    with whole(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for rows in pages:
            writer.write_table(pa.Table.from_arrays([_array(column, rows) for column in columns], schema=schema))
            count += len(rows)
    return count


def _array(column: _Column, rows: list[Any]) -> Any:
    values = (row[column.source] for row in rows)
    make = column.made
    if make is not None:
        values = (None if value is None else make(value) for value in values)
    return pa.array(list(values), column.type)
