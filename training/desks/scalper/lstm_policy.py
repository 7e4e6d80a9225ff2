"""The network of `option_scalper` with an LSTM.

`LstmPolicy` is exactly what is exported: it starts from a zero state at every decision, so its graph needs the window
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.desks.scalper.network import ACTIONS, FEATURE_VECTOR, FEATURES
from training.rl.layers.scaling import Scaling
from training.rl.layers.start import start_linear
from training.rl.recurrent.lstm import Lstm

LAYERS = 2


class LstmPolicy(nn.Module):
    """Observation to logits: scale, LSTM 23 -> 64 in two layers over the rows, its last output 64 -> 32 -> 6."""

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(self, scaling: Scaling, generator: torch.Generator | None = None) -> None:
        """Weights of the LSTM are drawn from `generator` (None: one with seed 0), those of the actor by torch."""
        super().__init__()
        scaling.keep_in(self)
        self.lstm = Lstm(FEATURES, FEATURE_VECTOR, LAYERS, generator or torch.Generator().manual_seed(0))
        self.actor = nn.Sequential(nn.Linear(FEATURE_VECTOR, 32), nn.ReLU(), nn.Linear(32, ACTIONS))

    def prepare(self, observation: Tensor) -> Tensor:
        """Scaled and limited, float32 (batch, 20, 23), of raw observations, float32 (batch, 20, 23)."""
        scaled = (observation - self.mean) / self.scale
        return torch.minimum(torch.maximum(scaled, -self.clip), self.clip)

    def features(self, prepared: Tensor) -> Tensor:
        """The feature vector (batch, 64) of prepared observations (batch, 20, 23)."""
        result: Tensor = self.lstm(prepared)
        return result

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, 6), of raw observations, float32 (batch, 20, 23)."""
        result: Tensor = self.actor(self.features(self.prepare(observation)))
        return result


class LstmActorCritic(nn.Module):
    """The policy and the critic 64 -> 32 -> 1 on its feature vector; 60,455 parameters."""

    def __init__(self, scaling: Scaling, seed: int) -> None:
        """Orthogonal weights drawn from `seed`: gain 1 in the LSTM, else as in `ActorCritic`.

        Source: Huang et al. 2022, "The 37 Implementation Details of PPO", details 2 and L1. (sb3-contrib's
        `RecurrentActorCriticPolicy` leaves its LSTM as torch starts it, uniform within 1 / sqrt(hidden).)
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.policy = LstmPolicy(scaling, generator)
        self.critic = nn.Sequential(nn.Linear(FEATURE_VECTOR, 32), nn.ReLU(), nn.Linear(32, 1))
        start_linear(self, {self.policy.actor[-1]: 0.01, self.critic[-1]: 1.0}, generator)

    def prepare(self, observations: Tensor) -> Tensor:
        """Scaled and limited, float32 (batch, 20, 23), of raw observations, float32 (batch, 20, 23)."""
        return self.policy.prepare(observations)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, 6) and values (batch,) of prepared observations (batch, 20, 23)."""
        vector = self.policy.features(prepared)
        logits: Tensor = self.policy.actor(vector)
        values: Tensor = self.critic(vector)
        return logits, values.squeeze(-1)
