"""What all readers of vendors' option quotes share: options and errors, columns of the schema, CSV files by blocks."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from daemon.core.instruments.option_market import parse_occ
from daemon.tapes.files import missing_columns
from daemon.tapes.quotes.schema import SCHEMA

Tables = Iterator[tuple[Any, int]]
"""Pyarrow tables with columns of the schema (`source` may be absent), each with the bytes of the file read so far."""


class ConvertError(Exception):
    """A file that cannot be converted: the operator's mistake. The message names the file, the finding and the cure."""


@dataclass(slots=True)
class ColumnChoice:
    """Which rows a conversion takes. `left_out` counts the other rows by reason."""

    roots: frozenset[str] = frozenset()  # OCC roots, such as SPXW; empty for all
    max_days: int | None = None  # calendar days from the quote to the expiry
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Format:
    """A vendor's format of option quotes. `read` yields the tables of one file; it raises ConvertError."""

    read: Callable[[Path, ColumnChoice], Tables]
    interval: str  # of `daemon.tapes.quotes.schema`
    text: str


ZONE = "America/New_York"
INSTANT = SCHEMA.field("timestamp").type
ADJUSTED = "adjusted contracts and symbols outside of the OCC format"
OTHER_ROOT = "other symbols than --symbols"
LATER = "expiries after --max-days"
STRIKE_END = 100_000_000  # in 0.001 USD: OCC symbols have eight digits
REPAIR = "repair the row, or fetch the file again"


class Named(NamedTuple):
    """The file's names of the four columns of a contract, for messages."""

    root: str = "root"
    expiry: str = "expiration"
    right: str = "right"
    strike: str = "strike"


NAMED = Named()


def occ_symbols(path: Path, root: Any, expiry: Any, right: Any, strike: Any, names: Named = NAMED) -> Any:
    """Return OCC symbols of columns: root, expiry (YYYY-MM-DD or YYYYMMDD), right (C…/P…, any case), strike (USD).

    Raises ConvertError for a missing value, another expiry or right, or a strike off the grid of 0.001 USD.
    """
    _require(path, pc.is_valid(root), root, names.root, "the contract's root, such as SPY")
    days = pc.replace_substring(pc.utf8_trim_whitespace(expiry), "-", "")
    _require(path, pc.match_substring_regex(days, r"^20\d{6}$"), expiry, names.expiry, "YYYY-MM-DD or YYYYMMDD")
    letters = pc.utf8_upper(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(right), 0, 1))
    _require(path, pc.is_in(letters, pa.array(["C", "P"])), right, names.right, "call, put, C or P")
    thousandths = pc.multiply(strike, 1000.0)
    whole = pc.round(thousandths)
    on_grid = pc.less(pc.abs(pc.subtract(thousandths, whole)), 1e-3)
    in_range = pc.and_(pc.greater(whole, 0.0), pc.less(whole, STRIKE_END))
    expected = f"a multiple of 0.001 USD above 0 and below {STRIKE_END // 1000:,}"
    _require(path, pc.and_(on_grid, in_range), strike, names.strike, expected)
    digits = pc.utf8_lpad(whole.cast(pa.int64()).cast(pa.string()), width=8, padding="0")
    parts = (pc.utf8_trim_whitespace(root), pc.utf8_slice_codeunits(days, 2, 8), letters, digits)
    return pc.binary_join_element_wise(*parts, "")


def _require(path: Path, good: Any, values: Any, column: str, expected: str) -> None:
    good = pc.fill_null(good, False)
    if not pc.all(good, min_count=0).as_py():
        value = values[int(np.argmin(good.to_numpy(zero_copy_only=False)))].as_py()
        text = "nothing" if value is None else repr(value)
        raise ConvertError(f"{path}: found {text} in the column {column}; expected {expected}: {REPAIR}")


def new_york_instants(path: Path, local: Any, column: str) -> Any:
    """Return wall times of New York (timestamps without a zone) as instants in UTC.

    Raises ConvertError for no time, and for one that a change of the clocks leaves out or repeats.
    """
    _require(path, pc.is_valid(local), local, column, "a time in every row")
    try:
        return pc.assume_timezone(local, ZONE).cast(INSTANT)
    except pa.ArrowInvalid as error:
        reason = f"a time in the column {column} is no single moment in New York ({error})"
        raise ConvertError(f"{path}: {reason}: repair the row") from error


def parsed_times(path: Path, text: Any, column: str) -> Any:
    """Return texts as instants: ISO 8601 with a T or a space; without an offset they are New York's wall time.

    Raises ConvertError for no text, or another one.
    """
    text = pc.utf8_trim_whitespace(text)
    _require(path, pc.is_valid(text), text, column, "a time in every row")
    if pc.any(pc.match_substring_regex(text, r"\d:\d\d.*(Z|[+-]\d\d:?\d\d)$")).as_py():
        return _cast(path, text, INSTANT, column)
    return new_york_instants(path, _cast(path, text, pa.timestamp("ns"), column), column)


def _cast(path: Path, text: Any, kind: Any, column: str) -> Any:
    try:
        return text.cast(kind)
    except pa.ArrowInvalid as error:
        fault = f"a time in the column {column} is malformed ({error})"
        raise ConvertError(
            f"{path}: {fault}; expected YYYY-MM-DDTHH:MM:SS, in all rows with an offset or in none: {REPAIR}"
        ) from error


