"""`rltraderctl export tables`: write the journal's tables as Parquet files, for pandas, DuckDB and the like.

Times become timestamps (UTC, without a zone, NULL for 0), amounts 64-bit floats, a feature row a list of float32; JSON
stays text. The journal has the exact amounts. Quantities are exact: 64-bit integers if the journal has no fractions,
else decimals with nine places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from daemon.cli.arguments import NotFound
from daemon.core.records import ROW_TYPES, RoundTripRow, Row
from daemon.host.whole_files import whole
from daemon.journal.reader import JournalReader
from daemon.journal.trade import Trade
from daemon.journal.trades import Wanted, read_trades
from strategies.kit.quantity import PLACES, Quantity

TRADES = "trades"
_PAGE = 20_000
_AMOUNTS = ("_usd", "price", "cost")
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.list_(pa.float32())}
_FRACTIONS = pa.decimal128(38, PLACES)
_META = ("desk", "strategy", "mode", "tape", "synthetic")


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
