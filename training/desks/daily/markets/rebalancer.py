"""Many accounts of shares on one daily history, stepped together as tensors: one step is one session.

Sells fill at the open, then buys, all in proportion where the cash is short; the day ends at its close. Neither
`observe` nor `step` waits for a device.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Basket, Trading
from strategies.daily_rebalancer import INDICATORS, SPEC, UNIT, UNIT_USD, columns_for
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.episodes import EpisodePlan
from training.desks.daily.overlay import Overlay
from training.desks.daily.share_accounts import ShareAccounts, check_span, price_rows, steps_a_share
from training.rl.draws import uniform
from training.rl.presets import AS_THE_DESK, Practice
from training.rl.protocols import Step

# How an episode of training shows the stocks of `daily_rebalancer`: in an order of its own, and not all of them.
#
# A policy that learned under any order cannot rest on the place of a stock; one that learned on parts cannot rest on
# one
# stock.


class Layout:
    """The layouts of many accounts."""

    def __init__(self, orders: Tensor, parts: Tensor, practice: Practice) -> None:
        """Make layouts from draws in [0, 1), float64 (n, stocks): `orders` gives the order, `parts` what is traded."""
        count, stocks = orders.shape
        self._kept = max(1, round(practice.universe * stocks))
        self._open = (parts.argsort(1).argsort(1) < self._kept).to(torch.float32)
        places = torch.arange(stocks, device=orders.device).repeat(count, 1)
        self._order = orders.argsort(1) if practice.permute else places  # index of the stock shown at each place
        self._places = at = columns_for(stocks)
        columns = torch.arange(at.width, device=orders.device).repeat(count, 1)
        for part in (at.closes, at.holdings, at.tradable):
            columns[:, part] = part.start + self._order
        offsets = torch.arange(len(INDICATORS), device=orders.device)
        begins = at.indicators.start + self._order * len(INDICATORS)
        columns[:, at.indicators] = (begins.unsqueeze(2) + offsets).flatten(1)
        self._columns = columns

    def to_layout(self, observations: Tensor) -> Tensor:
        """Reorder raw observations, float32 (n, width), to the episode's layout; a stock left out is all zeros."""
        for part in (self._places.closes, self._places.tradable):
            observations[:, part] *= self._open
        observations[:, self._places.indicators] *= self._open.repeat_interleave(len(INDICATORS), dim=1)
        return observations.gather(1, self._columns)

    def placed(self, values: Tensor) -> Tensor:
        """Reorder values of the stocks (n, stocks) to the episode's layout."""
        return values.gather(1, self._order)

    def to_stocks(self, actions: Tensor) -> Tensor:
        """Reorder actions (n, stocks) from the layout to the order of the stocks; 0 for a stock left out."""
        return torch.zeros_like(actions).scatter(1, self._order, actions) * self._open


ACCOUNT, SHARES, NOTIONAL = VARIANTS = ("account", "shares", "notional")
"""What one unit of action is: a part of the equity, shares, or dollars."""
FILLS = ("next_open", "same_close")
REWARD = 1e-4  # reward per US dollar; for the variant `account`, per dollar of the contract's capital
EACH = 50.0  # factor on a stock's return on its equal part of the account, so that a day's rewards are near 1


