"""Where the weights of linear layers start."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn


def start_linear(network: nn.Module, gains: Mapping[nn.Module, float], generator: torch.Generator) -> None:
    """Orthogonal weights with the gain given or sqrt(2), biases 0, in all linear layers.

    Source: Stable-Baselines3, `ActorCriticPolicy._build` (ortho_init=True); Huang et al. 2022, "The 37 Implementation
    Details of PPO", detail 2.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)), generator)
            nn.init.zeros_(module.bias)
