"""Accounts of cash and the shares of one symbol, many at once: orders, fills, costs, closed trades, halts.

Prices are ticks, money micro-dollars, times minutes from the open, all int64. Invariant: cash + shares at what was paid
for them = capital + profit of closed trades - costs of the open one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from daemon.core.limits import Trading
from training.desks.online.market.bars import Int64Array
from training.desks.online.market.money import MICRO, MICRO_A_HALF, MICRO_A_TICK, Money

BoolArray = npt.NDArray[np.bool_]

NEVER = -(10**6)  # a minute long before any session
NONE = -1  # in place of the number of an attempt, where no sale is under way
MARKET = 0  # in place of a limit


class Accounts:
    """One account for each row; its columns are views of `state`, int64 (columns, n), and change in place."""

    cash: Int64Array
    equity: Int64Array  # at the mark
    peak: Int64Array  # of the equity
    held: Int64Array  # shares
    entry: Int64Array  # price paid
    opened: Int64Array  # when the bar of the fill began
    pnl: Int64Array  # of the open position so far, after costs
    wanted: Int64Array  # shares of the buy under way
    limit: Int64Array  # of the order under way; `MARKET`
    attempt: Int64Array  # of the sale under way; `NONE`
    leaving: Int64Array  # 1 where a rule leaves the position
    halted: Int64Array  # 1 after a loss limit
    rests_until: Int64Array  # minute before which no entry is allowed
    losses: Int64Array  # in a row
    orders: Int64Array
    closed: Int64Array  # trades
    wins: Int64Array
    costs: Int64Array
    traded: Int64Array  # value
    held_min: Int64Array

    def __init__(self, trading: Trading, money: Money, count: int) -> None:
        """Make the accounts; `begin` opens them."""
        self._money, self._risk, self._capital = money, trading.risk, int(trading.paper.cash_usd * MICRO)
        self._rest = -(-self._risk.cooldown_trade_s // 60)  # minutes are whole, so a part of one is all of it
        self._rest_loss = max(-(-self._risk.cooldown_loss_s // 60), self._rest)
        self._attempts = trading.execution.exit_limit_attempts
        self.state = np.zeros((len(ACCOUNT), count), dtype=np.int64)
        for place, name in enumerate(ACCOUNT):
            setattr(self, name, self.state[place])

    @property
    def net_usd(self) -> npt.NDArray[np.float64]:
        """Equity less the capital."""
        net: npt.NDArray[np.float64] = (self.equity - self._capital) / MICRO
        return net

    @property
    def reserved(self) -> Int64Array:
        """Cash that the buy under way holds back."""
        return self._money.reserved(self.limit, self.wanted)

    def begin(self, rows: BoolArray) -> None:
        """Open new accounts in these rows: the capital and nothing else."""
        self.state[:, rows] = 0
        for column in (self.cash, self.equity, self.peak):
            column[rows] = self._capital
        self.attempt[rows], self.rests_until[rows] = NONE, NEVER

    def order(self, buys: BoolArray, sells: BoolArray, entry: BoolArray, at: tuple[Int64Array, ...]) -> None:
        """Send what is wanted at a close, and again what was not filled, at new limits; a new BUY counts anew.

        Args:
            buys, sells: what the policy wants anew.
            entry: whether clock and bars allow an entry.
            at: bid and ask in ticks, and the mark in half ticks.
        """
        bid, ask, mark = at
        leaves = (self.held > 0) & (sells | (self.leaving > 0) | (self.attempt > NONE))
        self.attempt += 1
        self.attempt[~leaves] = NONE
        at_market = (self.leaving > 0) | (self.attempt >= self._attempts)
        again = self.wanted > 0
        enters = (again | (buys & (self.held == 0))) & entry & self._allowed()
        goal = np.where(again & ~buys, self.wanted, self._money.goal(self.equity, mark))
        limit = self._money.buy_limit(ask, mark)
        whole = self._money.reserved(limit, goal) <= self.cash
        self.wanted[:] = np.where(enters, np.where(whole, goal, self._money.affordable(self.cash, limit)), 0)
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
        traded = (bought + sold) * price * MICRO_A_TICK
        cost = self._money.cost(traded)
        self.cash += (sold - bought) * price * MICRO_A_TICK - cost
        self.pnl[:] = np.where(bought > 0, -cost, self.pnl + sold * (price - self.entry) * MICRO_A_TICK - cost)
        self.entry[:] = np.where(bought > 0, price, self.entry)
        self.opened[:] = np.where(bought > 0, minute - bar_min, self.opened)
        self.held += bought - sold
        self.costs += cost
        self.traded += traded
        self.wanted[bought > 0] = 0
        self._close(sells, minute)
        self.revalue(mark, (bought > 0) | sells)

    def revalue(self, mark: Int64Array, rows: BoolArray) -> None:
        """The equity of these rows at a mark in half ticks, and the loss limits."""
        risk = self._risk
        self.equity[:] = np.where(rows, self.cash + self.held * mark * MICRO_A_HALF, self.equity)
        np.maximum(self.peak, self.equity, out=self.peak)
        lost = rows & ((self._capital - self.equity) / self._capital >= risk.daily_loss_max)
        drawn = rows & ((self.peak - self.equity) / self.peak >= risk.drawdown_max)
        self.halted |= lost | drawn
        self.wanted[(lost | drawn)] = 0
        if risk.daily_loss_flatten:
            self.leaving |= lost & (self.held > 0)

    def _allowed(self) -> BoolArray:
        """Where no loss limit and no number of orders keeps an entry back."""
        allowed: BoolArray = (self.halted == 0) & (self.orders < self._risk.orders_per_day)
        return allowed

    def _close(self, ended: BoolArray, minute: Int64Array) -> None:
        """Count trades that ended; losses in a row pause."""
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
