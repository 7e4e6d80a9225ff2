"""The moves of a journal written by a release before the table `moves`, computed from its fills.

Other changes of the book (a split, an expiry, a takeover) are missing.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal

from daemon.core.book import book_fill
from daemon.core.events import Contract, OrderFilled
from daemon.core.instruments.option_market import parse_occ
from daemon.core.moves import Cause, Move, move_rows, round_trip
from daemon.core.orders import Order
from daemon.core.records import Row
from daemon.core.state import Book
from daemon.journal.reader import JournalReader
from strategies.kit.quantity import of_column

_FILLS = (
    "SELECT f.client_order_id, f.correction, f.cumulative, f.symbol, f.side, f.quantity, f.price, f.fees_usd, "
    "f.filled_ns, f.time_ns, o.work, o.purpose, o.reason, o.quantity FROM fills AS f "
    "LEFT JOIN orders AS o ON o.client_order_id = f.client_order_id ORDER BY f.time_ns, f.filled_ns, f.side, "
    "f.client_order_id, f.correction, f.cumulative + 0"
)


def has_moves(db: sqlite3.Connection) -> bool:
    """Return whether the journal has the table of moves."""
    table = db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'moves'").fetchone()
    return table is not None


def moves_of_fills(journal: JournalReader) -> list[Row]:
    """Return the moves that follow from the fills, numbered by `part` under the sequence 0, and their trades.

    A fill that sells more than the fills before it bought is left out.
    """
    book, orders, rows, number = Book(), dict[str, Order](), list[Row](), 0
    for row in journal.query(_FILLS):
        name, correction, _, symbol, side, quantity, price, fees, filled_ns, time_ns = tuple(row)[:10]
        quantity = of_column(quantity)
        order = orders.get(name) or _order(name, symbol, side, *tuple(row)[10:])
        fill = OrderFilled(
            time_ns,
            name,
            symbol,
            side,
            Decimal(price),
            filled_ns,
            order.filled + quantity,
            order.cost + Decimal(price) * quantity,
            order.fees + Decimal(fees),
            quantity,
            max(correction, order.correction),
        )
        terms = parse_occ(symbol)
        contract = None if terms is None else Contract(symbol, terms.expiry, terms.right, terms.strike, 0)
        try:
            booking = book_fill(book, order, fill, contract)
        except ValueError:
            continue
        move = Move(book, booking.book, Cause("", booking.order, filled_ns))
        rows_of_move = move_rows((move,), 0, time_ns, number)
        number += len(rows_of_move)
        rows += rows_of_move
        rows += [round_trip(one) for one in rows_of_move if one.opened_ns]
        book, orders[name] = booking.book, booking.order
    return rows


def _order(
    name: str,
    symbol: str,
    side: int,
    work: str | None,
    purpose: str | None,
    reason: str | None,
    quantity: int | str | None,
) -> Order:
    return Order(
        name, work or "", purpose or "", reason or "", symbol, side, of_column(quantity or 0), None, "filled", 0
    )
