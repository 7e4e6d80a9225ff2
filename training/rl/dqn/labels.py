"""Labels for heads: an environment on recorded data knows what followed each observation."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from training.rl.protocols import Environment


@runtime_checkable
class Labelled(Protocol):
    """An environment whose observations have labels."""

    def labels(self) -> Tensor:
        """The target of each head for the current observations, float32 (n, heads); NaN where unknown."""


def labels_of(environment: Environment, heads: int, observations: Tensor) -> Tensor:
    """The labels of `observations`, float32 (n, heads).

    Raises:
        ValueError: there are heads, and the environment has no labels for as many.
    """
    if not heads:
        return observations.new_empty(len(observations), 0)
    labels = environment.labels() if isinstance(environment, Labelled) else torch.empty(len(observations), 0)
    if labels.shape != (len(observations), heads):
        raise ValueError(f"the environment has labels of {tuple(labels.shape)}: expected {(len(observations), heads)}")
    return labels
