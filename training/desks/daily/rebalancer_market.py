"""Many accounts of whole shares on one daily history, stepped together as tensors: one step is one session.

Sells fill at the open, then buys, the largest action first, as far as the cash goes; the day ends at its close. Money
is whole micro-dollars and prices whole ticks (1e-4 USD) in float64, so nothing is rounded but costs, as the paper
broker rounds them. Invariant: cash is never below 0. Neither `observe` nor `step` waits for a device.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.daily_rebalancer import CASH, CLOSES, HOLDINGS, INDICATOR_COLUMNS, TRADABLE, VALUE, WEEKDAY, WIDTH
from training.desks.daily.market_state import packed, unpack
from training.desks.daily.table import TICKS, DailyTable
from training.rl.draws import uniform
from training.rl.protocols import Step

VARIANTS = ("shares", "notional")
FILLS = ("next_open", "same_close")
NOTIONAL_USD = Decimal(10_000)  # of one unit of action in the variant `notional`, where the configuration names none
REWARD = 1e-4  # of a US dollar
MICRO = 1_000_000
MICRO_A_TICK = MICRO // TICKS
_CHANGING = ("_cash", "_held", "_value", "_day", "_age", "_episode")
_INDEX_BITS = 6  # of a symbol's place in a sorting key: up to 64 symbols


class RebalancerMarket:
    """`count` accounts of `daily_rebalancer`. Implements `training.rl.ppo.Environment` on `device`.

    An episode begins before a session drawn from `seed`, the place and the number of its episodes alone, with the
    trading rules' paper cash and no shares, and ends after session `last` or `episode` sessions: a time limit.
    """

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
    ) -> None:
        """Make the tables and begin everywhere. `first` and `last` are the sessions (indices) that may be traded.

        `fill` "same_close" trades at the close on which the decision is made, which nobody can: for a comparison.
        Without `draws` every episode begins at `first`.

        Raises:
            ValueError: the span is not one of the table with a session before it, or a name is unknown.
        """
        if not 1 <= first <= last < len(table.sessions):
            raise ValueError(
                f"sessions {first} to {last} are to be traded; expected 1 <= first <= last < {len(table.sessions)}, "
                f"the sessions of {table.file}: give a longer file or another split"
            )
        if variant not in VARIANTS or fill not in FILLS:
            raise ValueError(
                f"variant is {variant!r} and fill {fill!r}; expected one of {', '.join(VARIANTS)} and of "
                f"{', '.join(FILLS)}: correct the name"
            )
        self.device = torch.device(device)
        self._looks = self.device.type == "cpu"  # at a result, which costs nothing there
        self._first, self._last, self._count, self._seed, self._draws = first, last, count, seed, draws
        self._episode_max = episode
        self._symbols = len(table.symbols)
        self._unit_shares = float(trading.basket.shares_per_unit)
        self._unit_usd = float(unit_usd(trading, variant))
        self._capital = float(trading.paper.cash_usd * MICRO)
        self._costs(trading)
        self._tables(table, trading, fill)
        self._everyone = torch.arange(count, device=self.device)
        self._begin_everywhere()

    def _costs(self, trading: Trading) -> None:
        """The cost rate as exact ratios: of a traded tick in micro-dollars, and of what a buy reserves."""
        rate = Fraction(trading.paper.share_cost_rate)
        of_tick = rate * MICRO_A_TICK
        self._cost_numerator, self._cost_denominator = float(of_tick.numerator), float(of_tick.denominator)
        reserved = MICRO_A_TICK * (1 + rate)  # micro-dollars that a buy of one share for one tick holds back
        self._reserve_numerator, self._reserve_denominator = float(reserved.numerator), float(reserved.denominator)

    def _tables(self, table: DailyTable, trading: Trading, fill: str) -> None:
        """What is gathered from, a row for each decision: the observation without the account, and of each symbol
        whether it may be traded, the last known close, what sales get, buys pay and hold back, and the close to come.
        """
        first, rows = self._first, self._last - self._first + 2  # one more: what is seen when the span is over
        before = slice(first - 1, self._last + 1)
        seen = np.zeros((rows, WIDTH), dtype=np.float32)
        seen[:, CLOSES] = table.features[before, : self._symbols]
        seen[:, INDICATOR_COLUMNS] = table.features[before, self._symbols :]
        seen[:, WEEKDAY] = [table.weekday(day) for day in range(first, self._last + 2)]
        seen[:, TRADABLE] = table.tradable[before]
        marks = table.close_ticks[before]
        day = slice(first, self._last + 1)
        sold = table.open_ticks[day] if fill == "next_open" else marks[:-1]
        paid, limit = wait_ticks(sold, trading) if fill == "next_open" else (sold, sold)
        allowed = (sold > 0) & (table.tradable[before][:-1] > 0)
        known = np.where(marks > 0, marks, np.inf)[:-1] / TICKS
        reserve = limit * self._reserve_numerator
        self._seen = self._table(seen)
        self._prices = self._table(np.stack([allowed, known, sold, paid, reserve, marks[1:]], axis=1))

    def _table(self, values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _begin_everywhere(self) -> None:
        n, whole, real = self._count, torch.int64, torch.float64
        self._cash = torch.full((n,), self._capital, dtype=real, device=self.device)
        self._value = torch.full((n,), self._capital, dtype=real, device=self.device)
        self._held = torch.zeros((n, self._symbols), dtype=real, device=self.device)
        self._age = torch.zeros(n, dtype=whole, device=self.device)  # sessions of this episode so far
        self._episode = torch.zeros(n, dtype=whole, device=self.device)
        self._day = self._starts()  # row of the tables
        self._bought = self._sales = torch.zeros_like(self._held)
        self._costs_paid = self._traded = torch.zeros_like(self._cash)
        self._closing = self._closing_cash = self._cash

    def observe(self) -> Tensor:
        """Raw observations, a new tensor of float32 (n, 803)."""
        observations = self._seen.index_select(0, self._day)
        observations[:, CASH] = self._cash / MICRO
        observations[:, VALUE] = self._value / MICRO
        observations[:, HOLDINGS] = self._held
        return observations

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Trade float (n, symbols) within [-1, 1] in the next session; rewards float32 (n,), who ran out of time."""
        before = self._value
        allowed, known, sold, paid, reserve, closes = self._prices.index_select(0, self._day).unbind(1)
        actions = actions.double().clamp(-1.0, 1.0) * allowed
        up = actions.clamp(min=0.0)
        self._sell((self._held * -actions.clamp(max=0.0)).trunc_(), sold)
        wanted = (up * self._unit_usd / known if self._unit_usd else up * self._unit_shares).trunc_()
        self._buy(wanted, up, paid, reserve)
        self._value = self._cash + (self._held * closes).sum(1) * MICRO_A_TICK
        self._day = self._day + 1
        self._age = self._age + 1
        self._closing, self._closing_cash = self._value, self._cash
        rewards = ((self._value - before) * (REWARD / MICRO)).to(torch.float32)
        over = self._day > self._last - self._first
        if self._episode_max is not None:
            over |= self._age >= self._episode_max
        terminals = torch.zeros_like(over)
        if self._looks and not bool(over.any()):
            return Step(rewards, terminals)
        last = self.observe()
        self._begin_again(over)
        return Step(rewards, terminals, over, last)

    def _sell(self, leaves: Tensor, sold: Tensor) -> None:
        """Sell whole shares (n, symbols) at these ticks."""
        ticks = leaves * sold
        costs = self._cost(ticks)
        self._held = self._held - leaves
        self._cash = self._cash + (ticks * MICRO_A_TICK - costs).sum(1)
        self._sales, self._costs_paid, self._traded = leaves, costs.sum(1), ticks.sum(1)

    def _buy(self, wanted: Tensor, up: Tensor, paid: Tensor, reserve: Tensor) -> None:
        """Buy what is wanted at the ticks `paid` where the cash covers all reserves, else one after the other."""
        free = self._cash * self._reserve_denominator
        short = (reserve * wanted).sum(1) > free
        rows = short.nonzero().squeeze(1) if self._looks else self._everyone
        bought = wanted
        if rows.numel():
            some = _in_order(
                wanted.index_select(0, rows), up.index_select(0, rows), reserve.index_select(0, rows), free[rows]
            )
            bought = wanted.index_copy(0, rows, some)
        ticks = bought * paid
        costs = self._cost(ticks)
        self._held = self._held + bought
        self._cash = self._cash - (ticks * MICRO_A_TICK + costs).sum(1)
        self._bought, self._costs_paid = bought, self._costs_paid + costs.sum(1)
        self._traded = self._traded + ticks.sum(1)

    def _cost(self, ticks: Tensor) -> Tensor:
        """What trading this many ticks costs in micro-dollars, half to even."""
        return (ticks * self._cost_numerator / self._cost_denominator).round_()

    def _begin_again(self, over: Tensor) -> None:
        """Start anew where `over`; the other rows stay as they are."""
        self._episode = self._episode + over
        self._age = self._age.masked_fill(over, 0)
        self._cash = self._cash.masked_fill(over, self._capital)
        self._value = self._value.masked_fill(over, self._capital)
        self._held = self._held.masked_fill(over.unsqueeze(1), 0.0)
        self._day = torch.where(over, self._starts(), self._day)

    def _starts(self) -> Tensor:
        """The row at which each environment's present episode begins, int64 (n,)."""
        if not self._draws:
            return torch.zeros_like(self._episode)
        rows = self._last - self._first + 1
        return (uniform(self._seed, 0, self._everyone, self._episode) * rows).floor().to(torch.int64)

    @property
    def day(self) -> Tensor:
        """The session (index into the table) before whose open each environment decides, int64 (n,)."""
        found: Tensor = self._day + self._first
        return found

    @property
    def equity_usd(self) -> Tensor:
        """Cash and shares at the last close in USD, float64 (n,)."""
        found: Tensor = self._value / MICRO
        return found

    @property
    def cash_usd(self) -> Tensor:
        """Cash in USD, float64 (n,)."""
        found: Tensor = self._cash / MICRO
        return found

    @property
    def shares(self) -> Tensor:
        """Whole shares held, float64 (n, symbols)."""
        return self._held

    @property
    def closing_usd(self) -> tuple[Tensor, Tensor]:
        """Equity and cash at the end of the last step in USD, float64 (n,); before a new episode began."""
        return self._closing / MICRO, self._closing_cash / MICRO

    @property
    def traded(self) -> tuple[Tensor, Tensor]:
        """Whole shares sold and bought in the last step, float64 (n, symbols) each; before a new episode began."""
        return self._sales, self._bought

    @property
    def costs_usd(self) -> Tensor:
        """Costs of the last step in USD, float64 (n,)."""
        found: Tensor = self._costs_paid / MICRO
        return found

    @property
    def traded_usd(self) -> Tensor:
        """Value bought and sold in the last step in USD, float64 (n,)."""
        found: Tensor = self._traded / TICKS
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on beside the arguments of the constructor; tensors are copies."""
        return packed(vars(self), _CHANGING)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` of a market with the same arguments, on whatever device.

        Raises:
            ValueError: the state is of another number of environments or another span.
        """
        unpack(vars(self), _CHANGING, state)


