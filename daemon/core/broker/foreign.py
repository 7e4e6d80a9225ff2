"""Orders and positions that are not the desk's own: made by a person, by the broker, or by another program.

`foreign_orders` says what they mean: `halt` (default), `ignore` (they are counted beside the desk's own, their cash is
a transfer) or `adopt` (they become the desk's). Never: a sale of what the desk holds goes unnoticed.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.broker.fills import is_ours, set_totals, total_cost, without_gain
from daemon.core.broker.heard import note_touched
from daemon.core.draft import Draft
from daemon.core.events import BrokerOrder
from daemon.core.orders import ACCEPTED, BROKER_STATUS, CANCELED, Order, advance
from daemon.core.state import BROKER_MODES, ZERO

FOREIGN = "foreign"  # an order's purpose
ENDED = frozenset(("filled", "canceled", "expired", "rejected", "replaced", "done_for_day"))
GRID = Decimal("0.0001")  # of a share of a cost


def on_foreign_order(draft: Draft, found: BrokerOrder, known: Order | None) -> None:
    """What an order that the desk did not send means; `known` is it as it was adopted before."""
    rule, ignored = draft.trading.broker.foreign_orders, found.client_order_id in draft.broker.foreign
    if known is None and not ignored:
        if found.submitted_ns < draft.broker.began_ns and found.status in ENDED:
            return  # from before this journal
        if is_ours(draft, found.client_order_id):
            if found.status not in ENDED:  # one of an earlier session is closed and forgotten
                _hear(draft, found)
                _refuse(draft, found, "bears this desk's name, and its journal does not know it")
            return
    touches = _touches(draft, found, new=known is None and not ignored)
    if touches:
        _hear(draft, found)
    if ignored or (known is None and is_fraction(draft, found)):  # what was ignored once is so to its end
        _ignore(draft, found)
    elif known is not None or rule == "adopt":
        _adopt(draft, found, known)
    elif rule == "ignore":
        _ignore(draft, found)
    else:
        _refuse(draft, found, "was not sent by this desk")
        return
    if touches and not is_fraction(draft, found):
        _refuse(draft, found, "touches what this desk holds or works on")


def _touches(draft: Draft, found: BrokerOrder, *, new: bool) -> bool:
    """True for an order in what the desk held or worked on when it heard of it first."""
    mark = f"{found.client_order_id} touches"
    if new and _concerns(draft, found.symbol):
        draft.first_time(mark)
    return mark in draft.broker.seen


def _concerns(draft: Draft, symbol: str) -> bool:
    at_work = any(order.symbol == symbol and order.purpose != FOREIGN for order in draft.orders.values())
    return bool(draft.held(symbol)) or at_work or any(work.symbol == symbol for work in draft.works.values())


def _hear(draft: Draft, found: BrokerOrder) -> None:
    """Let what is held of the symbol be unknown until the next report, once for each news of the order."""
    if draft.first_time(f"{found.client_order_id} {found.status} {found.filled}"):
        note_touched(draft, found.symbol, f"somebody else's order {found.client_order_id} ({_told(found)})")


def is_fraction(draft: Draft, found: BrokerOrder) -> bool:
    """True for less than one share, such as a reinvested dividend buys: it lies beside what any desk holds."""
    if draft.contract_of(found.symbol) is not None:
        return False
    wanted = found.quantity or (found.filled if found.status in ENDED else ZERO)  # ordered in USD: no quantity
    return 0 < wanted < 1


def on_cancel_by_others(draft: Draft, order: Order) -> None:
    """Halt when somebody else, or the broker, cancelled an order of the desk's that it wanted to go on working.

    What the close or the end of an auction cancels was over.
    """
    session = draft.session.session
    if draft.identity.mode not in BROKER_MODES or order.purpose == FOREIGN or order.cancel_asked_ns:
        return
    if session is None or draft.session.ended:
        return
    if draft.now_ns >= (session.open_ns if order.auction else session.close_ns):
        return
    note_touched(draft, order.symbol, f"somebody else cancelled {order.client_order_id}")
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt("foreign_order", f"order {order.client_order_id} was cancelled, and not by this desk")


def _refuse(draft: Draft, found: BrokerOrder, why: str) -> None:
    """Halt, once for as much as it filled: reports repeat it after every start. One that never filled means nothing."""
    mark = f"{found.client_order_id} {found.filled} {why}"
    if (not found.filled and found.status in ENDED) or not draft.first_time(mark):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt("foreign_order", f"order {found.client_order_id} ({_told(found)}) {why}")


def _told(found: BrokerOrder) -> str:
    return f"{found.side:+d} {found.quantity} {found.symbol}, {found.status}, filled {found.filled}"


def _adopt(draft: Draft, found: BrokerOrder, known: Order | None) -> None:
    """Book its fills as the desk's own; the order itself is left to whoever sent it."""
    if known is None:
        if not found.side or found.quantity != int(found.quantity) or not can_hold(draft, found.symbol):
            _refuse(draft, found, "is of a kind that this desk cannot hold")
            return
        draft.alarm("foreign_order", f"adopted: {found.client_order_id} ({_told(found)})")
        known = _as_order(found)
        draft.put_order(known)
    if found.side < 0 and draft.held(found.symbol) < found.filled - known.filled:
        draft.risk = replace(draft.risk, reconciled=False)  # its purchase was not told yet, or it is short:
        return  # the next report has all orders and the positions
    if set_totals(draft, known, found):
        now = draft.find_order(found.client_order_id)
        word = BROKER_STATUS.get(found.status, "")
        if now is not None and (word != "filled" or now.filled == now.quantity):
            moved = advance(now, word)
            if moved is not now:
                draft.put_order(moved)


