"""Many portfolios of symbols drawn at random, stepped together as tensors: what the agents of `forecast_ensemble` see.

One step is one session. Each symbol of each account is a row: one actor serves all rows, and the rows of an account
share its cash and the limit on the sum of weights. Actions become trades by the strategy's rule
(`strategies.forecast_ensemble`) and the paper broker's fills, to the cent. The given forecasts must be out of sample.

Reward of a row, in parts of what one symbol may weigh at most: `action x market return - cost + alpha x confidence x
bonus if the prediction was right`. The action is the holding: before the trade it earns the return of the night, after
it that of the day, so the rows of an account sum to its change of value. Costs are fees, and what trades after the
auction pay above the open or get below it. A prediction is right where its class is the sign of the next close-to-close
return beyond the cost of a trade, HOLD where the return is within it. Sessions, symbols and forecasts of a row do not
depend on trades, so no action changes a bonus: it shifts the values of states, not the best action, and a search over
alpha is pointless.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array
from strategies.kit.entry import BoolArray, Float64Array
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.episodes import EpisodePlan
from training.desks.daily.overlay import Overlay
from training.desks.daily.share_accounts import ShareAccounts, check_span, price_rows, steps_a_share
from training.forecast.labels import BUY, HOLD, SELL
from training.rl.draws import uniform
from training.rl.protocols import Step

ACCOUNT = 4  # columns of a row behind the forecast: weight, unrealised return, age, cash share
BONUS = 1e-3
GAIN_MIN, GAIN_MAX = -1.0, 3.0  # bound of the unrealised return
AGE_UNIT, AGE_MAX = 20.0, 5.0  # sessions; the bound is in this unit


@dataclass(frozen=True, slots=True)
class Outlook:
    """Forecasts of each symbol after each session's close, and the agents' features of the market."""

    probabilities: Float32Array  # (d, n, 3): HOLD, BUY, SELL, out of sample; NaN where there is no forecast
    confidence: Float32Array  # (d, n)
    features: Float32Array  # (d, n, f): the stated subset of the newest row
    variances: Float64Array | None = None  # (d, n): variance of the next daily log returns, where a head forecasts it
    sizes: Float32Array | None = None  # (d, n) factor on wishes; None: min(2 x confidence, 1)

    @property
    def width(self) -> int:
        """Columns of an agent's observation."""
        return int(self.features.shape[2]) + 3 + 1 + ACCOUNT


class Terms(NamedTuple):
    """The parts of the last rewards, float32 (rows,): their sum is the reward."""

    gain: Tensor
    cost: Tensor  # 0 or below
    bonus: Tensor


