"""Play policies and random traders of `online_dqn` on the market. A player maps observations to values of the actions.

The figures of a report come from `training.evaluate.bars`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.online_dqn import ACTIONS, BUY, HOLD, SELL
from training.desks.online.data import OnlineData
from training.desks.online.market.money import MICRO
from training.evaluate.machine import Player
from training.evaluate.players import RandomTrader, choosing, one_hot
from training.study.evaluation import SessionResult

FROM_OPEN = "hold from the open"  # what the report calls that player


def values_of(answer: Any) -> Tensor:
    """The values of the actions in a player's answer."""
    values: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return values


def one_hot_values(actions: Tensor) -> Tensor:
    """Values, float32 (rows, 3): 1 for these actions, 0 for the others."""
    return one_hot(actions, len(ACTIONS), 1.0)


flat: Player = choosing(HOLD, len(ACTIONS), 1.0)
"""The player that never trades."""
hold_from_open: Player = choosing(BUY, len(ACTIONS), 1.0)
"""The player that buys as soon as it may and keeps what it bought; it buys again after a stop or a target."""


def random_trader(enter: float, leave: float, seed: int, bar_min: int) -> RandomTrader:
    """Enters with one chance a minute while flat and leaves with another while holding. Seeded."""
    return RandomTrader(enter * bar_min, leave * bar_min, seed, entries=(BUY,), leaves_by=SELL, holds_by=HOLD)


@torch.no_grad()
def play(
    player: Player | RandomTrader, data: OnlineData, dates: Sequence[str], trading: Trading, draws: int = 1
) -> tuple[SessionResult, ...]:
    """One episode of each session and symbol, `draws` times; sessions in their order, draw after draw.

    With several symbols each one has a part of the account, and a session's result is their sum.
    """
    days = data.on(dates)
    market = data.market(dates, trading, count=draws * len(days), auto_reset=False)
    market.begin(np.arange(draws * len(days)) % len(days))
    while market.active.any():
        if isinstance(player, RandomTrader):
            market.step(player.actions(torch.from_numpy(market.account.held > 0)))
        else:
            market.step(values_of(player(market.observe())).argmax(dim=1))
    a = market.account
    table = np.stack([a.closed, a.wins, a.held_min]).reshape(3, draws, -1)
    money = np.stack([a.net_usd, a.costs / MICRO, a.traded / MICRO]).reshape(3, draws, -1)
    each = len(data.spec.symbols)
    found: list[SessionResult] = []
    for draw in range(draws):
        for place, date in enumerate(dates):
            part = slice(place * each, (place + 1) * each)
            trades, wins = table[:2, draw, part].sum(axis=1).tolist()
            pnl, costs, traded = money[:, draw, part].sum(axis=1).tolist()
            held, minutes = int(table[2, draw, part].max()), data.minutes(date)
            found.append(SessionResult(date, pnl, trades, wins, costs, traded, held, minutes))
    return tuple(found)
