"""The trades of a journal: round trips from flat to flat, with their sums. Everything that shows trades uses this.

In a journal of a release without the table `round_trips` the trades are computed from its fills, in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from daemon.core.session import NEW_YORK
from daemon.journal.journal import READ_MODELS, group_rows
from daemon.journal.moves_of_fills import moves_of_fills
from daemon.journal.reader import JournalReader, with_quantities
from daemon.journal.trade import SELECT, Trade, trade_of
from strategies.kit.units import SECOND_NS

SORTS = {
    "time": "left_ns IS NOT NULL, at_ns DESC, opened_ns DESC, symbol",  # open ones first, then the newest
    "pnl": "pnl_usd DESC, opened_ns, symbol",
    "duration": "held_ns DESC, opened_ns, symbol",
}
SIDES = ("long", "short", "call", "put")
RESULTS = ("win", "loss")
_DIGITS = "[0-9]" * 6
_AT = "coalesce(left_ns, opened_ns)"
_BASE = (
    f"SELECT *, {_AT} AS at_ns, coalesce(left_ns, :now) - opened_ns AS held_ns FROM ({SELECT}) "
    f"WHERE {_AT} BETWEEN :start AND :end"
)
_OF_SYMBOL = f" AND (symbol = :symbol OR symbol GLOB :symbol || '{_DIGITS}[CP]*')"
_OF_RIGHT = f" AND symbol GLOB '*{_DIGITS}' || :right || '????????'"
_DATE = "date({} / 1000000000 - 18000, 'unixepoch')"  # New York's during the hours of a session
LONGEST = 2**63 - 1
FIRST_YEAR = 1971  # earlier days begin before the journal's times


def over_night(reader: JournalReader, now_ns: int) -> int:
    """Count the trades held over a night, open ones included. Raises sqlite3.Error."""
    dates = _DATE.format("opened_ns"), _DATE.format("coalesce(left_ns, ?)")
    (row,) = reader.query(f"SELECT count(*) AS nights FROM ({SELECT}) WHERE {dates[0]} <> {dates[1]}", (now_ns,))
    return int(row["nights"])


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over closed trades (fields `open`: over open ones), in USD after fees; None: nothing to divide by."""

    trades: int = 0
    wins: int = 0
    losses: int = 0
    win_rate: float | None = None
    profit_factor: float | None = None  # gains / losses
    expectancy_usd: float | None = None  # mean profit of a trade
    held_s: float | None = None  # mean
    pnl_usd: float = 0.0
    fees_usd: float = 0.0
    open: int = 0
    open_usd: float | None = None  # at the newest marks: realised and unrealised
    open_realized_usd: float = 0.0  # of open trades: realised by parts sold, after all their fees
    open_unrealized_usd: float | None = None  # of open trades: unrealised, at the newest marks
    open_fees_usd: float = 0.0
    other_usd: float = 0.0  # realised without a position: fees of the ledger, dividends, interest


