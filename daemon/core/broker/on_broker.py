"""Handlers of broker news: order life, fills, look-ups, expiries, transfers.

Booking of fills is in `daemon.core.broker.fills`, foreign orders in `daemon.core.broker.foreign`, the comparison of
book and broker in `daemon.core.broker.reconcile`.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import book_expiry, move_shares
from daemon.core.broker.fills import (
    awaits_report,
    book_correction,
    correction_name,
    is_replaced,
    on_unknown_order,
    set_totals,
    transfer,
    was_refused,
)
from daemon.core.broker.foreign import mark_of, on_foreign_cancel, on_foreign_order
from daemon.core.broker.protection import is_of_guard, take_from_guard
from daemon.core.broker.sending import Leave, hanging_orders, may_enter_auction, may_send, sellable, submission_of
from daemon.core.draft import ENTRY, EXIT, PROTECTION, Draft, wording
from daemon.core.effects import AskBroker
from daemon.core.events import (
    BrokerLost,
    BrokerOrder,
    BrokerReported,
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
from daemon.core.instruments.option_market import is_contract
from daemon.core.moves import RECONCILED, Cause
from daemon.core.orders import BROKER_STATUS, CANCELED, ENDED, REJECTED, UNKNOWN, Order, advance, in_words, parse_name
from daemon.core.risk.guards import end_trade, note_fate, note_outcome, revalue
from daemon.core.state import BROKER_MODES, EVERY_SYMBOL, ZERO
from strategies.kit.quantity import Part, Quantity, exact, whole_of
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
REFUSALS_COUNTED = 10  # from this many refusals on, the alarm gives their number
REFUSALS_STUCK = 3  # of a symbol's exits in a session: one or two may be answered by the next report
SENT_EARLY_NS = 10 * MINUTE_NS  # an order created this long before ours was sent is another order
CLOCK_NS = 10 * SECOND_NS  # by which the broker's clock and ours may differ, where the time decides
CALL_NS = MINUTE_NS  # an order created later than this after a close call is not of that call


def on_order_news(draft: Draft, event: OrderNews) -> None:
    order = draft.find_order(event.client_order_id)
    if order is None:
        if not isinstance(event, CancelRejected):  # it changes nothing, and another request would loop
            on_unknown_order(draft, event.client_order_id)
        return
    new_order = advance(order, HAPPENED[type(event)])
    if isinstance(event, OrderAccepted) and event.order_id and event.order_id != new_order.order_id:
        new_order = replace(new_order, order_id=event.order_id)
    if new_order is order:
        return
    draft.put_order(new_order)
    if isinstance(event, OrderAccepted) and draft.session.trading_refusal(order.symbol):
        _put_trading_refusal(draft, order.symbol, "")
    if new_order.status == CANCELED:
        on_foreign_cancel(draft, order)
    by_rule = False
    if isinstance(event, OrderRejected):
        refuses_fraction, is_untraded = _refuses_fraction(order, event.reason), _is_untraded(draft, event.reason)
        of_account = not refuses_fraction and _is_of_account(draft, event.reason)
        is_repeat = of_account and not _note_unauthorized(draft, order, event.reason)
        by_rule = event.denied is True or refuses_fraction or is_untraded or is_repeat
        if is_untraded:
            _note_no_trading(draft, order, event.reason)
        if refuses_fraction and LEAST_AMOUNT not in event.reason:
            in_whole_shares(draft, order, EVERY_SYMBOL if UNAUTHORIZED in event.reason else order.symbol)
        if event.denied is True:
            about = f"{order.symbol} {order.side:+d} {wording(event.reason)}"
            draft.alarm("order_denied", f"{order.client_order_id}: {event.reason}", once=True, about=about)
        else:
            _report_rejection(draft, order, event.reason)
        if order.side * draft.held(order.symbol) < 0:  # a refused exit: perhaps the broker holds another quantity
            draft.effects.append(AskBroker("an exit was rejected"))
            if order.purpose == "exit" and not (refuses_fraction or is_untraded):
                _note_refused_exit(draft, order, event.reason)
    elif isinstance(event, OrderUnknown):
        draft.look_up(draft.orders[order.client_order_id])
    if not by_rule:  # by a limit, or by what asset or account allow: no fault of the desk's order
        _count_fate(draft, order)


NO_FRACTION = ("not fractionable", "fractional shares")  # words of refusals: of the asset or the account
LEAST_AMOUNT = "minimal amount of order"


def _refuses_fraction(order: Order, reason: str) -> bool:
    """Return whether an order was refused for being a fraction: by the asset, the account, or as too small."""
    return type(order.quantity) is Part and any(words in reason for words in (*NO_FRACTION, LEAST_AMOUNT))


UNAUTHORIZED = "not authorized to trade"  # what a refusal says of an account that may not trade


def _is_of_account(draft: Draft, reason: str) -> bool:
    """Return whether a real broker refused an order because the account may not trade."""
    return draft.identity.mode in BROKER_MODES and UNAUTHORIZED in reason


def _note_unauthorized(draft: Draft, order: Order, reason: str) -> bool:
    """Take no new risk until the next report; False where that was known before.

    A basket's purchase waits, and is sent again when the account may trade.
    """
    work = draft.works.get(order.work)
    if work is not None and order.purpose == "entry" and draft.desk.decides.rebalances:
        draft.works = {**draft.works, work.key: replace(work, order_id="")}
    if draft.broker.blocked:
        return False
    draft.broker = replace(draft.broker, blocked=reason)
    end_entries(draft, reason)
    return True


def end_entries(draft: Draft, block_reason: str) -> None:
    """Cancel the entries of an account that may not trade, and raise one alarm with the reason."""
    draft.alarm("account_blocked", block_reason, once=True, about=block_reason)
    draft.cancel_entries()


UNTRADED = ("not tradable", "not active", "not found")  # words of refusals for an asset that the broker does not trade


def _is_untraded(draft: Draft, reason: str) -> bool:
    """Return whether a real broker refused an order because it does not trade the asset, or has none of this name."""
    of_asset = "asset" in reason or "symbol" in reason
    return draft.identity.mode in BROKER_MODES and of_asset and any(words in reason for words in UNTRADED)


def _note_no_trading(draft: Draft, order: Order, reason: str) -> None:
    """Buy nothing more of the symbol until it trades again, and raise an alarm where an exit was refused."""
    _put_trading_refusal(draft, order.symbol, reason)
    quantity = draft.held(order.symbol)
    if order.side * quantity < 0:
        detail = f"{abs(quantity)} {order.symbol}: {reason}; its exit is tried again until the broker trades it"
        draft.alarm("exit_stuck", detail, once=True, about=f"untraded {order.symbol}")


def _put_trading_refusal(draft: Draft, symbol: str, reason: str) -> None:
    """Keep the broker's reason for not trading the symbol; "" when it trades again."""
    session = draft.session
    reasons = {} if isinstance(session.untraded, UnsetType) else dict(session.untraded)
    reasons.pop(symbol, None)
    if reason:
        reasons[symbol] = reason
    draft.session = replace(session, untraded=reasons or UNSET)


