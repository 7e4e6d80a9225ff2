"""Prices, costs and sizes of shares in whole numbers, as the desk and its paper broker compute them in decimals.

Prices are in ticks (1e-4 USD) or half ticks, shares in steps (`per_share` to a share), money in units (`usd` to a USD).
The units are so small that one step at half a tick, and the finest cost, are whole numbers. All int64, in
arrays of any shape, element by element. Pure.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from daemon.core.desks.shares.sizes import BITS, CENTS, COST_GRID, TICKS, slack, units_a_usd
from daemon.core.limits import PROCEEDS, SHARES, SHARES_SOLD, Trading
from daemon.core.paper.fees import CHARGED, charges_days
from training.desks.online.market.bars import Float64Array, Int64Array
from training.desks.online.market.history import HALF, rounded_up

BoolArray = npt.NDArray[np.bool_]

LARGEST = 2**62  # a product of int64


class Money:
    """The rules of one desk about prices, costs and sizes."""

    def __init__(self, trading: Trading, symbols: int, per_share: int = 1) -> None:
        """Take the rules; with more than one step to a share, accounts may hold fractions.

        Raises:
            ValueError: the paper cash in these units does not fit into 64 bits.
        """
        rules = trading.basket
        self.per_share, self.usd = per_share, math.lcm(COST_GRID, 2 * TICKS * per_share)
        self.a_half = self.usd // (2 * TICKS * per_share)  # units of one step at half a tick
        self.a_tick = 2 * self.a_half
        self.capital = int(trading.paper.cash_usd * self.usd)
        self._grid = self.usd // COST_GRID
        self._rate = Fraction(trading.paper.share_cost_rate)
        with_cost = 1 + self._rate
        if self.capital * with_cost.denominator > LARGEST:
            raise ValueError(
                f"paper.cash_usd is {trading.paper.cash_usd} and basket.order_step {rules.order_step}: training counts "
                'at most 2^62 parts of a cost: choose a larger order_step, or fractions = "off"'
            )
        self._least = Fraction(rules.min_order_usd) * TICKS * per_share  # in steps at a tick
        self._slack, self._collar = Fraction(str(rules.price_slack)), Fraction(str(rules.price_collar))
        self._weight = min(rules.weight_max, 1.0 / symbols)
        share = Fraction(CENTS, per_share)
        cents = {SHARES: share, SHARES_SOLD: share, PROCEEDS: Fraction(CENTS, self.usd)}
        self._fees = [
            (on, Fraction(getattr(trading.paper, key)) * fee)
            for on, fee in cents.items()
            for key in (CHARGED[on] if charges_days(trading.paper) else ())
        ]

    def cost(self, traded: Int64Array) -> Int64Array:
        """Cost of trading this value, rounded half to even to 1e-6 USD."""
        product, least = traded * self._rate.numerator, self._rate.denominator * self._grid
        whole, remainder = np.divmod(product, least)
        up = (2 * remainder > least) | ((2 * remainder == least) & (whole % 2 == 1))
        rounded: Int64Array = (whole + up) * self._grid
        return rounded

    def day_fees(self, shares: Int64Array, sold: Int64Array, proceeds: Int64Array) -> Int64Array:
        """A day's fees on shares traded, shares sold and proceeds, each kind rounded up to the cent."""
        bases = {SHARES: shares, SHARES_SOLD: sold, PROCEEDS: proceeds}
        cents = np.zeros_like(shares)
        for on, rate in self._fees:
            cents += -(-bases[on] * rate.numerator // rate.denominator)
        fees: Int64Array = cents * (self.usd // CENTS)
        return fees

    def reserved(self, limit: Int64Array, steps: Int64Array) -> Int64Array:
        """Money that a buy at this limit in ticks reserves."""
        traded = limit * steps * self.a_tick
        return traded + rounded_up(traded, self._rate / self._grid) * self._grid

    def affordable(self, cash: Int64Array, limit: Int64Array, goal: Int64Array, divides: BoolArray) -> Int64Array:
        """The steps of a goal that the cash pays for at this limit; whole shares unless `divides`.

        The rule of `daemon.core.desks.shares.sizes.share_out`: a part of the goal for fractions, else the whole shares
        that fit.
        """
        with_cost, a_share = self._rate + 1, self.a_tick * self.per_share
        shares = np.maximum(cash, 0) * with_cost.denominator // np.maximum(limit * a_share * with_cost.numerator, 1)
        steps = shares * self.per_share
        whole = np.where(self.reserved(limit, steps) <= cash, steps, np.maximum(steps - self.per_share, 0))
        if self.per_share == 1:
            return whole
        units = units_a_usd(self.per_share)
        cent, times = units // CENTS, self.usd // units
        costs = rounded_up(limit, with_cost * Fraction(units, TICKS * self.per_share))
        cents_available = np.maximum(cash // times - slack(self.per_share), 0) // cent
        needed = np.maximum(-(-goal * costs // cent), 1)
        part = goal * np.minimum((cents_available << BITS) // needed, 1 << BITS) >> BITS
        return np.where(divides, np.where(self._is_too_small(part, 2 * limit), 0, part), whole)

    def _is_too_small(self, steps: Int64Array, halves: Int64Array) -> BoolArray:
        """Whether these steps, at a price in half ticks, are a fraction too small for an order."""
        worth = steps * halves * self._least.denominator < 2 * self._least.numerator
        is_small: BoolArray = (steps % self.per_share > 0) & worth
        return is_small

    def buy_limit(self, ask: Int64Array, middle: Int64Array) -> Int64Array:
        """Limit of a buy in ticks; `middle` in half ticks."""
        bound = middle * (1 + self._collar).numerator // (2 * (1 + self._collar).denominator)
        return np.minimum(rounded_up(ask, 1 + self._slack), bound)

    def sell_limit(self, bid: Int64Array, middle: Int64Array) -> Int64Array:
        """Limit of a sale in ticks."""
        low, collar = 1 - self._slack, (1 - self._collar) / 2
        return np.maximum(bid * low.numerator // low.denominator, rounded_up(middle, collar))

    def goal(self, equity: Int64Array, middle: Int64Array, divides: BoolArray) -> Int64Array:
        """Target steps of a BUY, by the strategy's arithmetic (`strategies.online_dqn.goal_of`)."""
        shares = self._weight * np.maximum(self.in_usd(equity), 0.0) / price_usd(middle)
        whole: Int64Array = shares.astype(np.int64) * self.per_share
        if self.per_share == 1:
            return whole
        count = np.rint(shares * self.per_share)  # as `strategies.kit.quantity.steps_of` cuts
        steps = np.where(count / self.per_share == shares, count, shares * self.per_share).astype(np.int64)
        return np.where(divides, np.where(self._is_too_small(steps, middle), 0, steps), whole)

    def in_usd(self, units: Int64Array) -> Float64Array:
        """Money in USD."""
        usd: Float64Array = units / self.usd
        return usd

    def shares(self, steps: Int64Array) -> Float64Array:
        """Steps as shares."""
        shares: Float64Array = steps / self.per_share
        return shares


def price_usd(half_ticks: Int64Array) -> Float64Array:
    """A price in USD a share."""
    prices: Float64Array = half_ticks / HALF
    return prices
