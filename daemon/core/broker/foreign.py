"""Orders and positions that the desk did not make: from a person, the broker, or another program.

`foreign_orders` selects the rule: `halt` (default), `ignore` (count them apart, book their cash as a transfer) or
`adopt` (book them as the desk's own). A foreign sale of what the desk holds is always noticed.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.broker.fills import is_ours, note_touched, set_totals, total_cost, without_gain
from daemon.core.draft import Draft
from daemon.core.events import BrokerOrder
from daemon.core.moves import Cause
from daemon.core.orders import ACCEPTED, BROKER_STATUS, CANCELED, Order, advance
from daemon.core.state import BROKER_MODES, ZERO

FOREIGN = "foreign"  # an order's purpose
ENDED = frozenset(word for word, news in BROKER_STATUS.items() if news not in ("accepted", "pending_cancel"))
"""Statuses of a broker's order that it never leaves."""
GRID = Decimal("0.0001")  # of a share of a cost
SOLD_BY_OTHERS = Cause("foreign_order")


def on_foreign_order(draft: Draft, report: BrokerOrder, adopted: Order | None) -> None:
    """Apply the rule to an order that the desk did not send; `adopted` is the order as adopted before."""
    rule, ignored = draft.trading.broker.foreign_orders, report.client_order_id in draft.broker.foreign
    if adopted is None and not ignored:
        if report.submitted_ns < draft.broker.began_ns and report.status in ENDED:
            return  # from before this journal
        if is_ours(draft, report.client_order_id):
            if report.status not in ENDED:  # an order of an earlier session is closed and forgotten
                _doubt(draft, report)
                _refuse(draft, report, "bears this desk's name, and its journal does not know it")
            return
    touches = _touches(draft, report, new=adopted is None and not ignored)
    if touches:
        _doubt(draft, report)
    if ignored or (adopted is None and is_fraction(draft, report)):  # an ignored order stays ignored
        _ignore(draft, report)
    elif adopted is not None or rule == "adopt":
        _adopt(draft, report, adopted)
    elif rule == "ignore":
        _ignore(draft, report)
    else:
        _refuse(draft, report, "was not sent by this desk")
        return
    if touches and not is_fraction(draft, report):
        _refuse(draft, report, "touches what this desk holds or works on")


def _touches(draft: Draft, report: BrokerOrder, *, new: bool) -> bool:
    """Return True for an order in a symbol that the desk held or worked on at the order's first news."""
    mark = f"{report.client_order_id} touches"
    if new and _concerns(draft, report.symbol):
        draft.first_time(mark)
    return mark in draft.broker.seen


def _concerns(draft: Draft, symbol: str) -> bool:
    at_work = any(order.symbol == symbol and order.purpose != FOREIGN for order in draft.orders.values())
    return bool(draft.held(symbol)) or at_work or any(work.symbol == symbol for work in draft.works.values())


def _doubt(draft: Draft, report: BrokerOrder) -> None:
    """Mark the held quantity of the symbol as unknown until the next report, once for each news of the order."""
    if draft.first_time(f"{report.client_order_id} {report.status} {report.filled}"):
        note_touched(draft, report.symbol, f"somebody else's order {report.client_order_id} ({_describe(report)})")


def is_fraction(draft: Draft, report: BrokerOrder) -> bool:
    """Return True for less than one share (a reinvested dividend): no desk holds fractions."""
    if draft.contract_of(report.symbol) is not None:
        return False
    quantity = report.quantity or (report.filled if report.status in ENDED else ZERO)  # ordered in USD: no quantity
    return 0 < quantity < 1


def on_cancel_by_others(draft: Draft, order: Order) -> None:
    """Halt when another party or the broker cancelled an order of the desk that was still wanted.

    Orders cancelled by the close or the end of an auction were over.
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


def _refuse(draft: Draft, report: BrokerOrder, why: str) -> None:
    """Halt, once for each filled quantity: reports repeat the order after every start. No fill, no halt."""
    mark = f"{report.client_order_id} {report.filled} {why}"
    if (not report.filled and report.status in ENDED) or not draft.first_time(mark):
        return
    draft.risk = replace(draft.risk, reconciled=False)
    draft.halt("foreign_order", f"order {report.client_order_id} ({_describe(report)}) {why}")


def _describe(report: BrokerOrder) -> str:
    return f"{report.side:+d} {report.quantity} {report.symbol}, {report.status}, filled {report.filled}"


def _adopt(draft: Draft, report: BrokerOrder, order: Order | None) -> None:
    """Book its fills as the desk's own; the sender keeps control of the order."""
    if order is None:
        if not report.side or report.quantity != int(report.quantity) or not can_hold(draft, report.symbol):
            _refuse(draft, report, "is of a kind that this desk cannot hold")
            return
        draft.alarm("foreign_order", f"adopted: {report.client_order_id} ({_describe(report)})")
        order = _as_order(report)
        draft.put_order(order)
    if report.side < 0 and draft.held(report.symbol) < report.filled - order.filled:
        draft.risk = replace(draft.risk, reconciled=False)  # its purchase did not arrive yet, or it is short:
        return  # the next report has all orders and the positions
    if set_totals(draft, order, report):
        now = draft.find_order(report.client_order_id)
        word = BROKER_STATUS.get(report.status, "")
        if now is not None and (word != "filled" or now.filled == now.quantity):
            moved = advance(now, word)
            if moved is not now:
                draft.put_order(moved)