def in_whole_shares(draft: Draft, order: Order, refused: str) -> None:
    """Trade in whole shares what the broker takes no fraction of, one symbol or all, a buy under way included.

    An exit orders its whole shares, and the rest leaves by the broker's own call.
    """
    if refused not in (former := draft.basket.refused_fractions):
        draft.basket = replace(draft.basket, indivisible=(*former, refused))
    work = draft.works.get(order.work)
    if work is not None and work.purpose == ENTRY:
        quantity = draft.held(order.symbol)
        goal = quantity + whole_of(work.goal - quantity)
        draft.works = {**draft.works, work.key: replace(work, goal=goal, order_id="")}
        draft.wanted = {**draft.wanted, order.symbol: goal}


def _note_refused_exit(draft: Draft, order: Order, reason: str) -> None:
    """Raise an alarm once a session when refusals keep a position; not for a blocked account or a closed market."""
    exits = ((o.symbol, o.side, o.status) for o in draft.closed.values() if o.purpose == "exit")
    refusal_count = sum(one == (order.symbol, order.side, REJECTED) for one in exits)
    if refusal_count >= REFUSALS_STUCK and not (draft.broker.blocked or draft.broker.closed):
        held = f"{abs(draft.held(order.symbol))} {order.symbol}"
        detail = f"{held}: {refusal_count} exits were refused: {reason}; it is tried again at each re-price interval"
        draft.alarm("exit_stuck", detail, once=True, about=f"refused {order.symbol}")


def _report_rejection(draft: Draft, order: Order, reason: str) -> None:
    """Report a refusal once for each symbol, side and wording, and again at the tenth, the hundredth and so on."""
    alike = (order.symbol, order.side, REJECTED)
    refusal_count = sum((other.symbol, other.side, other.status) == alike for other in draft.closed.values())
    times = f" ({refusal_count} of {order.symbol} in this session)" if refusal_count >= REFUSALS_COUNTED else ""
    about = f"{order.symbol} {order.side:+d} {len(str(refusal_count))} {wording(reason)}"
    draft.alarm("order_rejected", f"{order.client_order_id}: {reason}{times}", once=True, about=about)


