"""Translate lines of the account's ledger into our structs: fills and other lines, by the rules of `wire.py`.

Pure; it sums the executions of one order and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import msgspec

from daemon.brokers.alpaca.wire import (
    NEW_YORK,
    Malformed,
    decimal,
    mapping,
    optional_decimal,
    required_text,
    shown,
    side_of,
    text,
    time_ns,
    whole_number,
)
from daemon.core.events import Activity, OrderFilled
from strategies.kit.units import SECOND_NS


def activity(value: object) -> Activity:
    """Parse a ledger line other than a fill; its time is its own or its New York date's midnight. Raises Malformed."""
    raw = mapping(value, "activity")
    moment = raw.get("transaction_time") or raw.get("created_at")
    return Activity(
        id=required_text(raw, "id"),
        kind=required_text(raw, "activity_type"),
        symbol=text(raw.get("symbol")),
        quantity=optional_decimal(raw, "qty") or Decimal(0),
        price=optional_decimal(raw, "price"),
        amount=optional_decimal(raw, "net_amount") or Decimal(0),
        status=text(raw.get("status")),
        time_ns=time_ns(moment, "transaction_time") if moment else _date_ns(raw.get("date")),
    )


def _date_ns(value: object) -> int:
    try:
        day = datetime.strptime(text(value), "%Y-%m-%d").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise Malformed(f"date is {shown(value)}: expected YYYY-MM-DD") from None
    return int(day.timestamp()) * SECOND_NS


# --- fills of the ledger ------------------------------------------------------------------------------------------


class LedgerFill(msgspec.Struct, frozen=True):
    """A FILL line: one execution of one order. `cumulative` counts the order's fills up to and with this one."""

    id: str
    order_id: str
    symbol: str
    side: int
    quantity: Decimal
    price: Decimal
    cumulative: Decimal
    filled_ns: int


def ledger_fill(value: object) -> LedgerFill:
    """Parse a FILL activity. Raises Malformed."""
    raw = mapping(value, "activity")
    return LedgerFill(
        id=required_text(raw, "id"),
        order_id=required_text(raw, "order_id"),
        symbol=required_text(raw, "symbol"),
        side=side_of(raw.get("side")),
        quantity=decimal(raw.get("qty"), "qty"),
        price=decimal(raw.get("price"), "price"),
        cumulative=decimal(raw.get("cum_qty"), "cum_qty"),
        filled_ns=time_ns(raw.get("transaction_time"), "transaction_time"),
    )


def order_fills(fills: Iterable[LedgerFill], client_order_id: str, now_ns: int) -> tuple[OrderFilled, ...]:
    """Return all fills of one order, with its cost summed over them, by cumulative quantity.

    Within one millisecond the ledger is unordered, so the cumulative quantity decides. Raises Malformed when the fills
    do not add up to it: one is missing, or quantities are not whole.
    """
    found, total, spent = [], 0, Decimal(0)
    for fill in sorted({fill.id: fill for fill in fills}.values(), key=lambda fill: fill.cumulative):
        quantity = whole_number(fill.quantity, "qty")
        total, spent = total + quantity, spent + fill.price * quantity
        if total != fill.cumulative:
            raise Malformed(f"cum_qty of fill {fill.id} is {fill.cumulative}: expected {total}, the sum of its order's")
        found.append(
            OrderFilled(
                now_ns,
                client_order_id=client_order_id,
                symbol=fill.symbol,
                side=fill.side,
                price=fill.price,
                filled_ns=fill.filled_ns,
                cumulative_quantity=total,
                cumulative_cost=spent,
                cumulative_fees=Decimal(0),  # regulatory fees come as FEE activities of their own
                quantity=quantity,
            )
        )
    return tuple(found)