def end_unheld_sale(draft: Draft, report: BrokerOrder) -> None:
    """End an adopted sale of more than the desk holds, by a report that has every purchase; nothing of it is booked.

    The position that it left differs from the book then, and has its own verdict.
    """
    order = draft.find_order(report.client_order_id)
    if order is None or order.purpose != FOREIGN or report.side > 0 or report.status not in ENDED:
        return
    if order.working and draft.held(report.symbol) < report.filled - order.filled:
        sold = replace(order, filled=int(report.filled), cost=total_cost(draft, report))
        draft.put_order(advance(sold, "filled" if sold.filled == sold.quantity else "canceled"))
        draft.alarm(
            "foreign_order", f"{report.client_order_id} ({_describe(report)}): this desk did not hold all of that"
        )


def can_hold(draft: Draft, symbol: str) -> bool:
    """Return True for an option and for shares of the desk's own underlying: nothing else has a mark here."""
    return draft.contract_of(symbol) is not None or symbol in draft.spec.symbols


def _as_order(report: BrokerOrder) -> Order:
    """Return a foreign order before its first fill."""
    return Order(
        client_order_id=report.client_order_id,
        work="",
        purpose=FOREIGN,
        reason="by hand",
        symbol=report.symbol,
        side=report.side,
        quantity=int(report.quantity),
        limit_price=report.limit_price,
        status=ACCEPTED,
        submitted_ns=report.submitted_ns,
        order_id=report.order_id,
    )


def met_at_begin(draft: Draft, report: BrokerOrder) -> None:
    """Handle an open order that exists when a journal begins: its fills are in cash and positions already."""
    adopts = draft.trading.broker.foreign_orders == "adopt" and not is_fraction(draft, report)
    rule = "adopted" if adopts else "ignored"
    draft.alarm("foreign_order", f"{rule}: {report.client_order_id} ({_describe(report)})")
    order = replace(_as_order(report), filled=int(report.filled), cost=total_cost(draft, report))
    if rule == "adopted":
        draft.put_order(order)
    else:
        draft.broker = replace(draft.broker, foreign={**draft.broker.foreign, report.client_order_id: order})


def _ignore(draft: Draft, report: BrokerOrder) -> None:
    """Count its fills as foreign and book its cash as a transfer."""
    broker, before = draft.broker, draft.book
    order = broker.foreign.get(report.client_order_id)
    if order is None:
        draft.alarm("foreign_order", f"ignored: {report.client_order_id} ({_describe(report)})")
        order = _as_order(report)
    filled, cost, ended = int(report.filled), total_cost(draft, report), report.status in ENDED
    came_late = filled < order.filled or (not ended and (order.status == CANCELED or cost < order.cost))
    if came_late or (filled and report.average_price is None):
        return  # an old answer, a fraction of a share, or one in the middle of a change
    moved = replace(order, filled=filled, cost=cost, status=CANCELED if ended else ACCEPTED)
    draft.broker = replace(broker, foreign={**broker.foreign, report.client_order_id: moved})
    if (filled, cost) == (order.filled, order.cost):
        return
    paid = -report.side * (cost - order.cost) * (OPTION_MULTIPLIER if draft.contract_of(report.symbol) else 1)
    draft.book = replace(before, cash=before.cash + paid)
    hold_foreign(draft, report.symbol, report.side * (filled - order.filled))
    gave_up = _give_up_sold(draft, report.symbol)
    with draft.because(SOLD_BY_OTHERS):
        without_gain(draft, before)
    if gave_up:
        _refuse(draft, report, "sold what this desk holds")


def _give_up_sold(draft: Draft, symbol: str) -> int:
    """Give up the part of the desk's position that others sold; returns how many."""
    foreign, own = draft.broker.foreign_held.get(symbol, 0), draft.held(symbol)
    if not foreign < 0 < own:
        return 0
    sold = min(own, -foreign)
    hold_foreign(draft, symbol, sold)
    keep_own(draft, symbol, own - sold)
    return sold


def give_up_sold(draft: Draft) -> None:
    """Give up what others sold of the desk's own before its purchase was reported."""
    for symbol in tuple(draft.broker.foreign_held):
        before = draft.book
        if sold := _give_up_sold(draft, symbol):
            with draft.because(SOLD_BY_OTHERS):
                without_gain(draft, before)
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("foreign_order", f"others sold {sold} {symbol} that this desk holds")


def keep_own(draft: Draft, symbol: str, quantity: int) -> None:
    """Keep `quantity` of the desk's position, at its share of the cost: another party sold the rest."""
    position = draft.book.positions[symbol]
    positions = {other: p for other, p in draft.book.positions.items() if other != symbol}
    if quantity:
        cost = (position.cost * quantity / position.quantity).quantize(GRID)
        positions = {**draft.book.positions, symbol: replace(position, quantity=quantity, cost=cost)}
    with draft.because(SOLD_BY_OTHERS):
        draft.book = replace(draft.book, positions=positions)


def hold_foreign(draft: Draft, symbol: str, quantity: int) -> None:
    """Change the foreign quantity of `symbol` by `quantity`."""
    foreign = dict(draft.broker.foreign_held)
    foreign[symbol] = foreign.get(symbol, 0) + quantity
    draft.broker = replace(draft.broker, foreign_held={s: q for s, q in foreign.items() if q})
