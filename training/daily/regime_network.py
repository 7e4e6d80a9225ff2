"""The network of `regime_switcher`: an encoder, a GRU whose state goes on from day to day, and heads for 16 portfolios.

`Policy` is exactly what is exported. Its observations are scaled by their own definition, so it has no scaling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from strategies.regime_switcher import HIDDEN, SPEC, WIDTH
from training.gru import Gru

ACTIONS = len(SPEC.actions)


class Policy(nn.Module):
    """Observation and state to logits and state: 64 -> 128, ReLU, LayerNorm, GRU 128, 128 -> 16."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        """Weights of the GRU are drawn from `generator` (None: one with seed 0), the others by torch."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN))
        self.gru = Gru(HIDDEN, HIDDEN, generator or torch.Generator().manual_seed(0))
        self.actor = nn.Linear(HIDDEN, ACTIONS)

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, float32 (batch, 16), and the next state (batch, 128).

        Args:
            observation: raw, float32 (batch, 64).
            hidden: float32 (batch, 128), the state that the day before left; zeros on the first day.
        """
        following = self.gru.step(self.encoder(observation), hidden)
        logits: Tensor = self.actor(following)
        return logits, following


class RegimeActorCritic(nn.Module):
    """The policy and a value 128 -> 1 on its state, a `training.ppo.CarryingNetwork`; 109,841 parameters."""

    def __init__(self, seed: int) -> None:
        """Orthogonal weights drawn from `seed`: gain 1 in the GRU, sqrt(2), 0.01 (logits), 1 (value); biases 0.

        Source: Huang et al. 2022, "The 37 Implementation Details of PPO", details 2 and L1.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.policy = Policy(generator)
        self.critic = nn.Linear(HIDDEN, 1)
        gains = {self.policy.actor: 0.01, self.critic: 1.0}
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)), generator)
                nn.init.zeros_(module.bias)

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations as they are, float32 (n, 64)."""
        return observations

    def start(self, count: int) -> Tensor:
        """The zero state, float32 (count, 128)."""
        return self.critic.weight.new_zeros(count, HIDDEN)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits (n, 16), values (n,), the next state (n, 128)."""
        logits, following = self.policy(prepared, hidden)
        values: Tensor = self.critic(following)
        return logits, values.squeeze(-1), following

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (steps, n, 16) and values (steps, n) of prepared observations (steps, n, 64).

        `hidden` (n, 128) is the state before the first step; where `starts`, bool (steps, n), the state is zero before
        that step.
        """
        states = self.policy.gru.sequence(self.policy.encoder(prepared), hidden, starts)
        logits: Tensor = self.policy.actor(states)
        values: Tensor = self.critic(states)
        return logits, values.squeeze(-1)
