"""What a policy earns: results session by session, figures over them, and the players that policies are compared with.

A player maps observations to logits; the live path (temperature, argmax, confidence threshold) turns them into
actions. `play` is the quick evaluation on the tensor market; the figures of a report come from `training.dry_run`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC
from training.market import Market

Player = Callable[[Tensor], Tensor]
"""Observations, float32 (n, 20, 23), to logits, float32 (n, 6)."""

SIDE_COLUMN = SPEC.features.index("position_side")
ELAPSED_COLUMN = SPEC.features.index("session_elapsed")
FAST_COLUMN, SLOW_COLUMN = SPEC.features.index("ema9_distance"), SPEC.features.index("ema21_distance")
CERTAIN = 50.0  # a logit that leaves the other actions nothing


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One session on its own account; money in USD, net of spread and fees."""

    date: str
    pnl_usd: float
    trades: int
    wins: int
    fees_usd: float
    premium_usd: float  # paid for all buys of options; the value of all shares traded
    held_min: int  # with a position; of shares the minutes times their part of the equity
    minutes: int  # in which a position could be held
    capital_usd: float = 0.0  # with which this session began; 0: the study's, with which every session begins

    @property
    def decisions_flat(self) -> int:
        """Minutes without a position."""
        return max(self.minutes - self.held_min, 0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures over sessions. Returns are fractions of the capital with which the session begins."""

    sessions: int
    net_return: float  # the sum over sessions, or compounded
    session_return: float  # the mean
    session_deviation: float  # the sample deviation
    sharpe_annual: float  # mean / deviation x sqrt(252); 0 without deviation
    worst_session: float
    max_drawdown: float  # of the running sum of returns, or of the account's highest equity
    trades: int
    trades_per_session: float
    win_rate: float
    fees_usd: float
    turnover: float  # premium paid, or value traded / capital, a session
    exposure: float  # minutes with a position / minutes


def figures(results: Sequence[SessionResult], capital_usd: float, *, compounds: bool = False) -> Figures:
    """The figures of at least one session; `compounds` where they are of one account that goes through all of them."""
    returns = [result.pnl_usd / (result.capital_usd or capital_usd) for result in results]
    deviation = statistics.stdev(returns) if len(returns) > 1 else 0.0
    mean = statistics.fmean(returns)
    running = peak = drawdown = 0.0  # net return so far
    for value in returns:
        running += value * (1.0 + running if compounds else 1.0)
        peak = max(peak, running)
        drawdown = max(drawdown, (peak - running) / (1.0 + peak if compounds else 1.0))
    trades = sum(result.trades for result in results)
    return Figures(
        sessions=len(results),
        net_return=running if compounds else math.fsum(returns),
        session_return=mean,
        session_deviation=deviation,
        sharpe_annual=mean / deviation * math.sqrt(252) if deviation > 0.0 else 0.0,
        worst_session=min(returns),
        max_drawdown=drawdown,
        trades=trades,
        trades_per_session=trades / len(results),
        win_rate=sum(result.wins for result in results) / trades if trades else 0.0,
        fees_usd=math.fsum(result.fees_usd for result in results),
        turnover=sum(r.premium_usd / (r.capital_usd or capital_usd) for r in results) / len(results),
        exposure=sum(result.held_min for result in results) / sum(result.minutes for result in results),
    )


def as_metrics(found: Figures) -> dict[str, Any]:
    """The figures for a manifest, rounded to six decimals."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(found).items()}


def live_actions(logits: Tensor, flat: Tensor, confidence_min: float) -> Tensor:
    """Actions of the live path, int64 (n,): argmax at the spec's temperature; an entry below the threshold holds.

    `flat` bool (n,) says where nothing is held: only there a buy is an entry (elsewhere it holds or leaves).
    """
    confidence, action = torch.softmax(logits.double() / SPEC.temperature, dim=1).max(dim=1)
    unsure = flat & ((action == BUY_CALL) | (action == BUY_PUT)) & (confidence < confidence_min)
    return torch.where(unsure, HOLD, action)


@torch.no_grad()
def play(market: Market, player: Player, dates: Sequence[str], confidence_min: float) -> tuple[SessionResult, ...]:
    """One episode of each environment of a market without auto-reset, the i-th on the market's session i mod dates."""
    count = market.row.shape[0]
    market.begin(torch.arange(count) % len(dates))
    first = market.row.clone()
    while bool(market.active.any()):
        logits = player(market.observe())
        market.step(live_actions(logits, market.account.contracts == 0, confidence_min))
    a = market.account
    columns = (market.net_pnl_usd, a.closed, a.wins, a.fees / 100.0, a.premium / 100.0, a.held_min, market.row - first)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(SessionResult(dates[index % len(dates)], *row) for index, row in enumerate(rows))


def always_hold(observations: Tensor) -> Tensor:
    """The player that never trades."""
    logits = torch.zeros(observations.shape[0], len(SPEC.actions))
    logits[:, HOLD] = CERTAIN
    return logits


class RandomTrader:
    """Enters a random side with one chance a minute while flat and leaves with another while holding. Seeded."""

    def __init__(self, enter: float, leave: float, seed: int) -> None:
        self._enter = enter
        self._leave = leave
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, observations: Tensor) -> Tensor:
        """Certain logits of a random action."""
        count = observations.shape[0]
        holding = observations[:, -1, SIDE_COLUMN] != 0.0
        draw = torch.rand(count, 2, generator=self._generator)
        buy = torch.where(draw[:, 1] < 0.5, BUY_CALL, BUY_PUT)
        entry = torch.where(draw[:, 0] < self._enter, buy, HOLD)
        leave = torch.where(draw[:, 0] < self._leave, EXIT, HOLD)
        action = torch.where(holding, leave, entry)
        return torch.nn.functional.one_hot(action, len(SPEC.actions)).float() * CERTAIN


