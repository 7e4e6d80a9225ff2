"""A recorded tape: its rows, the four prices of a minute, the sessions around it and New York's dates.

Times are integer nanoseconds UTC, prices Decimal on the grid of shares. Options and the present time are unknown here.
"""

from __future__ import annotations

import gzip
import math
import zlib
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS

NEW_YORK = ZoneInfo("America/New_York")
_COLUMNS = ("open", "high", "low", "close", "volume")


def price_path(bar: Bar) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Return the four prices of a minute: a rising bar visits its low first, a falling one its high."""
    extremes = (bar.low, bar.high) if bar.close >= bar.open else (bar.high, bar.low)
    return grid(bar.open), grid(extremes[0]), grid(extremes[1]), grid(bar.close)


def new_york_date(time_ns: int) -> str:
    """Return the New York date (`YYYY-MM-DD`) of a time."""
    return datetime.fromtimestamp(time_ns // SECOND_NS, NEW_YORK).date().isoformat()


@lru_cache(maxsize=16_384)
def midnight_ns(day: str) -> int:
    """Return midnight New York at the begin of `day`: the label of a daily bar."""
    return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), NEW_YORK).timestamp()) * SECOND_NS


def read_bars(path: Path, symbol: str) -> list[Bar]:
    """Return the bars of a CSV(.gz) or Parquet tape; `symbol` is the symbol of a file without that column.

    Columns timestamp (with a zone, or integer nanoseconds), open, high, low, close, volume. Raises ValueError that
    names the file, the fault and the cure.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a tape of bars: check the path given with --bars")
    try:
        bars = _bars(_table(path), symbol)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not bars:
        raise ValueError(f"{path}: no row; expected bars: check how it was written")
    return bars


def _table(path: Path) -> Any:
    """Return the file's table. Raises ValueError for another format, OSError and others for a damaged file."""
    if path.name.endswith(".parquet"):
        return pa.parquet.read_table(path)
    if not path.name.endswith((".csv", ".csv.gz")):
        raise ValueError("unknown format; expected .csv, .csv.gz or .parquet: convert or rename it")
    text = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(b"#")]
    return pa.csv.read_csv(pa.BufferReader(b"".join(lines)))


def _bars(table: Any, symbol: str) -> list[Bar]:
    """Return the rows as bars. Raises ValueError for unusable columns or rows."""
    for name in ("timestamp", *_COLUMNS):
        if (count := table.column_names.count(name)) != 1:
            raise ValueError(f"the column {name} is there {count} times; expected once: correct the header")
        if empty := table.column(name).null_count:
            raise ValueError(f"{empty} rows have no value in the column {name}: fill them or leave them out")
    names = table.column("symbol").to_pylist() if "symbol" in table.column_names else [symbol] * table.num_rows
    times = table.column("timestamp")
    if pa.types.is_timestamp(times.type):
        if times.type.tz is None:
            raise ValueError("the timestamps have no time zone; expected one: write them as 2024-03-26T13:30:00Z")
        times = times.cast(pa.timestamp("ns", times.type.tz))
    columns = [table.column(name).cast(pa.float64()).to_pylist() for name in _COLUMNS]
    bars = list(map(Bar, names, times.cast(pa.int64()).to_pylist(), *columns))
    for row, bar in enumerate(bars, 1):
        if fault := _fault(bar):
            raise ValueError(f"row {row} {fault}: correct it or leave it out")
    if len({(bar.symbol, bar.start_ns) for bar in bars}) < len(bars):
        raise ValueError("several rows have one time and symbol: keep one of them")
    return bars


def _fault(bar: Bar) -> str:
    """Return why a row is invalid; "" for a valid one."""
    if not bar.symbol:
        return "has no symbol"
    if not math.isfinite(bar.high) or not math.isfinite(bar.volume):
        return "has no price or volume that is a number"
    if not 0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high:
        return "has prices that contradict each other, or are not above 0"
    return ""


def calendar_sessions(first: str, last: str) -> list[Session]:
    """Return the New York Stock Exchange's sessions from `first` to a month after `last`, half days included."""
    return list(_sessions(first, (date.fromisoformat(last) + timedelta(days=31)).isoformat()))


@lru_cache(maxsize=64)
def _sessions(first: str, end: str) -> tuple[Session, ...]:
    """Return the sessions of one span, cached: the library caches only one span, and needs 0.15 s for another."""
    import exchange_calendars

    schedule = exchange_calendars.get_calendar("XNYS", start=first, end=end).schedule
    opens, closes = (
        schedule[name].dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype("int64").tolist()
        for name in ("open", "close")
    )
    return tuple(map(Session, schedule.index.strftime("%Y-%m-%d").tolist(), opens, closes))


def cents(price: float) -> Decimal:
    """Return USD in whole cents."""
    return Decimal(round(price * 100)).scaleb(-2)


def grid(price: float) -> Decimal:
    """Return USD on the grid of share prices: whole cents from 1.00 on, four decimals below."""
    return cents(price) if price >= 1 else Decimal(round(price * 10_000)).scaleb(-4)
