"""Cash, positions and equity: all money changes here, in Decimal.

A fill sets the order's figures from its cumulative quantity, cost and fees and books the difference, so a duplicate
fill changes nothing. Invariant: cash + positions at cost = start + transfers + realised.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.events import Contract, ContractExpired, OrderFilled, Quote
from daemon.core.orders import Order, in_words
from daemon.core.state import ZERO, Book, Position
from strategies.kit.quantity import Quantity

OPTION_MULTIPLIER = 100
CENT = Decimal("0.01")
MICRO = Decimal("0.000001")  # USD: grid of a share desk's equity, and of the cost of its trades
COST_GRID = Decimal("0.0001")  # USD: grid of a part of a cost; a contract's is whole cents, so all sums are exact
AVERAGE_GRID = Decimal("0.000001")  # USD: of an average price, to which the broker rounds


class BookedFill:
    """The effect of a fill: the new book and order, the newly filled quantity, and the position that it closed."""

    __slots__ = ("book", "closed", "order", "quantity")

    def __init__(self, book: Book, order: Order, quantity: Quantity, closed: Position | None) -> None:
        self.book = book
        self.order = order
        self.quantity = quantity
        self.closed = closed


def is_news(order: Order, fill: OrderFilled) -> bool:
    """Return False for a duplicate: the order knows this (correction, cumulative quantity) or a higher one."""
    return (fill.correction, fill.cumulative_quantity) > (order.correction, order.filled)


def new_quantity(book: Book, order: Order, fill: OrderFilled) -> Quantity:
    """Return the quantity of the fill's symbol after the fill; negative when it sells more than is held."""
    position = book.positions.get(fill.symbol)
    return (position.quantity if position else 0) + fill.side * (fill.cumulative_quantity - order.filled)


def book_fill(book: Book, order: Order, fill: OrderFilled, contract: Contract | None) -> BookedFill:
    """Book the part of `fill` that is new to `order`; a correction may change the price alone or take contracts back.

    `contract` describes the option, None for shares. A duplicate books nothing. Raises ValueError when the fill would
    leave a negative position: check `new_quantity` first.
    """
    if not is_news(order, fill):
        return BookedFill(book, order, 0, None)
    if new_quantity(book, order, fill) < 0:
        position = book.positions.get(fill.symbol)
        raise ValueError(
            f"fill {in_words(fill.side, fill.cumulative_quantity, fill.symbol)} of {fill.client_order_id} against "
            f"{position.quantity if position else 0} held; a sale never exceeds the position"
        )
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
    position = book.positions.get(fill.symbol) or _empty_position(fill, contract, multiplier)
    if fill.side > 0:
        cost_change, gain = cost, -fees
    elif quantity >= 0:
        cost_change = -(position.cost * quantity / position.quantity).quantize(COST_GRID) if quantity else ZERO
        gain = (cost + cost_change) * multiplier - fees
    else:  # a busted sale: its contracts return at the price of the sale
        cost_change, gain = -cost, -fees
    # a sale from an earlier position
    earlier = fill.side < 0 and not quantity and order.submitted_ns < position.opened_ns
    pnl = position.pnl if earlier else position.pnl + gain
    new_position = replace(
        position, quantity=position.quantity + fill.side * quantity, cost=position.cost + cost_change, pnl=pnl
    )
    # a cost without contracts (the last ones sold, or a correction after them) is realised
    if new_position.quantity == 0:
        gain -= new_position.cost * multiplier
        new_position = replace(new_position, cost=ZERO, pnl=new_position.pnl - new_position.cost * multiplier)
    positions = {**book.positions, fill.symbol: new_position}
    if new_position.quantity == 0:
        del positions[fill.symbol]
    closed_position = new_position if position.quantity > 0 and new_position.quantity == 0 else None
    book = replace(
        book,
        cash=book.cash - fill.side * cost * multiplier - fees,
        positions=positions,
        realized=book.realized + gain,
        fees=book.fees + fees,
    )
    return BookedFill(book, order, quantity, closed_position)


