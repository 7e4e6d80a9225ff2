"""A ring buffer of transitions in one preallocated tensor; rows are written and drawn in batches.

Each row lies in one piece, so that a minibatch is one gather. Knows no network and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transitions:
    """What SAC and TD3 learn from. Observations are prepared."""

    observations: Tensor  # float32 (rows, inputs)
    following: Tensor  # float32 (rows, inputs): the next observation, before any reset
    actions: Tensor  # float32 (rows, actions), within [-1, 1]
    rewards: Tensor  # float32 (rows,)
    goes_on: Tensor  # float32 (rows,): 0 at a terminal state; else 1, also at a time limit


class Ring:
    """Ring buffer of the newest rows of `environments` stepped together; a row has several groups of numbers."""

    def __init__(
        self,
        capacity: int,
        environments: int,
        widths: Sequence[int],
        device: torch.device | str,
        memory: Tensor | None = None,
    ) -> None:
        """Take the memory: as many whole steps of all environments as fit `capacity` rows, one at least.

        Args:
            memory: float32 (rows, numbers) to use, with more rows than are kept at a time; None allocates it.
        """
        self._environments = environments
        self._widths = list(widths)
        self._capacity = max(1, capacity // environments) * environments
        self._rows = torch.zeros(self._capacity, sum(widths), device=device) if memory is None else memory
        self._next = 0
        self.size = 0

    def write(self, parts: Sequence[Tensor]) -> int:
        """Write one row of each environment, given as groups (environments, width); return the place of the first."""
        first = self._next
        torch.cat(list(parts), dim=1, out=self._rows[first : first + self._environments])
        self._next = (first + self._environments) % self._rows.shape[0]
        self.size = min(self.size + self._environments, self._capacity)
        return first

    def read(self, places: Tensor) -> tuple[Tensor, ...]:
        """The groups of the rows at `places`, int64 (n,): float32 (n, width) each."""
        return self._rows.index_select(0, places).split_with_sizes(self._widths, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The rows that are there, and where the next ones go."""
        return {"rows": self._rows[: self.size], "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: it is of rows with another shape, or of more than fit here.
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


class Replay(Ring):
    """The newest transitions of `environments` that are stepped together."""

    def __init__(
        self, capacity: int, environments: int, inputs: int, actions: int, device: torch.device | str = "cpu"
    ) -> None:
        """Take the memory: as many whole steps of all environments as fit `capacity` transitions, one at least."""
        super().__init__(capacity, environments, [inputs, inputs, actions, 1, 1], device)

    def add(self, transitions: Transitions) -> None:
        """Keep one transition of each environment."""
        t = transitions
        self.write((t.observations, t.following, t.actions, t.rewards.unsqueeze(1), t.goes_on.unsqueeze(1)))

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Draw `count` transitions with replacement, each as likely as any other."""
        chosen = torch.randint(self.size, (count,), generator=generator, device=self._rows.device)
        observations, following, actions, rewards, goes_on = self.read(chosen)
        return Transitions(observations, following, actions, rewards.squeeze(1), goes_on.squeeze(1))
