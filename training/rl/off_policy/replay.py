"""Transitions kept in one preallocated tensor, the oldest replaced first; many rows are written and drawn at once.

Each row lies in one piece, so that a minibatch is one gather. Knows no network and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transitions:
    """What SAC and TD3 learn from. Observations are prepared."""

    observations: Tensor  # float32 (rows, inputs)
    following: Tensor  # float32 (rows, inputs): what the step led to, before any reset
    actions: Tensor  # float32 (rows, actions), within [-1, 1]
    rewards: Tensor  # float32 (rows,)
    goes_on: Tensor  # float32 (rows,): 0 where the episode truly ended, 1 else, at a time limit too


class Replay:
    """The last transitions of `environments` that are stepped together."""

    def __init__(
        self, capacity: int, environments: int, inputs: int, actions: int, device: torch.device | str = "cpu"
    ) -> None:
        """Take the memory: as many whole steps of all environments as fit `capacity` transitions, one at least."""
        self._environments = environments
        self._widths = [inputs, inputs, actions, 1, 1]
        rows = max(1, capacity // environments) * environments
        self._rows = torch.zeros(rows, sum(self._widths), device=device)
        self._next = 0
        self.size = 0

    def add(self, transitions: Transitions) -> None:
        """Keep one transition of each environment."""
        t = transitions
        parts = (t.observations, t.following, t.actions, t.rewards.unsqueeze(1), t.goes_on.unsqueeze(1))
        torch.cat(parts, dim=1, out=self._rows[self._next : self._next + self._environments])
        self._next = (self._next + self._environments) % self._rows.shape[0]
        self.size = min(self.size + self._environments, self._rows.shape[0])

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Draw `count` transitions with replacement, each as likely as any other."""
        chosen = torch.randint(self.size, (count,), generator=generator, device=self._rows.device)
        observations, following, actions, rewards, goes_on = torch.split(self._rows[chosen], self._widths, dim=1)
        return Transitions(observations, following, actions, rewards.squeeze(1), goes_on.squeeze(1))

    def state_dict(self) -> dict[str, Any]:
        """The transitions that are there, and where the next ones go."""
        return {"rows": self._rows[: self.size], "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: it is of transitions with another shape, or of more than fit here.
        """
        rows = state["rows"]
        if rows.shape[1] != self._rows.shape[1] or rows.shape[0] > self._rows.shape[0]:
            raise ValueError(
                f"the state's replay is of {tuple(rows.shape)} numbers, expected at most {tuple(self._rows.shape)}: "
                f"use the settings it was made with"
            )
        self.size = rows.shape[0]
        self._rows[: self.size] = rows
        self._next = state["next"]
