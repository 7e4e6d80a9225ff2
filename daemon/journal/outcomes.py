"""The outcome of a decision as it is shown: `ordered` where orders followed, `no_change` where none did.

A basket is journaled as ordered when its gates passed. It may still lead to no order: nothing is affordable, or the
holdings are close enough to the goals.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from daemon.core.draft import CLOSED_BY_HAND
from daemon.core.orders import TERMINAL
from daemon.core.session import new_york_date
from daemon.journal.reader import JournalReader
from daemon.journal.trades import day_begin
from strategies.kit.quantity import Quantity, from_json, of_column

NO_CHANGE = "no_change"
WHY_NO_CHANGE = "the cash covered no share of it, or a halt, a pause or a missing price kept it back"
SHOWN = ("hold", "ordered", NO_CHANGE, "exit", "denied", "expired", "failed")
ACTED = ("ordered", "exit")
NO_STOP = "coalesce(action, '') <> 'resting_stop'"
"""Condition on `decisions`: a resting stop also has a number, but is an order; fifty shares have fifty a day."""


class _Leg(msgspec.Struct, frozen=True):
    """A leg in a decision's row."""

    symbol: str
    goal: Quantity


_basket = msgspec.json.Decoder(tuple[_Leg, ...], dec_hook=from_json)


def shown_outcome(under_way: Iterable[int] = ()) -> str:
    """Return the SQL expression of the shown outcome, for the table `decisions` named `d`.

    `under_way`: decisions whose orders may still come; they stay ordered.
    """
    coming = ",".join(map(str, sorted({int(number) for number in under_way})))
    return (
        "CASE WHEN d.outcome = 'ordered' AND NOT EXISTS (SELECT 1 FROM orders AS o "
        f"WHERE o.work >= d.decision || '.' AND o.work < d.decision || '/') AND d.decision NOT IN ({coming}) "
        f"THEN '{NO_CHANGE}' ELSE d.outcome END"
    )


class Baskets(NamedTuple):
    """How many baskets were ordered, how many sent no order, and their mean distance from the weights wanted."""

    ordered: int = 0
    unsent: int = 0
    apart: float = 0.0  # mean distance, as a part of the equity


def read_baskets(reader: JournalReader, under_way: Iterable[int] = ()) -> Baskets:
    """Count the journal's baskets. Raises sqlite3.Error."""
    baskets = (
        f"SELECT {shown_outcome(under_way)} AS shown FROM decisions AS d WHERE outcome = 'ordered' AND work LIKE '%.'"
    )
    (row,) = reader.query(f"SELECT count(*) AS ordered, total(shown = '{NO_CHANGE}') AS unsent FROM ({baskets})")
    table_rows = reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'baskets'")
    apart = reader.query("SELECT coalesce(avg(apart), 0.0) AS mean FROM baskets")[0]["mean"] if table_rows else 0.0
    return Baskets(row["ordered"], int(row["unsent"]), apart)


def basket_reached(reader: JournalReader, decision: int) -> str:
    """Return how far a basket came, in words; "" without an ended basket. Raises sqlite3.Error."""
    if not reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'baskets'"):
        return ""
    rows = reader.query("SELECT apart, largest, symbol FROM baskets WHERE decision = ?", (decision,))
    if not rows:
        return ""
    (row,) = rows
    of_one = f"; the most {row['largest']:.2%} of the equity, in {row['symbol']}" if row["symbol"] else ""
    return f"The weights held are {row['apart']:.2%} of the equity from those wanted{of_one}."


# --- what its orders did ----------------------------------------------------------------------------------------------


class Ordered(NamedTuple):
    """All orders of a decision for one symbol and side, replacements included."""

    symbol: str
    side: int
    wanted: Quantity  # shares or contracts
    filled: Quantity
    works: bool  # one of them still works at the broker


class BookChange(NamedTuple):
    """The effect of a decision's fills on the book. USD after fees."""

    realised_usd: float  # by these fills alone: an entry realises its fees
    left: int  # number of round trips that they ended
    left_usd: float  # the P&L of these round trips, with the fees of their entries


def orders_of(reader: JournalReader, decision: int) -> tuple[Ordered, ...]:
    """Return the orders of a decision, summed by symbol and side. Raises sqlite3.Error."""
    rows = reader.query(
        "SELECT symbol, side, quantity, filled, status FROM orders WHERE work >= ? AND work < ? "
        "ORDER BY symbol, side, submitted_ns, length(client_order_id), client_order_id",
        (f"{decision}.", f"{decision}/"),
    )
    alike = groupby(rows, lambda row: (row["symbol"], row["side"]))
    return tuple(_sum_orders(symbol, side, tuple(some)) for (symbol, side), some in alike)


def _sum_orders(symbol: str, side: int, rows: Sequence[sqlite3.Row]) -> Ordered:
    """Sum orders up in the order of their sending: each was to fill what those before it left."""
    quantity_wanted: Quantity = 0
    quantity_filled: Quantity = 0
    for row in rows:
        quantity_wanted = max(quantity_wanted, quantity_filled + of_column(row["quantity"]))
        quantity_filled += of_column(row["filled"])
    return Ordered(symbol, side, quantity_wanted, quantity_filled, any(row["status"] not in TERMINAL for row in rows))