def random_like(
    results: Sequence[SessionResult], measure: Callable[[RandomTrader], Sequence[SessionResult]], seed: int
) -> RandomTrader:
    """A random trader with about the trades and the holding time of `results`.

    Its chance to enter is corrected three times by what `measure` finds, because cooldowns and limits deny entries.
    """
    trades = sum(result.trades for result in results) / len(results)
    held = sum(result.held_min for result in results) / len(results)
    flat = sum(result.decisions_flat for result in results) / len(results)
    enter, leave = min(trades / max(flat, 1.0), 1.0), min(trades / max(held, 1.0), 1.0)
    for _ in range(3):
        found = measure(RandomTrader(enter, leave, seed))
        found_trades = sum(result.trades for result in found) / len(found)
        found_held = sum(result.held_min for result in found) / len(found)
        if found_trades <= 0.0:
            break
        enter = min(enter * trades / found_trades, 1.0)
        leave = min(leave * (found_held / found_trades) / max(held / trades, 1e-9), 1.0) if trades else leave
    return RandomTrader(enter, leave, seed)


class Late:
    """A player that is one bar late: it answers each observation as the other would have answered the one before.

    The first observation of a session is held on. For one desk at a time (observations of batch 1).
    """

    def __init__(self, player: Player) -> None:
        self._player = player
        self._before: Tensor | None = None

    def __call__(self, observations: Tensor) -> Tensor:
        """Logits for the observation before."""
        before, self._before = self._before, observations.clone()
        new_session = before is None or observations[0, -1, ELAPSED_COLUMN] <= before[0, -1, ELAPSED_COLUMN]
        return always_hold(observations) if before is None or new_session else self._player(before)


def moving_averages(observations: Tensor) -> Tensor:
    """The simple rule: calls while the 9-bar average is above the 21-bar one, puts while it is below.

    A feature of the averages is close / average - 1, so the smaller distance belongs to the larger average. A buy
    against a position leaves it.
    """
    above = observations[:, -1, FAST_COLUMN] < observations[:, -1, SLOW_COLUMN]
    action = torch.where(above, BUY_CALL, BUY_PUT)
    return torch.nn.functional.one_hot(action, len(SPEC.actions)).float() * CERTAIN
