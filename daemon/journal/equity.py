"""The recorded equity of a journal by day: a few numbers for each New York date, however many rows there are."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, product

import msgspec

from daemon.core.session import new_york_date, new_york_text
from daemon.journal.reader import JournalReader
from daemon.journal.trades import with_trades
from strategies.kit.units import DAY_NS, HOUR_NS, SECOND_NS

_DAY = f"(time_ns - CASE WHEN {{summer}} THEN {4 * HOUR_NS} ELSE {5 * HOUR_NS} END) / {DAY_NS}"  # of New York
_DAYS = (
    "SELECT min(time_ns) AS first_ns, max(time_ns) AS last_ns, min(usd) AS low, max(usd) AS high, "
    "max((highest - usd) / nullif(highest, 0)) AS fall FROM (SELECT time_ns, day, usd, max(usd) OVER "
    "(PARTITION BY day ORDER BY time_ns ROWS UNBOUNDED PRECEDING) AS highest FROM "
    f"(SELECT time_ns, {_DAY} AS day, equity_usd + 0.0 AS usd FROM equity)) GROUP BY day"
)
_RECORD = (
    "SELECT equity_usd + 0.0 AS equity, cash_usd + 0.0 AS cash, realized_usd + 0.0 AS realized, max_drawdown "
    "FROM equity WHERE time_ns = ?"
)
_AT_COST = (  # what the moves of each stretch between two records added to the cost of all positions
    "SELECT time_ns, entered_usd - (left_usd - fees_usd - realized_usd) AS cost FROM moves WHERE opened_ns <> 0 "
    "AND time_ns BETWEEN :start AND :end ORDER BY time_ns"
)
_AT_WORK = (
    "SELECT count(*) AS n, total(abs(equity_usd - cash_usd) / nullif(equity_usd + 0.0, 0)) AS at_work FROM equity "
    "WHERE time_ns BETWEEN ? AND ? AND equity_usd <> cash_usd"
)
CENT = 0.005


class EquityDay(msgspec.Struct, frozen=True, kw_only=True):
    """A New York date with recorded equity. Times are nanoseconds UTC, amounts USD."""

    date: str
    first_ns: int
    last_ns: int
    opened_usd: float  # equity at the first record
    closed_usd: float  # equity at the last record
    transfers_usd: float = 0.0  # net of transfers since the day before (first day: since its first record)
    held: bool = False  # a position was open at the last record
    deepest: float | None = None  # the largest drawdown so far, as the desk recorded it at its marks
    low_usd: float | None = None  # the lowest and the highest recorded equity of the day
    high_usd: float | None = None
    fall: float = 0.0  # the largest fall between two records of the day, 0.1 is 10 %


def equity_days(reader: JournalReader) -> tuple[EquityDay, ...]:
    """Return the days of a journal, oldest first, from one pass over the recorded equity and the moves.

    Transfers follow from the book's balance: cash + positions at cost = start + transfers + realised profit.
    Raises sqlite3.Error.
    """
    ends = reader.query("SELECT min(time_ns) AS first_ns, max(time_ns) AS last_ns FROM equity")[0]
    if ends["first_ns"] is None:
        return ()
    rows = reader.query(_DAYS.format(summer=_summer(ends["first_ns"], ends["last_ns"])))
    firsts = [reader.query(_RECORD, (row["first_ns"],))[0] for row in rows]
    lasts = [reader.query(_RECORD, (row["last_ns"],))[0] for row in rows]
    costs = _costs(reader, [rows[0]["first_ns"], *(row["last_ns"] for row in rows)])
    base_before = _base(firsts[0], costs[0][:1] if firsts[0]["equity"] == firsts[0]["cash"] else costs[0][1:], 0.0)
    days = []
    for row, first, last, cost in zip(rows, firsts, lasts, costs[1:], strict=True):
        base = _base(last, cost, base_before)
        change, base_before = base - base_before, base
        days.append(
            EquityDay(
                date=new_york_text(row["last_ns"])[:10],
                first_ns=row["first_ns"],
                last_ns=row["last_ns"],
                opened_usd=first["equity"],
                closed_usd=last["equity"],
                transfers_usd=round(change, 2) if abs(change) > CENT else 0.0,
                held=last["equity"] != last["cash"],
                deepest=last["max_drawdown"],
                low_usd=row["low"],
                high_usd=row["high"],
                fall=row["fall"] or 0.0,
            )
        )
    return tuple(days)


def _summer(first_ns: int, last_ns: int) -> str:
    """Return the condition in SQL that a time between these is one of New York's summer time."""
    years = range(new_york_date(first_ns).year, new_york_date(last_ns).year + 1)
    return " OR ".join(
        f"time_ns BETWEEN {_sunday_ns(year, 3, 8, 7)} AND {_sunday_ns(year, 11, 1, 6) - 1}" for year in years
    )


def _sunday_ns(year: int, month: int, day: int, hour: int) -> int:
    """Return an hour UTC of the first Sunday from a day on, in nanoseconds."""
    begin = datetime(year, month, day, hour, tzinfo=UTC)
    return int((begin + timedelta(days=6 - begin.weekday())).timestamp()) * SECOND_NS


def transfers_between(reader: JournalReader, first_ns: int, last_ns: int) -> Decimal:
    """Return the net transfers between two records of the equity, USD, by the book's balance as in `equity_days`.

    Raises sqlite3.Error.
    """
    if first_ns >= last_ns:
        return Decimal(0)
    times = (first_ns, last_ns)
    bases_before, bases_after = (
        _bases(reader.query(_RECORD, (at_ns,))[0], costs)
        for at_ns, costs in zip(times, _costs(reader, times, first_ns), strict=True)
    )
    change = min((late - early for early, late in product(bases_before, bases_after)), key=abs)
    return Decimal(f"{change:.2f}") if abs(change) > CENT else Decimal(0)


def _base(record: sqlite3.Row, costs: Sequence[float], base_before: float) -> float:
    """Return start + transfers at a record: the possible value that is nearest to the one before."""
    return min(_bases(record, costs), key=lambda base: abs(base - base_before))


def _bases(record: sqlite3.Row, costs: Sequence[float]) -> list[float]:
    """Return the possible values of start + transfers: moves at a record's time came all before it, or all after it."""
    return [float(record["cash"] - record["realized"]) + cost for cost in costs]


def _costs(reader: JournalReader, times: Sequence[int], since_ns: int = 0) -> list[tuple[float, float]]:
    """Return the cost of all positions just before each of these rising times, and at it, by the moves since a time."""
    below, within = [0.0] * (len(times) + 1), [0.0] * (len(times) + 1)
    with with_trades(reader) as query:
        for row in query(_AT_COST, {"start": since_ns, "end": times[-1]}):
            below[bisect_right(times, row["time_ns"])] += row["cost"]
            within[bisect_left(times, row["time_ns"])] += row["cost"]
    return list(zip(accumulate(below), accumulate(within), strict=True))[: len(times)]


def at_work(reader: JournalReader, start_ns: int, end_ns: int) -> float | None:
    """Return the mean part of the equity in positions, over the records with a position; None without one."""
    row = reader.query(_AT_WORK, (start_ns, end_ns))[0]
    return row["at_work"] / row["n"] if row["n"] else None
