"""Gates of a desk of shares: for a basket before its first order, and for each order.

Each is a function (view, intent) -> reason or None; unknown is a reason to deny. `daemon.core.desks.gates` names and
orders them; meaning and cure stand under each name in docs/GATES.md.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.core.desks.shares.basket import free_cash, reserved
from daemon.core.gate import Intent, RiskView
from daemon.core.risk import order_gates
from daemon.core.state import ZERO
from strategies.kit.units import MINUTE_NS

A_MINUTE, A_DAY = 2, 20  # orders for each symbol: a sale and a buy; twenty prices for each of them
PASSING = frozenset(("not_reconciled", "account_blocked", "market_closed", "blind", "basket_under_way"))
"""Gates with a cause of minutes that does not touch what the policy saw: a basket denied by them alone waits."""

# --- the basket ---------------------------------------------------------------------------------------------------


def stale_history(view: RiskView, _: Intent) -> str | None:
    """Deny unless the newest bar is that of the session before this one."""
    expected, found = view.session.previous, view.newest_bar
    if not expected:
        return "the session before this one is unknown"
    return None if found == expected else f"the newest bar is of {found or 'no day'}, not of {expected}"


def basket_legs(view: RiskView, intent: Intent) -> str | None:
    """Deny unless each leg is a different symbol of the desk, with an allowed quantity and a price."""
    seen: set[str] = set()
    for leg in intent.legs:
        if leg.symbol in seen or leg.symbol not in view.symbols:
            return f"leg {leg.symbol}: {'twice' if leg.symbol in seen else 'not one of the symbols of this desk'}"
        seen.add(leg.symbol)
        if leg.goal < 0:
            return f"leg {leg.symbol}: {leg.goal} shares; a desk never sells short"
        if view.marks.get(leg.symbol, ZERO) <= 0:
            return f"leg {leg.symbol}: no price is known"
        if leg.symbol in view.splits:
            return f"leg {leg.symbol}: its history was split, its shares not yet"
    return None


def basket_under_way(view: RiskView, _: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol in view.symbols:
            return f"order {order.client_order_id} of {order.symbol} still works"
    return None


def leg_under_way(view: RiskView, intent: Intent) -> str | None:
    """Deny while an order of one of the legs works: each symbol is decided about by itself."""
    symbols = {leg.symbol for leg in intent.legs}
    for order in view.orders.values():
        if order.symbol in symbols:
            return f"order {order.client_order_id} of {order.symbol} still works"
    return None


def turnover(view: RiskView, intent: Intent) -> str | None:
    """Deny when sales, or buys as far as the cash may reach, exceed their parts of the equity."""
    sold = bought = ZERO
    for leg in intent.legs:
        value = (leg.goal - _held(view, leg.symbol)) * view.marks[leg.symbol]
        sold, bought = (sold - value, bought) if value < 0 else (sold, bought + value)
    total = sold + min(bought, max(view.book.cash, ZERO) + sold)
    return _too_much(view, "turnover", total, view.basket.turnover_max)


# --- an order -----------------------------------------------------------------------------------------------------


def orders_per_minute(view: RiskView, _: Intent) -> str | None:
    recent = sum(1 for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    limit = A_MINUTE * len(view.symbols)
    return f"{recent} orders within a minute, limit {limit}" if recent >= limit else None


def orders_per_day(view: RiskView, _: Intent) -> str | None:
    limit = A_DAY * len(view.symbols)
    return f"{view.risk.orders_today} orders today, limit {limit}" if view.risk.orders_today >= limit else None


def order_quantity(_: RiskView, intent: Intent) -> str | None:
    return None if intent.quantity >= 1 else f"quantity {intent.quantity}: less than one share"


def order_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    return _too_much(view, "the order", intent.limit_price * intent.quantity, view.basket.order_weight_max)


def order_notional(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    limit = view.basket.buy_max_usd(view.book.equity)
    value = intent.limit_price * intent.quantity
    return f"notional {value} USD, limit {limit}" if value > limit else None


def position_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    coming = sum(o.remaining for o in view.orders.values() if o.symbol == intent.symbol and o.side > 0)
    shares = _held(view, intent.symbol) + coming + intent.quantity
    return _too_much(view, f"{intent.symbol}", intent.limit_price * shares, view.basket.position_weight_max)


def gross_weight(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    total = intent.limit_price * intent.quantity
    for position in view.book.positions.values():
        total += abs(position.quantity) * view.marks.get(position.symbol, ZERO)
    for order in view.orders.values():
        if order.side > 0:
            total += order.remaining * (order.limit_price or view.marks.get(order.symbol, ZERO))
    return _too_much(view, "all positions", total, view.basket.gross_weight_max)


def buying_power(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "cost unknown: a buy needs a limit price"
    cost = reserved(intent.limit_price, intent.quantity, view.cost_rate)
    free = free_cash(view.book.cash, view.orders, view.marks, view.cost_rate)
    if view.spendable is not None:
        free = min(free, view.spendable)
    return f"costs {cost} USD, buying power {free}" if cost > free else None


def price_collar(view: RiskView, intent: Intent) -> str | None:
    """Deny a limit far from the last known price; an order without a limit is an exit that must leave."""
    limit, mark = intent.limit_price, view.marks.get(intent.symbol, ZERO)
    if limit is None:
        return None
    if mark <= 0:
        return f"no price of {intent.symbol} is known"
    collar = Decimal(str(view.basket.price_collar))
    return f"limit {limit} is further than {collar} from {mark}" if abs(limit - mark) > mark * collar else None


def stale_quote(view: RiskView, intent: Intent) -> str | None:
    return None if intent.limit_price is None else order_gates.stale_quote(view, intent)


def duplicate_order(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        theirs = order.purpose == "foreign" and intent.purpose == "exit"  # its quantity is left out of the exit
        if order.symbol == intent.symbol and order.side == intent.side and not theirs:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
    return None


def _held(view: RiskView, symbol: str) -> int:
    position = view.book.positions.get(symbol)
    return position.quantity if position else 0


def _too_much(view: RiskView, what: str, value: Decimal, limit: float) -> str | None:
    if view.book.equity <= 0:
        return f"equity is {view.book.equity} USD"
    weight = float(value / view.book.equity)
    return f"{what} would be {weight:.4f} of the equity, limit {limit}" if weight > limit else None
