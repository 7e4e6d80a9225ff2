"""The usual network of a strategy of one's own: a small feed-forward policy with a critic."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from strategies.kit.contract import Spec


class SmallPolicy(nn.Module):
    """Two hidden layers of 64 units over the flattened observation: what is exported."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = math.prod(spec.observation_shape)
        self.layers = nn.Sequential(
            nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, len(spec.actions))
        )
        self._continuous = spec.continuous

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, actions); of a continuous policy actions in [-1, 1]."""
        found: Tensor = self.layers(observation.flatten(1))
        return torch.tanh(found) if self._continuous else found


class ActorCritic(nn.Module):
    """A policy, and a critic that only training sees. `log_std` makes PPO draw continuous actions."""

    def __init__(self, spec: Spec, seed: int, policy: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.policy = policy or SmallPolicy(spec)
        width = math.prod(spec.observation_shape)
        self.critic = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1))
        if spec.continuous:
            self.log_std = nn.Parameter(torch.full((len(spec.actions),), -0.5))

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations as they are: scaling belongs to the strategy or to the policy."""
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, actions) and values (batch,)."""
        return self.policy(prepared), self.critic(prepared.flatten(1)).squeeze(-1)
