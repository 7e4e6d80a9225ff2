"""Figures of a finished run, read from its journal."""

from __future__ import annotations

from bisect import bisect_left
from decimal import Decimal
from typing import Any

from daemon.app.replay_start import Replay
from daemon.core.session import new_york_text
from daemon.journal.reader import JournalReader
from daemon.operator.summary import QuotesUsed
from daemon.tapes.quotes.tape import QuotedTape

CURVE_POINTS = 600  # of the end summary's equity curve


def equity_curve(reader: JournalReader) -> list[Decimal]:
    """Return at most `CURVE_POINTS` equity values, evenly spaced over the rows, with the last one."""
    rows = int(reader.query("SELECT count(*) AS rows FROM equity")[0]["rows"])
    every = max(1, -(-rows // CURVE_POINTS))
    picked = reader.query(
        "SELECT equity_usd FROM (SELECT equity_usd, row_number() OVER (ORDER BY time_ns DESC) AS place, time_ns "
        "FROM equity) WHERE (place - 1) % ? = 0 ORDER BY time_ns",
        (every,),
    )
    return [Decimal(row["equity_usd"]) for row in picked]


def session_ends(reader: JournalReader) -> list[tuple[str, float]]:
    """Return date and equity in USD at each session's end, from the last end before the first decision."""
    first = reader.query("SELECT min(time_ns) AS first_ns FROM decisions")[0]["first_ns"]
    if first is None:
        return []
    ends = {
        new_york_text(row["time_ns"])[:10]: float(row["equity_usd"])
        for row in reader.query("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    }
    decided, dates = new_york_text(first)[:10], sorted(ends)
    return [(date, ends[date]) for date in dates[max(bisect_left(dates, decided) - 1, 0) :]]


def quotes_used(replay: Replay, tape: object, market: Any) -> QuotesUsed | None:
    """Return what a replay did with recorded option quotes, None without any; `market` is its paper broker's state."""
    if replay.quotes is None or not isinstance(tape, QuotedTape):
        return None
    counts, file = tape.quote_counts, replay.quotes.file
    return QuotesUsed(
        file=file.path.name,
        synthetic=file.synthetic,
        sessions=counts.sessions,
        sessions_quoted=counts.with_quotes,
        first_date=counts.first_date,
        last_date=counts.last_date,
        asked=counts.quotes.total(),
        recorded=counts.quotes["recorded"],
        standing=counts.quotes["standing"],
        missing=counts.quotes["missing"],
        faulty_rows=counts.faulty,
        fills_recorded=market.fills_recorded,
        fills_modelled=market.fills_modelled,
    )
