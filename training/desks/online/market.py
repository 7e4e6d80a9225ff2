"""Accounts of `online_dqn` on recorded bars, stepped together: one row is one symbol of a desk, one episode a session.

Orders leave at a bar's close and trade at the next bar's open within their limits, as on the desk in dry run, to the
cent. While a row is played, the other symbols of its desk stay flat. Everything is numpy on the CPU: prices are ticks,
shares and money are counted as `Money` has them, times are minutes from the open, all int64. Invariant of an account:
cash + shares at what was paid for them = capital + profit of closed trades - costs of the open one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from daemon.core.desks.shares.sizes import BITS, CENTS, COST_GRID, TICKS, fractions_fit, slack, units_a_usd
from daemon.core.limits import PROCEEDS, SHARES, SHARES_SOLD, Trading
from daemon.core.paper.fees import CHARGED, charges_days
from daemon.core.risk.guards import TOUCH_USD
from strategies.online_dqn import BUY, SELL, resolve
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import portfolio_fields
from training.desks.online.history import HALF, Float64Array, History, Int64Array, TradingDay, rounded_up
from training.rl.draws import uniform
from training.rl.protocols import Step

BoolArray = npt.NDArray[np.bool_]

LARGEST = 2**62  # a product of int64


class Money:
    """The rules of one desk about prices, costs and sizes, in whole numbers, as desk and paper broker compute them.

    Prices are in ticks (1e-4 USD) or half ticks, shares in steps (`per_share` to a share), money in units (`usd` to a
    USD). The units are so small that one step at half a tick, and the finest cost, are whole numbers. All int64, in
    arrays of any shape, element by element. Pure.
    """

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


NEVER = -(10**6)  # a minute long before any session
NONE = -1  # number of the attempt where no sale is working
MARKET = 0  # limit of a market order
PER_SHARE = "per_share"


class Accounts:
    """One account for each row; its columns are views of `state`, int64 (columns, n), and change in place."""

    cash: Int64Array
    equity: Int64Array  # at the mark
    peak: Int64Array  # of the equity
    held: Int64Array  # in steps, like every quantity here
    entry: Int64Array  # price paid
    opened: Int64Array  # when the bar of the fill began
    pnl: Int64Array  # of the open position so far, after costs
    wanted: Int64Array  # steps of the working buy
    since: Int64Array  # minute of the BUY that wanted it
    limit: Int64Array  # limit of the working order; or `MARKET`
    attempt: Int64Array  # attempt of the working sale; or `NONE`
    leaving: Int64Array  # 1 where an exit rule closes the position
    halted: Int64Array  # 1 after a loss limit
    rests_until: Int64Array  # minute before which no entry is allowed
    losses: Int64Array  # in a row
    orders: Int64Array
    closed: Int64Array  # trades
    wins: Int64Array
    costs: Int64Array
    traded: Int64Array  # value
    shares: Int64Array  # bought and sold
    sold: Int64Array  # of these
    proceeds: Int64Array  # value
    held_min: Int64Array
    high: Int64Array  # half ticks: the highest price since the entry

    def __init__(self, trading: Trading, money: Money, count: int) -> None:
        """Make the accounts; `begin` opens them."""
        self._money, self._risk, self._capital = money, trading.risk, money.capital
        self._rest = -(-self._risk.cooldown_trade_s // 60)  # times are whole minutes, so fractions round up
        self._rest_loss = max(-(-self._risk.cooldown_loss_s // 60), self._rest)
        self._attempts = trading.execution.exit_limit_attempts
        self._deadline_s = trading.execution.entry_deadline_s
        self.state = np.zeros((len(ACCOUNT), count), dtype=np.int64)
        for place, name in enumerate(ACCOUNT):
            setattr(self, name, self.state[place])

    @property
    def net_usd(self) -> npt.NDArray[np.float64]:
        """Equity less the capital, USD, float64 (n,)."""
        return self._money.in_usd(self.equity - self._capital)

    @property
    def costs_usd(self) -> npt.NDArray[np.float64]:
        """Costs paid, USD, float64 (n,)."""
        return self._money.in_usd(self.costs)

    @property
    def traded_usd(self) -> npt.NDArray[np.float64]:
        """Value bought and sold, USD, float64 (n,)."""
        return self._money.in_usd(self.traded)

    @property
    def reserved(self) -> Int64Array:
        """Cash that the buy under way holds back, int64 (n,), in units of `Money`."""
        return self._money.reserved(self.limit, self.wanted)

    def begin(self, rows: BoolArray) -> None:
        """Open new accounts in these rows: the capital and nothing else."""
        self.state[:, rows] = 0
        for column in (self.cash, self.equity, self.peak):
            column[rows] = self._capital
        self.attempt[rows], self.rests_until[rows] = NONE, NEVER

    def order(
        self, buys: BoolArray, sells: BoolArray, entry: BoolArray, divides: BoolArray, at: tuple[Int64Array, ...]
    ) -> None:
        """Send orders at a close, and resend unfilled ones at new limits; a new BUY restarts the attempts.

        A buy ends at the deadline of entries.

        Args:
            buys, sells: the policy's new orders.
            entry: whether clock and bars allow an entry.
            divides: whether the desk divides shares.
            at: the minute, bid and ask in ticks, and the mark in half ticks.
        """
        minute, bid, ask, mark = at
        leaves = (self.held > 0) & (sells | (self.leaving > 0) | (self.attempt > NONE))
        self.attempt += 1
        self.attempt[~leaves] = NONE
        at_market = (self.leaving > 0) | (self.attempt >= self._attempts)
        again = (self.wanted > 0) & (60 * (minute - self.since) < self._deadline_s)
        self.since[:] = np.where(buys, minute, self.since)
        enters = (again | (buys & (self.held == 0))) & entry & self._allowed()
        goal = np.where(again & ~buys, self.wanted, self._money.goal(self.equity, mark, divides))
        limit = self._money.buy_limit(ask, mark)
        whole = self._money.reserved(limit, goal) <= self.cash
        paid = np.where(whole, goal, self._money.affordable(self.cash, limit, goal, divides))
        self.wanted[:] = np.where(enters, paid, 0)
        selling = np.where(at_market, MARKET, self._money.sell_limit(bid, mark))
        self.limit[:] = np.where(leaves, selling, np.where(self.wanted > 0, limit, 0))
        self.orders += leaves | (self.wanted > 0)

    def fill(self, price: Int64Array, mark: Int64Array, minute: Int64Array, bar_min: int, moves: BoolArray) -> None:
        """Trade at the next bar's open within the limits; `minute` is that bar's end, `mark` the last one before it."""
        bought = np.where(moves & (self.wanted > 0) & (price <= self.limit), self.wanted, 0)
        sells = moves & (self.attempt > NONE) & ((self.limit == MARKET) | (price >= self.limit))
        sold = np.where(sells, self.held, 0)
        if not (bought.any() or sells.any()):
            return
        traded = (bought + sold) * price * self._money.a_tick
        cost = self._money.cost(traded)
        self.cash += (sold - bought) * price * self._money.a_tick - cost
        gain = sold * (price - self.entry) * self._money.a_tick
        self.pnl[:] = np.where(bought > 0, -cost, self.pnl + gain - cost)
        self.entry[:] = np.where(bought > 0, price, self.entry)
        self.opened[:] = np.where(bought > 0, minute - bar_min, self.opened)
        self.high[:] = np.where(bought > 0, 2 * price, self.high)
        self.held += bought - sold
        self.costs += cost
        self.traded += traded
        self.shares += bought + sold
        self.sold += sold
        self.proceeds += sold * price * self._money.a_tick
        self.wanted[bought > 0] = 0
        self._close(sells, minute)
        self.revalue(mark, (bought > 0) | sells)

    def revalue(self, mark: Int64Array, rows: BoolArray) -> None:
        """The equity of these rows at a mark in half ticks, and the loss limits."""
        risk = self._risk
        self.equity[:] = np.where(rows, self.cash + self.held * mark * self._money.a_half, self.equity)
        np.maximum(self.peak, self.equity, out=self.peak)
        lost = rows & ((self._capital - self.equity) / self._capital >= risk.daily_loss_max)
        in_drawdown = rows & ((self.peak - self.equity) / self.peak >= risk.drawdown_max)
        self.halted |= lost | in_drawdown
        self.wanted[(lost | in_drawdown)] = 0
        if risk.daily_loss_flatten:
            self.leaving |= lost & (self.held > 0)

    def pay_fees(self, rows: BoolArray) -> None:
        """The session of these rows is over: its fees are booked."""
        fees = np.where(rows, self._money.day_fees(self.shares, self.sold, self.proceeds), 0)
        self.cash -= fees
        self.equity -= fees
        self.costs += fees

    def _allowed(self) -> BoolArray:
        """Where neither a loss limit nor the limit on orders forbids an entry."""
        allowed: BoolArray = (self.halted == 0) & (self.orders < self._risk.orders_per_day)
        return allowed

    def _close(self, ended: BoolArray, minute: Int64Array) -> None:
        """Count closed trades; losses in a row cause a pause."""
        lost = ended & (self.pnl < 0)
        self.losses[:] = np.where(ended, (self.losses + 1) * lost, self.losses)
        pause = ended & (self.losses >= self._risk.consecutive_losses_max)
        until = minute + np.where(lost, self._rest_loss, self._rest)
        until = np.where(pause, np.maximum(until, minute + self._risk.consecutive_losses_pause_min), until)
        self.rests_until[:] = np.where(ended, np.maximum(self.rests_until, until), self.rests_until)
        self.losses[pause] = 0
        self.closed += ended
        self.wins += ended & (self.pnl > 0)
        self.attempt[ended] = NONE
        self.leaving[ended] = 0


ACCOUNT = tuple(Accounts.__annotations__)


class OnlineMarket:
    """`count` rows over `days`; see `training.rl.protocols.Environment` and `training.rl.dqn.labels.Labelled`.

    With `auto_reset` a finished row begins another session at once, drawn from `seed`, the row's index and its number
    of episodes. Without it a finished row stays inactive until `begin` starts it on a given session.
    """

    def __init__(
        self,
        history: History,
        days: Sequence[TradingDay],
        config: ModelConfig,
        trading: Trading,
        *,
        symbols: int = 1,
        count: int,
        seed: int = 0,
        auto_reset: bool = True,
    ) -> None:
        """Make the accounts; with `auto_reset` also begin everywhere. `symbols` are those of the whole desk.

        Raises:
            ValueError: there is no session to draw from, or the rules count in steps too fine for it.
        """
        if auto_reset and not days:
            raise ValueError("no session to draw from; expected at least one: give a longer file")
        self._history, self._config, self._trading = history, config, trading
        self._seed, self._auto_reset, self._count = seed, auto_reset, count
        self.bar_min = history.bar_min
        self._first = np.array([day.first for day in days], dtype=np.int64)
        self._flatten = np.array([day.flatten for day in days], dtype=np.int64)
        self._window = np.arange(1 - config.window, 1)
        self._mark = history.close + history.ask  # half ticks
        self._divides = _divides(history, trading, symbols)
        self._money = Money(trading, symbols, trading.basket.steps_a_share if self._divides.any() else 1)
        self.account = Accounts(trading, self._money, count)
        self._own = np.zeros((4, count), dtype=np.int64)
        self.row, self._last_row, self._episode, self._active = self._own
        if auto_reset:
            self.begin(self._draw())
            self._scatter_starts()

    @property
    def active(self) -> BoolArray:
        """Rows whose episode goes on."""
        active: BoolArray = self._active > 0
        return active

    def begin(self, days: Int64Array, which: BoolArray | None = None) -> None:
        """Start the rows `which` (all when None) on `days` (int64 (n,), indices into the days)."""
        rows = np.ones(self._count, dtype=np.bool_) if which is None else which
        self.account.begin(rows)
        self.row[rows], self._last_row[rows] = self._first[days[rows]], self._flatten[days[rows]]
        self._episode[rows] += 1
        self._active[rows] = 1

    def observe(self) -> Tensor:
        """Raw observations, a new tensor of float32 (n, width)."""
        h, a = self._history, self.account
        features = h.seen[h.newest[self.row][:, None] + self._window].reshape(self._count, -1)
        fields = portfolio_fields(
            self._config.portfolio,
            shares=self._money.shares(a.held),
            price=price_usd(self._mark[self.row]),
            cash=self._money.in_usd(a.cash - a.reserved),
            equity=self._money.in_usd(a.equity),
            cost=a.entry / TICKS,
            age_min=h.minute[self.row] - a.opened,
        )
        return torch.from_numpy(np.concatenate([features, fields.astype(np.float32)], axis=1))

    def labels(self) -> Tensor:
        """What each head should answer to the observations of now, float32 (n, heads); NaN where it is not known."""
        return torch.from_numpy(self._history.labels[self.row])

    def step(self, actions: Tensor) -> Step:
        """Carry int64 actions (n,) out at the next bar's open; rewards float32 (n,) and true terminals bool (n,).

        A reward is the gain as a part of the equity before it, after costs.
        """
        a, h, active = self.account, self._history, self.active
        equity_before = a.equity.copy()
        self._order(resolve(actions.numpy(), a.held > 0))
        self.row += self._active
        self._trade(active)
        a.revalue(self._mark[self.row], active & (a.held > 0))
        self._look_at_levels()
        a.held_min += (active & (a.held > 0)) * h.bar_min
        terminal = active & (self.row == self._last_row)
        if terminal.any():
            self._leave(terminal)
        rewards = np.where(active, (a.equity - equity_before) / equity_before, 0.0)
        if self._auto_reset:
            if terminal.any():
                self.begin(self._draw(), terminal)
        else:
            self._active[terminal] = 0
        return Step(torch.from_numpy(rewards.astype(np.float32)), torch.from_numpy(terminal))

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on apart from the arguments of the constructor; tensors are copies."""
        tables = {"account": torch.from_numpy(self.account.state.copy()), "own": torch.from_numpy(self._own.copy())}
        return {**tables, PER_SHARE: self._money.per_share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` of a market with the same arguments.

        Raises:
            ValueError: the state is of another number of rows, or counts shares in other steps.
        """
        if state["own"].shape != self._own.shape:
            raise ValueError(f"the market's state is of {state['own'].shape[1]} rows, this one has {self._count}")
        steps = state.get(PER_SHARE, 1)  # states of an earlier release have whole shares
        if steps != self._money.per_share:
            raise ValueError(
                f"the market's state counts {steps} steps a share, this one {self._money.per_share}: "
                "begin the run anew, or set basket.fractions as it was"
            )
        self.account.state[:] = state["account"].numpy()
        self._own[:] = state["own"].numpy()

    def _order(self, resolved: Int64Array) -> None:
        """Send the orders of this close."""
        a, h, row, active = self.account, self._history, self.row, self.active
        entry = active & h.entry[row] & (h.minute[row] >= a.rests_until)
        a.order(active & (resolved == BUY), active & (resolved == SELL), entry, self._divides[row], self._prices(row))

    def _trade(self, active: BoolArray) -> None:
        """Fill at this row's open; marks are those of the row before."""
        h, row = self._history, self.row
        self.account.fill(h.open[row], self._mark[row - 1], h.minute[row], h.bar_min, active)

    def _prices(self, row: Int64Array) -> tuple[Int64Array, ...]:
        """The minute, bid and ask in ticks, and the mark in half ticks, at the close of a row."""
        h = self._history
        return h.minute[row], h.close[row], h.ask[row], self._mark[row]

    def _look_at_levels(self) -> None:
        """Exit where the bar's range reached stop or target, its close a trailing stop, or the holding time is over."""
        a, h, sizing = self.account, self._history, self._trading.sizing
        shares = self._money.shares(np.maximum(a.held, 1))
        average: Float64Array = a.entry * a.held / (TICKS * self._money.per_share) / shares  # as the core, to the bit
        level: Float64Array = average * (1.0 - sizing.stop_loss)
        if sizing.trails:
            level = np.maximum(level, price_usd(a.high) * (1.0 - sizing.trails))
            a.high[:] = np.where(a.held > 0, np.maximum(a.high, h.high[self.row]), a.high)
            follows = price_usd(a.high) * (1.0 - sizing.trails) + TOUCH_USD
            a.leaving |= (a.held > 0) & (price_usd(self._mark[self.row]) <= follows)
        if sizing.held_max_min:
            a.leaving |= (a.held > 0) & (h.minute[self.row] - a.opened >= sizing.held_max_min)
        down = price_usd(h.low[self.row]) <= level + TOUCH_USD
        up = price_usd(h.high[self.row]) >= average * (1.0 + sizing.take_profit) - TOUCH_USD
        a.leaving |= (a.held > 0) & (down | up)

    def _leave(self, terminal: BoolArray) -> None:
        """Where the session's flatten is due, sell the position at the next row's open."""
        a = self.account
        a.wanted[terminal] = 0
        leaves = terminal & (a.held > 0)
        a.attempt[leaves], a.limit[leaves] = 0, 0
        a.orders += leaves
        row = self.row + leaves
        h = self._history
        a.fill(h.open[row], self._mark[self.row], h.minute[row], h.bar_min, leaves)
        a.pay_fees(terminal)

    def _draw(self) -> Int64Array:
        """A session for the next episode of each row."""
        numbers = uniform(self._seed, 0, torch.arange(self._count), torch.from_numpy(self._episode)).numpy()
        days: Int64Array = (numbers * len(self._first)).astype(np.int64)
        return days

    def _scatter_starts(self) -> None:
        """Spread the first episodes over their sessions, so that the rows are not all at the same minute."""
        spread = uniform(self._seed, 1, torch.arange(self._count), torch.from_numpy(self._episode)).numpy()
        self.row += ((self._last_row - self.row) * spread).astype(np.int64)


def _divides(history: History, trading: Trading, symbols: int) -> BoolArray:
    """Whether a desk that begins with a row's session trades fractions: its own rule, at the session's first close."""
    rule, divides = trading.basket.fractions, np.zeros(len(history.close), dtype=np.bool_)
    prices: dict[str, list[float]] = {}
    for day in history.days:
        prices.setdefault(day.session.date, []).append(float(history.close[day.first] + history.ask[day.first]) / HALF)
    cash = float(trading.paper.cash_usd) / symbols
    fits = {date: rule == "on" or (rule == "auto" and fractions_fit(cash * len(of), of)) for date, of in prices.items()}
    for day in history.days:
        divides[day.first : day.end] = fits[day.session.date]
    return divides
