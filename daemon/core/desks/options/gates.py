"""Gates of one option order: the answer behind it, size, money, price and other orders.

Each is a function (view, intent) -> reason or None; unknown is a reason to deny. `daemon.core.desks.gates` names and
orders them; meaning and cure stand under each name in docs/GATES.md.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.core.events import Quote
from daemon.core.gate import OPTION_SHARES, Intent, RiskView
from daemon.core.instruments.contracts import implied_spot
from daemon.core.instruments.quotes import is_wide
from daemon.core.session import minutes_to
from strategies.kit.units import SECOND_NS

TIME_VALUE_MAX = 0.05  # of the underlying: one week at the money at a volatility of 90 %


def low_confidence(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.confidence_min
    return None if intent.confidence >= limit else f"confidence {intent.confidence:.4f} below {limit}"


def order_quantity(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.order_contracts_max
    if intent.quantity < 1:
        return f"quantity {intent.quantity}: the sizing rule allows less than one contract"
    return f"{intent.quantity} contracts, limit {limit} an order" if intent.quantity > limit else None


def order_notional(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.premium_max_usd
    if notional is None:
        return "notional unknown: an entry needs a limit price"
    return f"notional {notional} USD, limit {limit}" if notional > limit else None


def max_position(view: RiskView, intent: Intent) -> str | None:
    held = sum(p.quantity for p in view.book.positions.values() if p.right)
    coming = sum(o.remaining for o in view.orders.values() if o.side > 0)
    total, limit = held + coming + intent.quantity, view.limits.position_contracts_max
    return f"position would be {total} contracts, limit {limit}" if total > limit else None


def gross_exposure(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.gross_exposure_max_usd
    if notional is None:
        return "exposure unknown: an entry needs a limit price"
    total = notional + _reserved(view)
    for symbol, position in view.book.positions.items():
        quote = view.quotes.get(symbol)
        if quote is None or not _fresh(view, quote):
            return f"exposure unknown: no fresh mark for {symbol}"
        if position.right and not view.identity.by_tape and is_wide(quote, view.limits):
            return f"exposure unknown: {symbol} is quoted {quote.bid}/{quote.ask}, too wide for a price"
        total += (quote.bid + quote.ask) / 2 * abs(position.quantity) * position.multiplier
    return f"exposure would be {total} USD, limit {limit}" if total > limit else None


def buying_power(view: RiskView, intent: Intent) -> str | None:
    notional = intent.notional
    if notional is None:
        return "cost unknown: an entry needs a limit price"
    free = view.book.cash - _reserved(view)
    if view.spendable is not None:
        free = min(free, view.spendable)
    return f"costs {notional} USD, buying power {free}" if notional > free else None


def _reserved(view: RiskView) -> Decimal:
    """Return the premium that working buys may still spend."""
    return sum(
        ((o.limit_price or Decimal(0)) * o.remaining * OPTION_SHARES for o in view.orders.values() if o.side > 0),
        Decimal(0),
    )


def _fresh(view: RiskView, quote: Quote) -> bool:
    return view.now_ns - quote.quoted_ns <= view.limits.quote_age_max_s * SECOND_NS


def price_collar(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "an entry needs a limit price"
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.ask <= 0:
        return f"no quote for {intent.symbol}"
    middle, collar = (quote.bid + quote.ask) / 2, Decimal(str(view.limits.price_collar))
    if abs(intent.limit_price - middle) > middle * collar:
        return f"limit {intent.limit_price} is further than {collar} from the mid {middle}"
    return None


def wide_spread(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return f"no two-sided quote for {intent.symbol}"
    spread = float((quote.ask - quote.bid) / ((quote.bid + quote.ask) / 2))
    limit = view.limits.spread_max
    return None if 0 <= spread <= limit else f"spread {spread:.4f} of the mid, limit {limit}"


def spot_unsupported(view: RiskView, intent: Intent) -> str | None:
    """Deny when the contract's quotes do not imply the bar's close by which the strike was chosen.

    When its counterpart is not quoted, the time value must be that of a contract near the money.
    """
    quote, contract, spot = view.quotes.get(intent.symbol), intent.contract, view.session.spot
    if quote is None or quote.bid <= 0 or contract is None:
        return None  # `wide_spread` and `open_interest` deny that
    if spot <= 0:
        return "the underlying's price is unknown"
    fresh = {symbol: known for symbol, known in view.quotes.items() if _fresh(view, known)}
    implied, limit = implied_spot(intent.symbol, fresh), view.limits.spot_gap_max
    if implied is not None:
        far = abs(implied - spot) > limit * spot
        return f"the quotes imply {implied:.2f}, the last bar closed at {spot}" if far else None
    middle = float(quote.bid + quote.ask) / 2
    value = middle - max(contract.right * (spot - float(contract.strike)), 0.0)
    if -limit * spot <= value <= TIME_VALUE_MAX * spot:
        return None
    return f"a mid of {middle} is no price of {intent.symbol} at {spot}"


def open_interest(view: RiskView, intent: Intent) -> str | None:
    if intent.contract is None:
        return "contract unknown"
    found, limit = intent.contract.open_interest, view.limits.open_interest_min
    return f"open interest {found}, at least {limit} wanted" if found < limit else None


def expires_today(view: RiskView, intent: Intent) -> str | None:
    session, limit = view.session.session, view.execution.expiry_day_no_entry_min
    if session is None or intent.contract is None:
        return "contract or session unknown"
    if intent.contract.expiry > session.date or minutes_to(session.close_ns, view.now_ns) > limit:
        return None
    return f"the contract expires today and {limit} minutes or less are left"


def duplicate_intent(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        theirs = order.purpose == "foreign" and intent.purpose == "exit"  # its quantity is left out of the exit
        if order.symbol == intent.symbol and order.side == intent.side and not theirs:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
        if intent.purpose == "entry" and order.purpose == "entry":
            return f"entry order {order.client_order_id} is already working"
    return None
