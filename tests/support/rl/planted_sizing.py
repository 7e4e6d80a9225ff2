"""Sizing by a signal, with a known optimum: a contextual bandit without costs, an MDP with costs of trading.

Holds the environment as tensors, the same as Stable-Baselines3 wants it, and the optimum by a Riccati equation.
Invariant: what the environment draws never depends on the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from tests.support.planted.market import TensorVecEnv
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.protocols import Environment, Step

INPUTS = 4
"""Signal, what is held, and numbers that mean nothing: in `BANDIT` and `MDP`."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """The signal s moves as s' = stay s + sqrt(1 - stay^2) N(0, 1). An action w in [-1, 1] is what is held from now.

    Reward: gain s w - risk w^2 / 2 - cost (w - held)^2 / 2, plus N(0, noise).
    """

    gain: float = 0.4
    risk: float = 1.0
    cost: float = 0.0
    stay: float = 0.9
    noise: float = 0.03
    steps: int = 16  # of an episode; a time limit, the task goes on
    discount: float = 0.9
    inputs: int = INPUTS


BANDIT = Sizing()
MDP = Sizing(cost=0.5)


class PlantedSizing:
    """`count` of them; the first episodes begin in their middle, so that they do not end all at once."""

    def __init__(self, sizing: Sizing, count: int, seed: int) -> None:
        self._sizing = sizing
        self._generator = torch.Generator().manual_seed(seed)
        self._observed = self._begun(count)
        self._elapsed = torch.randint(0, sizing.steps, (count,), generator=self._generator)

    def observe(self) -> Tensor:
        return self._observed

    def step(self, actions: Tensor) -> Step:
        s, held = self._sizing, actions[:, 0]
        before = self._observed
        noise = torch.randn(before.shape[0], generator=self._generator) * s.noise
        rewards = s.gain * before[:, 0] * held - 0.5 * s.risk * held**2 - 0.5 * s.cost * (held - before[:, 1]) ** 2
        last = torch.randn(before.shape, generator=self._generator)
        last[:, 0] = s.stay * before[:, 0] + (1.0 - s.stay**2) ** 0.5 * last[:, 0]
        last[:, 1] = held
        self._elapsed = self._elapsed + 1
        truncated = self._elapsed == s.steps
        self._elapsed = torch.where(truncated, 0, self._elapsed)
        self._observed = torch.where(truncated.unsqueeze(1), self._begun(before.shape[0]), last)
        return Step(rewards + noise, torch.zeros_like(truncated), truncated, last)

    def state_dict(self) -> dict[str, Any]:
        return {
            "observed": self._observed,
            "elapsed": self._elapsed,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._observed, self._elapsed = state["observed"], state["elapsed"]
        self._generator.set_state(state["generator"])

    def _begun(self, count: int) -> Tensor:
        observed = torch.randn(count, self._sizing.inputs, generator=self._generator)
        observed[:, 1] = 0.0
        return observed


def best_rule(sizing: Sizing) -> tuple[float, float]:
    """Coefficients, of the signal and of what is held, of the best action without bounds: linear-quadratic control.

    With x = (s, held), V(x) = x' P x + constant and E s' = stay s, the best w is linear' x / curve:
    it maximises  linear' x w - curve w^2 / 2,  where  linear = (gain + 2 discount P01 stay, cost)
    and  curve = risk + cost - 2 discount P11;  P is iterated until it stands still.
    """
    g, p = sizing, np.zeros((2, 2))
    linear, curve = np.zeros(2), 1.0
    for _ in range(2_000):
        linear = np.array([g.gain + 2.0 * g.discount * p[0, 1] * g.stay, g.cost])
        curve = g.risk + g.cost - 2.0 * g.discount * p[1, 1]
        stays = np.diag([g.discount * g.stay**2 * p[0, 0], -0.5 * g.cost])
        p = np.outer(linear, linear) / (2.0 * curve) + stays
    return float(linear[0] / curve), float(linear[1] / curve)


def best(sizing: Sizing) -> Callable[[Tensor], Tensor]:
    """The best policy, its actions clipped to the bounds, which they seldom reach."""
    of_signal, of_held = best_rule(sizing)
    return lambda observed: (of_signal * observed[:, :1] + of_held * observed[:, 1:2]).clamp(-1.0, 1.0)


@torch.no_grad()
def share_of_optimum(sizing: Sizing, policy: Callable[[Tensor], Tensor], count: int = 4096, seed: int = 4242) -> float:
    """Discounted return of a policy as a share of the best one's, on the same draws."""
    return _earned(sizing, policy, count, seed) / _optimum(sizing, count, seed)


@cache
def _optimum(sizing: Sizing, count: int, seed: int) -> float:
    return _earned(sizing, best(sizing), count, seed)


def _earned(sizing: Sizing, policy: Callable[[Tensor], Tensor], count: int, seed: int) -> float:
    """The mean discounted return of `count` episodes of 60 steps, which all begin at once and have no limit."""
    place = PlantedSizing(replace(sizing, steps=10**9), count, seed)
    rewards = [float(place.step(policy(place.observe())).rewards.double().mean()) for _ in range(60)]
    return sum(reward * sizing.discount**step for step, reward in enumerate(rewards))


class SizingVecEnv(TensorVecEnv):
    """The same tensors for Stable-Baselines3: actions are numbers, time limits are marked in its way."""

    def __init__(self, environment: Environment, count: int, inputs: int = INPUTS) -> None:
        super().__init__(environment, count, (inputs,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Observations (of the new episode where one ended), rewards, ends, and what a time limit cut off."""
        step = self._environment.step(self._actions)
        truncated, last = step.truncated, step.last
        assert truncated is not None
        assert last is not None
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in truncated.nonzero().flatten().tolist():
            infos[row] = {"TimeLimit.truncated": True, "terminal_observation": last[row].numpy()}
        return self._environment.observe().numpy(), step.rewards.numpy(), truncated.numpy(), infos


FEW_LARGE = OffPolicyCoefficients(
    learning_rate=1e-2,
    schedule="linear",
    discount=BANDIT.discount,
    environments=64,
    batch=256,
    gradient_steps=16,
    per_transitions=512,
    round_transitions=1024,
    learning_starts=1024,
    capacity=100_000,
    smoothing=0.02,
    reward_scale=10.0,
    actor_widths=(32, 32),
    critic_widths=(48, 48),
    normalised=True,
)
"""Few and large updates: RLlib spends more on each transition and update than on the products in it."""


def place(rows: int, seed: int) -> PlantedSizing:
    """The task, as an engine asks for it."""
    return PlantedSizing(BANDIT, rows, seed)