def _count_fate(draft: Draft, old_order: Order) -> None:
    """Count what became of an order; a refused exit is judged by the next report of a real broker."""
    order = draft.find_order(old_order.client_order_id)
    refused = order is not None and order.status == REJECTED and order.purpose == "exit"
    if refused and draft.identity.mode in BROKER_MODES:
        return
    if not (refused and hanging_orders(draft, old_order.symbol, -old_order.side)):
        note_fate(draft, old_order)


def count_refused_exits(draft: Draft, event: BrokerReported) -> None:
    """Count the exits that were refused between the last report's request and this one's.

    Passing causes do not count: a blocked account, a closed market, an order on the other side that does not end.
    Neither does a fraction, whose next order leaves another way, nor a symbol that the broker does not trade.
    """
    last = draft.broker
    if event.blocked or last.blocked or last.closed or event.market_open is False:
        return
    for order in tuple(draft.closed.values()):
        refused = order.purpose == "exit" and order.status == REJECTED and not (order.filled or order.closing)
        news = last.asked_ns <= order.news_ns < event.asked_ns and type(order.quantity) is not Part
        tradable = not draft.session.trading_refusal(order.symbol)
        if refused and news and tradable and not hanging_orders(draft, order.symbol, -order.side):
            note_outcome(draft, rejected=True)


# --- look-ups -----------------------------------------------------------------------------------------------------


def on_order_found(draft: Draft, event: OrderFound) -> None:
    """Take over an order that was looked up. Its fills wait for a report as those of the stream do."""
    for report in under_our_names(draft, (event.order,), draft.now_ns):
        order, price = draft.find_order(report.client_order_id), report.average_price
        has_fills = order is not None and report.filled > order.filled and report.symbol == order.symbol
        if order is None or price is None or not has_fills or not awaits_report(draft, order, price):
            absorb(draft, report)


def absorb(draft: Draft, report: BrokerOrder) -> None:
    """Take over the broker's state of one order: ours when it matches what was sent, else foreign."""
    order = own_or_guards(draft, report)
    if order is None or order.purpose == "foreign":
        over = is_of_guard(draft, report) and report.status in ENDED and not report.filled  # and changed nothing
        if not over and not _may_be_awaited(draft, report):
            on_foreign_order(draft, report, order)
        return
    if order.closing and report.quantity != order.quantity:  # the broker's own call chooses the quantity
        order = replace(order, quantity=exact(report.quantity))
        draft.put_order(order)
    if has_new_name(order, report):
        order = _follow_new_name(draft, order, report)
    if not _matches(draft, order, report):
        _mismatch(draft, order, report)
        return
    if report.order_id and report.order_id != order.order_id:
        order = replace(order, order_id=report.order_id)
        draft.put_order(order)
    if set_totals(draft, order, report):
        _follow(draft, report)
    elif report.status in ENDED and was_refused(draft, report.client_order_id, order.correction, exact(report.filled)):
        _end(draft, order)


def own_or_guards(draft: Draft, report: BrokerOrder) -> Order | None:
    """Return the journal's order of this name, after taking in a stop of the guard that the journal does not know."""
    order = draft.find_order(report.client_order_id)
    if order is None and report.client_order_id not in draft.broker.foreign:
        order = take_from_guard(draft, report)
    return order


def under_our_names(draft: Draft, reports: tuple[BrokerOrder, ...], asked_ns: int) -> tuple[BrokerOrder, ...]:
    """Return these orders, requested at `asked_ns`, with the journal's name on those made by the broker's own call.

    The broker names such orders itself, and the answer to the call has the id. Where that answer was lost, the only
    order that the call can have made is matched to it, once. Where several could be it, none is matched, now or later.
    """
    calls = [order for order in _all_orders(draft) if order.closing]
    if not calls:
        return reports
    open_calls = [call for call in calls if _is_unanswered(call) and call.submitted_ns < asked_ns]
    lost_calls = sorted(open_calls, key=lambda call: call.submitted_ns)
    strange = [report for report in reports if lost_calls and _is_nobodys(draft, report)]
    for call in lost_calls:
        alike = [report for report in strange if _may_have_made(draft, call, report)]
        for report in alike if len(alike) > 1 else ():
            draft.first_time(mark_of(report))
    for report in strange:
        able = [call for call in lost_calls if _may_have_made(draft, call, report)]
        if able and mark_of(report) not in draft.broker.seen:
            _take_for_call(draft, able[-1], report)
    names = {order.order_id: order.client_order_id for order in _all_orders(draft) if order.closing and order.order_id}
    return tuple(
        replace(report, client_order_id=names.get(report.order_id, report.client_order_id)) for report in reports
    )