def _empty_position(fill: OrderFilled, contract: Contract | None, multiplier: int) -> Position:
    """Return a position that holds no contract yet."""
    right, expiry = (contract.right, contract.expiry) if contract is not None else (0, "")
    return Position(fill.symbol, right, 0, ZERO, multiplier, fill.filled_ns, expiry)


def book_expiry(book: Book, expiry: ContractExpired) -> tuple[Book, Position | None]:
    """Settle an expired option: realise its cost. Shares of an exercise are booked separately, by `move_shares`.

    Returns the book and the position that ended, None when it was not held.
    """
    position = book.positions.get(expiry.symbol)
    if position is None:
        return book, None
    positions = {symbol: p for symbol, p in book.positions.items() if symbol != expiry.symbol}
    loss = position.cost * position.multiplier
    book = replace(book, positions=positions, realized=book.realized - loss)
    return book, replace(position, quantity=0, cost=ZERO, pnl=position.pnl - loss)


def move_shares(book: Book, symbol: str, shares: int, cash: Decimal, at_ns: int) -> Book:
    """Book shares that an exercise or assignment brings or takes for `cash` USD, signed.

    Shares taken from a holding, or returned to a short one, are realised at their part of the cost.
    """
    position = book.positions.get(symbol) or Position(symbol, 0, 0, ZERO, 1, at_ns, "")
    ended_shares = min(abs(shares), abs(position.quantity)) if position.quantity * shares < 0 else 0
    cost = (position.cost * ended_shares / abs(position.quantity)).quantize(COST_GRID) if ended_shares else ZERO
    proceeds = (cash * ended_shares / abs(shares)).quantize(COST_GRID) if ended_shares else ZERO
    gain, new_cost = proceeds - cost, position.cost - cost - (cash - proceeds)
    new_position = replace(position, quantity=position.quantity + shares, cost=new_cost, pnl=position.pnl + gain)
    positions = {**book.positions, symbol: new_position}
    if new_position.quantity == 0:  # a cost without shares is realised
        gain -= new_cost
        del positions[symbol]
    return replace(book, cash=book.cash + cash, positions=positions, realized=book.realized + gain)


def begin_session(book: Book) -> Book:
    """Set the equity from which the session's loss is counted."""
    start = book.equity
    return replace(book, session_start_equity=start, session_base=start, transfers=ZERO, guard_base=ZERO)


def begin_session_at(book: Book, change: Decimal) -> Book:
    """Change the equity from which the session's loss counts by `change` USD, learned late."""
    references = {name: getattr(book, name) for name in ("session_start_equity", "session_base", "guard_base")}
    return replace(book, **{name: max(value + change, ZERO) for name, value in references.items() if value})


def begin_book(book: Book) -> Book:
    """Begin session, peak and drawdown at the present equity: for a journal's first report."""
    book = replace(book, peak=book.equity, max_drawdown=0.0, guard_peak=ZERO, claim_close=UNSET, claim_base=UNSET)
    return begin_session(book)


def limits_reset(book: Book, equity: Decimal) -> Book:
    """Let the limits of loss and drawdown count from `equity` in USD; session and peak stay."""
    return replace(book, guard_base=equity, guard_peak=equity if equity < book.peak else ZERO)


def session_loss(book: Book, equity: Decimal | None = None) -> float | None:
    """Return the loss that the limits count, as a part of the equity at its base.

    None when the session's start is unknown, or all was withdrawn since. The base is the session's start, or the equity
    at a reset of the limits since. Transfers do not count. `equity`: the book's worth in USD, if not its equity at the
    marks.
    """
    base = book.guard_base or book.session_base or (ZERO if book.transfers else book.session_start_equity)
    return float((base - (book.equity if equity is None else equity)) / base) if base > 0 else None


def limited_peak(book: Book) -> Decimal:
    """Return the equity from which the drawdown limit counts: the peak, or the one since its reset."""
    return book.guard_peak or book.peak


