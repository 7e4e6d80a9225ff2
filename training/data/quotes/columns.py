"""Columns of vendors' files as those of the schema: OCC symbols, New York times, missing sides. Vectorised, pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from daemon.core.instruments.option_market import parse_occ
from daemon.tapes.quotes.schema import SCHEMA
from training.data.quotes.source import ConvertError, Request

ZONE = "America/New_York"
INSTANT = SCHEMA.field("timestamp").type
ADJUSTED = "adjusted contracts and symbols outside of the OCC format"
OTHER_ROOT = "other symbols than --symbols"
LATER = "expiries after --max-days"
STRIKE_END = 100_000_000  # in 0.001 USD: OCC symbols have eight digits
REPAIR = "repair the row, or fetch the file again"


class Named(NamedTuple):
    """What the file calls the four columns of a contract, for messages."""

    root: str = "root"
    expiry: str = "expiration"
    right: str = "right"
    strike: str = "strike"


NAMED = Named()


def occ_symbols(path: Path, root: Any, expiry: Any, right: Any, strike: Any, named: Named = NAMED) -> Any:
    """Return OCC symbols of columns: root, expiry (YYYY-MM-DD or YYYYMMDD), right (C…/P…, any case), strike (USD).

    Raises ConvertError for a missing value, another expiry or right, or a strike off the grid of 0.001 USD.
    """
    _require(path, pc.is_valid(root), root, named.root, "the contract's root, such as SPY")
    days = pc.replace_substring(pc.utf8_trim_whitespace(expiry), "-", "")
    _require(path, pc.match_substring_regex(days, r"^20\d{6}$"), expiry, named.expiry, "YYYY-MM-DD or YYYYMMDD")
    letters = pc.utf8_upper(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(right), 0, 1))
    _require(path, pc.is_in(letters, pa.array(["C", "P"])), right, named.right, "call, put, C or P")
    thousandths = pc.multiply(strike, 1000.0)
    whole = pc.round(thousandths)
    on_grid = pc.less(pc.abs(pc.subtract(thousandths, whole)), 1e-3)
    in_range = pc.and_(pc.greater(whole, 0.0), pc.less(whole, STRIKE_END))
    expected = f"a multiple of 0.001 USD above 0 and below {STRIKE_END // 1000:,}"
    _require(path, pc.and_(on_grid, in_range), strike, named.strike, expected)
    digits = pc.utf8_lpad(whole.cast(pa.int64()).cast(pa.string()), width=8, padding="0")
    parts = (pc.utf8_trim_whitespace(root), pc.utf8_slice_codeunits(days, 2, 8), letters, digits)
    return pc.binary_join_element_wise(*parts, "")


def _require(path: Path, good: Any, values: Any, column: str, expected: str) -> None:
    good = pc.fill_null(good, False)
    if not pc.all(good, min_count=0).as_py():
        value = values[int(np.argmin(good.to_numpy(zero_copy_only=False)))].as_py()
        found = "nothing" if value is None else repr(value)
        raise ConvertError(f"{path}: found {found} in the column {column}; expected {expected}: {REPAIR}")


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
        found = f"a time in the column {column} is malformed ({error})"
        raise ConvertError(
            f"{path}: {found}; expected YYYY-MM-DDTHH:MM:SS, in all rows with an offset or in none: {REPAIR}"
        ) from error


def side(price: Any) -> Any:
    """Return a column of prices with 0 where there is none: no bid, or no offer."""
    return pc.fill_null(pc.if_else(pc.is_nan(price), 0.0, price), 0.0)


def counts(size: Any) -> Any:
    """Return a column of sizes as int32; null where there is none, or a number that no size can be."""
    rounded = pc.round(size.cast(pa.float64()))
    possible = pc.and_(pc.greater_equal(rounded, 0.0), pc.less(rounded, 2.0**31))
    return pc.if_else(possible, rounded, None).cast(pa.int32())


def taken(path: Path, table: Any, request: Request) -> Any:
    """Return the rows that the request asks for and that have an OCC symbol; count the others.

    Raises ConvertError for a row without symbol or time.
    """
    for name in ("symbol", "timestamp"):
        _require(path, pc.is_valid(table.column(name)), table.column(name), name, "a value in every row")
    symbols = table.column("symbol").combine_chunks().dictionary_encode()
    names = symbols.dictionary.to_pylist()
    parsed = [parse_occ(name) for name in names]
    table = _kept(table, symbols, [found is not None for found in parsed], ADJUSTED, request)
    if request.roots:
        symbols = table.column("symbol").combine_chunks().dictionary_encode()
        wanted = [
            (found := parse_occ(name)) is not None and found.root in request.roots
            for name in symbols.dictionary.to_pylist()
        ]
        table = _kept(table, symbols, wanted, OTHER_ROOT, request)
    return table if request.max_days is None else _near(table, request.max_days, request)


def _kept(table: Any, symbols: Any, good: list[bool], reason: str, request: Request) -> Any:
    if all(good):
        return table
    mask = np.array(good)[symbols.indices.to_numpy(zero_copy_only=False)]
    request.left_out[reason] += int(np.count_nonzero(~mask))
    return table.filter(pa.array(mask))


def _near(table: Any, max_days: int, request: Request) -> Any:
    symbols = table.column("symbol").combine_chunks().dictionary_encode()
    expiries = [found.expiry if (found := parse_occ(name)) else "NaT" for name in symbols.dictionary.to_pylist()]
    if not expiries:
        return table
    until = np.array(expiries, dtype="datetime64[D]")[symbols.indices.to_numpy(zero_copy_only=False)]
    days = table.column("timestamp").cast(pa.int64()).to_numpy().astype("datetime64[ns]").astype("datetime64[D]")
    mask = (until - days).astype(np.int64) <= max_days
    request.left_out[LATER] += int(np.count_nonzero(~mask))
    return table.filter(pa.array(mask))
