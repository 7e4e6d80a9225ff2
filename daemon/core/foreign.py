"""Orders and positions that are not the desk's own: made by a person, by the broker, or by another program.

`foreign_orders` says what they mean: `halt` (default), `ignore` (they are counted beside the desk's own, their cash is
a transfer) or `adopt` (they become the desk's). Never: a sale of what the desk holds goes unnoticed.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.events import BrokerOrder
from daemon.core.execution import contract_of, held
from daemon.core.fills import is_ours, set_totals, total_cost, transfer
from daemon.core.guards import alarm, halt, put_order
from daemon.core.orders import ACCEPTED, BROKER_STATUS, CANCELED, Order, advance
from daemon.core.state import Draft

FOREIGN = "foreign"  # an order's purpose


def on_foreign_order(draft: Draft, found: BrokerOrder, known: Order | None) -> None:
    """What an order that the desk did not send means; `known` is it as it was adopted before."""
    if known is None and found.client_order_id not in draft.broker.foreign:
        if found.submitted_ns < draft.broker.began_ns and found.status in ENDED:
            return  # from before this journal
        if is_ours(draft, found.client_order_id):
            if found.status in ENDED:
                return  # of an earlier session, closed and forgotten
            _refuse(draft, found, "bears this desk's name, and its journal does not know it")
            return
    rule = draft.trading.broker.foreign_orders
    if known is not None or rule == "adopt":
        _adopt(draft, found, known)
    elif rule == "ignore" or found.client_order_id in draft.broker.foreign:
        _ignore(draft, found)
    elif found.filled or found.status not in ENDED:
        _refuse(draft, found, "was not sent by this desk")


def _refuse(draft: Draft, found: BrokerOrder, why: str) -> None:
    draft.risk = replace(draft.risk, reconciled=False)
    halt(draft, "foreign_order", f"order {found.client_order_id} ({_told(found)}) {why}")


def _told(found: BrokerOrder) -> str:
    return f"{found.side:+d} {found.quantity} {found.symbol}, {found.status}, filled {found.filled}"


def _adopt(draft: Draft, found: BrokerOrder, known: Order | None) -> None:
    """Book its fills as the desk's own; the order itself is left to whoever sent it."""
    if known is None:
        if found.quantity != int(found.quantity):
            _refuse(draft, found, "holds a fraction, which this desk cannot")
            return
        alarm(draft, "foreign_order", f"adopted: {found.client_order_id} ({_told(found)})")
        known = Order(
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
        put_order(draft, known)
    if set_totals(draft, known, found):
        now = draft.find_order(found.client_order_id)
        word = BROKER_STATUS.get(found.status, "")
        if now is not None and (word != "filled" or now.filled == now.quantity):
            moved = advance(now, word)
            if moved is not now:
                put_order(draft, moved)


def _ignore(draft: Draft, found: BrokerOrder) -> None:
    """Count what it filled beside the desk's own, and its cash as a transfer."""
    broker = draft.broker
    known = broker.foreign.get(found.client_order_id)
    if known is None:
        alarm(draft, "foreign_order", f"ignored: {found.client_order_id} ({_told(found)})")
        known = Order(
            found.client_order_id, "", FOREIGN, "by hand", found.symbol, found.side, 0, None, ACCEPTED, draft.now_ns
        )
    filled, cost = int(found.filled), total_cost(draft, found)
    ended = found.status in ENDED
    moved = replace(known, filled=filled, cost=cost, status=CANCELED if ended else ACCEPTED)
    draft.broker = replace(broker, foreign={**broker.foreign, found.client_order_id: moved})
    hold_beside(draft, found.symbol, found.side * (filled - known.filled))
    paid = -found.side * (cost - known.cost) * (OPTION_MULTIPLIER if contract_of(draft, found.symbol) else 1)
    if paid:
        transfer(draft, paid)
    if draft.broker.foreign_held.get(found.symbol, 0) < 0 < held(draft, found.symbol):
        _refuse(draft, found, "sold what this desk holds")


def hold_beside(draft: Draft, symbol: str, quantity: int) -> None:
    """Change what is held beside the desk's own by `quantity`."""
    beside = dict(draft.broker.foreign_held)
    beside[symbol] = beside.get(symbol, 0) + quantity
    draft.broker = replace(draft.broker, foreign_held={s: q for s, q in beside.items() if q})


ENDED = frozenset(("filled", "canceled", "expired", "rejected", "replaced", "done_for_day"))
