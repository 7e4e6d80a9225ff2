"""Arithmetic of a basket of shares: works, limits of orders, cash reserved for buys.

Independent of the desk. Invariant: the cash reserved for an order is at least what its fills cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from daemon.core.events import Quote
from daemon.core.limits import Basket
from daemon.core.orders import Order, Work
from daemon.core.state import ZERO
from strategies.kit.contract import Leg

ENTRY, EXIT, POLICY = "entry", "exit", "policy"  # purposes of works, and the reason of those of a basket
FINE = Decimal("0.0001")  # USD: the grid below a dollar, and of a replay
CENT = Decimal("0.01")
COST_GRID = Decimal("0.000001")  # USD


def works_of(
    decision: int,
    legs: Iterable[Leg],
    held: Mapping[str, int],
    now_ns: int,
    bounds: Mapping[str, Decimal] | None = None,
) -> tuple[Work, ...]:
    """Return one work for each leg that changes a position: sells first, then buys, each in the order of the legs.

    `bounds` are the highest prices of buys in USD, where they have one.
    """
    sells: list[Work] = []
    buys: list[Work] = []
    for index, leg in enumerate(legs):
        change = leg.goal - held.get(leg.symbol, 0)
        if change:
            purpose = ENTRY if change > 0 else EXIT
            bound = bounds.get(leg.symbol) if bounds is not None and change > 0 else None
            work = Work(f"{decision}.{index}", decision, purpose, POLICY, leg.symbol, leg.goal, -1, "", now_ns, bound)
            (buys if change > 0 else sells).append(work)
    return (*sells, *buys)


def price_step(price: Decimal, *, fine: bool) -> Decimal:
    """Return the price step: cents, below a dollar 0.0001 USD (SEC rule 612); `fine` for a replay's grid."""
    return FINE if fine or price < 1 else CENT


def buy_limit(quote: Quote, mark: Decimal, rules: Basket, *, fine: bool) -> Decimal:
    """Return the limit of a buy: ask x (1 + slack), rounded up, but never beyond the collar around the mark."""
    limit = quote.ask * (1 + Decimal(str(rules.price_slack)))
    bound = mark * (1 + Decimal(str(rules.price_collar)))
    return min(_rounded(limit, ROUND_CEILING, fine=fine), _rounded(bound, ROUND_FLOOR, fine=fine))


def sell_limit(quote: Quote, mark: Decimal, rules: Basket, *, fine: bool) -> Decimal:
    """Return the limit of a sale: bid x (1 - slack), rounded down, but never beyond the collar around the mark."""
    limit = quote.bid * (1 - Decimal(str(rules.price_slack)))
    bound = mark * (1 - Decimal(str(rules.price_collar)))
    return max(_rounded(limit, ROUND_FLOOR, fine=fine), _rounded(bound, ROUND_CEILING, fine=fine))


def _rounded(price: Decimal, rounding: str, *, fine: bool) -> Decimal:
    return price.quantize(price_step(price, fine=fine), rounding=rounding)


def reserved(limit: Decimal, quantity: int, cost_rate: Decimal) -> Decimal:
    """Return the cash in USD reserved for a buy: its limit and its cost, rounded up."""
    traded = limit * quantity
    return traded + (traded * cost_rate).quantize(COST_GRID, rounding=ROUND_CEILING)


def affordable(cash: Decimal, limit: Decimal, cost_rate: Decimal) -> int:
    """Return the whole shares that `cash` pays for at the limit, cost included: floor(cash / (limit x (1 + cost)))."""
    if cash <= 0:
        return 0
    quantity = int(cash / (limit * (1 + cost_rate)))
    return quantity if reserved(limit, quantity, cost_rate) <= cash else quantity - 1


def free_cash(cash: Decimal, orders: Mapping[str, Order], marks: Mapping[str, Decimal], cost_rate: Decimal) -> Decimal:
    """Return the cash in USD that working buys leave: each at its limit, one without a limit at the mark."""
    for order in orders.values():
        if order.side > 0:
            price = marks.get(order.symbol, ZERO) if order.limit_price is None else order.limit_price
            cash -= reserved(price, order.remaining, cost_rate)
    return cash
