"""Recorded option quotes as numpy columns, one session at a time; all reading of the schema.

Memory is bounded by the largest session of the file. An unusable file raises `TapeError`; `faults` judges the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from daemon.core.instruments.option_market import parse_occ
from daemon.tapes.files import TapeError, check_once, missing_columns
from daemon.tapes.minutes import new_york_days
from daemon.tapes.quotes.schema import (
    EXTREMES,
    FORMAT_KEY,
    INTERVAL_KEY,
    INTERVALS,
    REQUIRED,
    SCHEMA,
    SYNTHETIC_KEY,
    VERSION,
    VERSION_KEY,
)

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class QuotedContracts:
    """The k contracts of a session. `expiry` (k,) is the New York date as datetime64[D], NaT where unreadable."""

    symbols: tuple[str, ...]
    roots: tuple[str, ...]  # "" if the symbol is no OCC symbol
    expiry: npt.NDArray[np.datetime64]
    strike: Float64Array  # (k,) USD, NaN if unreadable
    right: Int64Array  # (k,) +1 call, -1 put, 0 if unreadable


@dataclass(frozen=True, slots=True)
class QuoteArrays:
    """The n quotes of one New York date, by time, then by symbol. Prices in USD a share, 0: no such side."""

    date: str
    contracts: QuotedContracts
    codes: Int64Array  # (n,) index into the contracts
    end_ns: Int64Array  # (n,) the minute's end
    bid: Float64Array  # (n,)
    ask: Float64Array  # (n,)
    sizes: Int64Array  # (2, n) of bid and ask in contracts, -1 if unknown
    extremes: Float64Array  # (4, n) as `EXTREMES`, NaN if unknown
    underlying: Float64Array  # (n,) USD, NaN if unknown
    sources: tuple[str, ...]

    @property
    def mid(self) -> Float64Array:
        """Return (n,) the mid of bid and ask, NaN if one side is missing."""
        is_two_sided = (self.bid > 0) & (self.ask > 0)
        return np.where(is_two_sided, (self.bid + self.ask) / 2, np.nan)


class QuoteFile:
    """A file of recorded option quotes with checked columns. Raises TapeError for an unusable file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            problem = "a folder" if path.is_dir() else "no such file"
            raise TapeError(f"{path}: {problem}; expected a file of option quotes: check the path")
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema, self.rows = file.schema_arrow, int(file.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise TapeError(f"{path}: no Parquet file ({_line(error)}); expected option quotes: {_CONVERT}") from error
        self._columns = [name for name in SCHEMA.names if name in schema.names]
        if missing := [name for name in REQUIRED if name not in schema.names]:
            raise TapeError(
                f"{path}: {missing_columns(missing)}; found {', '.join(schema.names)}; expected "
                f"{', '.join(REQUIRED)}: {_CONVERT}"
            )
        check_once(path, schema.names)
        kind = schema.field("timestamp").type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise TapeError(f"{path}: the column timestamp has type {kind}; expected a time with a zone: {_CONVERT}")
        metadata = schema.metadata or {}
        version = metadata.get(VERSION_KEY, VERSION.encode()).decode()
        if version != VERSION:
            raise TapeError(f"{path}: version {version} of the schema; expected {VERSION}: {_CONVERT}")
        self.format = metadata.get(FORMAT_KEY, b"").decode()
        self.interval = metadata.get(INTERVAL_KEY, INTERVALS[0].encode()).decode()
        self.synthetic = metadata.get(SYNTHETIC_KEY, b"").decode()
        if self.interval not in INTERVALS:
            problem = f"interval {self.interval!r} in the metadata"
            raise TapeError(f"{path}: {problem}; expected one of {', '.join(INTERVALS)}: {_CONVERT}")

    def tables(self) -> Iterator[Any]:
        """Yield the rows as pyarrow tables of the schema, in file order. Raises TapeError for a damaged file."""
        try:
            with pa.parquet.ParquetFile(
                self.path, read_dictionary=["symbol", "source"], page_checksum_verification=True
            ) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=self._columns, use_threads=False):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise TapeError(f"{self.path}: the file is damaged ({_line(error)}): fetch or write it again") from error

    def sessions(self) -> Iterator[QuoteArrays]:
        """Yield the quotes of each New York date, in order of time.

        Raises TapeError for a damaged file, a row without symbol or time, and unsorted rows.
        """
        batches: list[Any] = []
        day, last_ns, rows_read = None, -1, 0
        for table in self.tables():
            ends = self._ends(table, rows_read)
            if ends.size and (ends[0] < last_ns or np.any(np.diff(ends) < 0)):
                late = 0 if ends[0] < last_ns else int(np.argmax(np.diff(ends) < 0)) + 1
                raise TapeError(
                    f"{self.path}: row {rows_read + late + 1} is earlier than the one before it; expected order of "
                    "time: sort it with `train-and-export convert --from quotes`"
                )
            rows_read += ends.size
            days = new_york_days(ends)
            cuts = [0, *(np.flatnonzero(days[1:] != days[:-1]) + 1).tolist(), ends.size]
            for begin, end in pairwise(cuts):
                if begin == end:
                    continue
                if day is not None and days[begin] != day:
                    yield session_quotes(str(day), batches)
                    batches = []
                day = days[begin]
                batches.append(table.slice(begin, end - begin))
            last_ns = int(ends[-1]) if ends.size else last_ns
        if batches:
            yield session_quotes(str(day), batches)

    def _ends(self, table: Any, rows_read: int) -> Int64Array:
        for name in ("timestamp", "symbol"):
            if table.column(name).null_count:
                row = rows_read + int(np.argmax(table.column(name).is_null().to_numpy())) + 1
                raise TapeError(f"{self.path}: row {row} has no {name}; expected one in every row: repair it")
        return end_ns_of(table)


