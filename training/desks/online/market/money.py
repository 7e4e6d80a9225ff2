"""Prices, costs and sizes of shares in whole numbers, as the desk and its paper broker compute them in decimals.

Prices are ticks (1e-4 USD) or half ticks, money is micro-dollars (1e-6 USD), both int64. Pure.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from daemon.core.desks.shares.sizes import CENTS
from daemon.core.limits import PROCEEDS, SHARES, SHARES_SOLD, Trading
from daemon.core.paper.fees import CHARGED, charges_days
from training.desks.online.market.bars import Float64Array, Int64Array
from training.desks.online.market.history import HALF, rounded_up

MICRO = 1_000_000
MICRO_A_TICK, MICRO_A_HALF = 100, 50


class Money:
    """The rules of one desk about prices, costs and sizes."""

    def __init__(self, trading: Trading, symbols: int) -> None:
        rules = trading.basket
        self._rate = Fraction(trading.paper.share_cost_rate)
        self._slack, self._collar = Fraction(str(rules.price_slack)), Fraction(str(rules.price_collar))
        self._weight = min(rules.weight_max, 1.0 / symbols)
        cents = {SHARES: Fraction(CENTS), SHARES_SOLD: Fraction(CENTS), PROCEEDS: Fraction(CENTS, MICRO)}
        self._fees = [
            (on, Fraction(getattr(trading.paper, key)) * each)
            for on, each in cents.items()
            for key in (CHARGED[on] if charges_days(trading.paper) else ())
        ]

    def cost(self, traded: Int64Array) -> Int64Array:
        """What trading this value costs, half to even."""
        product = traded * self._rate.numerator
        whole, rest = np.divmod(product, self._rate.denominator)
        up = (2 * rest > self._rate.denominator) | ((2 * rest == self._rate.denominator) & (whole % 2 == 1))
        rounded: Int64Array = whole + up
        return rounded

    def day_fees(self, shares: Int64Array, sold: Int64Array, proceeds: Int64Array) -> Int64Array:
        """A day's fees of shares traded, of those sold, and of what they brought: each kind rounded up to the cent."""
        bases = {SHARES: shares, SHARES_SOLD: sold, PROCEEDS: proceeds}
        cents = np.zeros_like(shares)
        for on, rate in self._fees:
            cents += -(-bases[on] * rate.numerator // rate.denominator)
        found: Int64Array = cents * (MICRO // CENTS)
        return found

    def reserved(self, limit: Int64Array, shares: Int64Array) -> Int64Array:
        """What a buy at this limit in ticks holds back."""
        traded = limit * shares * MICRO_A_TICK
        return traded + rounded_up(traded, self._rate)

    def affordable(self, cash: Int64Array, limit: Int64Array) -> Int64Array:
        """Whole shares that the cash pays for at this limit."""
        each = self._rate + 1
        shares = np.maximum(cash, 0) * each.denominator // np.maximum(limit * MICRO_A_TICK * each.numerator, 1)
        return np.where(self.reserved(limit, shares) <= cash, shares, np.maximum(shares - 1, 0))

    def buy_limit(self, ask: Int64Array, middle: Int64Array) -> Int64Array:
        """Limit of a buy in ticks; `middle` in half ticks."""
        bound = middle * (1 + self._collar).numerator // (2 * (1 + self._collar).denominator)
        return np.minimum(rounded_up(ask, 1 + self._slack), bound)

    def sell_limit(self, bid: Int64Array, middle: Int64Array) -> Int64Array:
        """Limit of a sale in ticks."""
        low, collar = 1 - self._slack, (1 - self._collar) / 2
        return np.maximum(bid * low.numerator // low.denominator, rounded_up(middle, collar))

    def goal(self, equity: Int64Array, middle: Int64Array) -> Int64Array:
        """Whole shares that a BUY wants, by the strategy's own arithmetic (`strategies.online_dqn.goal_of`)."""
        found: Int64Array = (self._weight * np.maximum(usd(equity), 0.0) / price_usd(middle)).astype(np.int64)
        return found


def usd(micro: Int64Array) -> Float64Array:
    """Money in USD."""
    found: Float64Array = micro / MICRO
    return found


def price_usd(half_ticks: Int64Array) -> Float64Array:
    """A price in USD a share."""
    found: Float64Array = half_ticks / HALF
    return found
