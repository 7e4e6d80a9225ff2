"""Option quotes around made-up bars, by a rule of their own, with every trouble that a recorded minute can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from daemon.core.events import BarClosed, Event, SessionScheduled
from daemon.core.instruments.option_market import occ_symbol
from daemon.core.limits import Trading
from daemon.tapes.quotes.schema import SCHEMA
from strategies.kit.contract import Bar
from training.desks.scalper.history import History, quote_day

MINUTE_NS = 60_000_000_000


def by_session(events: Sequence[Event]) -> list[tuple[SessionScheduled, list[Bar]]]:
    """The sessions of a feed with their bars."""
    groups: list[tuple[SessionScheduled, list[Bar]]] = []
    for event in events:
        if isinstance(event, SessionScheduled):
            groups.append((event, []))
        elif isinstance(event, BarClosed):
            groups[-1][1].append(event.bar)
    return groups


def troubled(path: Path, events: Sequence[Event], dates: Sequence[str], seed: int = 1, missing: float = 0.06) -> Path:
    """Write quotes of these sessions: jumps, wide and one-sided minutes, extremes; `missing` of the minutes no row."""
    random = np.random.default_rng(seed)
    tables: list[pa.Table] = []
    for scheduled, bars in by_session(events):
        if scheduled.session.date not in dates:
            continue
        spot = np.array([bar.close for bar in bars])
        ends = np.array([bar.start_ns + MINUTE_NS for bar in bars])
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for strike in range(int(spot.min()) - 1, int(spot.max()) + 3):
            for right in (1, -1):
                symbol = occ_symbol("SPY", scheduled.upcoming[0].date, right, Decimal(strike))
                _add(columns, symbol, ends, np.maximum(right * (spot - strike), 0.0), random, missing)
        tables.append(_table(columns))
    pa.parquet.write_table(pa.concat_tables(tables), path)
    return path


def of_the_market(path: Path, history: History, trading: Trading) -> Path:
    """Write what the paper broker's option market would quote at each minute's end of the usable sessions."""
    tables: list[pa.Table] = []
    for day in history.usable:
        day_quotes, columns = quote_day(history, day, trading), {name: list[Any]() for name in SCHEMA.names}
        ends = (history.start_ns[day.first : day.end] + MINUTE_NS).tolist()
        for right, sign in enumerate((1, -1)):
            for place, strike in enumerate(day_quotes.strikes):
                symbol = occ_symbol("SPY", day.upcoming[0].date, sign, Decimal(int(strike)))
                columns["symbol"] += [symbol] * len(ends)
                columns["timestamp"] += ends
                columns["source"] += ["market"] * len(ends)
                for moment, names in (
                    (day_quotes.close, ("bid", "ask")),
                    (day_quotes.lowest, ("low_bid", "low_ask")),
                    (day_quotes.highest, ("high_bid", "high_ask")),
                ):
                    for name, cents in zip(names, moment, strict=True):
                        columns[name] += (cents[right, place] / 100).tolist()
        tables.append(_table(columns))
    pa.parquet.write_table(pa.concat_tables(tables), path)
    return path


def _table(columns: Mapping[str, list[Any]]) -> pa.Table:
    """Rows of the schema in order of time, then of symbol; columns without values are null."""
    order = np.lexsort((columns["symbol"], columns["timestamp"]))
    rows: dict[str, Any] = {name: np.array(values)[order] for name, values in columns.items() if values}
    rows["timestamp"] = pa.array(rows["timestamp"], pa.timestamp("ns", "UTC"))
    return pa.table({name: rows.get(name, pa.nulls(len(order))) for name in SCHEMA.names}).cast(SCHEMA)


def _add(
    columns: dict[str, list[Any]],
    symbol: str,
    ends: npt.NDArray[np.int64],
    worth: npt.NDArray[np.float64],
    random: np.random.Generator,
    missing: float,
) -> None:
    """One contract's minutes."""
    count = len(ends)
    value = worth + 1.2 + 0.8 * np.sin(np.cumsum(random.normal(0.0, 0.05, count)))
    value *= 1.0 + 0.6 * (random.random(count) < 0.01)  # a leap that is taken back
    value *= np.where(np.arange(count) % 97 > 80, 0.75, 1.0)  # one that stays
    half = np.where(random.random(count) < 0.05, 0.4, 0.03)
    bid, ask = np.maximum(np.floor(100 * (value - half)), 1), np.ceil(100 * (value + half))
    low, high = 25 * (random.random((2, count)) < 0.02) + random.integers(0, 4, (2, count))
    bid[random.random(count) < 0.01] = 0
    ask[random.random(count) < 0.01] = 0
    places = np.flatnonzero((random.random(count) >= missing) & ((bid > 0) | (ask > 0)))
    columns["symbol"] += [symbol] * places.size
    columns["timestamp"] += ends[places].tolist()
    columns["source"] += ["hand"] * places.size
    sides = {
        "bid": bid, "ask": ask, "low_bid": np.maximum(bid - low, 0), "high_bid": bid + high,
        "low_ask": np.maximum(ask - low, 0), "high_ask": ask + high,
    }  # fmt: skip
    for name, cents in sides.items():
        columns[name] += (np.round(cents[places]) / 100).tolist()
