"""Hanging orders: unanswered cancels, and sales that neither fill nor end. One rule for the exits of all desks.

Another order may sell what a hanging order does not cover, and what the broker's report shows as free. Each hanging
order is reported once.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.core.draft import CANCEL_AGAIN_NS, CANCEL_STUCK_NS, Draft
from daemon.core.orders import UNKNOWN, Order
from strategies.kit.units import SECOND_NS

EXIT = "exit"
QUOTE_WAIT_NS = 5 * SECOND_NS  # an exit without a quote waits this long before a market order
HANGS_NS = CANCEL_AGAIN_NS  # an unanswered cancel is repeated after this
GIVEN_UP_NS = 2 * CANCEL_STUCK_NS  # and after this the position is closed by the broker's own call


def worked_ns(draft: Draft, order: Order) -> int:
    """Return how long the order could trade; an auction order trades from the open on."""
    session = draft.session.session
    since_ns = max(order.submitted_ns, session.open_ns) if session is not None else order.submitted_ns
    return draft.now_ns - since_ns


def reprice_ns(draft: Draft) -> int:
    """Return how long an exit order works before it is repriced."""
    return draft.desk.holds.exit_reprice_s(draft.trading) * SECOND_NS


def hangs(draft: Draft, order: Order) -> bool:
    """Return True for a working order that should have ended: an unanswered cancel, or old and not cancellable.

    A market order should fill within one re-price interval. An order that the broker does not have cannot hang.
    """
    if not order.working or order.absent:
        return False
    if order.cancel_since_ns and draft.now_ns - order.cancel_since_ns >= HANGS_NS:
        return True
    at_market = order.limit_price is None and not order.auction
    return worked_ns(draft, order) >= reprice_ns(draft) + (0 if at_market else HANGS_NS)


def tend_exits(draft: Draft, symbol: str, side: int, surplus: int) -> tuple[list[Order], list[Order]]:
    """Cancel the exit orders of `symbol` that are too old or too large; returns the good ones and the others."""
    mine = [o for o in draft.orders.values() if (o.symbol, o.side, o.purpose) == (symbol, side, EXIT)]
    hanging = [order for order in mine if hangs(draft, order)]
    well = [order for order in mine if order not in hanging]
    too_much = sum(order.remaining for order in well) > surplus
    for order in well:
        priced = order.limit_price is not None or order.auction
        if too_much or (priced and worked_ns(draft, order) >= reprice_ns(draft)):
            draft.cancel(order.client_order_id)
    for order in hanging:
        draft.cancel(order.client_order_id)
        _report(draft, order, "neither fills nor ends")
    return well, hanging


def held_up(draft: Draft, symbol: str, side: int) -> bool:
    """Cancel working orders opposite to an exit (a wash trade); True while they hold the exit up, for a limited time.

    `HANGS_NS` after an unanswered cancel the desk sells what it holds by fills: the broker decides.
    """
    against = [o for o in draft.orders.values() if (o.symbol, o.side) == (symbol, -side) and not o.absent]
    for order in against:
        draft.cancel(order.client_order_id)
        if hangs(draft, order):
            _report(draft, order, "works against an exit and does not end")
    return any(not hangs(draft, order) for order in against)


def hanging_orders(draft: Draft, symbol: str, side: int) -> list[Order]:
    """Return the orders of `symbol` on `side` that hang."""
    return [o for o in draft.orders.values() if (o.symbol, o.side) == (symbol, side) and hangs(draft, o)]


def stuck_against(draft: Draft, symbol: str, side: int) -> list[Order]:
    """Return the hanging orders opposite to an exit once one of them hangs for too long, else none."""
    against = hanging_orders(draft, symbol, -side)
    since_ns = min((order.cancel_since_ns or order.submitted_ns for order in against), default=draft.now_ns)
    return against if draft.now_ns - since_ns >= GIVEN_UP_NS else []


def may_be_free(hanging: Sequence[Order]) -> int:
    """Return the quantity of these orders that the broker's report may show as free.

    Orders that the broker did not show yet are left out: they may still be in our own queue and hold nothing back.
    """
    return sum(order.remaining for order in hanging if _is_shown(order))


def on_its_way(draft: Draft, symbol: str, side: int) -> int:
    """Return the quantity of working orders that the broker did not show yet: its report counts them as free."""
    mine = [order for order in draft.orders.values() if (order.symbol, order.side) == (symbol, side)]
    return sum(order.remaining for order in mine if not _is_shown(order))


def _is_shown(order: Order) -> bool:
    return order.known and order.status != UNKNOWN


def given_up(draft: Draft, hanging: Sequence[Order]) -> bool:
    """Return True when the cancels of all these orders stay unanswered for too long.

    False with an order among them that the broker did not show: it may still be on its way.
    """
    shown = [order for order in hanging if order.known and order.status != UNKNOWN and order.cancel_since_ns]
    since_ns = max((order.cancel_since_ns for order in shown), default=draft.now_ns)
    return len(shown) == len(hanging) and draft.now_ns - since_ns >= GIVEN_UP_NS


def note_held_up(draft: Draft, symbol: str, surplus: int, hanging: Sequence[Order]) -> None:
    """Report that nothing is free to be sold, unless the hanging orders were reported already."""
    if not hanging:
        why = f"{symbol}: {surplus} to leave; others' orders hold them, or the broker lists none"
        draft.alarm("exit_held_up", why, once=True, about=symbol)


def in_the_way(draft: Draft) -> dict[str, Order]:
    """Return the orders that may block an exit: known to the broker and not hanging."""
    return {name: o for name, o in draft.orders.items() if not (o.absent or hangs(draft, o))}


def _report(draft: Draft, order: Order, why: str) -> None:
    detail = f"{order.client_order_id} ({order.side:+d} {order.remaining} {order.symbol}, {order.status}) {why}"
    draft.alarm("exit_stuck", detail, once=True, about=order.client_order_id)
