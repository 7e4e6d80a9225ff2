"""The networks of our SAC as RLlib's module: the same layers, drawn from the same seeds. Imports Ray.

RLlib gives each critic its own optimiser, so each critic is a separate network here.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from training.rl.off_policy.learner import Actor, TwinCritics

_DEFAULT: Any = importlib.import_module("ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module")
OBS, ACTIONS, ENCODED = "obs", "actions", "encoder_out"  # RLlib's names


class Seen(nn.Module):
    """The actor's encoder for RLlib: it passes observations on, because our whole network is RLlib's head."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The prepared observations."""
        return {ENCODED: batch[OBS]}


class SeenAndDone(nn.Module):
    """A critic's encoder for RLlib: it passes observations and actions on."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Prepared observations and actions."""
        return {ENCODED: (batch[OBS], batch[ACTIONS])}


class Wish(nn.Module):
    """The actor: means and logarithms of standard deviations in one tensor."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, prepared: Tensor) -> Tensor:
        """Float32 (n, 2 x actions)."""
        return torch.cat(self.actor.spread(prepared), dim=1)


class Critic(nn.Module):
    """One critic: the first network of a pair."""

    def __init__(self, critics: TwinCritics) -> None:
        super().__init__()
        self.critics = critics
        for name in ("weights", "biases"):
            parts = [nn.Parameter(part.detach()[:1].clone()) for part in getattr(critics, name)]
            setattr(critics, name, nn.ParameterList(parts))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Values, float32 (n, 1)."""
        values: Tensor = self.critics(*inputs, twins=1)
        return values.squeeze(0).unsqueeze(1)


def setup(self: Any) -> None:
    """Make the networks; RLlib's runners need the actor alone."""
    config = self.model_config
    inputs, actions = self.observation_space.shape[0], self.action_space.shape[0]
    seed, normalised = config["seed"], config["normalised"]
    self.twin_q = True
    self.pi_encoder = Seen()
    actor = Actor(inputs, config["actor_widths"], seed=seed, actions=actions, spread=True, normalised=normalised)
    self.pi = Wish(actor)
    if self.inference_only:
        return
    self.qf_encoder, self.qf_twin_encoder = SeenAndDone(), SeenAndDone()
    self.qf, self.qf_twin = (
        Critic(TwinCritics(inputs, config["critic_widths"], seed=critic_seed, actions=actions, normalised=normalised))
        for critic_seed in (seed + 1, seed + 2)
    )


SacModule: Any = type("SacModule", (_DEFAULT.DefaultSACTorchRLModule,), {"setup": setup, "__module__": __name__})
"""RLlib's SAC module with our networks."""
