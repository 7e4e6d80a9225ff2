"""The differences between book and broker, in words that name both sides. Nothing is changed here."""

from __future__ import annotations

from decimal import Decimal

from daemon.core.broker.fills import is_ours
from daemon.core.draft import Draft
from daemon.core.events import BrokerPosition, BrokerReported
from daemon.core.state import ZERO


def all_differences(draft: Draft, event: BrokerReported) -> list[str]:
    found = cash_and_positions(draft, event.cash, event.positions)
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            found.append(f"order {order.client_order_id}: works at the broker only")
    return found


def cash_and_positions(draft: Draft, cash: Decimal, positions: tuple[BrokerPosition, ...]) -> list[str]:
    book = draft.book
    found = [f"cash: broker {cash} USD, book {book.cash} USD"] if cash != book.cash else []
    return found + differing_positions(draft, positions)


def differing_positions(draft: Draft, positions: tuple[BrokerPosition, ...]) -> list[str]:
    found: list[str] = []
    book, foreign = draft.book, draft.broker.foreign_held
    theirs = {p.symbol: p.quantity for p in positions}
    ours = {symbol: Decimal(p.quantity) for symbol, p in book.positions.items()}
    for symbol in sorted(theirs.keys() | ours.keys() | foreign.keys()):
        expected = ours.get(symbol, ZERO) + foreign.get(symbol, 0)
        if theirs.get(symbol, ZERO) != expected:
            with_foreign = f" and {foreign[symbol]} beside it" if symbol in foreign else ""
            found.append(f"{symbol}: broker {theirs.get(symbol, 0)}, book {ours.get(symbol, 0)}{with_foreign}")
    return found


def differing_orders(draft: Draft, open_orders: frozenset[str]) -> list[str]:
    return [
        f"order {name}: {'at the broker' if name in open_orders else 'in the book'} only"
        for name in sorted(open_orders ^ draft.orders.keys())
    ]
