"""The feed-forward network of `option_scalper`: scaling, trunk, actor, and a critic that only training sees.

`Policy` is exactly what is exported; whatever it needs (the scaling too) is a buffer or a parameter of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.rl.layers import Scaling, check_rows, start_linear
from training.rl.recurrent.lstm import Lstm

WINDOW = 20
FEATURES = 23
ACTIONS = 6
FEATURE_VECTOR = 64
CLIP = 5.0
"""Scaled features are clipped to [-CLIP, CLIP] deviations."""


IDENTITY = Scaling.identity(FEATURES)
"""Leaves every feature as it is (for policies that read raw features)."""


def fit_scaling(market: Tensor) -> Scaling:
    """Scaling of the market features from the training split; the position columns stay as they are.

    Args:
        market: float32 or float64 (rows, 20), the warm rows of the training sessions.

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    check_rows(market, "features")
    wide = market.to(torch.float64)
    mean = wide.mean(dim=0)
    scale = wide.std(dim=0).clamp_min(1e-8)
    position = FEATURES - market.shape[1]
    return Scaling(
        mean=(*mean.tolist(), *(0.0,) * position),
        scale=(*scale.tolist(), *(1.0,) * position),
        clip=(CLIP,) * FEATURES,
    )


class Policy(nn.Module):
    """Observation to logits: scale, flatten 460 -> 256 -> 128 -> 64, then 64 -> 32 -> 6."""

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        scaling.keep_in(self)
        self.trunk = nn.Sequential(
            nn.Linear(WINDOW * FEATURES, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, FEATURE_VECTOR),
        )
        self.actor = nn.Sequential(nn.Linear(FEATURE_VECTOR, 32), nn.ReLU(), nn.Linear(32, ACTIONS))

    def prepare(self, observation: Tensor) -> Tensor:
        """Scaled, limited and flat, float32 (batch, 460), of raw observations, float32 (batch, 20, 23)."""
        scaled = (observation - self.mean) / self.scale
        return torch.minimum(torch.maximum(scaled, -self.clip), self.clip).flatten(1)

    def features(self, prepared: Tensor) -> Tensor:
        """The feature vector (batch, 64) of prepared observations (batch, 460)."""
        result: Tensor = self.trunk(prepared)
        return result

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, 6), of raw observations, float32 (batch, 20, 23)."""
        result: Tensor = self.actor(self.features(self.prepare(observation)))
        return result


class ActorCritic(nn.Module):
    """The policy and the critic 64 -> 32 -> 1 on its feature vector; 163,559 parameters."""

    def __init__(self, scaling: Scaling, seed: int) -> None:
        """Orthogonal weights drawn from `seed`, gains sqrt(2), 0.01 (logits), 1 (value); biases 0.

        Source: Stable-Baselines3, `ActorCriticPolicy._build` (ortho_init=True); Huang et al. 2022,
        "The 37 Implementation Details of PPO", detail 2.
        """
        super().__init__()
        self.policy = Policy(scaling)
        self.critic = nn.Sequential(nn.Linear(FEATURE_VECTOR, 32), nn.ReLU(), nn.Linear(32, 1))
        generator = torch.Generator().manual_seed(seed)
        start_linear(self, {self.policy.actor[-1]: 0.01, self.critic[-1]: 1.0}, generator)

    def prepare(self, observations: Tensor) -> Tensor:
        """Scaled, limited and flat, float32 (batch, 460), of raw observations, float32 (batch, 20, 23)."""
        return self.policy.prepare(observations)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, 6) and values (batch,) of prepared observations (batch, 460)."""
        vector = self.policy.features(prepared)
        logits: Tensor = self.policy.actor(vector)
        values: Tensor = self.critic(vector)
        return logits, values.squeeze(-1)


def parameter_count(module: nn.Module) -> int:
    """Number of trained values in `module`; buffers (the scaling) are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


# The network of `option_scalper` with an LSTM.
#
# `LstmPolicy` is exactly what is exported: it starts from a zero state at every decision, so its graph needs the window
# alone.

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


# The networks of `option_scalper` by name.

NETWORKS = ("mlp", "lstm")
"""The policies that `build` knows."""


def build(name: str, scaling: Scaling, seed: int) -> ActorCritic | LstmActorCritic:
    """The network called `name`; its `.policy`, from raw float32 (batch, 20, 23) to logits (batch, 6), is exported.

    Raises:
        ValueError: `name` is not one of `NETWORKS`.
    """
    match name:
        case "mlp":
            return ActorCritic(scaling, seed)
        case "lstm":
            return LstmActorCritic(scaling, seed)
        case _:
            raise ValueError(f"the network is called {name!r}: expected one of {', '.join(NETWORKS)}")
