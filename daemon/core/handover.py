"""Apply another code's journal as recorded: the orders and cancels that left the process then.

A step with facts decides as usual, but its effects are exactly those in the journal. So the book agrees with the broker
even where this code would have traded otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder
from daemon.core.orders import CANCELING, SUBMITTED, Order, advance


def take_facts(draft: Draft, facts: Iterable[AnyEffect]) -> None:
    """Take recorded effects over as the desk's own where this code did not produce them."""
    for effect in facts:
        if isinstance(effect, SubmitOrder) and draft.find_order(effect.client_order_id) is None:
            _take_order(draft, effect)
        elif isinstance(effect, CancelOrder) and effect.client_order_id in draft.orders:
            asked = advance(draft.orders[effect.client_order_id], "cancel_requested")
            if asked.status == CANCELING and not asked.cancel_asked_ns:
                draft.put_order(replace(asked, cancel_asked_ns=draft.now_ns))


def _take_order(draft: Draft, sent: SubmitOrder) -> None:
    """Take over an order without a work: an entry is cancelled at this code's first decision, an exit goes on."""
    decision, leg = map(int, sent.client_order_id.rsplit("-", 3)[1:3])
    opens = sent.intent.endswith("_to_open") or (not sent.intent and sent.side > 0)
    order = Order(
        client_order_id=sent.client_order_id,
        work=f"{decision}.{leg}",
        purpose=ENTRY if opens else EXIT,
        reason="former code",
        symbol=sent.symbol,
        side=sent.side,
        quantity=sent.quantity,
        limit_price=sent.limit_price,
        status=SUBMITTED,
        submitted_ns=draft.now_ns,
        valid_until_ns=sent.valid_until_ns,
        auction=sent.auction,
        closing=sent.closing,
    )
    draft.put_order(order)
    goal = draft.held(sent.symbol) + sent.side * sent.quantity
    draft.wanted = {**draft.wanted, sent.symbol: goal}  # it was wanted when it was sent: its fill is no excess
    draft.count_sent()
    draft.decision = max(draft.decision, decision)  # no later order may use its name