class RebalancerMarket(ShareAccounts):
    """`count` accounts of `daily_rebalancer`. Implements `training.rl.ppo.Environment` on `device`.

    An episode begins before a session drawn from `seed`, the place and the number of its episodes alone, with the
    trading rules' paper cash and no shares, and ends after session `last` or `episode` sessions: a time limit.
    """

    _layout: Layout | None = None
    CHANGING = ("_cash", "_held", "_value", "_day", "_age", "_episode")
    replayable = True

    def __init__(
        self,
        table: DailyTable,
        first: int,
        last: int,
        trading: Trading,
        *,
        count: int,
        seed: int = 0,
        variant: str = "shares",
        device: torch.device | str = "cpu",
        fill: str = "next_open",
        episode: int | None = None,
        draws: bool = True,
        practice: Practice = AS_THE_DESK,
        reward_per_stock: bool = False,
    ) -> None:
        """Make the tables and begin everywhere. `first` and `last` are the sessions (indices) that may be traded.

        `fill` "same_close" trades at the very close of the decision, which is impossible: for comparison only.
        Without `draws` every episode begins at `first`. `practice` is for training alone. With `reward_per_stock` a
        step returns rewards of shape (n, symbols), by `_of_each`, instead of (n,).

        Raises:
            ValueError: the span is not one of the table with a session before it, or a name is unknown.
        """
        check_span(table, first, last)
        if variant not in VARIANTS or fill not in FILLS:
            raise ValueError(
                f"variant is {variant!r} and fill {fill!r}; expected one of {', '.join(VARIANTS)} and of "
                f"{', '.join(FILLS)}: correct the name"
            )
        course = EpisodePlan(first, last, count, seed, device, episode, draws)
        super().__init__(course, trading, len(table.symbols), steps_a_share(table, first, trading))
        self._band, self._each = trading.basket.band, reward_per_stock
        unit = unit_rules(trading.basket, variant)
        self._unit_shares, self._unit_usd = float(unit.shares_per_unit), float(unit.notional_per_unit_usd)
        self._unit_part = unit.equity_per_unit
        self._reward = REWARD * (float(SPEC.capital_usd / trading.paper.cash_usd) if variant == ACCOUNT else 1.0)
        self._tables(table, trading, fill)
        self._open_accounts()
        self._begin_episodes()
        self._practice = practice
        self._lay_out()

    def _tables(self, table: DailyTable, trading: Trading, fill: str) -> None:
        """Make the lookup tables, a row for each decision: the observation without the account, and prices."""
        first, rows = self._first, self._last - self._first + 2  # one more row, observed after the span's last session
        decisions = slice(first - 1, self._last + 1)
        at = columns_for(self._symbols)
        rows_seen = np.zeros((rows, at.width), dtype=np.float32)
        rows_seen[:, : at.cash] = table.features[decisions]
        rows_seen[:, at.weekday] = [table.weekday(day) for day in range(first, self._last + 2)]
        rows_seen[:, at.tradable] = table.tradable[decisions]
        self._places = at
        self._seen = self._table(rows_seen)
        prices = price_rows(table, first, self._last, trading, fill)
        flags = table.tradable[first - 1 : self._last, None] > 0
        self._prices = self._table(np.concatenate([prices, flags], axis=1))
        self._overlay = Overlay(table, first, self._last, trading, self.device)
        self._market = self._table(market_returns(table, first, self._last))

    def observe(self) -> Tensor:
        """Raw observations, a new tensor of float32 (n, width)."""
        observations = self._seen.index_select(0, self._day)
        cash, value, holdings = self.cash_usd, self.equity_usd, self.shares
        if self._unit_part:  # as `strategies.daily_rebalancer.account_scale`
            scale = torch.where(value > 0.0, SPEC.capital_usd / value, 1.0)
            cash, value, holdings = cash * scale, value * scale, holdings * scale.unsqueeze(1)
        observations[:, self._places.cash] = cash
        observations[:, self._places.value] = value
        observations[:, self._places.holdings] = holdings
        return observations if self._layout is None else self._layout.to_layout(observations)

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Trade float (n, symbols) within [-1, 1] in the next session; rewards float32 (n,), who ran out of time."""
        value_before, holdings, market = self._value, self._held, self._market.index_select(0, self._day)
        opens, decision_prices, sold, late, paid, limit, closes, flags = self._prices.index_select(0, self._day).unbind(
            1
        )
        actions = actions if self._layout is None else self._layout.to_stocks(actions)
        actions = actions.double().clamp(-1.0, 1.0) * flags
        up = actions.clamp(min=0.0)
        leaves = self._steps(self.shares * -actions.clamp(max=0.0))
        buys = self._wanted(up, decision_prices, value_before)
        if self._band > 0.0:
            least = (self._band * self.equity_usd).unsqueeze(1)
            leaves = leaves.masked_fill(
                (self._in_shares(leaves) * decision_prices < least) & (leaves < self._held), 0.0
            )
            buys = buys.masked_fill(self._in_shares(buys) * decision_prices < least, 0.0)
        leaves, buys = self._worth_orders(leaves, buys, decision_prices)
        if self._overlay.on:
            leaves, buys = self._worth_orders(*self._under_the_cap(leaves, buys, decision_prices), decision_prices)
        self._sell(leaves * opens, sold, late, paid)
        self._buy(buys * opens, paid, limit)
        self._mark(closes)
        self._next_day()
        if self._each:
            return self._stepped(self._of_each(value_before, holdings, decision_prices, paid, closes, market))
        gained = self._value - value_before
        if self._practice.turnover:
            gained = gained - self._practice.turnover * self.traded_usd * self._usd
        if self._practice.over_market:
            gained = gained - self._capital * market
        return self._stepped((gained * (self._reward / self._usd)).to(torch.float32))

    def _wanted(self, up: Tensor, prices: Tensor, value: Tensor) -> Tensor:
        """Steps of shares that actions within [0, 1] buy, float64 (n, symbols), at the last known prices in USD."""
        if self._unit_part:
            return self._steps(up * (self._unit_part * (value / self._usd)).unsqueeze(1) / prices)
        return self._steps(up * self._unit_usd / prices if self._unit_usd else up * self._unit_shares)

    def _of_each(
        self, value: Tensor, holdings: Tensor, decision_prices: Tensor, paid: Tensor, closes: Tensor, market: Tensor
    ) -> Tensor:
        """Reward of each stock, float32 (n, symbols): profit after costs over its equal part of the account's value.

        `holdings` are the steps before the session. The sum over stocks is what the account earned. With `over_market`
        the alternative return of the same dollars is subtracted: the market's return for the invested part of the
        account, where cash is short, and the market's return on an equal part for the rest, where cash is available.
        """
        marks = torch.where(torch.isfinite(decision_prices), decision_prices * TICKS, 0.0)
        bought_ticks = self._bought * paid
        moved = self._held * closes - holdings * marks + self._sale_ticks - bought_ticks
        profit = moved * self._a_tick - self._cost_each
        part = (value / self._symbols).unsqueeze(1)
        if self._practice.turnover:
            profit = profit - self._practice.turnover * (self._sale_ticks + bought_ticks) * self._a_tick
        if self._practice.over_market:
            exposed = self._held * marks * self._a_tick
            invested = (exposed.sum(1) / value).clamp(0.0, 1.0).unsqueeze(1)
            profit = profit - (invested * exposed + (1.0 - invested) * part) * market.unsqueeze(1)
        rewards = (profit / part * EACH).to(torch.float32)
        return rewards if self._layout is None else self._layout.placed(rewards)

    def _worth_orders(self, leaves: Tensor, buys: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
        """Sales and buys, in steps, without those too small for an order."""
        sold = self._worth_selling(leaves, self._held - leaves, prices)
        return sold, self._worth_an_order(buys, self._held + buys, prices)

    def _under_the_cap(self, leaves: Tensor, buys: Tensor, decision_prices: Tensor) -> tuple[Tensor, Tensor]:
        """Sales and buys under the risk overlay, in steps; it may add sales."""
        holdings, prices = self._held, torch.where(decision_prices < inf, decision_prices / self._per_share, 0.0)
        goals = holdings - leaves + buys
        goals = self._overlay(self._day, holdings, goals, prices, self.equity_usd, whole=False)
        return (holdings - goals).clamp(min=0.0), (goals - holdings).clamp(min=0.0)

    def _open_again(self, over: Tensor) -> None:
        super()._open_again(over)
        self._lay_out()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Episodes`."""
        super().load_state_dict(state)
        self._lay_out()

    def _lay_out(self) -> None:
        """Draw the layout of stocks for each account's episode; None where the table's order is shown."""
        p = self._practice
        if p.permute or p.universe < 1.0:
            draws = [uniform(self._seed, stream, *self._each_stock()).view(self._count, -1) for stream in (1, 2)]
            self._layout = Layout(draws[0], draws[1], p)

    def _each_stock(self) -> tuple[Tensor, Tensor]:
        """Arguments of `draws.uniform`: a place for each stock of each account, and the account's episode number."""
        places = torch.arange(self._count * self._symbols, device=self.device)
        return places, self._episode.repeat_interleave(self._symbols)


