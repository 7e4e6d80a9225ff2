"""What a fill does: the order's figures are set from totals and the book moves by the difference, in the same step.

An execution is told once, by its identity (order, correction, cumulative quantity); totals may come earlier, from a
look-up, and the executions they consist of later.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import CENT, Booked, book_fill, carried, is_news, quantity_after
from daemon.core.broker.excess import reduce_excess
from daemon.core.broker.heard import note_filled, note_touched
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import BrokerOrder, OrderFilled
from daemon.core.orders import Order, advance, name_prefix
from daemon.core.records import FillRow
from daemon.core.risk.guards import note_fate, revalue, trade_closed
from daemon.core.risk.marks import mark_book
from daemon.core.state import ZERO, Book

COST_GRID = Decimal("0.0001")  # of a share's total cost; an option's is whole cents


def on_order_filled(draft: Draft, event: OrderFilled) -> None:
    """The book changes in the same step as the fill, before any strategy looks."""
    order = draft.find_order(event.client_order_id)
    if order is None:
        stranger(draft, event.client_order_id, event.symbol)
        return
    same = (event.symbol, event.side) == (order.symbol, order.side) and event.cumulative_quantity <= order.quantity
    if not same:
        mismatch(draft, order, event)
        return
    if order.correction > event.correction:  # once corrected, an order's totals come from look-ups alone
        if event.cumulative_quantity > order.filled:
            draft.look_up(order)
        return
    if event.correction > order.correction:  # told by the ledger: what it changes depends on what was heard before
        event = replace(event, quantity=event.cumulative_quantity - order.filled)
    news = is_news(order, event)
    told = event.correction == order.correction and event.cumulative_quantity in order.executions
    fees = event.cumulative_fees - order.fees if news else ZERO
    if news and not book_totals(draft, order, event):
        return
    if news or not told:
        record_execution(draft, event, fees)


def record_execution(draft: Draft, event: OrderFilled, fees: Decimal) -> None:
    """Remember the execution by its identity and put its row."""
    order = draft.find_order(event.client_order_id)
    assert order is not None
    executions = (*order.executions, event.cumulative_quantity)
    draft.put_order(replace(order, executions=executions))
    stats = draft.stats
    whole = event.cumulative_quantity == order.quantity
    draft.stats = replace(stats, fills=stats.fills + 1, partial_fills=stats.partial_fills + (not whole))
    draft.records.append(
        FillRow(
            client_order_id=event.client_order_id,
            correction=event.correction,
            cumulative=event.cumulative_quantity,
            symbol=event.symbol,
            side=event.side,
            quantity=event.quantity,
            price=str(event.price),
            fees_usd=str(fees),
            filled_ns=event.filled_ns,
            time_ns=event.time_ns,
        )
    )


def book_totals(draft: Draft, order: Order, event: OrderFilled) -> bool:
    """Book what is news in the totals; False when the book cannot hold it, which halts and is never booked later."""
    if was_refused(draft, event.client_order_id, event.correction, event.cumulative_quantity):
        return False
    if quantity_after(draft.book, order, event) >= 0:
        booked = book_fill(draft.book, order, event, draft.contract_of(event.symbol))
    elif event.side > 0 > draft.held(event.symbol):
        booked = _buy_back(draft, order, event)
    else:
        mismatch(draft, order, event)
        return False
    draft.book = booked.book
    note_filled(draft, event.symbol)
    corrected = event.correction > order.correction
    kept = replace(booked.order, executions=() if corrected else order.executions)
    whole = kept.filled == kept.quantity
    draft.put_order(advance(kept, "filled" if whole else "partial"))
    note_fate(draft, order)
    if booked.closed is not None:
        trade_closed(draft, booked.closed)
    revalue(draft)
    reduce_excess(draft, order, booked.quantity)
    return True


def _buy_back(draft: Draft, order: Order, event: OrderFilled) -> Booked:
    """Book a part of what is owed: its cost joins the position's, and the gain is known once all is bought back."""
    owed = draft.book.positions[event.symbol]
    quantity, cost = event.cumulative_quantity - order.filled, event.cumulative_cost - order.cost
    fees = event.cumulative_fees - order.fees
    left = replace(owed, quantity=owed.quantity + quantity, cost=owed.cost + cost, pnl=owed.pnl - fees)
    order = replace(
        order,
        filled=event.cumulative_quantity,
        cost=event.cumulative_cost,
        fees=event.cumulative_fees,
        correction=event.correction,
    )
    book = replace(
        draft.book,
        cash=draft.book.cash - cost * owed.multiplier - fees,
        positions={**draft.book.positions, event.symbol: left},
        realized=draft.book.realized - fees,
        fees=draft.book.fees + fees,
    )
    return Booked(book, order, quantity, None)


