"""Orders that hang: a cancel that nobody answers, a sale that neither fills nor ends. One rule for both desks' exits.

What a hanging order does not cover, another one may sell, and also what the broker's report shows as free beside it.
Every order that hangs is reported once.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.core.draft import CANCEL_AGAIN_NS, CANCEL_STUCK_NS, Draft
from daemon.core.orders import UNKNOWN, Order
from strategies.kit.units import SECOND_NS

EXIT = "exit"
HANGS_NS = CANCEL_AGAIN_NS  # a cancel that is not answered by now is asked for again
GIVEN_UP_NS = 2 * CANCEL_STUCK_NS  # and after this the broker is asked to close the position by its own call


def worked_ns(draft: Draft, order: Order) -> int:
    """For how long the order could trade: one for the auction does so from the open on."""
    session = draft.session.session
    since_ns = max(order.submitted_ns, session.open_ns) if session is not None else order.submitted_ns
    return draft.now_ns - since_ns


def reprice_ns(draft: Draft) -> int:
    """For how long an exit order works before it is priced anew."""
    return draft.desk.holds.exit_reprice_s(draft.trading) * SECOND_NS


def hangs(draft: Draft, order: Order) -> bool:
    """True for a working order that should have ended: its cancel is unanswered, or it is old and cannot be cancelled.

    One at the market should have filled within a re-price interval. One that the broker does not have hangs nowhere.
    """
    if not order.working or order.absent:
        return False
    if order.cancel_since_ns and draft.now_ns - order.cancel_since_ns >= HANGS_NS:
        return True
    at_market = order.limit_price is None and not order.auction
    return worked_ns(draft, order) >= reprice_ns(draft) + (0 if at_market else HANGS_NS)


def tend_exits(draft: Draft, symbol: str, side: int, surplus: int) -> tuple[list[Order], list[Order]]:
    """Cancel the exit orders of `symbol` that are too old or too large; returns those that work well and the others."""
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
    """Cancel what works against an exit; True while it holds the exit up (a wash trade), which is not for ever.

    After a cancel was unanswered for `HANGS_NS`, what the desk holds by fills is sold all the same: the broker decides.
    """
    against = [o for o in draft.orders.values() if (o.symbol, o.side) == (symbol, -side) and not o.absent]
    for order in against:
        draft.cancel(order.client_order_id)
        if hangs(draft, order):
            _report(draft, order, "works against an exit and does not end")
    return any(not hangs(draft, order) for order in against)


def may_be_free(hanging: Sequence[Order]) -> int:
    """Contracts or shares of these orders that the broker's report may show as free; never those of an order that the
    broker did not show yet: one that is still on its way, maybe in our own queue, holds nothing back.
    """
    return sum(order.remaining for order in hanging if _is_shown(order))


def on_its_way(draft: Draft, symbol: str, side: int) -> int:
    """Contracts or shares of working orders that the broker did not show yet: its report has them as free."""
    mine = [order for order in draft.orders.values() if (order.symbol, order.side) == (symbol, side)]
    return sum(order.remaining for order in mine if not _is_shown(order))


def _is_shown(order: Order) -> bool:
    return order.known and order.status != UNKNOWN


def given_up(draft: Draft, hanging: Sequence[Order]) -> bool:
    """True when cancels of all these orders were asked for in vain for too long.

    Never with one among them that the broker did not show: it may still be on its way.
    """
    shown = [order for order in hanging if order.known and order.status != UNKNOWN and order.cancel_since_ns]
    since_ns = max((order.cancel_since_ns for order in shown), default=draft.now_ns)
    return len(shown) == len(hanging) and draft.now_ns - since_ns >= GIVEN_UP_NS


def note_held_up(draft: Draft, symbol: str, surplus: int, hanging: Sequence[Order]) -> None:
    """Report that nothing is free to be sold, unless the orders that hang were reported for it."""
    if not hanging:
        why = f"{symbol}: {surplus} to leave; others' orders hold them, or the broker lists none"
        draft.alarm("exit_held_up", why, once=True, about=symbol)


def in_the_way(draft: Draft) -> dict[str, Order]:
    """The orders that may keep an exit from leaving: neither those that the broker lacks nor those that hang."""
    return {name: o for name, o in draft.orders.items() if not (o.absent or hangs(draft, o))}


def _report(draft: Draft, order: Order, why: str) -> None:
    detail = f"{order.client_order_id} ({order.side:+d} {order.remaining} {order.symbol}, {order.status}) {why}"
    draft.alarm("exit_stuck", detail, once=True, about=order.client_order_id)