def market_returns(table: DailyTable, first: int, last: int) -> np.ndarray[Any, Any]:
    """Mean return of the stocks from close to close in sessions `first` to `last`, float64 (sessions,).

    A stock counts from its second known close on. No decision changes it, so a reward less a constant times it has the
    same optimum: docs/TRAINING.md has the proof.
    """
    closes = table.close_ticks[first - 1 : last + 1]
    has_close = closes[:-1] > 0
    returns = np.where(has_close, closes[1:] / np.where(has_close, closes[:-1], 1.0) - 1.0, 0.0)
    means: np.ndarray[Any, Any] = returns.sum(axis=1) / np.maximum(has_close.sum(axis=1), 1)
    return means


def by_variant(trading: Trading, variant: str = SHARES) -> Trading:
    """The trading rules with the variant's unit of action; unchanged for a variant of another strategy.

    The paper cash stays: accounts are as large as the run's configuration says.
    """
    return replace(trading, basket=unit_rules(trading.basket, variant)) if variant in VARIANTS else trading


def unit_rules(basket: Basket, variant: str) -> Basket:
    """The basket rules with the variant's unit of action; those of `shares` for an unknown variant."""
    usd, part = basket.notional_per_unit_usd, basket.equity_per_unit
    return replace(
        basket,
        notional_per_unit_usd=(usd or Decimal(UNIT_USD)) if variant == NOTIONAL else Decimal(0),
        equity_per_unit=(part or UNIT) if variant == ACCOUNT else 0.0,
    )


def variant_of(trading: Trading) -> str:
    """The variant of `daily_rebalancer` that has these rules' unit of action."""
    if trading.basket.notional_per_unit_usd:
        return NOTIONAL
    return ACCOUNT if trading.basket.equity_per_unit else SHARES