def fall_from(peak: Decimal, equity: Decimal) -> float:
    """Return the part of `peak` that `equity` is below it; 0 without a peak."""
    return max(float((peak - equity) / peak), 0.0) if peak > 0 else 0.0


def book_transfer(book: Book, old_equity: Decimal, amount: Decimal) -> Book:
    """Book a transfer of `amount` USD; the equity was `old_equity` without it.

    The reference equities scale with the equity, so drawdown and session loss do not change.
    """
    return replace(rescale(book, old_equity, amount), transfers=book.transfers + amount, equity=old_equity + amount)


def rescale(book: Book, old_equity: Decimal, amount: Decimal) -> Book:
    """Scale the reference equities of drawdown and loss by a transfer of `amount` USD into `old_equity`.

    A transfer into an account without money becomes its peak and its session's start.
    """
    new_equity = old_equity + amount

    def scale(reference: Decimal) -> Decimal:
        if not reference:  # not set
            return reference
        return (
            (reference * new_equity / old_equity).quantize(CENT)
            if old_equity > 0 and new_equity > 0
            else max(new_equity, ZERO)
        )

    first = max(new_equity, ZERO) if old_equity <= 0 else None
    return replace(
        book,
        peak=scale(book.peak) if first is None else first,
        session_base=scale(book.session_base or book.session_start_equity) if first is None else first,
        guard_base=scale(book.guard_base),
        guard_peak=scale(book.guard_peak),
        claim_close=book.claim_close if isinstance(book.claim_close, UnsetType) else scale(book.claim_close),
        claim_base=book.claim_base if isinstance(book.claim_base, UnsetType) else scale(book.claim_base),
    )


def without_income(book: Book, amount: Decimal) -> Book:
    """Leave an income of `amount` USD out of the returns that a claim about risk is compared with.

    The fall in price that paid for it came earlier; the claim's drawdown includes the income.
    """
    base, new_equity = book.claim_base, book.equity + amount
    if isinstance(base, UnsetType) or book.equity <= 0 or new_equity <= 0:
        return book
    return replace(book, claim_base=(base * new_equity / book.equity).quantize(CENT))


def worth_at(position: Position, price: Decimal) -> Decimal:
    """Return what a position is worth at a price a share, USD: below 0 where it is short."""
    quantity, multiplier = position.quantity, position.multiplier
    return Decimal.__mul__(price, quantity if multiplier == 1 else quantity * multiplier)  # called often


def mid(quote: Quote) -> Decimal:
    """Return the mark, (bid + ask) / 2 in USD a share; half a cent is kept."""
    return (quote.bid + quote.ask) / 2


def average_price(book: Book, symbol: str) -> Decimal | None:
    """Return the average price paid for a position, USD, which counts before any quote; None when nothing is held."""
    position = book.positions.get(symbol)
    return position.cost / position.quantity if position is not None and position.quantity else None


def mark(book: Book, prices: dict[str, Decimal], spot: float, *, fine: bool = False) -> Book:
    """Mark the book: equity, peak and drawdown at these prices. A position without a price counts at cost.

    Shares from an exercise count at the underlying's last price `spot`. `fine`: a share desk's equity, on its grid.
    """
    equity = book.cash
    for symbol, position in book.positions.items():
        if (price := prices.get(symbol)) is not None:
            equity += worth_at(position, price)
        elif position.multiplier == 1 and spot > 0:
            equity += (Decimal(repr(spot)) * position.quantity).quantize(CENT)
        else:
            equity += position.cost * position.multiplier
    if fine:
        equity = equity.quantize(MICRO)
    if equity == book.equity:
        return book
    peak = max(equity, book.peak)
    guard_peak = max(equity, book.guard_peak) if book.guard_peak and equity < book.peak else ZERO
    deepest = max(book.max_drawdown, fall_from(peak, equity))
    return replace(book, equity=equity, peak=peak, max_drawdown=deepest, guard_peak=guard_peak)
