"""What the broker's news does to the draft: order life, fills, look-ups, expiries, transfers.

What a fill books is `daemon.core.broker.fills`'; orders that are not ours are `daemon.core.broker.foreign`'s; the
comparison of book and broker is `daemon.core.broker.reconcile`'s.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import book_expiry
from daemon.core.broker.fills import book_totals, record_execution, set_totals, stranger, transfer, was_refused
from daemon.core.broker.foreign import ENDED, on_cancel_by_others, on_foreign_order
from daemon.core.broker.sellable import confirmed, sellable
from daemon.core.broker.sending import may_enter_auction, may_send, submission_of
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import (
    BrokerLost,
    BrokerOrder,
    CancelRejected,
    CashTransferred,
    ContractExpired,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
    TradeCorrected,
)
from daemon.core.orders import BROKER_STATUS, CANCELED, Order, advance
from daemon.core.risk.guards import note_fate, revalue, trade_closed
from daemon.core.state import ZERO
from strategies.kit.units import MINUTE_NS, SECOND_NS

OrderNews = OrderAccepted | OrderRejected | OrderCanceled | OrderExpired | OrderUnknown | CancelRejected
HAPPENED: dict[type[OrderNews], str] = {
    OrderAccepted: "accepted",
    OrderRejected: "rejected",
    OrderCanceled: "canceled",
    OrderExpired: "expired",
    OrderUnknown: "unknown",
    CancelRejected: "cancel_rejected",
}
SENT_EARLY_NS = 10 * MINUTE_NS  # an order found with an earlier time than this before ours was sent is another one


def on_order_news(draft: Draft, event: OrderNews) -> None:
    order = draft.find_order(event.client_order_id)
    if order is None:
        if not isinstance(event, CancelRejected):  # which is no news, and to ask again would be a loop
            stranger(draft, event.client_order_id)
        return
    moved = advance(order, HAPPENED[type(event)])
    if isinstance(event, OrderAccepted) and event.order_id and event.order_id != moved.order_id:
        moved = replace(moved, order_id=event.order_id)
    if moved is order:
        return
    draft.put_order(moved)
    if moved.status == CANCELED:
        on_cancel_by_others(draft, order)
    if isinstance(event, OrderRejected):
        draft.alarm("order_rejected", f"{event.client_order_id}: {event.reason}")
        if order.side * draft.held(order.symbol) < 0:  # a refused exit: perhaps the broker holds something else
            draft.effects.append(AskBroker("an exit was rejected"))
    elif isinstance(event, OrderUnknown):
        draft.look_up(draft.orders[order.client_order_id])
    note_fate(draft, order)


# --- look-ups -----------------------------------------------------------------------------------------------------


def on_order_found(draft: Draft, event: OrderFound) -> None:
    absorb(draft, event.order)


def absorb(draft: Draft, found: BrokerOrder) -> None:
    """Take over what the broker says of one order: ours when it matches what was sent, else somebody else's."""
    order = draft.find_order(found.client_order_id)
    if order is None or order.purpose == "foreign":
        on_foreign_order(draft, found, order)
        return
    if order.closing and found.quantity != order.quantity:  # the broker's own call counts itself what is there
        order = replace(order, quantity=int(found.quantity))
        draft.put_order(order)
    if not _matches(draft, order, found):
        _mismatch(draft, order, found)
        return
    if found.order_id and found.order_id != order.order_id:
        order = replace(order, order_id=found.order_id)
        draft.put_order(order)
    if set_totals(draft, order, found):
        _follow(draft, found)
    elif found.status in ENDED and was_refused(draft, found.client_order_id, order.correction, int(found.filled)):
        _end(draft, order)


def _mismatch(draft: Draft, order: Order, found: BrokerOrder) -> None:
    """Another order bears our name: halt, once for as much as it filled. Ours ends with it, or never arrived."""
    if draft.first_time(f"{found.client_order_id} {found.filled} does not match"):
        draft.risk = replace(draft.risk, reconciled=False)
        draft.halt(
            "order_mismatch",
            f"{found.client_order_id}: sent {order.side:+d} {order.quantity} {order.symbol}, the broker has "
            f"{found.side:+d} {found.quantity} {found.symbol} ({found.intent or 'no intent'})",
        )
    if found.status in ENDED or not order.known:
        _end(draft, order)


def _end(draft: Draft, order: Order) -> None:
    """Nothing more comes of it."""
    if order.working:
        draft.put_order(advance(order, "expired"))


def _matches(draft: Draft, order: Order, found: BrokerOrder) -> bool:
    """Symbol, side, quantity, intent (where one is sent) and time agree: it is what was sent."""
    intent = draft.desk.holds.intent(order.side, order.purpose)
    return (
        (found.symbol, found.side) == (order.symbol, order.side)
        and found.filled <= found.quantity
        and (found.quantity == order.quantity or order.closing)  # a fraction goes with it
        and (not intent or found.intent in ("", intent))
        and found.submitted_ns >= order.submitted_ns - SENT_EARLY_NS
    )


def _follow(draft: Draft, found: BrokerOrder) -> None:
    """Let the order's status follow the broker's."""
    word = BROKER_STATUS.get(found.status)
    order = draft.find_order(found.client_order_id)
    assert order is not None
    if word is None:
        detail = f"{found.client_order_id}: the broker says {found.status!r}"
        draft.alarm("unknown_status", detail, once=True, about=found.status)
        return
    if word == "filled" and order.filled < order.quantity:
        return  # said filled, with other figures: an answer in the middle of a change
    moved = advance(order, word)
    if moved is order:
        return
    draft.put_order(moved)
    if word == "canceled":
        on_cancel_by_others(draft, order)
    if word == "rejected":
        draft.alarm("order_rejected", f"{found.client_order_id}: found rejected")
    note_fate(draft, order)


