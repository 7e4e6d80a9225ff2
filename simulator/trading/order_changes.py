"""What becomes of an order that is to be cancelled or replaced: asked for now, done with the venue's delay, or refused.

Each function changes the books through the venue's own `fill`, `end` and `emit`; the script may decide the race.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulator.trading.account import Account, fault_context
from simulator.trading.order_rules import check, check_price_grid
from simulator.trading.orders import Order
from simulator.trading.refusals import Refused, invalid, unprocessable
from simulator.trading.tickets import ticket

if TYPE_CHECKING:
    from simulator.trading.matching import Matching


def cancel(matching: Matching, account: Account, order: Order) -> None:
    """Ask for a cancellation; it comes (or a fill wins) after this returned. Raises `Refused` where none can."""
    context = fault_context(account, order)
    if not order.open or order.status in {"pending_cancel", "pending_replace"}:
        raise unprocessable("order is not cancelable")
    if matching.server.faults.take("cancel_refused", context) is not None:
        raise unprocessable("order is not cancelable")
    now_ns = matching.server.clock.now_ns()
    before, order.status, order.cancel_requested_ns = order.status, "pending_cancel", now_ns
    matching.emit(account, order, "pending_cancel", now_ns)
    then: Callable[[Matching, Account, Order], None] = _cancel_now
    if matching.server.faults.take("cancel_stuck", context) is not None:
        order.held = True
        return
    if matching.server.faults.take("cancel_rejected", context) is not None:
        then = functools.partial(_cancel_not, before=before)
    elif matching.server.faults.take("cancel_loses", context) is not None:
        then = _fill_instead
    elif fault := matching.server.faults.take("cancel_overtaken", context):
        then = functools.partial(_cancel_and_fill, delay_s=float(fault.get("delay_s", 30)))
    matching.later(matching.server.rules.venue_delay_s, lambda: then(matching, account, order))


def _cancel_now(matching: Matching, account: Account, order: Order) -> None:
    if order.open:
        order.canceled_ns = matching.server.clock.now_ns()
        matching.end(account, order, "canceled", order.canceled_ns)


def _cancel_and_fill(matching: Matching, account: Account, order: Order, *, delay_s: float) -> None:
    """Report the venue's fill after its cancel."""
    _cancel_now(matching, account, order)
    matching.later(delay_s, lambda: _fill_late(matching, account, order))


def _fill_late(matching: Matching, account: Account, order: Order) -> None:
    """The fill of an order that is over: its limit was met before. A sale never exceeds what is free."""
    if order.status == "canceled" and (order.sign > 0 or account.available(order.symbol) >= order.left):
        now_ns = matching.server.clock.now_ns()
        matching.fill(account, order, order.left, order.limit_price or order.reserve_price, now_ns)


def _cancel_not(matching: Matching, account: Account, order: Order, *, before: str) -> None:
    if order.open:
        order.status = before
        matching.emit(account, order, "order_cancel_rejected", matching.server.clock.now_ns())


def _fill_instead(matching: Matching, account: Account, order: Order) -> None:
    """The fill that won the race: at the quote where it crosses, else at the limit."""
    if order.open:
        now_ns = matching.server.clock.now_ns()
        price = matching.price(order, now_ns) or order.limit_price or order.reserve_price
        matching.fill(account, order, order.left, price, now_ns)


def replace(matching: Matching, account: Account, old: Order, fields: dict[str, Any]) -> Order:
    """A new order in the place of `old`, for its unfilled rest; returns it. Raises `Refused`."""
    if old.status not in {"new", "partially_filled", "accepted", "pending_new"}:
        raise unprocessable(f"cannot replace order in {old.status} status")
    new = _replacement(account, old, fields, matching.server.clock.now_ns())
    _check_replacement(matching, account, old, new)
    now_ns = new.created_ns
    before, old.status = old.status, "pending_replace"
    matching.emit(account, old, "pending_replace", now_ns)
    if matching.server.faults.take("replace_rejected", fault_context(account, old)) is not None:
        old.status = before
        matching.emit(account, old, "order_replace_rejected", now_ns)
        return new
    old.replaced_ns, old.replaced_by = now_ns, new.id
    matching.end(account, old, "replaced", now_ns)
    matching.take_in(account, new, now_ns)
    return new


def _check_replacement(matching: Matching, account: Account, old: Order, new: Order) -> None:
    for price in (new.limit_price, new.stop_price):
        check_price_grid(price)
    if new.client_order_id in account.by_client_id:
        raise Refused(422, matching.server.rules.duplicate_id_code, "client_order_id must be unique")
    account.working.pop(old.id)  # the new order takes over what the old one holds
    try:
        check(ticket(new.shown()), account, matching.server.market, new.created_ns)
    finally:
        account.working[old.id] = old


def _replacement(account: Account, old: Order, fields: dict[str, Any], now_ns: int) -> Order:
    """The order that PATCH asks for. `qty` counts the whole old order, so the new one has what is left of it."""
    changes: dict[str, Any] = {}
    for name in ("limit_price", "stop_price"):
        if fields.get(name) is not None:
            changes[name] = _decimal(fields[name], name)
    if fields.get("time_in_force"):
        changes["time_in_force"] = str(fields["time_in_force"])
    if fields.get("trail") is not None:
        changes["trail_price" if old.trail_price is not None else "trail_percent"] = _decimal(fields["trail"], "trail")
    whole = old.qty
    if fields.get("qty") is not None:
        whole = _decimal(fields["qty"], "qty")
        if whole <= old.filled_qty:
            raise unprocessable("order qty must be greater than filled qty")
    if whole == old.qty and all(getattr(old, name) == value for name, value in changes.items()):
        raise unprocessable("order parameters are not changed")
    client_order_id = str(fields.get("client_order_id") or account.new_id())
    return dataclasses.replace(
        old,
        id=account.new_id(),
        client_order_id=client_order_id,
        created_ns=now_ns,
        updated_ns=now_ns,
        filled_ns=0,
        filled_qty=Decimal(0),
        cost=Decimal(0),
        qty=None if whole is None else whole - old.filled_qty,
        reserve_price=changes.get("limit_price", old.reserve_price),
        replaces=old.id,
        status="pending_new",
        past=[],
        **changes,
    )


def _decimal(value: Any, name: str) -> Decimal:
    try:
        return Decimal(str(value))
    except ArithmeticError:
        raise invalid(f"invalid {name}") from None
