"""The guards: rules on marks and outcomes that halt or pause the desk, whoever wants to trade.

A halt is state: it cancels working entries, survives a restart and ends only by a command that states a reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from daemon.core.broker.book import session_loss
from daemon.core.broker.heard import note_moved
from daemon.core.broker.orders import CANCELING, REJECTED, SUBMITTED, UNKNOWN, Order, Work, advance
from daemon.core.desks.shares.basket import works_of
from daemon.core.effects import AnyEffect, CancelOrder, LookUpOrder, RaiseAlarm
from daemon.core.events import Quote
from daemon.core.records import OrderRow
from daemon.core.risk.desk_gates import LOSSES, reject_rate
from daemon.core.risk.marks import mark_book
from daemon.core.risk.view import MINUTE_NS, SECOND_NS
from daemon.core.state import SEEN_MAX, Draft, Halt, Pause, Position

LEAVING = frozenset(("daily_loss", "blind", "disk_full", "flatten"))  # the halts that also leave every position
URGENCY = {"cash_difference": -1, "daily_loss": 1, "blind": 1, "disk_full": 2, "flatten": 2, "panic": 3}  # 0 of others
TOUCH_USD = 1e-9  # a price that is met exactly counts, whatever the last bit of a product says
_AWAITED = frozenset((UNKNOWN, CANCELING))
UNRECONCILED_NS = 5 * MINUTE_NS  # so long the comparison may take to agree before the operator is told
CASES_MAX = 20  # cases of one alarm a session: whoever words them, they flood nobody
CASE_LETTERS = 200
_FIGURES = re.compile(r"\d+(\.\d+)?")
CANCEL_AGAIN_NS = 30 * SECOND_NS  # a refused or unanswered cancel is asked for again only after this
CANCEL_STUCK_NS = 2 * CANCEL_AGAIN_NS  # and is an alarm when it was asked for so long without an end


def alarm(draft: Draft, name: str, detail: str, *, once: bool = False, about: str = "") -> bool:
    """Raise an alarm; with `once` one for each case a session: `about` is what makes another case of the same name.

    There are `CASES_MAX` cases of a name at most; `case_over` ends them. Returns whether it was raised.
    """
    if once:
        case = f"{name} {about}" if about else name
        if case in draft.risk.alarms or sum(_is_of(told, name) for told in draft.risk.alarms) >= CASES_MAX:
            return False
        draft.risk = replace(draft.risk, alarms=(*draft.risk.alarms, case))
    draft.effects.append(RaiseAlarm(name, detail))
    return True


def wording(detail: str) -> str:
    """What a text is about: its words without its figures, which may change from one look to the next."""
    return _FIGURES.sub("#", detail)[:CASE_LETTERS]


def case_over(draft: Draft, *names: str) -> None:
    """What these alarms report is over: when it comes again it is another case."""
    kept = tuple(told for told in draft.risk.alarms if not any(_is_of(told, name) for name in names))
    if len(kept) != len(draft.risk.alarms):
        draft.risk = replace(draft.risk, alarms=kept)


def _is_of(told: str, name: str) -> bool:
    return told == name or told.startswith(f"{name} ")


def halt(draft: Draft, reason: str, detail: str) -> None:
    """Take no new risk until resumed: the state is set, what the policy began ends, the operator is told.

    The first reason stays, unless a later one is more urgent: then it takes over and names the first. One that does not
    is an alarm, once for each case.
    """
    former = draft.risk.halt
    if former is not None and URGENCY.get(reason, 0) > URGENCY.get(former.reason, 0):
        detail = f"{detail}; halted before: {former.reason}: {former.detail}"
        former = None
    if former is None:
        draft.risk = replace(draft.risk, halt=Halt(reason, detail, draft.now_ns))
        draft.effects.append(RaiseAlarm(reason, detail))
    elif former.reason != reason:
        alarm(draft, reason, detail, once=True, about=wording(detail))
    end_trading(draft, leaving=leaves_all(draft))


def leaves_all(draft: Draft) -> bool:
    """True while the halt's reason is one that also leaves every position."""
    halted = draft.risk.halt
    if halted is None or (halted.reason == "daily_loss" and not draft.trading.risk.daily_loss_flatten):
        return False
    return halted.reason in LEAVING