def book_changes(reader: JournalReader, decisions: Sequence[int]) -> dict[int, BookChange]:
    """Return the effect of each decision's fills, for decisions with fills. Raises sqlite3.Error."""
    if not decisions or not _has_moves(reader):
        return {}
    rows = reader.query(
        "SELECT decision, total(realized_usd) AS usd, total(step = 'leave') AS left_count, "
        "total(iif(step = 'leave', pnl_usd, 0)) AS left_usd FROM moves "
        f"WHERE decision IN ({','.join('?' * len(decisions))}) AND opened_ns <> 0 GROUP BY decision",
        tuple(decisions),
    )
    return {
        row["decision"]: BookChange(round(row["usd"], 2), int(row["left_count"]), round(row["left_usd"], 2))
        for row in rows
    }


def became(outcome: str, orders: Sequence[Ordered], did: BookChange | None, *, coming: bool = False) -> str:
    """Return the outcome of a decision: how its orders ended, or without orders its `outcome`.

    `coming`: more of its orders may follow. An exit without an order of its own left its part to an exit under way.
    """
    if outcome not in ACTED or not orders:
        return "no_order" if outcome == "exit" and not coming else outcome
    if coming or any(order.works for order in orders):
        return "working"
    if not any(order.filled for order in orders):
        return "not_filled"
    if outcome == "exit" and did is not None and did.left:
        return "exited"
    if any(order.filled < order.wanted for order in orders):
        return "partly_filled"
    return "trimmed" if outcome == "exit" else "filled"


def reasons(reader: JournalReader, row: sqlite3.Row, outcome: str) -> tuple[str, ...]:
    """Return in sentences why a decision had no more effect; none where it did what was wanted."""
    gates: dict[str, str | None] = json.loads(row["gates"] or "{}")
    denials = tuple(_denial(name, reason) for name, reason in gates.items() if reason)
    if outcome == NO_CHANGE:
        return (*denials, f"No order followed: {why_no_change(reader, row)}.")
    if row["kind"] == "rule":
        return (*denials, f"A rule decided: {_words(row['action'])}.")
    if row["resolved"] and row["resolved"] != row["action"]:
        return (*denials, f"With what was held then, {_words(row['action'])} means {_words(row['resolved'])}.")
    if outcome != "hold":
        return denials
    if closed := closed_by_hand(reader, row["time_ns"]):
        return (*denials, f"No order was wanted, or only of {closed}: closed by hand, not bought back in this session.")
    return (*denials, "No order was wanted: nothing is to change.")


def closed_by_hand(reader: JournalReader, time_ns: int) -> str:
    """Return the symbols that a person closed on the New York day of this time, up to it. Raises sqlite3.Error."""
    begin_ns = day_begin(new_york_date(time_ns).isoformat())
    rows = reader.query(
        "SELECT DISTINCT o.symbol FROM decisions AS d JOIN orders AS o ON o.work = d.work "
        "WHERE d.action = ? AND d.time_ns BETWEEN ? AND ? ORDER BY o.symbol",
        (CLOSED_BY_HAND, begin_ns, time_ns),
    )
    return ", ".join(row["symbol"] for row in rows)


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ").lower()


def _denial(gate: str, reason: str) -> str:
    name = gate.replace("_", " ")
    return f"Denied: {reason if reason.startswith(f'{name}:') else f'{name}, {reason}'}."


def why_no_change(reader: JournalReader, row: sqlite3.Row) -> str:
    """Return why a basket led to no order: its goals, and the cash at that time. Raises sqlite3.Error."""
    legs = _legs(row["target"])
    if not legs or not _has_moves(reader):
        return WHY_NO_CHANGE
    holdings = {
        cause["symbol"]: of_column(cause["held"])
        for cause in reader.query(
            "SELECT symbol, held, max(1000 * seq + part) FROM moves WHERE at_ns < ? GROUP BY symbol", (row["time_ns"],)
        )
    }
    changes = [leg.goal - holdings.get(leg.symbol, 0) for leg in legs]
    cash = reader.query(
        "SELECT cash_usd FROM equity WHERE time_ns <= ? ORDER BY time_ns DESC LIMIT 1", (row["time_ns"],)
    )
    if not cash or any(change < 0 for change in changes):
        return WHY_NO_CHANGE
    buys = sum(change > 0 for change in changes)
    return f"it wanted to buy {buys:,} symbol{'s' * (buys != 1)} with ${float(cash[0]['cash_usd']):,.2f} of cash"


def _legs(target: str | None) -> tuple[_Leg, ...]:
    """Return the legs of a basket; none of another target."""
    try:
        return _basket.decode(target or "[]")
    except msgspec.DecodeError:
        return ()


def _has_moves(reader: JournalReader) -> bool:
    return bool(reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'moves'"))