def mismatch(draft: Draft, order: Order, event: OrderFilled) -> None:
    """The broker holds what the book cannot say: halt, once for each fill however often it is told."""
    if not draft.first_time(_refused(event.client_order_id, event.correction, event.cumulative_quantity)):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt(
        "fill_mismatch",
        f"{event.client_order_id}: filled {event.side:+d} {event.cumulative_quantity} {event.symbol}, ordered "
        f"{order.side:+d} {order.quantity} {order.symbol}, held {draft.book.positions.get(event.symbol)}",
    )


def _refused(client_order_id: str, correction: int, cumulative: int) -> str:
    """The name under which a fill that was not booked is remembered: its identity."""
    return f"{client_order_id} {correction} {cumulative} not booked"


def was_refused(draft: Draft, client_order_id: str, correction: int, cumulative: int) -> bool:
    """True for a fill that the book could not hold when it was told first."""
    return _refused(client_order_id, correction, cumulative) in draft.broker.seen


def set_totals(draft: Draft, order: Order, found: BrokerOrder) -> bool:
    """Book the found totals where they go beyond ours; False when they lie behind ours (an old answer), tell no price
    yet, or cannot be booked.

    The single executions are told by the stream or the ledger. Once an order was corrected its totals are set as found.
    """
    filled = int(found.filled)
    if filled and found.average_price is None:
        return False
    cost = total_cost(draft, found)
    behind = filled < order.filled
    if behind and not order.correction:
        return False
    if filled > order.filled or (order.correction and (filled, cost) != (order.filled, order.cost)):
        correction = order.correction + 1 if behind or filled == order.filled else order.correction
        price = found.average_price or ZERO
        fill = OrderFilled(
            draft.now_ns,
            order.client_order_id,
            order.symbol,
            order.side,
            price,
            draft.now_ns,
            filled,
            cost,
            order.fees,
            filled - order.filled,
            correction,
        )
        return book_totals(draft, order, fill)
    return True


def total_cost(draft: Draft, found: BrokerOrder) -> Decimal:
    """Sum of price x quantity: the average is rounded, the sum lies on a grid (options whole cents, shares finer)."""
    grid = CENT if draft.contract_of(found.symbol) is not None else COST_GRID
    return ((found.average_price or ZERO) * found.filled).quantize(grid)


def transfer(draft: Draft, amount: Decimal) -> None:
    """Book a transfer of cash, which is no gain and no loss."""
    book = draft.book
    draft.book = carried(replace(book, cash=book.cash + amount), book.equity, amount)
    revalue(draft)


def without_gain(draft: Draft, before: Book) -> None:
    """What was taken over since `before` is no gain and no loss: the change of the equity is a transfer.

    What the positions gained up to now is realised by it, so that cash and positions at cost still add up.
    """
    before, book = mark_book(draft, before), mark_book(draft, draft.book)
    moved = book.equity - before.equity
    gained = at_cost(book) - at_cost(before) - moved
    book = replace(book, peak=before.peak, max_drawdown=before.max_drawdown, realized=book.realized + gained)
    draft.book = carried(book, before.equity, moved)
    revalue(draft)


def at_cost(book: Book) -> Decimal:
    """Cash and positions at what they cost, USD."""
    return book.cash + sum((p.cost * p.multiplier for p in book.positions.values()), ZERO)


def is_ours(draft: Draft, client_order_id: str) -> bool:
    """True for a name that this journal's desk makes."""
    return client_order_id.startswith(name_prefix(draft.identity.epoch, draft.identity.strategy))


def stranger(draft: Draft, client_order_id: str, symbol: str = "") -> None:
    """News about an order that the state does not hold: late news of an earlier session, or somebody else's.

    A fill names its `symbol`: what is there of it is not known until the next report.
    """
    if symbol:
        note_touched(draft, symbol, f"a fill of an order that this journal does not know: {client_order_id}")
    if is_ours(draft, client_order_id):
        draft.effects.append(AskBroker(f"news about a forgotten order: {client_order_id}"))
        return
    draft.risk = replace(draft.risk, reconciled=False)
    detail = f"news about an order that is not ours: {client_order_id}"
    draft.alarm("foreign_order", detail, once=True, about=client_order_id)
