"""The gates' view of a draft, for every kind of desk."""

from __future__ import annotations

from decimal import Decimal

from daemon.core.broker.funds import deficit, spendable
from daemon.core.draft import Draft
from daemon.core.gate import RiskView
from daemon.core.risk.guards import blindness
from daemon.core.state import BROKER_MODES, ZERO
from strategies.kit.units import SECOND_NS


def risk_view(draft: Draft) -> RiskView:
    """Return the gates' view of the draft."""
    return RiskView(
        now_ns=draft.now_ns,
        identity=draft.identity,
        limits=draft.trading.risk,
        execution=draft.trading.execution,
        session=draft.session,
        bar_interval_ns=draft.spec.bar_interval_s * SECOND_NS,
        risk=draft.risk,
        model=draft.model,
        book=draft.book,
        orders=draft.orders,
        quotes=draft.quotes,
        basket=draft.trading.basket,
        symbols=draft.spec.symbols,
        marks=draft.marks,
        splits=draft.basket.splits,
        blocked=draft.broker.blocked,
        closed=draft.broker.closed,
        spendable=spendable(draft),
        deficit=deficit(draft.broker.funds),
        overnight=draft.spec.overnight,
        blind=blindness(draft),
        cost_rate=cost_rate(draft),
        disputed=draft.broker.owners.disputed,
    )


def cost_rate(draft: Draft) -> Decimal:
    """Return the cost rate added to the price of a buy: the paper broker's rate, 0 at a real broker."""
    return ZERO if draft.identity.mode in BROKER_MODES else draft.trading.paper.share_cost_rate
