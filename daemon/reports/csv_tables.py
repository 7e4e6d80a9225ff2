"""A session's orders as CSV for a spreadsheet: one line for each order, with stable column names.

Units are part of the names. A text never begins with a sign that a spreadsheet takes for a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from daemon.reports.execution_quality import OrderQuality, plain
from daemon.reports.record import Day
from strategies.kit.units import SECOND_NS

Cell = str | int | Decimal | None
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")  # OWASP, "CSV injection", and the begin of DDE
MS = 1_000_000


def milliseconds(begin_ns: int, end_ns: int) -> Decimal | None:
    """Return the time between two journaled times; None if one is unknown."""
    return Decimal(end_ns - begin_ns) / MS if begin_ns and end_ns else None


def utc(time_ns: int) -> str:
    """Return ISO 8601 with nanoseconds; "" for never."""
    seconds, rest = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z" if time_ns else ""


COLUMNS: dict[str, Callable[[Day, OrderQuality], Cell]] = {
    "session": lambda day, _: day.session.date,
    "desk": lambda day, _: day.desk,
    "strategy": lambda day, _: day.strategy,
    "mode": lambda day, _: day.mode,
    "client_order_id": lambda _, order: order.client_order_id,
    "decision": lambda _, order: order.decision,
    "work": lambda _, order: order.work,
    "attempt": lambda _, order: order.attempt,
    "purpose": lambda _, order: order.purpose,
    "symbol": lambda _, order: order.symbol,
    "side": lambda _, order: "buy" if order.side > 0 else "sell",
    "opening_auction": lambda _, order: "yes" if order.auction else "no",
    "multiplier": lambda _, order: order.multiplier,
    "quantity": lambda _, order: order.quantity,
    "filled": lambda _, order: order.filled,
    "limit_usd_per_share": lambda _, order: order.limit,
    "arrival_usd_per_share": lambda _, order: order.arrival.price if order.arrival else None,
    "arrival_source": lambda _, order: order.arrival.source if order.arrival else "",
    "arrival_bid_usd_per_share": lambda _, order: order.arrival.bid if order.arrival else None,
    "arrival_ask_usd_per_share": lambda _, order: order.arrival.ask if order.arrival else None,
    "arrival_spread_usd_per_share": lambda _, order: order.arrival.spread if order.arrival else None,
    "arrival_age_ms": lambda _, order: (
        milliseconds(order.arrival.known_ns, order.submitted_ns) if order.arrival else None
    ),
    "average_fill_usd_per_share": lambda _, order: order.average,
    "slippage_usd_per_share": lambda _, order: order.slippage_share,
    "slippage_bp": lambda _, order: order.slippage_bp,
    "slippage_usd": lambda _, order: order.slippage_usd,
    "effective_over_quoted_spread": lambda _, order: order.spread_ratio,
    "improvement_on_limit_usd_per_share": lambda _, order: order.improvement,
    "fees_usd": lambda _, order: order.fees,
    "corrections": lambda _, order: order.corrections,
    "status": lambda _, order: order.status,
    "reject_reason": lambda _, order: order.reason,
    "decided_utc": lambda _, order: utc(order.decided_ns),
    "submitted_utc": lambda _, order: utc(order.submitted_ns),
    "accepted_utc": lambda _, order: utc(order.accepted_ns),
    "first_fill_utc": lambda _, order: utc(order.first_fill_ns),
    "last_fill_utc": lambda _, order: utc(order.last_fill_ns),
    "cancel_asked_utc": lambda _, order: utc(order.cancel_asked_ns),
    "canceled_utc": lambda _, order: utc(order.canceled_ns),
    "decided_to_submitted_ms": lambda _, order: milliseconds(order.decided_ns, order.submitted_ns),
    "submitted_to_accepted_ms": lambda _, order: milliseconds(order.submitted_ns, order.accepted_ns),
    "submitted_to_first_fill_ms": lambda _, order: milliseconds(order.submitted_ns, order.first_fill_ns),
    "first_to_last_fill_ms": lambda _, order: milliseconds(order.first_fill_ns, order.last_fill_ns),
    "cancel_asked_to_canceled_ms": lambda _, order: milliseconds(order.cancel_asked_ns, order.canceled_ns),
}
"""Column -> its value. docs/REPORT.md explains each; append new ones at the end."""


def orders_csv(day: Day) -> str:
    """Return the header and a line for each order, in the order of sending; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for order in day.quality.orders:
        writer.writerow(as_cell(column(day, order)) for column in COLUMNS.values())
    return text.getvalue()


def as_cell(value: Cell) -> str:
    """Return a value as a cell: "" if unknown, and never a text that a spreadsheet takes for a formula."""
    match value:
        case None:
            return ""
        case Decimal():
            return plain(value)
        case int():
            return str(value)
    return f"'{value}" if value.startswith(FORMULA) else value