def end_ns_of(table: Any) -> Int64Array:
    """Return the times of a table of quotes: (n,) nanoseconds UTC."""
    times: Int64Array = table.column("timestamp").cast(SCHEMA.field("timestamp").type).cast(pa.int64()).to_numpy()
    return times


def session_quotes(date: str, tables: list[Any]) -> QuoteArrays:
    """Return tables of the schema (one date's rows, in order) as numpy columns."""
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()
    symbols = table.column("symbol").cast(pa.dictionary(pa.int32(), pa.string())).combine_chunks()
    names, codes = symbols.dictionary.to_pylist(), symbols.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = table.num_rows
    return QuoteArrays(
        date=date,
        contracts=contracts_of(tuple(names)),
        codes=codes,
        end_ns=end_ns_of(table),
        bid=_floats(table, "bid", rows),
        ask=_floats(table, "ask", rows),
        sizes=np.stack([_sizes(table, name) for name in ("bid_size", "ask_size")]),
        extremes=np.stack([_floats(table, name, rows) for name in EXTREMES]),
        underlying=_floats(table, "underlying", rows),
        sources=tuple(sorted(filter(None, table.column("source").unique().to_pylist()))),
    )


def rows_of(quotes: QuoteArrays, rows: Int64Array) -> QuoteArrays:
    """Return only these rows, sorted by contract, then by time; the contracts stay."""
    rows_in_order = rows[np.lexsort((quotes.end_ns[rows], quotes.codes[rows]))]
    columns = {name: getattr(quotes, name)[rows_in_order] for name in ("codes", "end_ns", "bid", "ask", "underlying")}
    return replace(quotes, sizes=quotes.sizes[:, rows_in_order], extremes=quotes.extremes[:, rows_in_order], **columns)


def contracts_of(symbols: tuple[str, ...]) -> QuotedContracts:
    """Return the terms of OCC symbols; other texts get unreadable terms."""
    contracts = [parse_occ(symbol) for symbol in symbols]
    return QuotedContracts(
        symbols=symbols,
        roots=tuple("" if contract is None else contract.root for contract in contracts),
        expiry=np.array(
            ["NaT" if contract is None else contract.expiry for contract in contracts], dtype="datetime64[D]"
        ),
        strike=np.array(
            [np.nan if contract is None else float(contract.strike) for contract in contracts], dtype=np.float64
        ),
        right=np.array([0 if contract is None else contract.right for contract in contracts], dtype=np.int64),
    )


def _floats(table: Any, name: str, rows: int) -> Float64Array:
    """Return a column of prices; NaN if a value, or the column, is missing."""
    if name not in table.column_names:
        return np.full(rows, np.nan)
    values: Float64Array = table.column(name).cast(pa.float64()).to_numpy()
    return values


def _sizes(table: Any, name: str) -> Int64Array:
    values: Int64Array = table.column(name).cast(pa.int64()).fill_null(-1).to_numpy()
    return values


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_CONVERT = "make such a file with `train-and-export convert` (docs/DATA.md)"