class ForecastMarket(ShareAccounts):
    """`count` accounts of `portfolio` symbols each; rows are accounts x symbols. See `training.rl.protocols`.

    An episode begins before a session and with symbols drawn from `seed`, the account and the number of its episodes
    alone, with the trading rules' paper cash and no shares; it ends after session `last` or `episode` sessions, which
    is a time limit.
    """

    CHANGING = ("_cash", "_held", "_value", "_basis", "_ages", "_places", "_day", "_age", "_episode")

    def __init__(
        self,
        table: DailyTable,
        outlook: Outlook,
        first: int,
        last: int,
        trading: Trading,
        *,
        count: int,
        portfolio: int | None = None,
        seed: int = 0,
        alpha: float = 1.0,
        trusting: bool = False,
        most: float | None = None,
        device: torch.device | str = "cpu",
        fill: str = "next_open",
        episode: int | None = None,
        draws: bool = True,
    ) -> None:
        """Make the tables and begin everywhere. `first` and `last` are the sessions (indices) that may be traded.

        Args:
            portfolio: symbols of an account; None, or without `draws`, all of the table in their order.
            alpha: of the bonus.
            most: the largest weight of a symbol; None: that of the trading rules.
            trusting: use actions without sizing, for a comparison.
            draws: False begins every episode at `first`.

        Raises:
            ValueError: the span is not one of the table with a session before it, or a symbol that may be traded has
                no forecast of its own on a session of it.
        """
        check_span(table, first, last)
        _check_forecasts(table, outlook, first, last)
        n = len(table.symbols)
        course = EpisodePlan(first, last, count, seed, device, episode, draws)
        symbols = n if portfolio is None or not draws else min(portfolio, n)
        super().__init__(course, trading, symbols, steps_a_share(table, first, trading, symbols))
        self._n, self._trusting = n, trusting
        self._band, self._weight_max = trading.basket.band, weight_max(trading) if most is None else most
        self._tables(table, outlook, trading, fill, alpha)
        self._begin_everywhere()

    def _tables(self, table: DailyTable, outlook: Outlook, trading: Trading, fill: str, alpha: float) -> None:
        """Make the lookup tables, a row for each decision and symbol: observation, prices, flag, credit."""
        first, last = self._first, self._last
        span = slice(first - 1, last + 1)  # one more row, observed after the span's last session
        tradable = table.tradable[span] > 0
        forecast = np.concatenate([outlook.probabilities[span], outlook.confidence[span, :, None]], axis=2)
        rows = np.concatenate([outlook.features[span], forecast], axis=2)
        self._seen = self._table(np.where(tradable[:, :, None], np.nan_to_num(rows), 0.0).astype(np.float32))
        prices = price_rows(table, first, last, trading, fill)
        credit = alpha * BONUS * outlook.confidence[first - 1 : last] * right(table, outlook, trading)[first - 1 : last]
        credit = np.where(tradable[:-1], np.nan_to_num(credit), 0.0)
        columns = np.concatenate([prices, tradable[:-1, None], credit[:, None]], axis=1)
        self._prices = self._table(columns.transpose(0, 2, 1).astype(np.float64))  # (sessions, symbols, 9)
        self._marks = self._table(table.close_ticks[span] / TICKS)
        self._overlay = Overlay(table, first, last, trading, self.device, outlook.variances)
        sizes = np.minimum(2.0 * outlook.confidence, 1.0) if outlook.sizes is None else outlook.sizes
        self._sizes = self._table(np.where(tradable, np.nan_to_num(sizes[span]), 0.0).astype(np.float32))

    def _begin_everywhere(self) -> None:
        self._open_accounts()
        self._basis = torch.zeros_like(self._held)  # USD a share at the decisions that bought it
        self._ages = torch.zeros_like(self._held)  # sessions that each symbol was held
        self._begin_episodes()
        self._places = self._drawn()  # symbols of each account, ascending, int64 (n, k)
        zeros = torch.zeros(self._held.numel(), device=self.device)
        self._terms = Terms(zeros, zeros, zeros)
        self._summed: list[Tensor] = []

    @property
    def terms(self) -> Terms:
        """The terms of the last step's rewards."""
        return self._terms

    def take_terms(self) -> tuple[float, float, float]:
        """The mean of each reward term since the last call; 0 without a step."""
        summed, self._summed = self._summed, []
        gain, cost, bonus = torch.stack(summed).mean(0).tolist() if summed else (0.0, 0.0, 0.0)
        return gain, cost, bonus

    @property
    def rows(self) -> int:
        """Accounts x symbols."""
        return self._held.numel()

    def observe(self) -> Tensor:
        """The agents' observations, a new tensor of float32 (rows, columns)."""
        rows_seen = self._seen.flatten(0, 1).index_select(0, self._flat())
        return torch.cat([rows_seen, self._account().to(torch.float32).flatten(0, 1)], dim=1)

    def _flat(self) -> Tensor:
        """The index of each row in a table flattened over (sessions x symbols)."""
        return (self._day.unsqueeze(1) * self._n + self._places).flatten()

    def _account(self) -> Tensor:
        """Weight, unrealised return, age and cash share, float64 (n, k, 4)."""
        marks = self._marks.flatten().index_select(0, self._flat()).view(self._held.shape)
        equity = self.equity_usd.unsqueeze(1)
        gain = (marks / self._basis - 1.0).clamp(GAIN_MIN, GAIN_MAX)
        gain = torch.where(self._basis > 0.0, gain, 0.0)
        age = (self._ages / AGE_UNIT).clamp(max=AGE_MAX)
        cash = self.cash_usd.unsqueeze(1) / equity
        return torch.stack([self.shares * marks / equity, gain, age, cash.expand_as(gain)], dim=2)

    def final_of(self, actions: Tensor) -> Tensor:
        """Actions (rows, 1) after sizing, float32 (n, k)."""
        wish = actions.to(torch.float32).view(self._held.shape).clamp(-1.0, 1.0)
        if self._trusting:
            return wish
        return wish * self._sizes.flatten().index_select(0, self._flat()).view(self._held.shape)

    def step(self, actions: Tensor) -> Step:
        """Trade the agents' actions, float (rows, 1) within [-1, 1]; see `trade`."""
        return self.trade(self.final_of(actions))

    @torch.no_grad()
    def trade(self, final: Tensor) -> Step:
        """Trade final actions, float32 (n, k), in the next session; rewards float32 (rows,), who ran out of time."""
        cells = self._prices.flatten(0, 1).index_select(0, self._flat()).view(*self._held.shape, -1)
        opens, decision_prices, sold, late, paid, limit, closes, flags, credit = cells.unbind(2)
        holdings, value_before = self._held, self._value.unsqueeze(1)
        goal = self._worth_orders(holdings, self._goals(final, flags, decision_prices), decision_prices)
        if self._overlay.on:
            prices = torch.where(
                (decision_prices < inf) & (flags > 0.0), decision_prices, 0.0
            )  # 0 is an unknown price; a symbol that stays counts as unknown
            prices = prices / self._per_share  # USD a step
            goal = self._overlay(self._day, holdings, goal, prices, self.equity_usd, whole=True, places=self._places)
            goal = self._worth_orders(holdings, goal, decision_prices)
        leaves, buys = (holdings - goal).clamp(min=0.0), (goal - holdings).clamp(min=0.0)
        self._sell(leaves * opens, sold, late, paid)
        self._buy(buys * opens, paid, limit)
        scale = 1.0 / (value_before * self._weight_max)
        decision_prices = torch.where(decision_prices < inf, decision_prices, 0.0)
        moved = self._held * closes - holdings * (decision_prices * TICKS) + (self._sales - self._bought) * sold
        waited = (self._bought * (paid - sold) + self._sales * sold - self._sale_ticks) * self._a_tick
        terms = moved * self._a_tick * scale, -(self._cost_each + waited) * scale, credit
        self._terms = Terms(*(term.to(torch.float32).flatten() for term in terms))
        self._summed.append(torch.stack(self._terms).mean(1))
        self._remember(self._in_shares(holdings), decision_prices)
        self._mark(closes)
        self._next_day()
        return self._stepped(sum(terms[1:], terms[0]).to(torch.float32).flatten())

    def _worth_orders(self, holdings: Tensor, goal: Tensor, prices: Tensor) -> Tensor:
        """Goals in steps; a change too small for an order is dropped."""
        sold = self._worth_selling((holdings - goal).clamp(min=0.0), goal, prices)
        return holdings - sold + self._worth_an_order((goal - holdings).clamp(min=0.0), goal, prices)

    def _goals(self, final: Tensor, flags: Tensor, prices: Tensor) -> Tensor:
        """Target steps by the strategy's rule, float64 (n, k); for a symbol that stays, its holding."""
        equity = self.equity_usd.unsqueeze(1)
        present = torch.where(prices < inf, self.shares * prices / equity, 0.0)
        weights = final.double().clamp(min=0.0) * self._weight_max * flags
        room = (1.0 - _in_sequence(present * (1.0 - flags))).clamp(min=0.0)
        total = _in_sequence(weights)
        weights = torch.where((total > room).unsqueeze(1), weights * (room / total).unsqueeze(1), weights)
        stays = (flags == 0) | (((weights - present).abs() < self._band) & (weights > 0.0))
        return torch.where(stays, self._held, self._steps(weights * equity / prices))

    def _remember(self, holdings: Tensor, prices: Tensor) -> None:
        """Update the average cost and the sessions held."""
        now = self.shares
        paid = (holdings * self._basis + (now - holdings) * prices) / now
        basis = torch.where(now > holdings, paid, self._basis)
        self._basis = torch.where(now > 0.0, basis, 0.0)
        self._ages = torch.where(now > 0.0, self._ages + 1.0, 0.0)

    def _open_again(self, over: Tensor) -> None:
        """New accounts where `over`, of other symbols."""
        super()._open_again(over)
        rows = over.unsqueeze(1)
        self._basis, self._ages = self._basis.masked_fill(rows, 0.0), self._ages.masked_fill(rows, 0.0)
        self._places = torch.where(rows, self._drawn(), self._places)

    def _drawn(self) -> Tensor:
        """The symbols of each account's present episode, ascending, int64 (n, k)."""
        everything = torch.arange(self._n, device=self.device)
        if self._symbols == self._n:
            return everything.expand(self._count, self._n)
        places = self._everyone.unsqueeze(1) * self._n + everything
        numbers = uniform(self._seed, 1, places, self._episode.unsqueeze(1).expand_as(places))
        return numbers.argsort(1)[:, : self._symbols].sort(1).values