def side(price: Any) -> Any:
    """Return a column of prices with 0 where there is none: no bid, or no offer."""
    return pc.fill_null(pc.if_else(pc.is_nan(price), 0.0, price), 0.0)


def counts(size: Any) -> Any:
    """Return a column of sizes as int32; null where there is none, or a number that no size can be."""
    rounded = pc.round(size.cast(pa.float64()))
    possible = pc.and_(pc.greater_equal(rounded, 0.0), pc.less(rounded, 2.0**31))
    return pc.if_else(possible, rounded, None).cast(pa.int32())


def taken(path: Path, table: Any, request: ColumnChoice) -> Any:
    """Return the rows that the request asks for and that have an OCC symbol; count the others.

    Raises ConvertError for a row without symbol or time.
    """
    for name in ("symbol", "timestamp"):
        _require(path, pc.is_valid(table.column(name)), table.column(name), name, "a value in every row")
    symbols = table.column("symbol").combine_chunks().dictionary_encode()
    names = symbols.dictionary.to_pylist()
    parsed = [parse_occ(name) for name in names]
    table = _filter(table, symbols, [option is not None for option in parsed], ADJUSTED, request)
    if request.roots:
        symbols = table.column("symbol").combine_chunks().dictionary_encode()
        of_root = [
            (option := parse_occ(name)) is not None and option.root in request.roots
            for name in symbols.dictionary.to_pylist()
        ]
        table = _filter(table, symbols, of_root, OTHER_ROOT, request)
    return table if request.max_days is None else _near(table, request.max_days, request)


def _filter(table: Any, symbols: Any, good: list[bool], reason: str, request: ColumnChoice) -> Any:
    if all(good):
        return table
    mask = np.array(good)[symbols.indices.to_numpy(zero_copy_only=False)]
    request.left_out[reason] += int(np.count_nonzero(~mask))
    return table.filter(pa.array(mask))


def _near(table: Any, max_days: int, request: ColumnChoice) -> Any:
    symbols = table.column("symbol").combine_chunks().dictionary_encode()
    expiries = [option.expiry if (option := parse_occ(name)) else "NaT" for name in symbols.dictionary.to_pylist()]
    if not expiries:
        return table
    until = np.array(expiries, dtype="datetime64[D]")[symbols.indices.to_numpy(zero_copy_only=False)]
    days = table.column("timestamp").cast(pa.int64()).to_numpy().astype("datetime64[ns]").astype("datetime64[D]")
    mask = (until - days).astype(np.int64) <= max_days
    request.left_out[LATER] += int(np.count_nonzero(~mask))
    return table.filter(pa.array(mask))


BLOCK_BYTES = 8 * 1024 * 1024


def header_of(path: Path) -> tuple[str, ...]:
    """Return the names of a CSV file's columns, in lower case and without brackets. Raises ConvertError."""
    with _reading(path), _open_text(path) as (stream, _raw):
        return _header(stream)


def csv_tables(path: Path, types: Mapping[str, Any]) -> Tables:
    """Yield the columns of `types` (name -> pyarrow type) of a CSV file with a header, a block at a time.

    Names are compared in lower case, without brackets and blanks. Raises ConvertError that names a missing column.
    """
    names: list[str] = []
    with _reading(path, names), _open_text(path) as (stream, raw):
        names += _header(stream)
        if missing := [name for name in types if name not in names]:
            raise ConvertError(
                f"{path}: {missing_columns(missing)}; found {', '.join(names) or 'nothing'}; expected "
                f"{', '.join(types)}: check --from and how the file was requested"
            )
        if twice := [name for name in types if names.count(name) > 1]:
            raise ConvertError(f"{path}: the column {', '.join(twice)} is there more than once: remove the others")
        options = pa.csv.ConvertOptions(
            include_columns=list(types),
            column_types=dict(types),
            null_values=["", " ", "NaN", "nan", "null"],
            strings_can_be_null=True,
        )
        read_options = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=BLOCK_BYTES)
        try:
            reader = pa.csv.open_csv(stream, read_options=read_options, convert_options=options)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):  # a header alone: no contract was quoted
                return
            raise
        with reader:
            for batch in reader:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]), raw.tell()


def _header(stream: Any) -> tuple[str, ...]:
    line = stream.readline().decode("utf-8-sig").strip("\r\n")
    return tuple(name.strip(' "[]').lower() for name in line.split(","))


@contextmanager
def _open_text(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the text as a stream of bytes, and the file under it, whose position shows the progress."""
    with path.open("rb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream, raw
        elif path.name.endswith(".zip"):
            with zipfile.ZipFile(raw) as archive:
                inside = [name for name in archive.namelist() if name.lower().endswith((".csv", ".txt"))]
                if len(inside) != 1:
                    names_text = ", ".join(archive.namelist()[:5]) or "nothing"
                    raise ConvertError(f"{path}: found {names_text} inside; expected one CSV file: unpack it first")
                with archive.open(inside[0]) as member:
                    yield member, raw
        else:
            yield raw, raw


@contextmanager
def _reading(path: Path, names: Sequence[str] = ()) -> Iterator[None]:
    """Turn the readers' exceptions into a ConvertError that names the file, and the column where it has a name."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise ConvertError(f"{path}: truncated or damaged ({error}): fetch the file again") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = re.sub(r"CSV column #(\d+)", lambda match: f"the column {names[int(match[1])]}", reason)
        raise ConvertError(f"{path}: a row is malformed ({reason}): repair or fetch the file again") from error
