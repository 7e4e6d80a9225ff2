"""Play a policy on the tensor markets, session by session: the quick validation during training.

One account goes through all sessions. Deterministic: the mean action of `daily_rebalancer`, the likeliest regime of
`regime_switcher`, whose hidden state is carried. The figures of a report come from `training.evaluate.days`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.regime_switcher import HIDDEN, HOLD, SPEC
from training.data.daily_table import DailyTable
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.networks.rebalancer import columns_of
from training.desks.daily.share_accounts import ShareAccounts
from training.evaluate.days import SESSION_MIN
from training.evaluate.machine import Player
from training.evaluate.players import choosing, one_hot
from training.study.study import SessionResult

Rebalancer = Callable[[Tensor], Tensor]
"""Observations, float32 (n, 16 stocks + 3), to actions, float32 (n, stocks), in [-1, 1]. May be stateful."""
Switcher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Observations, float32 (n, 64), and hidden states (n, 128) to logits (n, 16) and the next hidden states."""


@torch.no_grad()
def play_rebalancer(
    policy: Rebalancer,
    table: DailyTable,
    dates: Sequence[str],
    trading: Trading,
    *,
    variant: str = "shares",
    fill: str = "next_open",
) -> tuple[SessionResult, ...]:
    """Play one account, which begins with the rules' paper cash, from the first session of `dates` to the last.

    `trades` counts filled orders; wins are unknown here, so 0. Raises ValueError as `RebalancerMarket` does.
    """
    first, last = table.span(dates)
    market = RebalancerMarket(table, first, last, trading, count=1, variant=variant, fill=fill, draws=False)
    results: list[SessionResult] = []
    for day in range(first, last + 1):
        equity_before = float(market.equity_usd)
        market.step(policy(market.observe()).clamp(-1.0, 1.0))
        results.append(session_result(table.sessions[day].date, equity_before, int(market.orders), market))
    return tuple(results)


@torch.no_grad()
def play_regime(
    policy: Switcher,
    table: DailyTable,
    dates: Sequence[str],
    trading: Trading,
    *,
    fill: str = "next_open",
    burn_in: int = 0,
) -> tuple[SessionResult, ...]:
    """As `play_rebalancer`, for portfolio weights; the hidden state is carried from session to session.

    Before the first session the state passes through `burn_in` sessions on a separate account.
    """
    first, last = table.span(dates)
    begin = max(first - burn_in, min(table.first_decision, first))
    market = RegimeMarket(table, begin, last, trading, count=1, fill=fill, episode=None, draws=False)
    hidden = torch.zeros(1, HIDDEN)
    results: list[SessionResult] = []
    for day in range(begin, last + 1):
        if begin < day == first:
            market.begin_again()
        equity_before = float(market.equity_usd)
        logits, hidden = policy(market.observe(), hidden)
        market.step(logits.argmax(1))
        if day >= first:
            results.append(session_result(table.sessions[day].date, equity_before, int(market.moved.sum()), market))
    return tuple(results)


def always(regime: int) -> Player:
    """The switcher that always wants the same regime."""
    return choosing(regime, len(SPEC.actions))


class StartingRegime:
    """A switcher that takes one regime at its first decision and then holds. For one account."""

    def __init__(self, regime: int) -> None:
        self._regime = regime

    def __call__(self, observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot logits of the regime, then of HOLD."""
        regime, self._regime = self._regime, HOLD
        logits, next_state = always(regime)(observations, hidden)
        return logits, next_state


def flat(observations: Tensor) -> Tensor:
    """Actions of the rebalancer that never trades, float32 (n, stocks): zeros."""
    return torch.zeros(len(observations), columns_of(observations).stocks)


class RandomRebalancer:
    """With probability `moves` an action is uniform in [-1, 1], else 0. Seeded."""

    def __init__(self, seed: int, moves: float = 1.0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._moves = moves

    def __call__(self, observations: Tensor) -> Tensor:
        """Actions, float32 (n, stocks)."""
        shape = (2, observations.shape[0], columns_of(observations).stocks)
        action, chance = torch.rand(shape, generator=self._generator)
        return torch.where(chance < self._moves, action * 2.0 - 1.0, 0.0)


class RandomSwitcher:
    """With probability `moves` takes a uniformly drawn regime, else holds. Seeded."""

    def __init__(self, seed: int, moves: float = 1.0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._moves = moves

    def __call__(self, observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot logits of a random regime, or of HOLD."""
        count = observations.shape[0]
        regime = torch.randint(0, len(SPEC.actions), (count,), generator=self._generator)
        moves = torch.rand(count, generator=self._generator) < self._moves
        return one_hot_logits(torch.where(moves, regime, HOLD)), hidden


class MemoryResetSwitcher:
    """A switcher whose hidden state is reset to zero every `every` decisions."""

    def __init__(self, policy: Switcher, every: int) -> None:
        self._policy = policy
        self._every = every
        self._asked = 0

    def __call__(self, observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's answer."""
        starts = self._asked % self._every == 0
        self._asked += 1
        return self._policy(observations, torch.zeros_like(hidden) if starts else hidden)


def one_hot_logits(regimes: Tensor) -> Tensor:
    """Logits, float32 (n, 16), that give regimes int64 (n,) all the probability."""
    return one_hot(regimes, len(SPEC.actions))


def session_result(date: str, equity_before: float, orders: int, market: ShareAccounts | RegimeMarket) -> SessionResult:
    """The result of the last step of a market of one account."""
    equity, cash = (float(value) for value in market.closing_usd)
    return SessionResult(
        date=date,
        pnl_usd=equity - equity_before,
        trades=orders,
        wins=0,
        fees_usd=float(market.costs_usd),
        premium_usd=float(market.traded_usd),
        held_min=round(SESSION_MIN * min(max(1.0 - cash / equity, 0.0), 1.0)) if equity > 0.0 else 0,
        minutes=SESSION_MIN,
        capital_usd=equity_before,
    )
