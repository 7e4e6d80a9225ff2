"""The running mean of a network's weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential mean of the weights, each update `decay` x mean + (1 - `decay`) x weights; buffers stay.

    The first update takes the weights as they are. Source: Polyak & Juditsky 1992; Tarvainen & Valpola 2017.
    """
    mean: Any = get_ema_multi_avg_fn
    return AveragedModel(network, multi_avg_fn=mean(decay))
