"""What one quote says of a price, within the limits of its desk: valid, narrow, wide, or a leap. Pure.

An invalid quote says nothing. A narrow one is a price at its mid; a wide or one-sided one only bounds the price.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from daemon.core.events import Quote
from daemon.core.limits import Basket, Risk
from daemon.core.state import ZERO
from strategies.kit.units import SECOND_NS

FUTURE_NS = 2 * SECOND_NS  # a quote stamped further ahead would make each later one old and stay fresh too long
NARROW_USD = Decimal("0.10")  # an option's quote is never too wide below this: cheap ones trade in steps of 5 cents
STEP_USD = Decimal("0.02")  # an option's price never leaps by less
PRICE_MAX = Decimal(10) ** 9  # USD; anything above is no valid price, and too long to compute with


class QuoteGuard(NamedTuple):
    """The limits within which a quote is accepted at once: parts of the price, and USD amounts below which they do not
    apply."""

    width: Decimal  # (ask - bid) / mid
    leap: Decimal
    narrow_usd: Decimal
    step_usd: Decimal


def share_guard(rules: Basket) -> QuoteGuard:
    """Return the guard of a share desk: its collar on either side of the mid, and between two prices."""
    collar = Decimal(str(rules.price_collar))
    return QuoteGuard(2 * collar, collar, ZERO, ZERO)


def option_guard(limits: Risk) -> QuoteGuard:
    """Return the guard of an option desk: its limits on the width of a quote and on a leap."""
    return QuoteGuard(Decimal(str(limits.mark_width_max)), Decimal(str(limits.mark_leap_max)), NARROW_USD, STEP_USD)


def is_quote(quote: Quote, now_ns: int) -> bool:
    """Return False for an invalid quote: no side, a negative, crossed or infinite price, a time in the future."""
    bid, ask = quote.bid, quote.ask
    if not (bid.is_finite() and ask.is_finite()) or min(bid, ask) < 0 or bid == ask == 0 or bid > ask > 0:
        return False
    if max(bid, ask) > PRICE_MAX:
        return False
    return quote.quoted_ns <= now_ns + FUTURE_NS


def middle_of(quote: Quote, guard: QuoteGuard) -> Decimal | None:
    """Return the mid of a quote in USD; None when a side is missing or both lie too far apart."""
    middle = (quote.bid + quote.ask) / 2
    narrow = quote.ask - quote.bid <= max(guard.width * middle, guard.narrow_usd)
    return middle if ZERO < quote.bid <= quote.ask and narrow else None


def is_wide(quote: Quote, limits: Risk) -> bool:
    """Return True for a quote wider than one at which the desk itself would buy, or without a side."""
    width = max(Decimal(str(limits.spread_max)) * (quote.bid + quote.ask) / 2, NARROW_USD)
    return not (ZERO < quote.bid <= quote.ask and quote.ask - quote.bid <= width)


def is_leap(price: Decimal, known: Decimal | None, guard: QuoteGuard) -> bool:
    """Return True for a price too far from the last known one to be accepted from one quote alone."""
    return known is not None and abs(price - known) > max(guard.leap * max(price, known), guard.step_usd)


def price_of(quote: Quote, known: Decimal | None, guard: QuoteGuard) -> Decimal | None:
    """Return the price in USD that a quote implies; None when it adds nothing to the known one.

    A wide or one-sided quote bounds the price: at most the ask, at least the bid.
    """
    middle = middle_of(quote, guard)
    if middle is not None or known is None:
        return middle
    bound = min(max(known, quote.bid), quote.ask) if quote.ask else max(known, quote.bid)
    return None if bound == known else bound
