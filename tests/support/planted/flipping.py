"""A market whose rule flips: what announced a rise announces a fall from then on. The optimum is known for both rules.

Minute bars of sessions, long or flat, as the desk `online` trades. A state z = +-1, which everybody sees, stays with
`stay` from bar to bar; the next bar returns rule x drift x z plus noise. Invariant: what the market draws never depends
on the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.rl.protocols import Step

HOLD, BUY, SELL = 0, 1, 2
INPUTS = 6
"""The state, the position, the session's share that is left, and three numbers that mean nothing."""


@dataclass(frozen=True, slots=True)
class Flipping:
    """Returns and costs in percent; a unit of position is bought or sold at `cost`."""

    stay: float = 0.95
    drift: float = 0.1
    noise: float = 0.3
    cost: float = 0.1
    steps: int = 390  # decisions of a session


class FlippingMarket:
    """`count` markets; a session ends truly, what is held then is marked. The first sessions begin in their middle."""

    def __init__(self, flipping: Flipping, count: int, seed: int, *, rule: float = 1.0, scattered: bool = True) -> None:
        self.rule = rule
        self._f = flipping
        self._generator = torch.Generator().manual_seed(seed)
        self._elapsed = torch.zeros(count, dtype=torch.int64)
        if scattered:
            self._elapsed = torch.randint(0, flipping.steps, (count,), generator=self._generator)
        self._state = torch.where(torch.rand(count, generator=self._generator) < 0.5, 1.0, -1.0)
        self._position = torch.zeros(count)
        self._nothing = torch.randn(count, INPUTS - 3, generator=self._generator)

    def observe(self) -> Tensor:
        """Float32 (n, 6)."""
        left = 1.0 - self._elapsed / self._f.steps
        return torch.cat([torch.stack([self._state, self._position, left], dim=1), self._nothing], dim=1)

    def step(self, actions: Tensor) -> Step:
        """Take int64 actions (n,); an action that changes nothing is a HOLD."""
        f, count = self._f, len(self._state)
        held = held_after(actions, self._position)
        noise = f.noise * torch.randn(count, generator=self._generator)
        rewards = held * (self.rule * f.drift * self._state + noise) - f.cost * (held - self._position).abs()
        turns = torch.rand(count, generator=self._generator) >= f.stay
        fresh = torch.where(torch.rand(count, generator=self._generator) < 0.5, 1.0, -1.0)
        self._elapsed = self._elapsed + 1
        ended = self._elapsed == f.steps
        self._elapsed = torch.where(ended, 0, self._elapsed)
        self._state = torch.where(ended, fresh, torch.where(turns, -self._state, self._state))
        self._position = torch.where(ended, 0.0, held)
        self._nothing = torch.randn(count, INPUTS - 3, generator=self._generator)
        return Step(rewards, ended)

    def state_dict(self) -> dict[str, Any]:
        return {
            "elapsed": self._elapsed,
            "state": self._state,
            "position": self._position,
            "nothing": self._nothing,
            "rule": self.rule,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._elapsed, self._state, self._position = state["elapsed"], state["state"], state["position"]
        self._nothing, self.rule = state["nothing"], state["rule"]
        self._generator.set_state(state["generator"])


def held_after(actions: Tensor, position: Tensor) -> Tensor:
    """What is held after the actions: BUY 1, SELL 0, HOLD what was."""
    return torch.where(actions == BUY, 1.0, torch.where(actions == SELL, 0.0, position))


@cache
def optimum(flipping: Flipping) -> float:
    """The expected net return of a session by the best policy, for either rule: backward induction, exact.

    V_T = 0;  V_t(g, p) = max over p' of  p' drift g - cost |p' - p| + E V_{t+1}(g', p'),  g = rule x z.
    """
    f, signs, held = flipping, np.array([1.0, -1.0]), np.array([0.0, 1.0])
    moves: npt.NDArray[np.float64] = np.array([[f.stay, 1.0 - f.stay], [1.0 - f.stay, f.stay]])
    values = np.zeros((2, 2))  # by sign, by position
    for _ in range(f.steps):
        ahead = moves @ values  # by sign, by position from now
        paid = f.drift * signs[:, None] * held
        choices = (paid + ahead)[:, None, :] - f.cost * np.abs(held[None, :, None] - held[None, None, :])
        values = choices.max(axis=2)
    return float(values[:, 0].mean())


def best(rule: float) -> Callable[[Tensor], Tensor]:
    """Q values of the rule that is the best one but for a session's last bar: long while a rise is announced."""
    return lambda observed: torch.stack(
        [torch.zeros(len(observed)), rule * observed[:, 0], -rule * observed[:, 0]], dim=1
    )


@torch.no_grad()
def share_of_optimum(
    flipping: Flipping, values: Callable[[Tensor], Tensor], rule: float, *, sessions: int = 256, seed: int = 4242
) -> float:
    """What greedy decisions by these Q values earn of what the best rule earns, on the same draws without noise."""
    return earned(flipping, values, rule, sessions, seed) / _earned_at_best(flipping, rule, sessions, seed)


@torch.no_grad()
def earned(flipping: Flipping, values: Callable[[Tensor], Tensor], rule: float, sessions: int, seed: int) -> float:
    """The mean net return of sessions by greedy decisions, noise left out."""
    market = FlippingMarket(replace(flipping, noise=0.0), sessions, seed, rule=rule, scattered=False)
    returns = [market.step(values(market.observe()).argmax(dim=1)).rewards for _ in range(flipping.steps)]
    return float(torch.stack(returns).double().sum(dim=0).mean())


@cache
def _earned_at_best(flipping: Flipping, rule: float, sessions: int, seed: int) -> float:
    return earned(flipping, best(rule), rule, sessions, seed)