def _all_orders(draft: Draft) -> tuple[Order, ...]:
    return (*draft.orders.values(), *draft.closed.values())


def _is_unanswered(call: Order) -> bool:
    """Return True for a call that may have reached the broker and whose order is not known.

    Calls still waiting for their answer, refused ones, and those that never left our queue do not count.
    """
    return not (call.known or call.in_hand) and (call.working or call.looked_up_ns > 0)


def _may_be_awaited(draft: Draft, report: BrokerOrder) -> bool:
    """Return whether a call still awaiting its answer can have made this order; that or a later report decides."""
    calls = [order for order in draft.orders.values() if order.closing and order.in_hand]
    return bool(calls) and _is_nobodys(draft, report) and any(_may_have_made(draft, call, report) for call in calls)


def _is_nobodys(draft: Draft, report: BrokerOrder) -> bool:
    """Return True for an order that bears no journal's name and was not judged as another party's before."""
    name = report.client_order_id
    known = draft.find_order(name) is not None or name in draft.broker.foreign or mark_of(report) in draft.broker.seen
    return not known and parse_name(name) is None


def _may_have_made(draft: Draft, call: Order, report: BrokerOrder) -> bool:
    """Return whether the call can have made this order, by its terms, its time and what is still held."""
    at_market = report.limit_price is None and isinstance(report.stop_price, UnsetType)
    changes = report.filled > 0 or report.status not in ENDED
    held = report.quantity <= -call.side * draft.held(call.symbol)
    in_time = -CLOCK_NS <= report.submitted_ns - call.submitted_ns <= CALL_NS
    alike = report.quantity == call.quantity and _matches(draft, call, report)
    return alike and at_market and changes and held and in_time


def _take_for_call(draft: Draft, call: Order, report: BrokerOrder) -> None:
    """Match the order to this call and look it up by its id; a call whose order still works is reopened."""
    if not call.working and report.status not in ENDED:
        draft.closed = {name: order for name, order in draft.closed.items() if name != call.client_order_id}
        call = replace(call, status=UNKNOWN)
    draft.look_up(replace(call, order_id=report.order_id))


def has_new_name(order: Order, report: BrokerOrder) -> bool:
    """Return whether the broker keeps an order of shares under another symbol: the broker's id is the same.

    False for contracts: an adjusted one delivers what its symbol does not say, and cannot be booked.
    """
    same = bool(order.order_id) and report.order_id == order.order_id
    return same and report.symbol != order.symbol and not is_contract(report.symbol)


def _follow_new_name(draft: Draft, order: Order, report: BrokerOrder) -> Order:
    """Follow an order that the broker keeps under its company's new symbol, and cancel it if it works.

    Like any order over a new name it ends: it may be for other shares now.
    """
    name = order.client_order_id
    draft.put_order(replace(order, symbol=report.symbol))
    if order.working:
        order_text = in_words(order.side, order.remaining, order.symbol)
        detail = f"{name} ({order_text}): the broker has it as {report.symbol} now"
        draft.alarm("shares_renamed", f"{detail}; it is cancelled")
        draft.cancel(name)
    return (draft.orders if order.working else draft.closed)[name]


def _mismatch(draft: Draft, order: Order, report: BrokerOrder) -> None:
    """Halt on another order under our name, once for each filled quantity. Ours has ended with it, or never arrived."""
    if draft.first_time(f"{report.client_order_id} {report.filled} does not match"):
        draft.risk = replace(draft.risk, reconciled=False)
        draft.halt(
            "order_mismatch",
            f"{report.client_order_id}: sent {in_words(order.side, order.quantity, order.symbol)}, the broker has "
            f"{in_words(report.side, report.quantity, report.symbol)} ({report.intent or 'no intent'})",
        )
    if report.status in ENDED or not order.known:
        _end(draft, order)


def _end(draft: Draft, order: Order) -> None:
    if order.working:
        draft.put_order(advance(order, "expired"))


