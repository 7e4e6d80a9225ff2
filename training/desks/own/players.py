"""Players of the baselines: one action for ever, random actions, a policy one decision late."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from strategies.kit.contract import Spec
from training.desks.own.environment import CERTAIN, answer_of

Player = Callable[[Tensor], Tensor]
"""Observations, float32 (1, *shape), to logits or actions, float32 (1, actions)."""


@torch.no_grad()
def check_answer(player: Player, spec: Spec) -> None:
    """Raise ValueError for a policy, a torch module, whose answers are not one number for each action."""
    if not isinstance(player, nn.Module):
        return
    found = player(torch.zeros(2, *spec.observation_shape))
    if not isinstance(found, Tensor) or tuple(found.shape) != (2, len(spec.actions)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the policy of {spec.name} answers two observations with {shape}, expected a tensor of shape "
            f"{(2, len(spec.actions))}: one number for each of {', '.join(spec.actions)}"
        )


def constant(spec: Spec, action: int) -> Player:
    """The player that always takes this action; of a continuous policy 0 everywhere."""
    answer = torch.tensor([[0.0] * len(spec.actions) if spec.continuous else answer_of(spec, action)])
    return lambda observations: answer.expand(len(observations), -1)


def constant_players(spec: Spec) -> Mapping[str, Player]:
    """The baselines by name: each action without end; of a continuous policy none changes."""
    if spec.continuous:
        return {"always 0": constant(spec, 0)}
    return {f"always {name}": constant(spec, place) for place, name in enumerate(spec.actions)}


def random_player(spec: Spec, seed: int) -> Player:
    """The player that draws each action."""
    generator = torch.Generator().manual_seed(seed)

    def draw(observations: Tensor) -> Tensor:
        drawn = torch.rand(len(observations), len(spec.actions), generator=generator)
        return 2.0 * drawn - 1.0 if spec.continuous else CERTAIN * drawn

    return draw


class Late:
    """A player one decision late; it begins with the first action."""

    def __init__(self, player: Player, spec: Spec) -> None:
        self._player, self._first = player, constant(spec, 0)
        self._before: Tensor | None = None

    def __call__(self, observations: Tensor) -> Tensor:
        """What the player answers to the observation before."""
        before, self._before = self._before, observations.clone()
        return self._first(observations) if before is None else self._player(before)
