"""Spending limits from the broker's last report, and whether the account can carry its positions.

In a cash account proceeds count only once they settle, which the book's cash does not know. A margin account may be in
a deficit, which the broker computes later. Unknown figures limit nothing: the book's cash still does.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import Funds
from daemon.core.orders import Order
from daemon.core.state import BROKER_MODES, ZERO
from strategies.kit.units import SECOND_NS

ASK_AGAIN_NS = 10 * SECOND_NS


def is_cash_account(funds: Funds | None) -> bool:
    """Return True for an account without credit, in which proceeds must settle before they pay."""
    return funds is not None and funds.multiplier is not None and funds.multiplier <= 1


def spendable(draft: Draft) -> Decimal | None:
    """Return USD that new buys may cost, by the last report less the buys since; None when the broker gives no figure.

    Sales since the report add to it, but not in a cash account: there the figure stays until the next report.
    """
    funds = draft.broker.funds
    if funds is None or draft.identity.mode not in BROKER_MODES:
        return None
    cash_account = is_cash_account(funds)
    figure = draft.desk.holds.spendable(funds)
    if figure is None or (draft.broker.filled and not cash_account):
        return None
    since = [order for order in (*draft.orders.values(), *draft.closed.values()) if _is_newer(draft, order)]
    return figure - sum((_spent(draft, order) for order in since), ZERO)


def _is_newer(draft: Draft, order: Order) -> bool:
    """Return True for a buy of ours that the report cannot include."""
    return order.side > 0 and order.purpose != "foreign" and order.submitted_ns >= draft.broker.asked_ns


def _spent(draft: Draft, order: Order) -> Decimal:
    """Return what the buy cost and may still cost."""
    left = (order.limit_price or ZERO) * order.remaining if order.working else ZERO
    return (order.cost + left) * draft.desk.holds.multiplier


def proceeds_awaited(draft: Draft) -> bool:
    """Return True while a newer report may let a cash account spend more; it is requested."""
    broker = draft.broker
    if not (broker.filled and is_cash_account(broker.funds)):
        return False
    if draft.now_ns - broker.asked_ns >= ASK_AGAIN_NS:
        draft.effects.append(AskBroker("how much of what was sold may be spent?"))
    return True


def deficit(funds: Funds | None) -> Decimal:
    """Return USD by which the equity is below the broker's margin requirement; 0 otherwise."""
    if funds is None or funds.equity is None or funds.maintenance is None:
        return ZERO
    return max(funds.maintenance - funds.equity, ZERO)
