"""A small MDP as tensors, with its best values by value iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.rl.protocols import Step

STATES, ACTIONS = 6, 3


class Tabular:
    """`count` walkers through six states, seen as one-hot rows; a move may end the walk, truly or by a time limit."""

    def __init__(self, count: int, seed: int, *, discount: float = 0.8, end: float = 0.1, limit: float = 0.1) -> None:
        table = np.random.default_rng(7)
        self.moves: npt.NDArray[np.float64] = table.dirichlet(np.full(STATES, 0.3), (STATES, ACTIONS))
        self.rewards: npt.NDArray[np.float64] = table.normal(size=(STATES, ACTIONS))
        self.discount, self.end, self.limit = discount, end, limit
        self._generator = torch.Generator().manual_seed(seed)
        self._states = torch.randint(STATES, (count,), generator=self._generator)

    def observe(self) -> Tensor:
        return torch.nn.functional.one_hot(self._states, STATES).float()

    def step(self, actions: Tensor) -> Step:
        count = len(actions)
        rewards = torch.from_numpy(self.rewards)[self._states, actions].float()
        chances = torch.from_numpy(self.moves)[self._states, actions]
        following = torch.multinomial(chances, 1, generator=self._generator).squeeze(1)
        drawn = torch.rand(count, generator=self._generator)
        terminals, truncated = drawn < self.end, drawn > 1.0 - self.limit
        last = torch.nn.functional.one_hot(following, STATES).float()
        fresh = torch.randint(STATES, (count,), generator=self._generator)
        self._states = torch.where(terminals | truncated, fresh, following)
        return Step(rewards, terminals, truncated, last)

    def state_dict(self) -> dict[str, Any]:
        return {"states": self._states, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._states = state["states"]
        self._generator.set_state(state["generator"])

    def best_values(self) -> npt.NDArray[np.float64]:
        """Q* by value iteration, (states, actions): time limits do not count, true ends do."""
        values = np.zeros((STATES, ACTIONS))
        for _ in range(500):
            values = self.rewards + self.discount * (1.0 - self.end) * (self.moves @ values.max(axis=1))
        return values
