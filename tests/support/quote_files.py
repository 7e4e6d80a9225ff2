"""Files of option quotes written by hand, for tests of their readers and converters."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from daemon.tapes.quotes.reader import QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import SCHEMA

Quote = tuple[str, str, float, float]  # symbol, time in UTC, bid, ask


def utc(text: str) -> datetime:
    """Return `2024-08-15 13:31` as a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows_of(quotes: Sequence[Quote], **more: Any) -> list[dict[str, Any]]:
    """Return rows of the schema; `more` gives the other columns the same value in each row."""
    base = {"bid_size": 1, "ask_size": 1, "source": "hand"} | more
    return [
        {"symbol": symbol, "timestamp": utc(when), "bid": bid, "ask": ask} | base for symbol, when, bid, ask in quotes
    ]


def write_quotes(path: Path, rows: Sequence[Mapping[str, Any]], metadata: Mapping[bytes, bytes] | None = None) -> Path:
    """Write rows of the schema as they are, in their order; columns that no row has are null."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    pa.parquet.write_table(table.replace_schema_metadata(dict(metadata or {})), path)
    return path


def sessions_in(path: Path) -> list[QuoteArrays]:
    """Return all sessions of a file."""
    return list(QuoteFile(path).sessions())


def quotes_in(path: Path) -> list[Quote]:
    """Return symbol, time in UTC to the minute, bid and ask of each row of a file."""
    return [
        (row["symbol"], f"{row['timestamp']:%Y-%m-%d %H:%M}", row["bid"], row["ask"])
        for row in pa.parquet.read_table(path).to_pylist()
    ]


def lean_zip(path: Path, entries: Mapping[str, Sequence[str]]) -> Path:
    """Write a zip of LEAN: name of a contract's file -> its lines."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in entries.items():
            archive.writestr(name, "".join(f"{line}\n" for line in lines))
    return path