def _matches(draft: Draft, order: Order, report: BrokerOrder) -> bool:
    """Return True when symbol, side, quantity, intent (where sent) and time agree with what was sent.

    An order with the id from the acceptance is ours at any time: the desk's clock may have been ahead.
    """
    intent = draft.desk.holds.intent(order.side, order.purpose)
    same = bool(order.order_id) and order.order_id == report.order_id
    return (
        (report.symbol, report.side) == (order.symbol, order.side)
        and report.filled <= report.quantity
        and (report.quantity == order.quantity or order.closing)  # the call closes fractions too
        and (not intent or report.intent in ("", intent))
        and (same or report.submitted_ns >= order.submitted_ns - SENT_EARLY_NS)
    )


def _follow(draft: Draft, report: BrokerOrder) -> None:
    """Update the order's status from the broker's."""
    word = BROKER_STATUS.get(report.status)
    order = draft.find_order(report.client_order_id)
    assert order is not None
    if word is None:
        detail = f"{report.client_order_id}: the broker says {report.status!r}"
        draft.alarm("unknown_status", detail, once=True, about=report.status)
        return
    if word == "filled" and order.filled < order.quantity and not order.correction:
        return  # "filled" with fewer shares: the answer came in the middle of a change, or a bust is not known yet
    new_order = advance(order, word)
    if new_order is order:
        return
    draft.put_order(new_order)
    if word == "canceled":
        on_foreign_cancel(draft, order)
    if word == "rejected":
        _report_rejection(draft, order, "found rejected")
    _count_fate(draft, order)


def on_order_missing(draft: Draft, event: OrderMissing) -> None:
    """Handle an order that the broker does not know: within its validity, send it again under its own name.

    Past that an entry stays unknown, counts as exposure and is looked up until its session is over; then it lapses. An
    exit has no such limit: it is sent again while all of it is needed, else replaced by a smaller one.
    """
    order = draft.orders.get(event.client_order_id)
    if order is None or draft.broker.wrong:  # a wrong account knows none of our orders
        return
    if order.known:
        young = draft.now_ns - order.news_ns < draft.trading.broker.look_up_s * SECOND_NS
        if young or 0 < order.looked_up_ns <= order.news_ns:
            draft.look_up(order)  # the answer may be older than the news of the order
            return
        draft.alarm("order_lost", f"{order.client_order_id}: accepted once, unknown to the broker now")
        draft.put_order(advance(order, "expired"))
        if order.purpose == "entry":  # not replaced: it may have filled
            draft.works = {key: work for key, work in draft.works.items() if key != order.work}
        draft.effects.append(AskBroker(f"an order is lost: {order.client_order_id}"))
        return
    order = _of_exit_under_way(draft, advance(order, "missing"))
    session = draft.session.session
    over = session is None or draft.session.ended or order.submitted_ns < session.open_ns
    if (not may_enter_auction(draft)) if order.auction else over:
        draft.put_order(advance(order, "expired"))  # it never arrived and cannot arrive any more
        return
    quantity = _needed_quantity(draft, order)
    if order.purpose == PROTECTION and _is_unwanted(draft, order):
        draft.put_order(advance(order, "expired"))  # a report that lists it after all has it cancelled
        return
    if order.purpose == "exit" and quantity is not None:
        leave = _leave_of(draft, order, quantity)
        if leave.waits:
            draft.look_up(replace(order, missing_ns=draft.now_ns))  # the report is here with its next answer
            return
        if leave.closing or leave.quantity < order.quantity:
            draft.put_order(advance(order, "expired"))
            return
    submission = submission_of(draft, order)
    if quantity is None or quantity < order.quantity or not (_allowed(draft, order) and draft.leaves(submission)):
        draft.put_order(replace(order, missing_ns=draft.now_ns, looked_up_ns=draft.now_ns))
        return
    draft.put_order(replace(advance(order, "sent_again"), looked_up_ns=draft.now_ns, missing_ns=0))
    draft.effects.append(submission)


def _is_unwanted(draft: Draft, stop: Order) -> bool:
    """Return whether a stop that never arrived is not needed: cancelled, too large, or an exit is under way."""
    exits = draft.exit_of(stop.symbol) is not None
    return exits or bool(stop.cancel_asked_ns) or draft.held(stop.symbol) < stop.quantity


def _of_exit_under_way(draft: Draft, order: Order) -> Order:
    """Attach an exit that never arrived and lost its work, as by a change of the code, to the symbol's new exit.

    The new exit would wait for its end forever.
    """
    work = draft.exit_of(order.symbol)
    if order.purpose != EXIT or order.work in draft.works or work is None or work.order_id:
        return order
    draft.works = {**draft.works, work.key: replace(work, order_id=order.client_order_id)}
    return replace(order, work=work.key)