def first_time(draft: Draft, name: str) -> bool:
    """True when `name` was not judged before: reports repeat it each minute, or after every start. It is remembered."""
    if name in draft.broker.seen:
        return False
    draft.broker = replace(draft.broker, seen=(*draft.broker.seen, name)[-SEEN_MAX:])
    return True


def end_trading(draft: Draft, *, leaving: bool = False) -> None:
    """Give up what the policy began and ask for the cancel of its orders: entries, and a daily desk's basket whole.

    A basket's sales without its buys would leave the account in cash. Where all is `leaving` anyway they go on, and the
    exits by a rule take them over; those go on in any case.
    """
    basket = draft.daily is not None and not leaving
    ended = {
        key: work
        for key, work in draft.works.items()
        if work.purpose == "entry" or (basket and work.reason == "policy")
    }
    for name, order in draft.orders.items():
        if order.purpose == "entry" or order.work in ended:
            cancel(draft, name)
    if draft.daily is not None:
        note_given_up(draft, [*ended.values(), *_waiting_works(draft)])
        draft.basket = replace(draft.basket, waiting=None)
    draft.works = {key: work for key, work in draft.works.items() if key not in ended}


def _waiting_works(draft: Draft) -> tuple[Work, ...]:
    """The works that the basket would have that waits for the gates."""
    waiting, positions = draft.basket.waiting, draft.book.positions
    if waiting is None:
        return ()
    held = {symbol: position.quantity for symbol, position in positions.items()}
    return works_of(waiting.row.decision, waiting.legs, held, draft.now_ns)


def cancel_entries(draft: Draft) -> None:
    """Ask for the cancel of every working entry order."""
    for name, order in draft.orders.items():
        if order.purpose == "entry":
            cancel(draft, name)


def note_given_up(draft: Draft, works: Sequence[Work]) -> None:
    """Note and tell what these works of a daily desk's basket did not come to; they are not begun again that day."""
    missing: dict[str, int] = {}
    for work in works:
        position = draft.book.positions.get(work.symbol)
        change = work.goal - (position.quantity if position is not None else 0)
        if change * (1 if work.purpose == "entry" else -1) > 0:
            missing[work.symbol] = change
    if missing:
        draft.basket = replace(draft.basket, given_up={**draft.basket.given_up, **missing})
        told = ", ".join(f"{change:+d} {symbol}" for symbol, change in missing.items())
        draft.effects.append(RaiseAlarm("basket_unfinished", f"not traded today: {told}"))


def cancel(draft: Draft, client_order_id: str) -> None:
    """Ask for the cancel of a working order, and again only after `CANCEL_AGAIN_NS`: no loop with a broker who refuses.

    An unknown order cannot be cancelled until the broker knows it.
    """
    order = draft.orders[client_order_id]
    asked = advance(order, "cancel_requested")
    again = bool(order.cancel_asked_ns)
    if asked.status != CANCELING or (again and draft.now_ns - order.cancel_asked_ns < CANCEL_AGAIN_NS):
        return
    if not left(draft, CancelOrder(client_order_id)):
        return
    since_ns = order.cancel_since_ns or draft.now_ns
    put_order(draft, replace(asked, cancel_asked_ns=draft.now_ns, cancel_since_ns=since_ns))
    draft.effects.append(CancelOrder(client_order_id))
    if draft.now_ns - since_ns >= CANCEL_STUCK_NS and order.purpose != "exit":  # an exit's is `exit_stuck`
        why = f"{client_order_id} ({order.side:+d} {order.remaining} {order.symbol}) does not end"
        alarm(draft, "cancel_stuck", why, once=True, about=client_order_id)


def left(draft: Draft, effect: AnyEffect) -> bool:
    """Whether an effect leaves the process: always, but where other code's journal is taken as it happened."""
    return draft.facts is None or effect in draft.facts


def put_order(draft: Draft, order: Order) -> None:
    """Store an order, among the working or the ended ones, and its read-model row."""
    name = order.client_order_id
    former = draft.find_order(name)
    if former is None or former.status != order.status:
        order = replace(order, news_ns=draft.now_ns)
    if former is None or (former.status, former.filled) != (order.status, order.filled):
        note_moved(draft, order.symbol)
    if order.working:
        draft.orders = {**draft.orders, name: order}  # an ended order never works again: `LIFE` has no such way
    else:
        draft.orders = {key: other for key, other in draft.orders.items() if key != name}
        draft.closed = {**draft.closed, name: order}
    draft.records.append(_order_row(order, draft.now_ns))