def on_order_missing(draft: Draft, event: OrderMissing) -> None:
    """The broker knows no such order. Within its validity it is sent again under its own name, the same order.

    An entry past that stays unknown, counts as exposure and is looked up until its session is over; then it lapsed. An
    exit has no such limit: while all of it is needed it is sent again, and else given up for one that is smaller.
    """
    order = draft.orders.get(event.client_order_id)
    if order is None or draft.broker.wrong:  # what another account does not know says nothing
        return
    if order.known:
        young = draft.now_ns - order.news_ns < draft.trading.broker.look_up_s * SECOND_NS
        if young or 0 < order.looked_up_ns <= order.news_ns:
            draft.look_up(order)  # the answer may be older than the news of the order
            return
        draft.alarm("order_lost", f"{order.client_order_id}: accepted once, unknown to the broker now")
        draft.put_order(advance(order, "expired"))
        if order.purpose == "entry":  # no other is sent in its place: it may have filled
            draft.works = {key: work for key, work in draft.works.items() if key != order.work}
        draft.effects.append(AskBroker(f"an order is lost: {order.client_order_id}"))
        return
    order = advance(order, "missing")
    session = draft.session.session
    over = session is None or draft.session.ended or order.submitted_ns < session.open_ns
    if (not may_enter_auction(draft)) if order.auction else over:
        draft.put_order(advance(order, "expired"))  # an order that never arrived can arrive no more
        return
    needed = _needed(draft, order)
    if order.purpose == "exit" and needed is not None and _gives_way(draft, order, needed):
        draft.put_order(advance(order, "expired"))
        return
    again = submission_of(draft, order)
    if needed is None or needed < order.quantity or not (_allowed(draft, order) and draft.leaves(again)):
        draft.put_order(replace(order, missing_ns=draft.now_ns, looked_up_ns=draft.now_ns))
        return
    draft.put_order(replace(advance(order, "sent_again"), looked_up_ns=draft.now_ns, missing_ns=0))
    draft.effects.append(again)


def _needed(draft: Draft, order: Order) -> int | None:
    """What the order's work still has to buy or to leave; None when it was given up, or the market is closed."""
    work = draft.works.get(order.work)
    if work is None or not (order.auction or may_send(draft)):
        return None
    holding = draft.held(work.symbol)
    return work.goal - holding if work.purpose == "entry" else abs(holding) - work.goal


def _gives_way(draft: Draft, order: Order, needed: int) -> bool:
    """True for an exit that is given up for another one: less is needed or there, or it must be the broker's own call.

    That call has no name of ours: what it did shows in the positions.
    """
    if needed < order.quantity or order.closing:
        return True
    leave = sellable(draft, order.symbol, order.side, needed + order.remaining)
    return leave.closing or (not leave.waits and leave.quantity < order.quantity)


def _allowed(draft: Draft, order: Order) -> bool:
    """True when an order that the broker does not know may be sent again: an exit as soon as the broker's word is
    newer than what others did, an entry within its time.

    After a start or a loss of news such an order is what keeps the desk unreconciled: enough is a report since then in
    which all else agreed. It is the same order under the same name, so it cannot be there twice.
    """
    if order.purpose == "exit":
        return confirmed(draft, order.symbol)
    risk, broker = draft.risk, draft.broker
    agrees = risk.reconciled or (broker.suspicion is None and broker.agreed_ns > max(broker.started_ns, broker.lost_ns))
    allowed = agrees and risk.halt is None and risk.pause is None and not risk.stopping
    return allowed and not order.cancel_asked_ns and draft.now_ns <= order.valid_until_ns


def on_trade_corrected(draft: Draft, event: TradeCorrected) -> None:
    """A bust or a correction: the totals that stand after it are booked as a correction of their own."""
    order = draft.find_order(event.client_order_id)
    if order is None:
        stranger(draft, event.client_order_id)
        return
    if event.execution_id in order.corrected_by:
        return
    draft.alarm("trade_corrected", f"{event.client_order_id}: {event.reason}, {event.cumulative_quantity} stand")
    order = replace(order, corrected_by=(*order.corrected_by, event.execution_id))
    draft.put_order(order)
    price = event.cumulative_cost / event.cumulative_quantity if event.cumulative_quantity else ZERO
    fill = OrderFilled(
        event.time_ns,
        order.client_order_id,
        order.symbol,
        order.side,
        price,
        event.time_ns,
        event.cumulative_quantity,
        event.cumulative_cost,
        order.fees,
        event.cumulative_quantity - order.filled,
        order.correction + 1,
    )
    if book_totals(draft, order, fill):
        record_execution(draft, fill, ZERO)


def on_broker_lost(draft: Draft, event: BrokerLost) -> None:
    """Order news may be missing: no new risk until a report agrees again."""
    draft.risk = replace(draft.risk, reconciled=False)
    draft.broker = replace(draft.broker, lost_ns=draft.now_ns)
    draft.alarm("broker_lost", event.detail, once=True)


# --- what is no order ---------------------------------------------------------------------------------------------


def on_contract_expired(draft: Draft, event: ContractExpired) -> None:
    """An expiry is booked; shares that an exercise left halt new risk until a person looked at them."""
    draft.book, ended = book_expiry(draft.book, event)
    if ended is not None:
        trade_closed(draft, ended)
        draft.works = {key: work for key, work in draft.works.items() if work.symbol != event.symbol}
    if event.shares:
        draft.halt("shares_from_exercise", f"{event.symbol} was exercised: {event.shares:+d} {event.underlying}")
    revalue(draft)


def on_cash_transferred(draft: Draft, event: CashTransferred) -> None:
    transfer(draft, event.amount)