def unit_usd(trading: Trading, variant: str) -> Decimal:
    """USD of one unit of action: 0 in the variant `shares`, which counts shares."""
    return (trading.basket.notional_per_unit_usd or NOTIONAL_USD) if variant == "notional" else Decimal(0)


def wait_ticks(prints: np.ndarray[Any, Any], trading: Trading) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What buys that wait for the sells pay, and their limit, in whole ticks: each is rounded up, exactly."""
    ask = _times(prints, 1 + Fraction(trading.paper.share_wait_rate))
    return ask, _times(ask, 1 + Fraction(repr(trading.basket.price_slack)))


def _times(ticks: np.ndarray[Any, Any], factor: Fraction) -> np.ndarray[Any, Any]:
    """Whole ticks times a factor, rounded up to whole ticks in exact integers."""
    whole = ticks.astype(np.int64)
    return -(-whole * factor.numerator // factor.denominator).astype(np.float64)


def _in_order(wanted: Tensor, up: Tensor, reserve: Tensor, free: Tensor) -> Tensor:
    """Shares bought, the largest action first (ties by place), each as many as what is left covers; float64 (k, n).

    A quotient of whole numbers below 2^53 is never rounded up to the next whole one, so what is left is never below 0.
    """
    order = _sorted(_keys(up))
    goals = wanted.gather(1, order)
    if (
        wanted.device.type == "cpu"
    ):  # those whom nobody buys come last: looking at how many there are costs nothing here
        used = int((goals > 0).any(0).nonzero().max()) + 1
        order, goals = order[:, :used], goals[:, :used]
    prices, goals = reserve.gather(1, order).T.contiguous(), goals.T.contiguous()
    left = free.clone()
    bought = torch.zeros_like(goals)
    for price, goal, found in zip(prices.clamp(min=1.0).unbind(0), goals.unbind(0), bought.unbind(0), strict=True):
        torch.div(left, price, out=found)
        torch.minimum(found.floor_(), goal, out=found)
        left.addcmul_(found, price, value=-1)
    return torch.zeros_like(wanted).scatter(1, order, bought.T)


def _keys(up: Tensor) -> Tensor:
    """Whole numbers that ascend as actions within [0, 1] descend, and as places ascend where actions are equal.

    Positive floats are ordered as their bits; a float64 of a float32 has 29 low bits of 0, whose room a place takes.
    """
    places = torch.arange(up.shape[1], device=up.device)
    bits = up.to(torch.float32).view(torch.int32).to(torch.int64)
    return (((1 << 31) - bits) << _INDEX_BITS) | places


def _sorted(keys: Tensor) -> Tensor:
    """The places in the keys' order; numpy sorts whole numbers of a row ten times as fast as torch does on a CPU."""
    ordered = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if keys.device.type == "cpu" else keys.sort(1).values
    return ordered & ((1 << _INDEX_BITS) - 1)
