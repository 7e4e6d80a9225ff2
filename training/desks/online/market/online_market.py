"""Accounts of `online_dqn` on recorded bars, stepped together: one row is one symbol of a desk, one episode a session.

Orders leave at a bar's close and trade at the next bar's open within their limits, as on the desk in dry run, to the
cent. While a row is played, the other symbols of its desk stay flat. Everything is numpy on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.risk.guards import TOUCH_USD
from strategies.online_dqn import BUY, SELL, resolve
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import portfolio_fields
from training.desks.daily.table import TICKS
from training.desks.online.market.accounts import Accounts, BoolArray
from training.desks.online.market.bars import Float64Array, Int64Array
from training.desks.online.market.history import History, TradingDay
from training.desks.online.market.money import Money, price_usd, usd
from training.rl.draws import uniform
from training.rl.protocols import Step


class OnlineMarket:
    """`count` rows over `days`; see `training.rl.protocols.Environment` and `training.rl.dqn.labels.Labelled`.

    With `auto_reset` a finished row begins another session at once, which follows from `seed`, its place and the number
    of its episodes; without, it stands still, and `begin` chooses the sessions.
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
            ValueError: there is no session to draw from.
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
        self.account = Accounts(trading, Money(trading, symbols), count)
        self._own = np.zeros((4, count), dtype=np.int64)
        self.row, self._last_row, self._episode, self._active = self._own
        if auto_reset:
            self.begin(self._draw())
            self._scatter_starts()

    @property
    def active(self) -> BoolArray:
        """Rows whose episode goes on."""
        found: BoolArray = self._active > 0
        return found

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
        seen = h.seen[h.newest[self.row][:, None] + self._window].reshape(self._count, -1)
        fields = portfolio_fields(
            self._config.portfolio,
            shares=a.held,
            price=price_usd(self._mark[self.row]),
            cash=usd(a.cash - a.reserved),
            equity=usd(a.equity),
            cost=a.entry / TICKS,
            age_min=h.minute[self.row] - a.opened,
        )
        return torch.from_numpy(np.concatenate([seen, fields.astype(np.float32)], axis=1))

    def labels(self) -> Tensor:
        """What each head should answer to the observations of now, float32 (n, heads); NaN where it is not known."""
        return torch.from_numpy(self._history.labels[self.row])

    def step(self, actions: Tensor) -> Step:
        """Carry int64 actions (n,) out at the next bar's open; rewards float32 (n,) and true terminals bool (n,).

        A reward is the gain as a part of the equity before it, after costs.
        """
        a, h, active = self.account, self._history, self.active
        before = a.equity.copy()
        self._order(resolve(actions.numpy(), a.held > 0))
        self.row += self._active
        self._trade(active)
        a.revalue(self._mark[self.row], active & (a.held > 0))
        self._look_at_levels()
        a.held_min += (active & (a.held > 0)) * h.bar_min
        terminal = active & (self.row == self._last_row)
        if terminal.any():
            self._leave(terminal)
        rewards = np.where(active, (a.equity - before) / before, 0.0)
        if self._auto_reset:
            if terminal.any():
                self.begin(self._draw(), terminal)
        else:
            self._active[terminal] = 0
        return Step(torch.from_numpy(rewards.astype(np.float32)), torch.from_numpy(terminal))

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on apart from the arguments of the constructor; tensors are copies."""
        return {"account": torch.from_numpy(self.account.state.copy()), "own": torch.from_numpy(self._own.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` of a market with the same arguments.

        Raises:
            ValueError: the state is of another number of rows.
        """
        if state["own"].shape != self._own.shape:
            raise ValueError(f"the market's state is of {state['own'].shape[1]} rows, this one has {self._count}")
        self.account.state[:] = state["account"].numpy()
        self._own[:] = state["own"].numpy()

    def _order(self, resolved: Int64Array) -> None:
        """Send the orders of this close."""
        a, h, row, active = self.account, self._history, self.row, self.active
        entry = active & h.entry[row] & (h.minute[row] >= a.rests_until)
        a.order(active & (resolved == BUY), active & (resolved == SELL), entry, self._prices(row))

    def _trade(self, active: BoolArray) -> None:
        """Fill at this row's open; marks are those of the row before."""
        h, row = self._history, self.row
        self.account.fill(h.open[row], self._mark[row - 1], h.minute[row], h.bar_min, active)

    def _prices(self, row: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Bid and ask in ticks, and the mark in half ticks, at the close of a row."""
        h = self._history
        return h.close[row], h.ask[row], self._mark[row]

    def _look_at_levels(self) -> None:
        """Leave where the bar's range reached the stop or the target."""
        a, h, sizing = self.account, self._history, self._trading.sizing
        shares = np.maximum(a.held, 1)
        average: Float64Array = a.entry * a.held / TICKS / shares  # as the core computes it, to the last bit
        down = price_usd(h.low[self.row]) <= average * (1.0 - sizing.stop_loss) + TOUCH_USD
        up = price_usd(h.high[self.row]) >= average * (1.0 + sizing.take_profit) - TOUCH_USD
        a.leaving |= (a.held > 0) & (down | up)

    def _leave(self, terminal: BoolArray) -> None:
        """Sell what is held where the session's flatten is due; it fills at the next row's open."""
        a = self.account
        a.wanted[terminal] = 0
        leaves = terminal & (a.held > 0)
        a.attempt[leaves], a.limit[leaves] = 0, 0
        a.orders += leaves
        row = self.row + leaves
        h = self._history
        a.fill(h.open[row], self._mark[self.row], h.minute[row], h.bar_min, leaves)

    def _draw(self) -> Int64Array:
        """A session for the next episode of each row."""
        drawn = uniform(self._seed, 0, torch.arange(self._count), torch.from_numpy(self._episode)).numpy()
        found: Int64Array = (drawn * len(self._first)).astype(np.int64)
        return found

    def _scatter_starts(self) -> None:
        """Spread the first episodes over their sessions, so that the rows are not all at the same minute."""
        spread = uniform(self._seed, 1, torch.arange(self._count), torch.from_numpy(self._episode)).numpy()
        self.row += ((self._last_row - self.row) * spread).astype(np.int64)
