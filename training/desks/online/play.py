"""Play policies and random traders of `online_dqn` on the market. A player maps observations to values of the actions.

The figures of a report come from `training.desks.online.dry_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.online_dqn import ACTIONS, BUY, HOLD, SELL
from training.desks.online.data import OnlineData
from training.desks.online.market.money import MICRO
from training.desks.online.market.online_market import OnlineMarket
from training.study.evaluation import SessionResult

FROM_OPEN = "hold from the open"  # what the report calls that player
Player = Callable[[Tensor], Any]
"""Observations, float32 (rows, width), to values, float32 (rows, 3), or to these and the heads as a policy gives."""


def values_of(answer: Any) -> Tensor:
    """The values of the actions in a player's answer."""
    values: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return values


def certain(actions: Tensor) -> Tensor:
    """Values that leave no doubt about these actions, float32 (rows, 3)."""
    return torch.nn.functional.one_hot(actions, len(ACTIONS)).float()


def flat(observations: Tensor) -> Tensor:
    """The player that never trades."""
    return certain(torch.full((len(observations),), HOLD))


def hold_from_open(observations: Tensor) -> Tensor:
    """The player that buys as soon as it may and keeps what it bought; it buys again after a stop or a target."""
    return certain(torch.full((len(observations),), BUY))


class Late:
    """A player that is one bar late: it answers as the other did to the observation before; at first it holds."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._before: Player = flat

    def __call__(self, observations: Tensor) -> Any:
        """The answer to the observation before."""
        before, answer = self._before, self._player(observations)
        self._before = lambda _: answer
        return before(observations)


class RandomTrader:
    """Enters with one chance a minute while flat and leaves with another while holding. Seeded."""

    def __init__(self, enter: float, leave: float, seed: int) -> None:
        self._enter, self._leave = enter, leave
        self._generator = torch.Generator().manual_seed(seed)

    def actions(self, market: OnlineMarket) -> Tensor:
        """A random action of each row, int64 (n,)."""
        drawn = torch.rand(market.account.held.shape[0], generator=self._generator)
        holding = torch.from_numpy(market.account.held > 0)
        enters, leaves = drawn < self._enter * market.bar_min, drawn < self._leave * market.bar_min
        return torch.where(holding, torch.where(leaves, SELL, HOLD), torch.where(enters, BUY, HOLD))


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
            market.step(player.actions(market))
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
