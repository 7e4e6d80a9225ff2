"""Play policies and random traders of `option_scalper` on the tensor market.

A player maps observations to logits; the live path (temperature, argmax, confidence threshold) turns them into actions.
The figures of a report come from `training.evaluate.bars`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC
from training.desks.scalper.market import Market
from training.evaluate.machine import Player
from training.evaluate.players import RandomTrader, choosing, one_hot
from training.study.evaluation import SessionResult

COUNT = len(SPEC.actions)
always_hold: Player = choosing(HOLD, COUNT)
"""The player that never trades."""
SIDE_COLUMN = SPEC.features.index("position_side")
ELAPSED_COLUMN = SPEC.features.index("session_elapsed")
FAST_COLUMN, SLOW_COLUMN = SPEC.features.index("ema9_distance"), SPEC.features.index("ema21_distance")


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


def random_trader(enter: float, leave: float, seed: int) -> Player:
    """Enters a random side with one chance a minute while flat and leaves with another while holding. Seeded."""
    trader = RandomTrader(enter, leave, seed, entries=(BUY_CALL, BUY_PUT), leaves_by=EXIT, holds_by=HOLD)
    return lambda observations: one_hot(trader.actions(observations[:, -1, SIDE_COLUMN] != 0.0), COUNT)


def moving_averages(observations: Tensor) -> Tensor:
    """The simple rule: calls while the 9-bar average is above the 21-bar one, puts while it is below.

    A feature of the averages is close / average - 1, so the smaller distance belongs to the larger average. A buy
    against a position leaves it.
    """
    above = observations[:, -1, FAST_COLUMN] < observations[:, -1, SLOW_COLUMN]
    action = torch.where(above, BUY_CALL, BUY_PUT)
    return one_hot(action, COUNT)
