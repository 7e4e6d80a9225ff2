"""What the broker's news does to the draft: order life, fills, expiries, transfers, reconciliation.

News about an order that we do not know changes no money; it makes the desk unreconciled and is told.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import CENT, book_expiry, book_fill, is_news, quantity_after
from daemon.core.events import (
    BrokerSnapshot,
    CancelRejected,
    CashTransferred,
    ContractExpired,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderUnknown,
)
from daemon.core.guards import alarm, halt, order_outcome, put_order, revalue, trade_closed
from daemon.core.orders import ACCEPTED, SUBMITTED, UNKNOWN, advance
from daemon.core.records import FillRow
from daemon.core.state import ZERO, Draft

OrderNews = OrderAccepted | OrderRejected | OrderCanceled | OrderExpired | OrderUnknown | CancelRejected
HAPPENED: dict[type[OrderNews], str] = {
    OrderAccepted: "accepted",
    OrderRejected: "rejected",
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderUnknown: "unknown",
    CancelRejected: "cancel_rejected",
}


def on_order_news(draft: Draft, event: OrderNews) -> None:
    order = draft.find_order(event.client_order_id)
    if order is None:
        _foreign(draft, event.client_order_id)
        return
    moved = advance(order, HAPPENED[type(event)])
    if moved is order:
        return
    put_order(draft, moved)
    if moved.status == ACCEPTED and order.status in (SUBMITTED, UNKNOWN):
        order_outcome(draft, rejected=False)
    elif isinstance(event, OrderRejected):
        alarm(draft, "order_rejected", f"{event.client_order_id}: {event.reason}")
        order_outcome(draft, rejected=True)


def on_order_filled(draft: Draft, event: OrderFilled) -> None:
    """The book changes in the same step as the fill, before any strategy looks."""
    order = draft.find_order(event.client_order_id)
    if order is None:
        _foreign(draft, event.client_order_id)
        return
    same = (event.symbol, event.side) == (order.symbol, order.side) and event.cumulative_quantity <= order.quantity
    if same and not is_news(order, event):
        return
    if not same or quantity_after(draft.book, order, event) < 0:
        draft.risk = replace(draft.risk, reconciled=False)  # the broker holds what the book cannot say
        halt(
            draft,
            "fill_mismatch",
            f"{event.client_order_id}: filled {event.side:+d} {event.cumulative_quantity} {event.symbol}, ordered "
            f"{order.side:+d} {order.quantity} {order.symbol}, held {draft.book.positions.get(event.symbol)}",
        )
        return
    booked = book_fill(draft.book, order, event, draft.contracts.get(event.symbol))
    draft.book = booked.book
    whole = booked.order.filled == booked.order.quantity
    put_order(draft, advance(booked.order, "filled" if whole else "partial"))
    if order.status in (SUBMITTED, UNKNOWN):  # its acceptance is overtaken by the fill
        order_outcome(draft, rejected=False)
    stats = draft.stats
    draft.stats = replace(stats, fills=stats.fills + 1, partial_fills=stats.partial_fills + (not whole))
    draft.records.append(
        FillRow(
            client_order_id=event.client_order_id,
            correction=event.correction,
            cumulative=event.cumulative_quantity,
            symbol=event.symbol,
            side=event.side,
            quantity=booked.quantity,
            price=str(event.price),
            fees_usd=str(booked.order.fees - order.fees),
            filled_ns=event.filled_ns,
            time_ns=event.time_ns,
        )
    )
    if booked.closed is not None:
        trade_closed(draft, booked.closed)
    revalue(draft)


def on_contract_expired(draft: Draft, event: ContractExpired) -> None:
    """An expiry is booked; shares that an exercise left halt new risk until a person looked at them."""
    draft.book, ended = book_expiry(draft.book, event)
    if ended is not None:
        trade_closed(draft, ended)
        draft.works = {key: work for key, work in draft.works.items() if work.symbol != event.symbol}
    if event.shares:
        halt(draft, "shares_from_exercise", f"{event.symbol} was exercised: {event.shares:+d} {event.underlying}")
    revalue(draft)


def on_cash_transferred(draft: Draft, event: CashTransferred) -> None:
    """A transfer is no gain and no loss: the peak moves by the same ratio as the equity, so drawdown stands still."""
    book = draft.book
    after = book.equity + event.amount
    peak = (book.peak * after / book.equity).quantize(CENT) if book.equity > 0 and after > 0 else max(after, ZERO)
    draft.book = replace(
        book, cash=book.cash + event.amount, equity=after, peak=peak, transfers=book.transfers + event.amount
    )
    revalue(draft)


def on_broker_snapshot(draft: Draft, event: BrokerSnapshot) -> None:
    """Compare the broker's word with the book. A journal without history adopts it, a difference halts and is named."""
    virgin = draft.seq == 0 and not draft.orders and draft.book.cash == 0
    if virgin:
        if event.positions or event.open_orders:
            found = [p.symbol for p in event.positions] + list(event.open_orders)
            halt(draft, "reconciliation", f"the account is not empty and this journal is new: {', '.join(found)}")
            return
        draft.book = replace(
            draft.book, cash=event.cash, equity=event.cash, peak=event.cash, session_start_equity=event.cash
        )
        draft.risk = replace(draft.risk, reconciled=True)
        return
    differences = _differences(draft, event)
    draft.risk = replace(draft.risk, reconciled=not differences)
    if differences:
        halt(draft, "reconciliation", "; ".join(differences))


def _differences(draft: Draft, event: BrokerSnapshot) -> list[str]:
    found: list[str] = []
    book = draft.book
    if event.cash != book.cash:
        found.append(f"cash: broker {event.cash} USD, book {book.cash} USD")
    theirs = {p.symbol: p.quantity for p in event.positions}
    ours = {symbol: Decimal(p.quantity) for symbol, p in book.positions.items()}
    found.extend(
        f"{symbol}: broker {theirs.get(symbol, 0)}, book {ours.get(symbol, 0)}"
        for symbol in sorted(theirs.keys() | ours.keys())
        if theirs.get(symbol, 0) != ours.get(symbol, 0)
    )
    working = draft.orders.keys()
    found.extend(
        f"order {name}: {'at the broker' if name in event.open_orders else 'in the book'} only"
        for name in sorted(set(event.open_orders) ^ working)
    )
    return found


def _foreign(draft: Draft, client_order_id: str) -> None:
    draft.risk = replace(draft.risk, reconciled=False)
    alarm(draft, "foreign_order", f"news about an order that is not ours: {client_order_id}", once=True)
