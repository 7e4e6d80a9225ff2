"""Play policies and random traders of `option_scalper` on the tensor market.

A player maps observations to logits; the live path (temperature, argmax, confidence threshold) turns them into actions.
The figures of a report come from `training.desks.scalper.dry_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC
from training.desks.scalper.market import Market
from training.study.evaluation import SessionResult

Player = Callable[[Tensor], Tensor]
"""Observations, float32 (n, 20, 23), to logits, float32 (n, 6)."""

SIDE_COLUMN = SPEC.features.index("position_side")
ELAPSED_COLUMN = SPEC.features.index("session_elapsed")
FAST_COLUMN, SLOW_COLUMN = SPEC.features.index("ema9_distance"), SPEC.features.index("ema21_distance")
CERTAIN = 50.0  # a logit that leaves the other actions nothing


def live_actions(logits: Tensor, flat: Tensor, confidence_min: float) -> Tensor:
    """Actions of the live path, int64 (n,): argmax at the spec's temperature; an entry below the threshold holds.

    `flat` bool (n,) is true where nothing is held: only there a buy is an entry (elsewhere it holds or leaves).
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


class DelayedPlayer:
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
