"""Accounts of cash and shares as tensors: a session's sells, then its buys, as the paper broker fills them.

Sells fill at the open, then buys, all in proportion where the cash is short. Shares are counted in steps, prices in
ticks (1e-4 USD), and money in units so small that one step at one tick is a whole number: 1e-6 USD where a step is a
share, 1e-8 USD where it is 1/10,000. All are whole numbers in float64, so only costs are rounded, as the paper broker
rounds them. Invariant: no trade takes cash below 0; only a day's fees may, by cents. Nothing waits for a device.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.desks.shares.sizes import BITS, CENTS, COST_GRID, fractions_fit, sells_in_auction, slack, units_a_usd
from daemon.core.limits import PROCEEDS, SHARES, SHARES_SOLD, Trading
from daemon.core.paper.fees import CHARGED, charges_days
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.episodes import EpisodePlan, Episodes

FINEST = 10_000  # steps in a share for which accounts of a million USD are exact in float64
_INDEX_BITS = 12  # of a symbol's place in a sorting key: up to 4,096 symbols


class ShareAccounts(Episodes):
    """Accounts with the trading rules' paper cash, and what they hold of `symbols` symbols each.

    Subclasses add the sessions: they compute each account's targets and value it at the close. Holdings (`_held`) and
    trades are in steps, of which `per_share` make a share. `_usd` units of money are a USD; `_a_tick` units are one
    step at one tick.
    """

    def __init__(self, course: EpisodePlan, trading: Trading, symbols: int, per_share: int = 1) -> None:
        super().__init__(course)
        self._symbols, self._per_share = symbols, per_share
        self._usd = units_a_usd(per_share)
        self._a_tick = self._usd // (TICKS * per_share)
        self._micro, self._slack = self._usd // COST_GRID, slack(per_share)
        self._capital = float(trading.paper.cash_usd * self._usd)
        self._auction = sells_in_auction(trading)
        self._least_order = float(trading.basket.min_order_usd * TICKS * per_share)  # in steps at a tick
        self._set_costs(trading)

    def _set_costs(self, trading: Trading) -> None:
        """The cost rate as exact ratios: of a traded tick in micro-dollars, and of what a buy reserves in units."""
        rate = Fraction(trading.paper.share_cost_rate)
        of_tick = rate * self._a_tick * COST_GRID / self._usd
        self._cost_numerator, self._cost_denominator = float(of_tick.numerator), float(of_tick.denominator)
        reserved = self._a_tick * (1 + rate)  # units of money that a buy of one step for one tick holds back
        self._reserve_numerator, self._reserve_denominator = float(reserved.numerator), float(reserved.denominator)
        step, tick = Fraction(CENTS, self._per_share), Fraction(CENTS * self._a_tick, self._usd)
        cents = {SHARES: step, SHARES_SOLD: step, PROCEEDS: tick}  # of a fee's rate: of a step, of a step at a tick
        self._fees = [
            (on, (Fraction(getattr(trading.paper, key)) * fee).as_integer_ratio())
            for on, fee in cents.items()
            for key in (CHARGED[on] if charges_days(trading.paper) else ())
        ]

    def _open_accounts(self) -> None:
        """The paper cash and no shares, everywhere."""
        n, real = self._count, torch.float64
        self._cash = torch.full((n,), self._capital, dtype=real, device=self.device)
        self._value = torch.full((n,), self._capital, dtype=real, device=self.device)
        self._held = torch.zeros((n, self._symbols), dtype=real, device=self.device)
        self._bought = self._sales = self._sale_ticks = self._cost_each = torch.zeros_like(self._held)
        self._costs_paid = self._traded = torch.zeros_like(self._cash)
        self._closing = self._closing_cash = self._cash

    def _mark(self, closes: Tensor) -> None:
        """The session is over: the value of each account at these ticks."""
        self._value = self._cash + (self._held * closes).sum(1) * self._a_tick
        self._closing, self._closing_cash = self._value, self._cash

    def _open_again(self, over: Tensor) -> None:
        """New accounts where `over`."""
        self._cash = self._cash.masked_fill(over, self._capital)
        self._value = self._value.masked_fill(over, self._capital)
        self._held = self._held.masked_fill(over.unsqueeze(1), 0.0)

    def _sell(self, leaves: Tensor, sold: Tensor, late: Tensor, ask: Tensor) -> None:
        """Sell steps (n, symbols): whole shares at the ticks `sold`, an order of a fraction at `late`.

        The auction takes the whole shares, and leaves an order of the rest; one that is too small for an order by then,
        in the middle of `sold` and `ask`, stays.
        """
        if self._per_share > 1 and self._auction:
            rest = leaves % self._per_share
            small = (rest < leaves) & (leaves < self._held) & (rest * (sold + ask) < 2.0 * self._least_order)
            leaves = leaves - rest.masked_fill(~small, 0.0)
        ticks = leaves * sold
        if self._per_share > 1:
            fraction = leaves % self._per_share
            parts = fraction if self._auction else leaves.masked_fill(fraction == 0.0, 0.0)
            ticks = ticks - parts * (sold - late)
        costs = self._cost(ticks)
        self._cost_each = costs
        self._held = self._held - leaves
        self._cash = self._cash + (ticks * self._a_tick - costs).sum(1)
        self._sales, self._sale_ticks = leaves, ticks
        self._costs_paid, self._traded = costs.sum(1), ticks.sum(1)

    def _worth_an_order(self, change: Tensor, goal: Tensor, prices_usd: Tensor) -> Tensor:
        """Steps to trade (n, symbols) towards a goal; 0 for changes too small for an order at the last known closes.

        The rule is that of `daemon.core.desks.shares.sizes.exact_decision`: no order for a fraction worth less than
        `basket.min_order_usd`.
        """
        if self._per_share == 1:
            return change
        worth = change * torch.where(prices_usd.isfinite(), (prices_usd * TICKS).round(), 0.0)
        small = (worth < self._least_order) & (goal > 0.0) & (change % self._per_share > 0.0)
        return change.masked_fill(small, 0.0)

    def _worth_selling(self, leaves: Tensor, goal: Tensor, prices_usd: Tensor) -> Tensor:
        """Steps to sell: the auction sells whole shares; a remaining fraction too small for an order is kept.

        As `daemon.core.desks.shares.sizes.worth_an_order` has it.
        """
        leaves = self._worth_an_order(leaves, goal, prices_usd)
        if self._per_share == 1 or not self._auction:
            return leaves
        fraction = leaves % self._per_share
        alone = (leaves > fraction) & (goal > 0.0)
        return leaves - fraction + self._worth_an_order(fraction, alone.to(fraction.dtype), prices_usd)

    def _buy(self, buys: Tensor, paid: Tensor, limit: Tensor) -> None:
        """Buy at the ticks `paid`; where the cash does not cover all limits, all buys shrink in proportion.

        The session's trades end here: its fees are booked.
        """
        bought = self._paid_for(buys, limit, self._cash)
        ticks = bought * paid
        costs = self._cost(ticks)
        self._held = self._held + bought
        self._cash = self._cash - (ticks * self._a_tick + costs).sum(1)
        self._cost_each = self._cost_each + costs
        self._bought, self._costs_paid = bought, self._costs_paid + costs.sum(1)
        self._traded = self._traded + ticks.sum(1)
        if self._fees:
            self._charge(ticks)

    def _charge(self, bought: Tensor) -> None:
        """Take the day's fees, each kind rounded up to the cent, from what was sold and `bought` (n, symbols) in ticks.

        The rule is that of `daemon.core.paper.fees.day_fees`. Each symbol bears a part in proportion to its trades.
        """
        sold = self._sales.sum(1)
        bases = {SHARES: sold + self._bought.sum(1), SHARES_SOLD: sold, PROCEEDS: self._sale_ticks.sum(1)}
        cents = torch.zeros_like(sold, dtype=torch.int64)
        for on, (numerator, denominator) in self._fees:
            cents = cents - -bases[on].long() * numerator // denominator  # rounded up
        fees = cents.double() * (self._usd // CENTS)
        part = (self._sale_ticks + bought) / self._traded.clamp(min=1.0).unsqueeze(1)
        self._cash, self._costs_paid = self._cash - fees, self._costs_paid + fees
        self._cost_each = self._cost_each + part * fees.unsqueeze(1)

    def _cost(self, ticks: Tensor) -> Tensor:
        """Cost of trading this many ticks, in units of money: whole micro-dollars, half to even."""
        micro = (ticks * self._cost_numerator / self._cost_denominator).round_()
        return micro if self._micro == 1 else micro * self._micro

    def _paid_for(self, buys: Tensor, ticks: Tensor, cash: Tensor) -> Tensor:
        """Steps that `cash`, in units of money (n,), pays for at these ticks, costs included: see `shared_steps`."""
        traded = buys * ticks
        costs = -(-(traded * self._cost_numerator) / self._cost_denominator).floor() * self._micro
        short = (traded * self._a_tick + costs).sum(1) > cash  # cash that the orders reserve
        rows = short.nonzero().squeeze(1) if self._looks else self._everyone
        if not rows.numel():
            return buys
        some, prices, free = buys.index_select(0, rows), ticks.index_select(0, rows), cash.index_select(0, rows)
        cost_per_step = -(-(prices * self._reserve_numerator) / self._reserve_denominator).floor()
        free = (free - self._slack * (some > 0.0).sum(1)).clamp(min=0.0)
        affordable = shared_steps(some, cost_per_step, free, self._per_share)
        if self._per_share > 1:  # a reduced fraction may be too small for an order
            small = (
                (affordable < some) & (affordable * prices < self._least_order) & (affordable % self._per_share > 0.0)
            )
            affordable = affordable.masked_fill(small, 0.0)
        return torch.where(short.unsqueeze(1), buys.index_copy(0, rows, affordable), buys)

    def _steps(self, shares: Tensor) -> Tensor:
        """Shares cut to whole steps, as `strategies.kit.quantity.steps_of` cuts them; float64."""
        if self._per_share == 1:
            return shares.trunc()
        steps = shares * self._per_share
        nearest = steps.round()
        return torch.where(nearest / self._per_share == shares, nearest, steps.trunc())

    def _in_shares(self, steps: Tensor) -> Tensor:
        """A count of steps as shares, float64: the numbers that a strategy sees."""
        return steps if self._per_share == 1 else steps / self._per_share

    @property
    def equity_usd(self) -> Tensor:
        """Cash and shares at the last close in USD, float64 (n,)."""
        equity: Tensor = self._value / self._usd
        return equity

    @property
    def cash_usd(self) -> Tensor:
        """Cash in USD, float64 (n,)."""
        cash: Tensor = self._cash / self._usd
        return cash

    @property
    def shares(self) -> Tensor:
        """Shares held, float64 (n, symbols)."""
        return self._in_shares(self._held)

    @property
    def closing_usd(self) -> tuple[Tensor, Tensor]:
        """Equity and cash at the end of the last step in USD, float64 (n,); before a new episode began."""
        return self._closing / self._usd, self._closing_cash / self._usd

    @property
    def traded(self) -> tuple[Tensor, Tensor]:
        """Shares sold and bought in the last step, float64 (n, symbols) each; before a new episode began."""
        return self._in_shares(self._sales), self._in_shares(self._bought)

    @property
    def orders(self) -> Tensor:
        """Orders filled in the last step, int64 (n,): a sold fraction is an order of its own.

        The opening auction takes whole shares alone; without it a sale is one order.
        """
        fraction = self._sales % self._per_share
        sales = (self._sales > fraction).long() + (fraction > 0.0) if self._auction else (self._sales > 0.0).long()
        return (sales + (self._bought > 0.0)).sum(1)

    @property
    def costs_usd(self) -> Tensor:
        """Costs of the last step in USD, float64 (n,)."""
        costs: Tensor = self._costs_paid / self._usd
        return costs

    @property
    def traded_usd(self) -> Tensor:
        """Value bought and sold in the last step in USD, float64 (n,)."""
        traded: Tensor = self._traded / (TICKS * self._per_share)
        return traded


def steps_a_share(table: DailyTable, first: int, trading: Trading, symbols: int | None = None) -> int:
    """Steps per share that accounts of `symbols` symbols (all of the table) trade in, from session `first` on.

    By the desk's rule, at the first decision. Raises ValueError where the steps are finer than accounts are exact for.
    """
    rules, n = trading.basket, len(table.symbols)
    if rules.fractions == "auto":
        closes = (table.close_ticks[first - 1] / TICKS).tolist()
        fractions = fractions_fit(float(trading.paper.cash_usd) * n / (symbols or n), closes)
    else:
        fractions = rules.fractions == "on"
    if fractions and rules.steps_a_share > FINEST:
        raise ValueError(
            f"basket.order_step is {rules.order_step}: training counts 1/{FINEST:,} of a share at the finest"
        )
    return rules.steps_a_share if fractions else 1


def check_span(table: DailyTable, first: int, last: int) -> None:
    """Raise ValueError where sessions `first` to `last` are none of the table with a session before them."""
    if not 1 <= first <= last < len(table.sessions):
        raise ValueError(
            f"sessions {first} to {last} are to be traded; expected 1 <= first <= last < {len(table.sessions)}, "
            f"the sessions of {table.file}: give a longer file or another split"
        )


def price_rows(
    table: DailyTable, first: int, last: int, trading: Trading, fill: str = "next_open"
) -> np.ndarray[Any, Any]:
    """Prices and flags for decisions before sessions `first` to `last`, float64 (sessions, 7, symbols).

    Of each symbol: whether it trades at all, the last known close in USD (infinite where none is known), and in whole
    ticks what sales get in the auction and after it, what buys pay, their limit, and the close to come. `fill`
    "same_close" trades at the close on which the decision is made.
    """
    marks = table.close_ticks[first - 1 : last + 1]
    sold = table.open_ticks[first : last + 1] if fill == "next_open" else marks[:-1]
    late, paid, limit = wait_ticks(sold, trading) if fill == "next_open" else (sold, sold, sold)
    decision_prices = np.where(marks > 0, marks, np.inf)[:-1] / TICKS
    opens = (sold > 0) & ~table.stale[first : last + 1, None]
    return np.stack([opens, decision_prices, sold, late, paid, limit, marks[1:]], axis=1)


def wait_ticks(prints: np.ndarray[Any, Any], trading: Trading) -> tuple[np.ndarray[Any, Any], ...]:
    """Price of sales after the auction, rounded down; price and limit of the buys after them, rounded up.

    In whole ticks, exactly.
    """
    waits = Fraction(trading.paper.share_wait_rate)
    ask = _times(prints, 1 + waits)
    return -_times(-prints, 1 - waits), ask, _times(ask, 1 + Fraction(repr(trading.basket.price_slack)))


def _times(ticks: np.ndarray[Any, Any], factor: Fraction) -> np.ndarray[Any, Any]:
    """Whole ticks times a factor, rounded up to whole ticks in exact integers."""
    whole = ticks.astype(np.int64)
    return -(-whole * factor.numerator // factor.denominator).astype(np.float64)


def fees_of_values(moved: Tensor, prices: Tensor, trading: Trading) -> Tensor:
    """A day's fees in USD, float64 (n,), of accounts that count no shares; 0 where the rules charge none by the day.

    `moved` are the changes in USD (n, symbols), sales below 0, at `prices` in USD a share. A change worth less than
    `basket.min_order_usd` is no order.
    """
    if not charges_days(trading.paper):
        return torch.zeros_like(moved[:, 0])
    moved = torch.where((moved.abs() >= float(trading.basket.min_order_usd)) & (prices > 0.0), moved, 0.0)
    sales = -moved.clamp(max=0.0)
    shares = [(usd / torch.where(prices > 0.0, prices, 1.0)).sum(1) for usd in (moved.abs(), sales)]
    bases = {SHARES: shares[0], SHARES_SOLD: shares[1], PROCEEDS: sales.sum(1)}
    cents = [(float(getattr(trading.paper, key)) * CENTS * bases[on]).ceil() for on in bases for key in CHARGED[on]]
    return torch.stack(cents).sum(0) / CENTS


def shared_steps(buys: Tensor, cost_per_step: Tensor, free: Tensor, per_share: int) -> Tensor:
    """Steps of each buy that insufficient cash pays for, float64 (k, n), as `daemon.core.desks.shares.sizes.share_out`.

    Arguments are whole numbers, 0 or more: steps wanted and money units per step (k, n), money units available (k,). A
    quotient of whole numbers below 2^53 is never rounded up to a whole number, so all is exact below 2^33 cents and
    2^33 steps.
    """
    cent = units_a_usd(per_share) // CENTS
    needed = (buys * cost_per_step).sum(1)
    part = ((free / cent).floor() * (1 << BITS) / (needed / cent).ceil().clamp(min=1.0)).floor()
    part = torch.where(needed > free, part, 1 << BITS)
    product = buys * part.unsqueeze(1)
    whole_steps = (product / (1 << BITS)).floor()
    if per_share > 1:
        return whole_steps
    remainder = torch.where(buys > whole_steps, product - whole_steps * (1 << BITS), -1.0)
    order = _by_size(remainder)
    if buys.device.type == "cpu":  # stocks that no account buys come last; counting them is cheap on a CPU
        order = order[:, : int((buys > whole_steps).sum(1).max())]
    cash_left = free - (whole_steps * cost_per_step).sum(1)
    prices, wants = cost_per_step.gather(1, order).T.contiguous(), (buys > whole_steps).gather(1, order).T.contiguous()
    more = torch.zeros_like(prices)
    for price, want, affordable in zip(prices.unbind(0), wants.unbind(0), more.unbind(0), strict=True):
        torch.mul(want, price <= cash_left, out=affordable)
        cash_left.addcmul_(affordable, price, value=-1)
    return whole_steps.scatter_add(1, order, more.T)


def _by_size(values: Tensor) -> Tensor:
    """Indices that sort whole numbers within [-1, 2^20], the largest first, ties by index; int64 (k, n)."""
    places = torch.arange(values.shape[1], device=values.device)
    return _argsort((((1 << BITS) - values).to(torch.int64) << _INDEX_BITS) | places)


def _argsort(keys: Tensor) -> Tensor:
    """Indices that sort the keys; on a CPU by numpy, which sorts rows of integers ten times as fast as torch."""
    ordered = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if keys.device.type == "cpu" else keys.sort(1).values
    return ordered & ((1 << _INDEX_BITS) - 1)