def can_hold(draft: Draft, symbol: str) -> bool:
    """True for an option and for shares of the desk's own underlying: what else there is has no mark here."""
    return draft.contract_of(symbol) is not None or symbol in draft.spec.symbols


def _as_order(found: BrokerOrder) -> Order:
    """An order of somebody else before its first fill."""
    return Order(
        client_order_id=found.client_order_id,
        work="",
        purpose=FOREIGN,
        reason="by hand",
        symbol=found.symbol,
        side=found.side,
        quantity=int(found.quantity),
        limit_price=found.limit_price,
        status=ACCEPTED,
        submitted_ns=found.submitted_ns,
        order_id=found.order_id,
    )


def met_at_begin(draft: Draft, found: BrokerOrder) -> None:
    """An open order that a new journal meets: what it filled is in cash and positions already."""
    adopts = draft.trading.broker.foreign_orders == "adopt" and not is_fraction(draft, found)
    rule = "adopted" if adopts else "ignored"
    draft.alarm("foreign_order", f"{rule}: {found.client_order_id} ({_told(found)})")
    known = replace(_as_order(found), filled=int(found.filled), cost=total_cost(draft, found))
    if rule == "adopted":
        draft.put_order(known)
    else:
        draft.broker = replace(draft.broker, foreign={**draft.broker.foreign, found.client_order_id: known})


def _ignore(draft: Draft, found: BrokerOrder) -> None:
    """Count what it filled beside the desk's own, and its cash as a transfer."""
    broker, before = draft.broker, draft.book
    known = broker.foreign.get(found.client_order_id)
    if known is None:
        draft.alarm("foreign_order", f"ignored: {found.client_order_id} ({_told(found)})")
        known = _as_order(found)
    filled, cost, ended = int(found.filled), total_cost(draft, found), found.status in ENDED
    came_late = filled < known.filled or (not ended and (known.status == CANCELED or cost < known.cost))
    if came_late or (filled and found.average_price is None):
        return  # an old answer, also of less than a share, or one in the middle of a change
    moved = replace(known, filled=filled, cost=cost, status=CANCELED if ended else ACCEPTED)
    draft.broker = replace(broker, foreign={**broker.foreign, found.client_order_id: moved})
    if (filled, cost) == (known.filled, known.cost):
        return
    paid = -found.side * (cost - known.cost) * (OPTION_MULTIPLIER if draft.contract_of(found.symbol) else 1)
    draft.book = replace(before, cash=before.cash + paid)
    hold_beside(draft, found.symbol, found.side * (filled - known.filled))
    gave_up = _give_up_sold(draft, found.symbol)
    without_gain(draft, before)
    if gave_up:
        _refuse(draft, found, "sold what this desk holds")


def _give_up_sold(draft: Draft, symbol: str) -> int:
    """Give up what others sold of the desk's own; returns how many."""
    beside, own = draft.broker.foreign_held.get(symbol, 0), draft.held(symbol)
    if not beside < 0 < own:
        return 0
    sold = min(own, -beside)
    hold_beside(draft, symbol, sold)
    keep_own(draft, symbol, own - sold)
    return sold


def give_up_sold(draft: Draft) -> None:
    """Give up what others sold of the desk's own before its purchase was told."""
    for symbol in tuple(draft.broker.foreign_held):
        before = draft.book
        if sold := _give_up_sold(draft, symbol):
            without_gain(draft, before)
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("foreign_order", f"others sold {sold} {symbol} that this desk holds")


def keep_own(draft: Draft, symbol: str, quantity: int) -> None:
    """Leave `quantity` of what the desk holds of `symbol`, at its share of the cost: somebody else sold the rest."""
    known = draft.book.positions[symbol]
    positions = {other: p for other, p in draft.book.positions.items() if other != symbol}
    if quantity:
        cost = (known.cost * quantity / known.quantity).quantize(GRID)
        positions = {**draft.book.positions, symbol: replace(known, quantity=quantity, cost=cost)}
    draft.book = replace(draft.book, positions=positions)


def hold_beside(draft: Draft, symbol: str, quantity: int) -> None:
    """Change what is held beside the desk's own by `quantity`."""
    beside = dict(draft.broker.foreign_held)
    beside[symbol] = beside.get(symbol, 0) + quantity
    draft.broker = replace(draft.broker, foreign_held={s: q for s, q in beside.items() if q})
