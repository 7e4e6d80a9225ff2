"""Exits by a rule: requested once, recorded as a decision of their own, for every kind of desk."""

from __future__ import annotations

from decimal import Decimal

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import mid
from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.events import Quote
from daemon.core.orders import Order, Work
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import TOUCH_USD, high_of, reached_stop, trail_of
from daemon.core.risk.marks import for_stop, guarded, position_price, would_fetch
from daemon.core.session import flat_by_ns, flatten_from_ns
from daemon.core.state import Position
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity
from strategies.kit.units import MINUTE_NS, SECOND_NS

EXIT_LEG = 1  # an exit's leg; entries have leg 0
BY_PRICE = frozenset(("stop_loss", "trailing_stop", "daily_loss", "drawdown", "panic"))
"""These exits end at the market, however wide the quote."""


def request_exit(draft: Draft, decision: int, symbol: str, goal: Quantity, reason: str) -> bool:
    """Request to hold at most `goal` of `symbol`: entries end, an exit under way takes the lower goal.

    An exit that waits for nothing replaces one that waits, even for the same goal: a rule's exit replaces a basket's
    sale, which waits for a quote; an exit by price replaces an option's exit, which may wait for a better one.

    Returns True when this requested something new.
    """
    work = draft.exit_of(symbol)
    if work is not None:
        if work.goal <= goal and not _takes_over(draft, work, reason):
            return False
        goal = min(goal, work.goal)
        draft.works = {**draft.works, work.key: replace(work, goal=goal, reason=reason)}
        draft.wanted = {**draft.wanted, symbol: goal}
        return True
    draft.end_buys(symbol)
    draft.wanted = {**draft.wanted, symbol: goal}
    key = f"{decision}.{EXIT_LEG}"
    draft.works = {**draft.works, key: Work(key, decision, EXIT, reason, symbol, goal, -1, "", draft.now_ns, None)}
    return True


def _takes_over(draft: Draft, work: Work, reason: str) -> bool:
    if draft.desk.holds.by_basket:
        return work.reason == "policy"
    by_price = reason in BY_PRICE and work.reason not in BY_PRICE
    return by_price and not draft.identity.by_tape  # a tape knows no wide quote: nothing waits there


def exit_by_rule(draft: Draft, symbol: str, reason: str, goal: Quantity = 0) -> bool:
    """Reduce the position to `goal` for a reason other than the policy; recorded as a decision of its own.

    Returns True when this requested something new.
    """
    number = draft.decision + 1
    is_new = request_exit(draft, number, symbol, goal, reason)
    if is_new:
        draft.decision = number
        work = draft.exit_of(symbol)
        draft.records.append(
            DecisionRow(
                decision=number,
                kind="rule",
                bar_ns=draft.session.last_bar_ns,
                time_ns=draft.now_ns,
                action=reason,
                resolved="EXIT",
                work=work.key if work else None,
                outcome="exit",
            )
        )
    return is_new


def exit_at_stop(draft: Draft, position: Position, quote: Quote, bar_ns: int) -> None:
    """Leave a position whose price reached its stop or its target; `bar_ns` is the bar that the quote closes, or 0."""
    stop_quote, fetch = for_stop(draft, quote), would_fetch(draft, position.symbol)
    if stop_quote is None:
        return
    if fetch is not None and fetch < stop_quote.low:
        stop_quote = replace(stop_quote, low=fetch)
    if position.opened_ns > bar_ns > 0 and not guarded(draft):  # opened within this bar: part of its range was before
        stop_quote = replace(stop_quote, low=mid(quote), high=mid(quote))
    reason = reached_stop(position, stop_quote, draft.trading.sizing) or _trail(draft, position, stop_quote.high, fetch)
    if reason:
        exit_by_rule(draft, position.symbol, reason)


