"""An environment of noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.rl.coefficients import Coefficients
from training.rl.protocols import Step


class Noise:
    """Random observations and rewards that no action changes; episodes of random length, some cut by a time limit."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = torch.randn(count, 5, generator=self._generator)

    def observe(self) -> Tensor:
        return self._seen

    def step(self, actions: Tensor) -> Step:
        last = self._seen = torch.randn(self._count, 5, generator=self._generator)
        rewards, chance = torch.rand(2, self._count, generator=self._generator)
        return Step(rewards, chance < 0.1, chance > 0.9, last)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = state["seen"]
        self._generator.set_state(state["generator"])


NOISY = Coefficients(environments=6, rollout_steps=12, batch=24, sequence=4, epochs=2, learning_rate=1e-2)
