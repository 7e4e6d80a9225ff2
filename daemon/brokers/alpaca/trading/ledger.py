"""Translate lines of the account's ledger into our structs: fills and other lines, by the rules of `wire.py`.

Pure; it sums the executions of one order and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


AMENDING = ("canceled", "correct")  # statuses of a ledger line that takes back or changes an earlier one
BUST, CORRECTION = "trade_bust", "trade_correct"  # the same as types of a fill


class Amendment(msgspec.Struct, frozen=True):
    """What a bust or a correction made of one fill of an order; `quantity` is 0 after a bust."""

    fill: LedgerFill
    before: tuple[Decimal, Decimal]  # quantity and price that stood until then
    quantity: Decimal
    price: Decimal
    time_ns: int


class Standing(msgspec.Struct, frozen=True):
    """An order's fills by the ledger: sums of quantity and of price x quantity, as filled and as they stand now."""

    filled: tuple[Decimal, Decimal]
    stands: tuple[Decimal, Decimal]
    amendments: tuple[Amendment, ...]


def amends(row: Mapping[str, object]) -> bool:
    """Return True for a FILL line that takes back or changes an earlier fill."""
    return row.get("status") in AMENDING or row.get("type") in (BUST, CORRECTION)


def standing(rows: Iterable[Mapping[str, object]], named: Sequence[str] = ()) -> Standing:
    """Return what stands of one order, from all of its FILL lines.

    An amending line names its fill by `previous_id`; else the only fill with its quantity is meant (of a bust also with
    its price), or among several the one that `named` has: the executions that streams named as amended, in order.
    Raises Malformed where a line is unreadable or the fill that it amends is not certain.
    """
    lines = {required_text(row, "id"): row for row in rows}
    fills = [ledger_fill(row) for row in lines.values() if not amends(row)]
    if sum(fill.quantity for fill in fills) != max((fill.cumulative for fill in fills), default=0):
        raise Malformed("the order's fills are not whole: expected quantities that add up to cum_qty")
    now = {fill.id: (fill.quantity, fill.price) for fill in fills}
    by_id = {fill.id: fill for fill in fills}
    names = {execution_of(fill.id): fill.id for fill in fills}
    found, hints = [], list(named)
    for line, row in sorted(lines.items()):
        if amends(row):
            bust = row.get("status") == "canceled" or row.get("type") == BUST
            quantity, price = decimal(row.get("qty"), "qty"), decimal(row.get("price"), "price")
            amended = _amended_by(row, now, names, quantity, price if bust else None, hints)
            after = (Decimal(0), price) if bust else (quantity, price)
            time = time_ns(row.get("transaction_time"), "transaction_time")
            found.append(Amendment(by_id[amended], now[amended], *after, time))
            now[amended] = after
            names[execution_of(line)] = amended
    filled = (sum(f.quantity for f in fills), sum(f.quantity * f.price for f in fills))
    stands = (sum(q for q, _ in now.values()), sum(q * p for q, p in now.values()))
    return Standing(_decimals(filled), _decimals(stands), tuple(found))


def _decimals(pair: tuple[Decimal | int, Decimal | int]) -> tuple[Decimal, Decimal]:
    return Decimal(pair[0]), Decimal(pair[1])


def execution_of(line: str) -> str:
    """Return the part of a line's id that names its execution: `YYYYMMDDHHMMSSmmm::` goes before it."""
    return line.rpartition("::")[2]


def _amended_by(
    row: Mapping[str, object],
    now: Mapping[str, tuple[Decimal, Decimal]],
    names: Mapping[str, str],
    quantity: Decimal,
    price: Decimal | None,
    hints: list[str],
) -> str:
    """Return the id of the fill that this line amends; a hint that decides is taken out."""
    named = text(row.get("previous_id")) or text(row.get("previous_execution_id"))
    if execution_of(named) in names:
        return names[execution_of(named)]
    alike = [line for line, (held, at) in now.items() if held == quantity and price in (None, at)]
    if not named and len({now[line] for line in alike}) == 1:
        return alike[0]
    for hint in hints:
        if names.get(hint) in alike:
            hints.remove(hint)
            return names[hint]
    raise Malformed(f"{row.get('id')} amends a fill of its order: expected one that it can mean, found {len(alike)}")


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
