"""What the broker says that the account may spend, and whether it can carry what it holds.

The broker's figures are of its last report. A cash account's proceeds pay only once they settle, which the book's cash
does not know; a margin account may be in a deficit, which is computed after the fact. Unknown figures limit nothing:
the book's own cash does.
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
    """True where nothing is lent, and what was sold pays only when it has settled."""
    return funds is not None and funds.multiplier is not None and funds.multiplier <= 1


def spendable(draft: Draft) -> Decimal | None:
    """USD that new buys may cost by the broker's last report and the buys since; None where it does not say.

    What was sold since the report pays too, but not in a cash account: there the figure stays until the next report.
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
    """True for a buy of ours that the report cannot know."""
    return order.side > 0 and order.purpose != "foreign" and order.submitted_ns >= draft.broker.asked_ns


def _spent(draft: Draft, order: Order) -> Decimal:
    """What the buy cost and may still cost."""
    left = (order.limit_price or ZERO) * order.remaining if order.working else ZERO
    return (order.cost + left) * draft.desk.holds.multiplier


def proceeds_awaited(draft: Draft) -> bool:
    """True while a newer report may let a cash account spend more; it is asked for."""
    broker = draft.broker
    if not (broker.filled and is_cash_account(broker.funds)):
        return False
    if draft.now_ns - broker.asked_ns >= ASK_AGAIN_NS:
        draft.effects.append(AskBroker("how much of what was sold may be spent?"))
    return True


def deficit(funds: Funds | None) -> Decimal:
    """USD by which the equity is below the margin that the broker asks for what is held; 0 where it is not."""
    if funds is None or funds.equity is None or funds.maintenance is None:
        return ZERO
    return max(funds.maintenance - funds.equity, ZERO)
