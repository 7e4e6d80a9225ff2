"""Cash, positions and equity: every change of money in one place, in Decimal.

A fill sets the order's figures from its cumulative quantity, cost and fees and books the difference, so the same
fill twice changes nothing. Cash + positions at cost = start + transfers + realised, always.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.events import Contract, ContractExpired, OrderFilled, Quote
from daemon.core.orders import Order
from daemon.core.state import ZERO, Book, Position

OPTION_MULTIPLIER = 100
CENT = Decimal("0.01")
COST_GRID = Decimal("0.0001")  # of a partial sale's share of the cost: a hundredth of a cent a share, so whole cents a contract


class Booked:
    """What a fill did: the new book and order, the newly filled quantity, and the position's end if it closed."""

    __slots__ = ("book", "closed", "order", "quantity")

    def __init__(self, book: Book, order: Order, quantity: int, closed: Position | None) -> None:
        self.book = book
        self.order = order
        self.quantity = quantity
        self.closed = closed


def book_fill(book: Book, order: Order, fill: OrderFilled, contract: Contract | None) -> Booked:
    """Book the part of `fill` that is news to `order`.

    `contract` describes the option, None for shares. A fill with a lower (correction, cumulative quantity) than
    known is a duplicate and books nothing. Raises ValueError when a sale would leave a negative position.
    """
    if (fill.correction, fill.cumulative_quantity) <= (order.correction, order.filled):
        return Booked(book, order, 0, None)
    quantity = fill.cumulative_quantity - order.filled
    cost = fill.cumulative_cost - order.cost
    fees = fill.cumulative_fees - order.fees
    order = replace(
        order,
        filled=fill.cumulative_quantity,
        cost=fill.cumulative_cost,
        fees=fill.cumulative_fees,
        correction=fill.correction,
    )
    multiplier = OPTION_MULTIPLIER if contract is not None else 1
    held = book.positions.get(fill.symbol)
    if fill.side > 0:
        bought = _bought(held, fill, contract, quantity, cost, fees, multiplier)
        book = replace(
            book,
            cash=book.cash - cost * multiplier - fees,
            positions={**book.positions, fill.symbol: bought},
            realized=book.realized - fees,
            fees=book.fees + fees,
        )
        return Booked(book, order, quantity, None)
    if held is None or held.quantity < quantity:
        raise ValueError(
            f"fill of {order.client_order_id} sells {quantity} {fill.symbol} but the book holds "
            f"{held.quantity if held else 0}; a sale never exceeds the position"
        )
    part = (held.cost * quantity / held.quantity).quantize(COST_GRID)
    gain = (cost - part) * multiplier - fees
    left = replace(held, quantity=held.quantity - quantity, cost=held.cost - part, pnl=held.pnl + gain)
    positions = {**book.positions, fill.symbol: left}
    if left.quantity == 0:
        del positions[fill.symbol]
    book = replace(
        book,
        cash=book.cash + cost * multiplier - fees,
        positions=positions,
        realized=book.realized + gain,
        fees=book.fees + fees,
    )
    return Booked(book, order, quantity, left if left.quantity == 0 else None)


def _bought(
    held: Position | None,
    fill: OrderFilled,
    contract: Contract | None,
    quantity: int,
    cost: Decimal,
    fees: Decimal,
    multiplier: int,
) -> Position:
    if held is None:
        return Position(
            symbol=fill.symbol,
            right=contract.right if contract is not None else 0,
            quantity=quantity,
            cost=cost,
            multiplier=multiplier,
            opened_ns=fill.filled_ns,
            expiry=contract.expiry if contract is not None else "",
            pnl=-fees,
        )
    return replace(held, quantity=held.quantity + quantity, cost=held.cost + cost, pnl=held.pnl - fees)


def book_expiry(book: Book, expired: ContractExpired) -> tuple[Book, Position | None]:
    """Settle an expired option: its cost is realised; an exercise moves shares and strike x shares of cash.

    Returns the book and the position that ended, None when it was not held.
    """
    held = book.positions.get(expired.symbol)
    if held is None:
        return book, None
    positions = {symbol: p for symbol, p in book.positions.items() if symbol != expired.symbol}
    loss = held.cost * held.multiplier
    cash = book.cash
    if expired.shares:
        amount = expired.strike * expired.shares
        cash -= amount
        shares = positions.get(expired.underlying)
        if shares is None:
            shares = Position(expired.underlying, 0, 0, ZERO, 1, expired.time_ns, "")
        shares = replace(shares, quantity=shares.quantity + expired.shares, cost=shares.cost + amount)
        positions[expired.underlying] = shares
        if shares.quantity == 0:
            del positions[expired.underlying]
    ended = replace(held, quantity=0, cost=ZERO, pnl=held.pnl - loss)
    return replace(book, cash=cash, positions=positions, realized=book.realized - loss), ended


def mid(quote: Quote) -> Decimal:
    """The mark: (bid + ask) / 2 in USD a share; half a cent is kept."""
    return (quote.bid + quote.ask) / 2


def mark(book: Book, quotes: dict[str, Quote], spot: float) -> Book:
    """The book with its equity, peak and drawdown at the last known mids; a position never quoted counts at cost.

    Shares (from an exercise) are marked at the underlying's last price `spot`.
    """
    equity = book.cash
    for symbol, position in book.positions.items():
        if position.multiplier == 1 and spot > 0:
            equity += (Decimal(repr(spot)) * position.quantity).quantize(CENT)
        elif (quote := quotes.get(symbol)) is not None:
            equity += mid(quote) * (position.quantity * position.multiplier)
        else:
            equity += position.cost * position.multiplier
    if equity == book.equity:
        return book
    peak = max(equity, book.peak)
    drawdown = float((peak - equity) / peak) if peak > 0 else 0.0
    return replace(book, equity=equity, peak=peak, max_drawdown=max(book.max_drawdown, drawdown))