class TradeList(msgspec.Struct, frozen=True):
    """The requested trades, and the sums over all that match."""

    trades: tuple[Trade, ...] = ()
    totals: Totals = Totals()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A filter of trades: symbol or underlying, time of the exit (open ones: of the entry), side, result, open only."""

    symbol: str = ""
    start_ns: int = 0
    end_ns: int = LONGEST
    side: str = ""
    result: str = ""
    open_only: bool = False
    sort: str = "time"
    limit: int = 0  # 0: all
    offset: int = 0


def read_trades(reader: JournalReader, filters: Wanted) -> TradeList:
    """Return the trades of a journal that match, and their sums. Raises sqlite3.Error, KeyError for an unknown sort."""
    with with_trades(reader) as query:
        newest = query("SELECT max(time_ns) FROM round_trips", {})[0][0] or 0
        values = {
            "now": newest,
            "start": filters.start_ns,
            "end": filters.end_ns,
            "symbol": filters.symbol,
            "right": filters.side[:1].upper(),
            "side": filters.side,
            "limit": filters.limit,
            "offset": filters.offset,
        }
        chosen = _BASE + _where(filters)
        order = SORTS[filters.sort]
        keys = f"SELECT opened_ns, symbol FROM ({chosen}) ORDER BY {order} LIMIT :limit OFFSET :offset"
        if filters.limit:  # the decisions of these alone are looked up
            page = f"SELECT * FROM ({_BASE}) WHERE (opened_ns, symbol) IN ({keys}) ORDER BY {order}"
        else:
            page = f"{chosen} ORDER BY {order}"
        return TradeList(tuple(map(trade_of, query(page, values))), _totals(query, chosen, values, filters))


def realised_usd(reader: JournalReader, start_ns: int, end_ns: int = LONGEST) -> float:
    """Return what the book realised in a time after fees, in USD, by parts of open trades too. Raises sqlite3.Error."""
    sums = "SELECT total(realized_usd) FROM moves WHERE time_ns BETWEEN :start AND :end"
    with with_trades(reader) as query:
        return float(round(query(sums, {"start": start_ns, "end": end_ns})[0][0], 6))


def fees_by_the_day(reader: JournalReader, start_ns: int, end_ns: int) -> Decimal:
    """Return the fees booked in a time other than with fills, USD. Raises sqlite3.Error."""
    fees = "SELECT fees_usd FROM moves WHERE opened_ns = 0 AND time_ns BETWEEN :start AND :end AND fees_usd <> '0'"
    with with_trades(reader) as query:
        rows = query(fees, {"start": start_ns, "end": end_ns})
    return sum((Decimal(row["fees_usd"]) for row in rows), Decimal(0))


def trades_of_decision(reader: JournalReader, decision: int, most: int) -> tuple[Trade, ...]:
    """Return the trades that a decision opened, changed or closed, the largest change first. Raises sqlite3.Error."""
    with with_trades(reader) as query:
        values = {
            "now": query("SELECT max(time_ns) FROM round_trips", {})[0][0] or 0,
            "start": 0,
            "end": LONGEST,
            "decision": decision,
            "most": most,
        }
        keys = "SELECT DISTINCT opened_ns, symbol FROM moves WHERE decision = :decision AND opened_ns <> 0"
        trades = f"{_BASE} AND (opened_ns, symbol) IN ({keys}) ORDER BY abs(pnl_usd) DESC, symbol LIMIT :most"
        return tuple(map(trade_of, query(trades, values)))


@contextmanager
def with_trades(reader: JournalReader) -> Iterator[Any]:
    """Yield a function that queries the journal's view, or that of a copy in memory if the journal has none."""
    if reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'round_trips'"):
        yield reader.query
        return
    with closing(with_quantities(sqlite3.connect(":memory:"))) as db:
        db.row_factory = sqlite3.Row
        for name in ("moves", "round_trips", "decisions"):
            db.execute(READ_MODELS[name].create)
        for name, rows in group_rows(moves_of_fills(reader)).items():
            db.executemany(READ_MODELS[name].insert(1), rows)
        columns = "decision, kind, bar_ns, time_ns, action, resolved, confidence, outcome"
        decisions = reader.query(f"SELECT {columns} FROM decisions WHERE work <> '' AND outcome IN ('ordered', 'exit')")
        db.executemany(f"INSERT INTO decisions ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(tuple, decisions))
        yield lambda sql, values: db.execute(sql, values).fetchall()


def _where(filters: Wanted) -> str:
    where = _OF_SYMBOL if filters.symbol else ""
    if filters.side in ("call", "put"):
        where += _OF_RIGHT
    elif filters.side:
        where += " AND side = :side"
    if filters.result:
        where += f" AND left_ns IS NOT NULL AND pnl_usd {'>' if filters.result == 'win' else '<'} 0"
    if filters.open_only:
        where += " AND left_ns IS NULL"
    return where


def _totals(query: Any, chosen: str, values: dict[str, Any], filters: Wanted) -> Totals:
    row = query(
        "SELECT count(left_ns) AS n, sum(left_ns IS NULL) AS open, "
        "sum(left_ns IS NOT NULL AND pnl_usd > 0) AS wins, sum(left_ns IS NOT NULL AND pnl_usd < 0) AS losses, "
        "total(iif(left_ns IS NOT NULL AND pnl_usd > 0, pnl_usd, 0)) AS gained, "
        "total(iif(left_ns IS NOT NULL AND pnl_usd < 0, pnl_usd, 0)) AS lost, "
        "total(iif(left_ns IS NOT NULL, held_ns, 0)) AS held_ns, total(iif(left_ns IS NOT NULL, fees_usd, 0)) AS fees, "
        "sum(iif(left_ns IS NULL, pnl_usd, NULL)) AS open_usd, "
        "total(iif(left_ns IS NULL, realized_usd, 0)) AS open_realized, "
        "sum(iif(left_ns IS NULL, pnl_usd - realized_usd, NULL)) AS open_unrealized, "
        f"total(iif(left_ns IS NULL, fees_usd, 0)) AS open_fees FROM ({chosen})",
        values,
    )[0]
    number = row["n"]
    other = 0.0
    if not (filters.symbol or filters.side or filters.result or filters.open_only):
        sums = query(
            "SELECT total(realized_usd) FROM moves WHERE opened_ns = 0 AND time_ns BETWEEN :start AND :end", values
        )
        other = round(sums[0][0], 6)
    return Totals(
        trades=number,
        wins=row["wins"] or 0,
        losses=row["losses"] or 0,
        win_rate=row["wins"] / number if number else None,
        profit_factor=row["gained"] / -row["lost"] if row["lost"] else None,
        expectancy_usd=(row["gained"] + row["lost"]) / number if number else None,
        held_s=row["held_ns"] / number / 1e9 if number else None,
        pnl_usd=round(row["gained"] + row["lost"], 6),
        fees_usd=round(row["fees"], 6),
        open=row["open"] or 0,
        open_usd=None if row["open_usd"] is None else round(row["open_usd"], 6),
        open_realized_usd=round(row["open_realized"], 6),
        open_unrealized_usd=None if row["open_unrealized"] is None else round(row["open_unrealized"], 6),
        open_fees_usd=round(row["open_fees"], 6),
        other_usd=other,
    )


# --- days -------------------------------------------------------------------------------------------------------------


def day_begin(text: str) -> int:
    """Return the beginning of a New York day, "YYYY-MM-DD", in nanoseconds; 0 for "". Raises ValueError."""
    return _midnight(date.fromisoformat(text)) if text else 0


def day_end(text: str) -> int:
    """Return the last nanosecond of a New York day; the greatest number for "". Raises ValueError."""
    day = date.fromisoformat(text) if text else date.max
    return LONGEST if day == date.max else _midnight(day + timedelta(days=1)) - 1


def _midnight(day: date) -> int:
    if day.year < FIRST_YEAR:
        return 0
    at_ns = int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * SECOND_NS
    return min(at_ns, LONGEST)
