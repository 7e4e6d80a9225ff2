"""Take over the broker's positions: one symbol by `foreign_orders`, all when a person accepts them.

A takeover is neither gain nor loss: it is a transfer.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.broker.fills import without_gain
from daemon.core.broker.foreign import can_hold, hold_foreign, keep_own
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import AcceptBrokerRequested, BrokerPosition, BrokerReported
from daemon.core.moves import Cause
from daemon.core.orders import advance
from daemon.core.risk.splits import note_accepted
from daemon.core.state import BROKER_MODES, Position

ADOPTED = Cause("taken_over")


def whole_shares(positions: tuple[BrokerPosition, ...]) -> tuple[BrokerPosition, ...]:
    """Drop fractions of shares (a reinvested dividend, a split): they do not belong to the desk."""
    whole = (replace(position, quantity=Decimal(int(position.quantity))) for position in positions)
    return tuple(position for position in whole if position.quantity)


def take_over(draft: Draft, symbol: str, position: BrokerPosition | None, rule: str) -> bool:
    """Take over the broker's quantity of one symbol: into the book (`adopt`) or as foreign (`ignore`).

    False for what the desk cannot hold, another underlying's shares: it stays a difference.
    """
    quantity = int(position.quantity) if position is not None else 0
    if rule == "ignore":
        own = draft.held(symbol)
        left = min(own, max(quantity, 0)) if own > 0 else max(own, min(quantity, 0))
        hold_foreign(draft, symbol, quantity - left - draft.broker.foreign_held.get(symbol, 0))
        if left != own:
            keep_own(draft, symbol, left)
        return True
    if position is not None and not can_hold(draft, symbol):
        return False
    hold_foreign(draft, symbol, -draft.broker.foreign_held.get(symbol, 0))  # the desk's own from now on
    if position is None:
        with draft.because(ADOPTED):
            draft.book = replace(draft.book, positions={s: p for s, p in draft.book.positions.items() if s != symbol})
        return True
    contract, booked = draft.contract_of(symbol), draft.book.positions.get(symbol)
    right, expiry = (contract.right, contract.expiry) if contract is not None else (0, "")
    multiplier = OPTION_MULTIPLIER if contract is not None else 1
    opened_ns = booked.opened_ns if booked is not None else draft.now_ns
    cost = (position.average_price * quantity).quantize(CENT)
    taken = Position(symbol, right, quantity, cost, multiplier, opened_ns, expiry)
    with draft.because(ADOPTED):
        draft.book = replace(draft.book, positions={**draft.book.positions, symbol: taken})
    if contract is not None:
        draft.contracts = {**draft.contracts, symbol: contract}
    return True


# --- accepted by a person ---------------------------------------------------------------------------------------------


def on_accept_broker(draft: Draft, event: AcceptBrokerRequested) -> None:
    """Halt, and let the next report requested from now on set the book."""
    if draft.identity.mode not in BROKER_MODES:
        draft.alarm("command_refused", f"accept-broker (by {event.who}): no broker outside reports to this desk")
        return
    draft.halt("accept_broker", f"{event.reason} (by {event.who})")
    draft.broker = replace(draft.broker, accept_ns=draft.now_ns)
    draft.risk = replace(draft.risk, reconciled=False)
    draft.effects.append(AskBroker("accept-broker"))


def accepts(draft: Draft, event: BrokerReported) -> bool:
    """Return True for a report that a person accepted beforehand; if a fill came later, the next one counts."""
    asked_ns = draft.broker.accept_ns
    overtaken = any(at_ns >= event.asked_ns for at_ns in draft.broker.filled.values())
    return bool(asked_ns) and event.asked_ns > asked_ns and not overtaken


def accept(draft: Draft, event: BrokerReported) -> None:
    """Take over positions and cash; our orders end or are cancelled. The desk stays halted and may send again."""
    before, broker = draft.book, draft.broker
    _end_orders(draft, event)
    theirs = {position.symbol: position for position in event.positions}
    rule = "ignore" if draft.trading.broker.foreign_orders == "ignore" else "adopt"
    for symbol in sorted(theirs.keys() | before.positions.keys() | broker.foreign_held.keys()):
        if not take_over(draft, symbol, theirs.get(symbol), rule):
            take_over(draft, symbol, theirs.get(symbol), "ignore")
    draft.book = replace(draft.book, cash=event.cash)
    note_accepted(draft, before.positions)
    with draft.because(ADOPTED):
        without_gain(draft, before)
    draft.broker = replace(
        draft.broker, accept_ns=0, stood_down=False, panic_failed_ns=0, suspicion=None, cash_since_ns=0
    )
    held_now = ", ".join(f"{p.quantity} {p.symbol}" for p in draft.book.positions.values()) or "nothing"
    draft.alarm("broker_accepted", f"holds {held_now}, cash {event.cash} USD (book before: {before.cash} USD)")


def _end_orders(draft: Draft, event: BrokerReported) -> None:
    """Give up all works: cancel orders that work at the broker, end those that it does not list."""
    draft.works = {}
    listed = {order.client_order_id for order in event.open_orders}
    for name, order in tuple(draft.orders.items()):
        if name not in listed and order.submitted_ns < event.asked_ns:
            draft.put_order(advance(order, "expired"))
        elif order.purpose != "foreign":
            draft.cancel(name)
