"""Shared parts of networks and trainers: input scaling, initial weights, averaged weights, Adam."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NO_LIMIT = 1e9  # bound of a scaled input


@dataclass(frozen=True, slots=True)
class Scaling:
    """How each input is scaled: clip((x - mean) / scale, -clip, clip)."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    clip: tuple[float, ...]

    @classmethod
    def identity(cls, width: int) -> Scaling:
        """Leaves every one of `width` inputs as it is."""
        return cls((0.0,) * width, (1.0,) * width, (NO_LIMIT,) * width)

    def keep_in(self, module: nn.Module) -> None:
        """Register the buffers `mean`, `scale` and `clip`, float32 (width,)."""
        for name, values in (("mean", self.mean), ("scale", self.scale), ("clip", self.clip)):
            module.register_buffer(name, torch.tensor(values, dtype=torch.float32))


def check_rows(rows: Tensor, what: str) -> None:
    """Raise ValueError where a scaling cannot be fitted to rows (n, width): fewer than two, or one not finite."""
    if rows.shape[0] < 2 or not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"scaling needs at least two rows of finite {what}, found {rows.shape[0]} rows of which "
            f"{int((~torch.isfinite(rows)).any(dim=1).sum())} are not finite: check the bars file"
        )


def start_linear(network: nn.Module, gains: Mapping[nn.Module, float], generator: torch.Generator) -> None:
    """Orthogonal weights with the gain given or sqrt(2), biases 0, in all linear layers.

    Source: Stable-Baselines3, `ActorCriticPolicy._build` (ortho_init=True); Huang et al. 2022, "The 37 Implementation
    Details of PPO", detail 2.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gains.get(module, math.sqrt(2)), generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential mean of the weights, each update `decay` x mean + (1 - `decay`) x weights; buffers stay.

    The first update takes the weights as they are. Source: Polyak & Juditsky 1992; Tarvainen & Valpola 2017.
    """
    mean: Any = get_ema_multi_avg_fn
    return AveragedModel(network, multi_avg_fn=mean(decay))


def _unmarked(method: Any) -> Any:
    return inspect.unwrap(method)


class _Unmarked(torch.optim.Optimizer):
    """An optimiser with torch's methods unwrapped."""

    add_param_group = _unmarked(torch.optim.Optimizer.add_param_group)
    zero_grad = _unmarked(torch.optim.Optimizer.zero_grad)
    state_dict = _unmarked(torch.optim.Optimizer.state_dict)
    load_state_dict = _unmarked(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(_unmarked(torch.optim.Adam.step))


class Adam(_Unmarked, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(_Unmarked, torch.optim.AdamW):
    """`torch.optim.AdamW`."""
