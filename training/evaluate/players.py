"""Players to compare a policy with: constant and random ones, the policy one decision late; and other costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.paper.fees import FEES
from training.evaluate.machine import Player
from training.evidence.criteria import COSTS_TWICE
from training.study.progress import counted
from training.study.study import SessionResult

CERTAIN = 50.0  # a logit with which the other actions get probability 0
NO_COSTS, COSTS_THRICE = "no costs", "costs x 3"
COSTS: Mapping[str, int] = MappingProxyType({NO_COSTS: 0, COSTS_TWICE: 2, COSTS_THRICE: 3})
"""Scenario name -> multiple of the costs."""
_COSTS_OF = (*FEES, "share_cost_rate", "share_wait_rate", "half_spread", "half_spread_min_usd")
Trader = TypeVar("Trader")


def with_costs(trading: Trading, times: int) -> Trading:
    """The rules with spreads, fees and the cost of waiting multiplied by `times`, for shares and options."""
    paper = trading.paper
    return replace(trading, paper=replace(paper, **{name: getattr(paper, name) * times for name in _COSTS_OF}))


def one_hot(actions: Tensor, count: int, value: float = CERTAIN) -> Tensor:
    """Logits, float32 (n, count), that give actions int64 (n,) all the probability."""
    return torch.nn.functional.one_hot(actions, count).float() * value


def constant(answer: Sequence[float]) -> Player:
    """The player that always gives this answer, one number for each action; a hidden state is passed through."""
    row = torch.tensor([answer])

    def play(observations: Tensor, *memory: Tensor) -> Any:
        values = row.repeat(len(observations), 1)
        return (values, *memory) if memory else values

    return play


def choosing(action: int, count: int, value: float = CERTAIN) -> Player:
    """The player that always takes this one of `count` actions."""
    return constant([value if place == action else 0.0 for place in range(count)])


class Late:
    """A player one decision late: it answers the previous observation; the first answer is that of `first`.

    It keeps one observation, so it plays one account. Players that share `waiting` take turns on one account: each
    answers the observation that the player before it left.
    """

    def __init__(self, player: Player, first: Player, waiting: list[tuple[Player, Tensor]] | None = None) -> None:
        self._player, self._first = player, first
        self._waiting = [] if waiting is None else waiting

    def __call__(self, observations: Tensor, *memory: Tensor) -> Any:
        """The answer to the observation before."""
        player, previous = self._waiting.pop() if self._waiting else (self._first, observations)
        self._waiting.append((self._player, observations.clone()))
        return player(previous, *memory)


class RandomTrader:
    """Enters with one probability while flat, by a random one of its entries, and leaves with another while holding.

    Seeded.
    """

    def __init__(
        self, enter: float, leave: float, seed: int, *, entries: Sequence[int], leaves_by: int, holds_by: int
    ) -> None:
        """Probabilities are per decision; `entries` are one or two actions."""
        self._enter, self._leave, self._entries = enter, leave, entries
        self._leaves_by, self._holds_by = leaves_by, holds_by
        self._generator = torch.Generator().manual_seed(seed)

    def actions(self, holding: Tensor) -> Tensor:
        """A random action, int64 (n,), of accounts that hold something, bool (n,)."""
        numbers = torch.rand(len(holding), len(self._entries), generator=self._generator)
        entry = torch.where(numbers[:, -1] < 0.5, self._entries[0], self._entries[-1])
        enters = torch.where(numbers[:, 0] < self._enter, entry, self._holds_by)
        leaves = torch.where(numbers[:, 0] < self._leave, self._leaves_by, self._holds_by)
        return torch.where(holding, leaves, enters)


def random_like(
    results: Sequence[SessionResult],
    make: Callable[[float, float], Trader],
    measure: Callable[[Trader], Sequence[SessionResult]],
) -> Trader:
    """The trader `make(enter, leave)` with about the number of trades and the holding time of `results`.

    `enter` is corrected three times by the trades that `measure` gives, because cooldowns and limits deny entries.
    """
    trades = sum(result.trades for result in results) / len(results)
    held_min = sum(result.held_min for result in results) / len(results)
    flat = sum(result.decisions_flat for result in results) / len(results)
    enter, leave = min(trades / max(flat, 1.0), 1.0), min(trades / max(held_min, 1.0), 1.0)
    for _ in counted(range(3), "tries"):
        measured = measure(make(enter, leave))
        measured_trades = sum(result.trades for result in measured) / len(measured)
        measured_held = sum(result.held_min for result in measured) / len(measured)
        if measured_trades <= 0.0:
            break
        enter = min(enter * trades / measured_trades, 1.0)
        leave = min(leave * (measured_held / measured_trades) / max(held_min / trades, 1e-9), 1.0) if trades else leave
    return make(enter, leave)


def total_usd(results: Sequence[SessionResult]) -> float:
    """Profit of a player over all sessions, USD."""
    return sum(result.pnl_usd for result in results)


def median_of(played: Sequence[Sequence[SessionResult]]) -> int:
    """The index of the player with the median profit."""
    return sorted(range(len(played)), key=lambda place: total_usd(played[place]))[len(played) // 2]