def _needed_quantity(draft: Draft, order: Order) -> Quantity | None:
    """Return the quantity that the order's work still needs; None when it was given up or the market is closed."""
    if order.purpose == PROTECTION:  # sent again under its name while all of it is held and nothing is to be sold
        return draft.held(order.symbol) if may_send(draft) and draft.exit_of(order.symbol) is None else None
    work = draft.works.get(order.work)
    if work is None or not (order.auction or may_send(draft)):
        return None
    holding = draft.held(work.symbol)
    return work.goal - holding if work.purpose == "entry" else abs(holding) - work.goal


def _leave_of(draft: Draft, order: Order, quantity: Quantity) -> Leave:
    """Return what may be ordered in place of an exit that never arrived; less, or another way, replaces it.

    A call of the broker bears no name of ours and shows in the positions only, so it is never repeated as it is.
    """
    if quantity < order.quantity or order.closing:
        return Leave(0)
    return sellable(draft, draft.works[order.work], order.side, quantity + order.remaining)


def _allowed(draft: Draft, order: Order) -> bool:
    """Return True when an order that the broker does not know may be sent again: an exit, and an entry within its time.

    After a start or lost news such an order itself keeps the desk unreconciled; a later report in which all else agreed
    is enough. It keeps its name, so the broker cannot hold it twice.
    """
    if order.purpose in ("exit", PROTECTION):
        return not (order.purpose == PROTECTION and order.cancel_asked_ns)
    risk, broker = draft.risk, draft.broker
    agrees = risk.reconciled or (broker.suspicion is None and broker.agreed_ns > max(broker.started_ns, broker.lost_ns))
    may_trade = agrees and risk.halt is None and risk.pause is None and not risk.stopping
    return may_trade and not order.cancel_asked_ns and draft.now_ns <= order.valid_until_ns


def on_trade_corrected(draft: Draft, event: TradeCorrected) -> None:
    """Book a bust or correction: the totals after it become a correction of their own.

    Where the order's own totals do not show it, the ledger is asked which fills stand.
    """
    order = draft.find_order(event.client_order_id)
    if order is None:
        on_unknown_order(draft, event.client_order_id)
        return
    if event.execution_id in order.corrected_by:
        return
    draft.alarm("trade_corrected", f"{event.client_order_id}: {event.reason}, {event.cumulative_quantity} stand")
    order = replace(order, corrected_by=(*order.corrected_by, event.execution_id))
    draft.put_order(order)
    if is_replaced(order, event.cumulative_quantity, event.cumulative_cost):
        draft.put_order(replace(order, correction=order.correction + 1))  # older news of it is not booked any more
        draft.effects.append(AskBroker(f"{event.client_order_id}: {event.reason}", at_once=True))
        return
    draft.first_time(correction_name(order.client_order_id, len(order.corrected_by)))
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
        0,
        order.correction + 1,
    )
    book_correction(draft, order, fill)


def on_broker_lost(draft: Draft, event: BrokerLost) -> None:
    """Take no new risk until a report agrees again: order news may be missing."""
    draft.risk = replace(draft.risk, reconciled=False)
    draft.broker = replace(draft.broker, lost_ns=draft.now_ns, taken=event.taken or UNSET)
    if event.taken is not True:  # a killed process has the connection for a minute: what lasts is `unreconciled`
        draft.alarm("broker_lost", event.detail, once=True)


# --- other than orders -----------------------------------------------------------------------------------------------


def on_contract_expired(draft: Draft, event: ContractExpired) -> None:
    """Book an expiry; shares that an exercise left halt new risk until a person has looked at them."""
    book, position = book_expiry(draft.book, event)
    cause = draft.cause if draft.cause is not RECONCILED else Cause("exercise" if event.shares else "expiry")
    with draft.because(cause):
        draft.put_book(book)
        if position is not None and event.shares:
            cash = -event.strike * event.shares
            draft.put_book(move_shares(book, event.underlying, event.shares, cash, event.time_ns))
    if position is not None:
        end_trade(draft, position)
        draft.works = {key: work for key, work in draft.works.items() if work.symbol != event.symbol}
    if event.shares:
        draft.halt("shares_from_exercise", f"{event.symbol} was exercised: {event.shares:+d} {event.underlying}")
    revalue(draft)


def on_cash_transferred(draft: Draft, event: CashTransferred) -> None:
    transfer(draft, event.amount)
