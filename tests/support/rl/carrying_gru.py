"""A small network that carries its state from step to step, for tasks that are only partly observed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.rl.recurrent.gru import Gru


class CarryingGru(nn.Module):
    """Linear and ReLU, a GRU whose state goes on from step to step, and linear heads for actor and critic."""

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int) -> None:
        """Orthogonal weights drawn from `seed`, gains sqrt(2), 1 (GRU), 0.01 (logits), 1 (value); biases 0."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
        self.gru = Gru(hidden, hidden, generator)
        self.actor = nn.Linear(hidden, outputs)
        self.critic = nn.Linear(hidden, 1)
        gains = {self.actor: 0.01, self.critic: 1.0}
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)), generator)
                nn.init.zeros_(module.bias)

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations as they are, float32 (n, inputs)."""
        return observations

    def start(self, count: int) -> Tensor:
        """The zero state, float32 (count, hidden)."""
        return self.critic.weight.new_zeros(count, self.critic.in_features)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits (n, outputs), values (n,), the next state (n, hidden)."""
        following = self.gru.step(self.encoder(prepared), hidden)
        return *self._heads(following), following

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (steps, n, outputs) and values (steps, n); see `training.rl.protocols.CarryingNetwork`."""
        return self._heads(self.gru.sequence(self.encoder(prepared), hidden, starts))

    def _heads(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.actor(vector)
        values: Tensor = self.critic(vector)
        return logits, values.squeeze(-1)