def _trail(draft: Draft, position: Position, high: Decimal, fetch: Decimal | None) -> str:
    """Let the trailing stop follow the highest price; return "trailing_stop" if the mark is below the new stop.

    Within a bar the order of high and low is unknown: the low is compared with the stop before the bar, the close with
    the stop that follows the high.
    """
    sizing, symbol = draft.trading.sizing, position.symbol
    if not sizing.trailing_stop or position.quantity <= 0 or high <= high_of(position):
        return ""
    draft.put_high(symbol, high)
    mark = position_price(draft, symbol)
    if mark is None:
        return ""
    level = trail_of(draft.book.positions[symbol], sizing)
    return "trailing_stop" if float(mark if fetch is None else min(mark, fetch)) <= level + TOUCH_USD else ""


def exit_in_time(draft: Draft, position: Position, session: Session) -> None:
    """Leave a position before the close, after its time stop, or when held overnight; raise an alarm when it is late.

    The time stop acts a second early: a tape fills just after a bar's open, and has no times but the ends of bars.
    """
    rules, symbol, limit_min = draft.trading.execution, position.symbol, draft.trading.sizing.time_stop_min
    if position.opened_ns < session.open_ns <= draft.now_ns:
        exit_by_rule(draft, symbol, "held_overnight")
    elif draft.now_ns >= flatten_from_ns(session, position.expiry, rules, draft.desk.grid):
        exit_by_rule(draft, symbol, "flat_before_close")
        if draft.now_ns > flat_by_ns(session, position.expiry, rules):
            unit = "contracts" if position.right else "shares"
            draft.alarm(
                "not_flat", f"{symbol}: {position.quantity} {unit} held past the deadline", once=True, about=symbol
            )
    elif (
        not isinstance(limit_min, UnsetType)
        and draft.now_ns - max(position.opened_ns, session.open_ns) > limit_min * MINUTE_NS - SECOND_NS
    ):
        exit_by_rule(draft, symbol, "time_stop")


def flatten_when_due(draft: Draft) -> None:
    """Leave positions whose time is over; called after every event.

    Positions leave at once, late fills included, on a flatten halt, a daily-loss halt (where configured), a failed
    panic, and a stop of the desk that leaves nothing.
    """
    session = draft.session.session
    if session is None or draft.session.ended:
        return
    holds = draft.desk.holds
    if reason := draft.leaves_for():
        for symbol in holds.leavable(draft):
            exit_by_rule(draft, symbol, reason)
    if draft.broker.stood_down:
        _leave_after_panic(draft, session)
    if draft.risk.stop_flat:
        for symbol in holds.leavable(draft):
            exit_by_rule(draft, symbol, "stop")
    holds.flatten(draft, session)


def _leave_after_panic(draft: Draft, session: Session) -> None:
    """Sell what a failed panic left; report once a session what the broker still lists of the desk's own."""
    broker, halt = draft.broker, draft.risk.halt
    if broker.follows_panic:
        for symbol in draft.desk.holds.leavable(draft):
            exit_by_rule(draft, symbol, "panic")
    over = halt is not None and halt.since_ns < session.open_ns  # the panic was in an earlier session
    positions = draft.book.positions.values()
    rest_text = ", ".join(f"{p.quantity} {p.symbol}" for p in positions if broker.available.get(p.symbol, 1))
    if rest_text and (over or broker.follows_panic):
        draft.alarm("panic_failed", f"still held after a panic: {rest_text}", once=True, about="left")


def reduce_excess(draft: Draft, order: Order, quantity: Quantity) -> None:
    """Sell the part of an entry's new fill of `quantity` that exceeds goal or limit, and raise an alarm.

    Adopted, assigned or split contracts are not counted.
    """
    if order.purpose != ENTRY or order.side < 0 or quantity <= 0:
        return
    symbol, holding = order.symbol, draft.held(order.symbol)
    over = max(holding - draft.wanted.get(symbol, holding), draft.desk.holds.beyond_limit(draft))
    excess, work = min(over, quantity), draft.exit_of(symbol)
    if excess > 0 and (work is None or work.goal > holding - excess):  # else it is being sold
        why = f"{order.client_order_id} filled {quantity} {symbol}, {excess} more than wanted; {holding} are held"
        draft.alarm("excess_filled", why)
        exit_by_rule(draft, symbol, "excess", holding - excess)