def _order_row(order: Order, now_ns: int) -> OrderRow:
    return OrderRow(
        client_order_id=order.client_order_id,
        work=order.work,
        purpose=order.purpose,
        reason=order.reason,
        symbol=order.symbol,
        side=order.side,
        quantity=order.quantity,
        limit_price=None if order.limit_price is None else str(order.limit_price),
        status=order.status,
        filled=order.filled,
        cost=str(order.cost),
        fees_usd=str(order.fees),
        submitted_ns=order.submitted_ns,
        updated_ns=now_ns,
    )


def revalue(draft: Draft) -> None:
    """Mark the book at the last known mids and let the loss limits look at it."""
    book = draft.book = mark_book(draft, draft.book)
    limits = draft.trading.risk
    loss, halted = session_loss(book), draft.risk.halt
    if loss is None or (halted is not None and halted.reason in LEAVING):
        return
    if loss >= limits.daily_loss_max:
        start = f"{book.session_start_equity} USD at the session's start"
        moved = f" and {book.transfers:+} USD of transfers" if book.transfers else ""
        detail = f"lost {loss:.4f} of {start}{moved}, limit {limits.daily_loss_max}"
        halt(draft, "daily_loss", detail)
        return
    drawdown = float((book.peak - book.equity) / book.peak) if book.peak > 0 else 0.0
    if drawdown >= limits.drawdown_max and halted is None:
        halt(draft, "drawdown", f"equity {book.equity} USD, peak {book.peak} USD, limit {limits.drawdown_max}")


def trade_closed(draft: Draft, position: Position) -> None:
    """A position ended with `position.pnl` after fees: cooldowns, losses in a row."""
    risk, limits, stats = draft.risk, draft.trading.risk, draft.stats
    lost = position.pnl < 0
    if draft.daily is not None:  # a basket closes many at once: these are no trades in a row
        draft.stats = replace(stats, trades=stats.trades + 1, wins=stats.wins + (position.pnl > 0))
        return
    losses = risk.consecutive_losses + 1 if lost else 0
    risk = replace(
        risk,
        last_trade_ns=draft.now_ns,
        last_loss_ns=draft.now_ns if lost else risk.last_loss_ns,
        consecutive_losses=losses,
    )
    if losses >= limits.consecutive_losses_max:
        until = draft.now_ns + limits.consecutive_losses_pause_min * MINUTE_NS
        operator = risk.pause is not None and not risk.pause.until_ns  # a pause without end stays
        risk = replace(risk, pause=risk.pause if operator else Pause(LOSSES, until), consecutive_losses=0)
        draft.effects.append(RaiseAlarm(LOSSES, f"{losses} losses in a row"))
    draft.risk = risk
    draft.stats = replace(stats, trades=stats.trades + 1, wins=stats.wins + (position.pnl > 0))


def note_fate(draft: Draft, before: Order) -> None:
    """Count what became of an order, once: at its first fill or its end. Too many rejections among the last ones halt.

    An acceptance is no fate: the venue may still reject the order. A refused call to close what other orders hold says
    nothing of the desk's orders. `before` is it as it was before the news.
    """
    order = draft.find_order(before.client_order_id)
    assert order is not None
    if _has_fate(before) or not _has_fate(order) or order.purpose == "foreign" or order.closing:
        return
    limits, rejected = draft.trading.risk, order.status == REJECTED
    draft.risk = replace(draft.risk, outcomes=(*draft.risk.outcomes, rejected)[-limits.reject_rate_orders :])
    rate = reject_rate(draft.risk, limits)
    if rate is not None and rate >= limits.reject_rate_max:
        halt(draft, "reject_rate", f"{rate:.2f} of the last {limits.reject_rate_orders} orders were rejected")


def _has_fate(order: Order) -> bool:
    return order.filled > 0 or not order.working


