"""Many accounts of weights on a few funds, stepped together as tensors: one step is one session.

The old weights earn the return of the night, the change at the open pays its cost once, the new weights earn the return
of the day. Weights are exact fractions in training; the dry run trades whole shares. Invariant: the weights with cash
sum to 1 and none is below 0. Neither `observe` nor `step` waits for a device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.paper.fees import charges_days
from strategies.regime_switcher import EPISODE, HOLD, WIDTH, inverse_weights, layout, regimes_of
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.episodes import EpisodePlan, Episodes
from training.desks.daily.markets.rebalancer import FILLS
from training.desks.daily.overlay import Overlay
from training.desks.daily.share_accounts import check_span, fees_of_values
from training.rl.protocols import Step

KEPT = EPISODE + 1  # equities: of this decision and of the 256 before it
REWARD_COST = 0.001  # reward lost per unit of turnover


class RegimeMarket(Episodes):
    """`count` accounts of `regime_switcher`. Implements `training.rl.ppo.Environment` on `device`.

    An episode begins in cash before a session drawn from `seed`, the place and the number of its episodes alone, and
    ends after `episode` sessions or after session `last`: a time limit. Where the span is long enough all have
    `episode` sessions.
    """

    CHANGING = ("_weights", "_equity", "_equities", "_day", "_age", "_episode")
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
        device: torch.device | str = "cpu",
        fill: str = "next_open",
        episode: int | None = EPISODE,
        draws: bool = True,
        turnover: float = 0.0,
    ) -> None:
        """Make the tables and begin everywhere. `first` and `last` are the sessions (indices) that may be traded.

        `fill` "same_close" trades at the very close of the decision, which is impossible: for comparison only.
        Without `draws` every episode begins at `first`. `turnover` is taken from the reward, besides `REWARD_COST`.

        Raises:
            ValueError: the span is not one of the table with a session before it, or `fill` is unknown.
        """
        check_span(table, first, last)
        if fill not in FILLS:
            raise ValueError(f"fill is {fill!r}; expected one of {', '.join(FILLS)}: correct the name")
        super().__init__(EpisodePlan(first, last, count, seed, device, episode, draws, whole=True))
        self._capital = float(trading.paper.cash_usd)
        self._rate = float(trading.paper.share_cost_rate)
        self._trading = trading
        self._band = trading.basket.band
        self._penalty = REWARD_COST + turnover
        self._tables(table, fill)
        self._overlay = Overlay(table, first, last, trading, self.device)
        self._begin_everywhere()

    def _tables(self, table: DailyTable, fill: str) -> None:
        """Make the lookup tables, a row for each decision: market columns, growth of night and day, portfolios."""
        first, last = self._first, self._last
        decisions = slice(first - 1, last + 1)
        places = layout(len(table.symbols))
        self._funds, self._places = len(table.symbols), places
        rows_seen = np.zeros((last - first + 2, WIDTH), dtype=np.float32)
        rows_seen[:, places.prices.start : places.volatilities.stop] = table.features[decisions]
        close = table.close_ticks
        opened = np.where(table.present, table.open_ticks, 0.0)
        opened = np.where(opened > 0, opened, close)[first : last + 1]
        was = close[first - 1 : last]
        if not (was > 0).all():
            raise ValueError(
                f"{table.file}: a fund of {', '.join(table.symbols)} has no close before {table.dates[first]}; "
                f"expected all of them: begin the split later"
            )
        night = opened / was if fill == "next_open" else np.ones_like(opened)
        day = close[first : last + 1] / (opened if fill == "next_open" else was)
        whole = close[first : last + 1] / was
        self._seen = self._table(rows_seen)
        self._growth = self._table(np.stack([night, day, whole], axis=1))  # (rows, 3, funds)
        still = (~table.present | table.stale[:, None])[first : last + 1]  # no print, or the desk denies the basket
        self._still = self._table(still) if still.any() else None
        self._opens = self._table(opened / TICKS) if charges_days(self._trading.paper) else None  # USD a share
        regimes, none = [weights for _, weights in regimes_of(table.symbols)], (0.0,) * self._funds
        self._regimes = self._table(np.array([regime if isinstance(regime, tuple) else none for regime in regimes]))
        parts = np.array([regime if isinstance(regime, float) else 0.0 for regime in regimes])
        self._parts = self._table(parts) if parts.any() else None  # invested parts of the regimes by volatility
        self._inverse = self._table(inverse_weights(rows_seen[:, places.volatilities]))

    def _begin_everywhere(self) -> None:
        n, real = self._count, torch.float64
        self._weights = torch.zeros((n, self._funds), dtype=real, device=self.device)
        self._equity = torch.full((n,), self._capital, dtype=real, device=self.device)
        self._equities = torch.zeros(
            (KEPT, n), dtype=real, device=self.device
        )  # ring buffer, indexed by the episode's decision number
        self._equities[0] = self._capital
        self._begin_episodes()
        self._turnover = self._paid = self._traded = torch.zeros_like(self._equity)
        self._closing, self._closing_weights = self._equity, self._weights
        self._moved = self._weights > 0.0

    def observe(self) -> Tensor:
        """Raw observations, a new tensor of float32 (n, 64)."""
        observations, places = self._seen.index_select(0, self._day), self._places
        observations[:, places.weights.start] = 1.0 - self._weights.sum(1)
        observations[:, places.weights.start + 1 : places.weights.stop] = self._weights
        first = torch.where(self._age >= EPISODE, (self._age + 1) % KEPT, 0)
        then = self._equities.gather(0, first.unsqueeze(0)).squeeze(0)
        observations[:, places.portfolio_return] = self._equity / then - 1.0
        observations[:, places.drawdown] = 1.0 - self._equity / self._equities.amax(0)
        return observations

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Hold the regimes int64 (n,) in the next session; rewards float32 (n,), and who ran out of time."""
        night, day, whole = self._growth.index_select(0, self._day).unbind(1)
        slept = 1.0 + (self._weights * (night - 1.0)).sum(1)
        drifted = self._weights * night / slept.unsqueeze(1)
        goal = self._goal(actions, drifted)
        if self._still is not None:
            goal = _afforded(torch.where(self._still.index_select(0, self._day), drifted, goal), drifted)
        self._turnover = (goal - drifted).abs().sum(1)
        grown = 1.0 + (goal * (day - 1.0)).sum(1)
        opened = self._equity * slept
        self._paid = opened * self._turnover * self._rate
        if self._opens is not None:
            moved = (goal - drifted) * opened.unsqueeze(1)
            self._paid = self._paid + fees_of_values(moved, self._opens.index_select(0, self._day), self._trading)
        self._traded = opened * self._turnover
        self._equity = (opened - self._paid) * grown
        self._weights = goal * day / grown.unsqueeze(1)
        self._moved = goal != drifted
        self._closing, self._closing_weights = self._equity, self._weights
        equal = whole.mean(1) - 1.0
        rewards = (slept * grown - 1.0 - equal - self._penalty * self._turnover).to(torch.float32)
        self._next_day()
        self._equities.scatter_(0, (self._age % KEPT).unsqueeze(0), self._equity.unsqueeze(0))
        return self._stepped(rewards)

    def _goal(self, actions: Tensor, drifted: Tensor) -> Tensor:
        """Target weights: the regime's. Unchanged for HOLD, where volatilities are unknown, or within the band.

        Where cash does not suffice, the increases are reduced.
        """
        weights = self._regimes.index_select(0, actions)
        stays = (actions == HOLD).unsqueeze(1)
        if self._parts is not None:
            part = self._parts.index_select(0, actions).unsqueeze(1)
            weights = torch.where(part > 0.0, part * self._inverse.index_select(0, self._day), weights)
            stays = stays | weights.isnan()
        stays = stays | ((weights - drifted).abs() < self._band)
        goal = torch.where(stays, drifted, weights)
        if self._band > 0.0:
            goal = _afforded(goal, drifted)
        if not self._overlay.on:
            return goal
        ones = torch.ones_like(goal)  # weights are counted as shares of 1 USD in an account of 1 USD
        return self._overlay(self._day, drifted, goal, ones, ones[:, 0], whole=True, shares=False)

    def _open_again(self, over: Tensor) -> None:
        """Accounts in cash with the capital where `over`, bool (n,)."""
        self._equity = self._equity.masked_fill(over, self._capital)
        self._weights = self._weights.masked_fill(over.unsqueeze(1), 0.0)
        fresh = torch.zeros_like(self._equities)
        fresh[0] = self._capital
        self._equities = torch.where(over, fresh, self._equities)

    @property
    def equity_usd(self) -> Tensor:
        """Equity at the last close in USD, float64 (n,)."""
        return self._equity

    @property
    def weights(self) -> Tensor:
        """Weights of the funds at the last close, float64 (n, funds); the rest is cash."""
        return self._weights

    @property
    def closing_usd(self) -> tuple[Tensor, Tensor]:
        """Equity and cash at the end of the last step in USD, float64 (n,); before a new episode began."""
        return self._closing, self._closing * (1.0 - self._closing_weights.sum(1))

    @property
    def moved(self) -> Tensor:
        """The weights that the last step changed, bool (n, funds)."""
        return self._moved

    @property
    def turnover(self) -> Tensor:
        """The sum of the changes of weights in the last step, float64 (n,)."""
        return self._turnover

    @property
    def costs_usd(self) -> Tensor:
        """Costs of the last step in USD, float64 (n,)."""
        return self._paid

    @property
    def traded_usd(self) -> Tensor:
        """Value bought and sold in the last step in USD, float64 (n,)."""
        return self._traded


def _afforded(goal: Tensor, drifted: Tensor) -> Tensor:
    """Target weights whose increases are reduced where cash does not suffice for them, float64 (n, funds)."""
    grows = (goal - drifted).clamp(min=0.0)
    over = (goal.sum(1) - 1.0).clamp(min=0.0)
    return goal - grows * (over / grows.sum(1).clamp(min=1e-12)).clamp(max=1.0).unsqueeze(1)