def weight_max(trading: Trading) -> float:
    """The most that one symbol may weigh."""
    return trading.basket.weight_max


def right(table: DailyTable, outlook: Outlook, trading: Trading) -> BoolArray:
    """Where the class predicted at a session's close is right in the next session, bool (d, n).

    BUY and SELL: the close-to-close return is beyond the cost of one trade in that direction; HOLD: it is within it.
    Nothing is right on the last session.
    """
    closes, cost = table.close_ticks, float(trading.paper.share_cost_rate)
    following = np.zeros(closes.shape)
    np.divide(closes[1:] - closes[:-1], closes[:-1], out=following[:-1], where=closes[:-1] > 0)
    outcome = np.where(following > cost, BUY, np.where(following < -cost, SELL, HOLD))
    outcome[-1] = -1
    hits: BoolArray = np.nan_to_num(outlook.probabilities, nan=-1.0).argmax(axis=2) == outcome
    return hits


def _in_sequence(values: Tensor) -> Tensor:
    """The sum of each row, added from left to right as Python does, float64 (n,)."""
    total = values.new_zeros(len(values))
    for column in values.unbind(1):
        total = total + column
    return total


def _check_forecasts(table: DailyTable, outlook: Outlook, first: int, last: int) -> None:
    """Raise where a symbol that may be traded in the span has no forecast."""
    expected = (len(table.sessions), len(table.symbols), 3)
    if outlook.probabilities.shape != expected:
        raise ValueError(
            f"forecasts have the shape {outlook.probabilities.shape}; expected {expected}, sessions and symbols of "
            f"{table.file}: forecast the same file"
        )
    needed = table.tradable[first - 1 : last] > 0
    missing = needed & ~np.isfinite(outlook.probabilities[first - 1 : last]).all(axis=2)
    if missing.any():
        day, place = (int(index[0]) for index in np.nonzero(missing))
        raise ValueError(
            f"{int(missing.sum())} rows have no forecast that is out of sample, the first one {table.symbols[place]} "
            f"after {table.dates[first - 1 + day]}: begin after the forecaster's first fold"
        )