def look_up(draft: Draft, order: Order) -> None:
    """Ask what became of an order; asked again only after `look_up_s`."""
    put_order(draft, replace(order, looked_up_ns=draft.now_ns))
    draft.effects.append(LookUpOrder(order.client_order_id))


def chase(draft: Draft) -> None:
    """Look up every order that waits for news too long: unknown, or its cancel unanswered. Never one in hand.

    One that the broker said it does not know is asked for once a minute: the answer hardly changes.
    """
    look_up_ns = draft.trading.broker.look_up_s * SECOND_NS
    for order in tuple(draft.orders.values()):
        patience_ns = max(look_up_ns, MINUTE_NS) if order.absent else look_up_ns
        awaited = order.status in _AWAITED and not order.in_hand
        if awaited and draft.now_ns - max(order.news_ns, order.looked_up_ns) >= patience_ns:
            look_up(draft, order)


def check_blind(draft: Draft) -> None:
    """In a session: a desk that stays unreconciled is told; and with a position open, bars, quotes or reconciliation
    lost for too long are answered as `on_blind` says.
    """
    session, rules = draft.session.session, draft.trading.broker
    if draft.identity.mode == "replay" or session is None or draft.session.ended:
        return  # a tape is never lost
    if not session.open_ns <= draft.now_ns < session.close_ns:
        return
    since_ns = max(session.open_ns, draft.broker.started_ns)  # what a start has to find first takes its time
    _tell_unreconciled(draft, since_ns)
    held = [position for position in draft.book.positions.values() if position.right]
    if not held:
        return
    patience_ns = rules.blind_min * MINUTE_NS
    bar_end_ns = max(draft.session.last_bar_ns + draft.machine.spec.bar_interval_s * SECOND_NS, since_ns)
    quoted_ns = min(_seen_ns(draft, position) for position in held)
    lost = []
    if draft.now_ns - bar_end_ns >= patience_ns:
        lost.append("bars")
    if draft.now_ns - max(quoted_ns, since_ns) >= patience_ns:
        lost.append("quotes")
    agreed_ns = max(draft.broker.agreed_ns, draft.broker.sighted_ns)  # what is held is known, whatever the cash is
    if draft.broker.account and draft.now_ns - max(agreed_ns, since_ns) >= patience_ns:
        lost.append("reconciliation")
    if not lost:
        return
    symbols = ", ".join(position.symbol for position in held)
    detail = f"{' and '.join(lost)} lost for {rules.blind_min} minutes while {symbols} is held"
    if rules.on_blind == "flatten":
        halt(draft, "blind", detail)
    elif rules.on_blind == "hold":
        halt(draft, "blind_hold", detail)
    else:
        alarm(draft, "blind", detail, once=True, about=wording(detail))


def _seen_ns(draft: Draft, position: Position) -> int:
    """When the position was last quoted; what was never quoted is missed from its opening on (or taking over)."""
    quote = draft.quotes.get(position.symbol)
    return max(quote.quoted_ns if quote is not None else 0, position.opened_ns)


def _tell_unreconciled(draft: Draft, from_ns: int) -> None:
    """Tell once a session that no new risk is taken because book and broker do not agree, or orders stay unknown."""
    if draft.risk.reconciled:
        return
    unsettled = {name: order for name, order in draft.orders.items() if order.status in (SUBMITTED, UNKNOWN)}
    since_ns = min([order.submitted_ns for order in unsettled.values()] + [draft.broker.agreed_ns])
    if draft.now_ns - max(since_ns, from_ns) < UNRECONCILED_NS:
        return
    suspicion = draft.broker.suspicion
    why = "; ".join(suspicion.differences) if suspicion else ", ".join(unsettled) or "no report agreed"
    alarm(draft, "unreconciled", f"for {UNRECONCILED_NS // MINUTE_NS} minutes or more: {why}", once=True)


def stop_reached(position: Position, quote: Quote, stop_loss: float, take_profit: float) -> str:
    """`stop_loss`, `take_profit` or "": the quote's range against the average price; when both, the stop counts."""
    average = float(position.cost) / position.quantity
    if float(quote.low) <= average * (1.0 - stop_loss) + TOUCH_USD:
        return "stop_loss"
    if float(quote.high) >= average * (1.0 + take_profit) - TOUCH_USD:
        return "take_profit"
    return ""
