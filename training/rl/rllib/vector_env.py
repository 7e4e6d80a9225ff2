"""An environment of ours as gymnasium's vector environment, as RLlib steps it.

RLlib wants a step of its own between the last observation of an episode and the first of the next one, in which an
action is ignored; ours begin anew at once, all rows together. In that step the row takes action 0, and the episode
that RLlib sees begins after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.rl.protocols import Environment

Array = NDArray[Any]


class TensorVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """Rows of an environment of ours as environments of one action each."""

    def __init__(
        self, make: Callable[[int], Environment], scaling: nn.Module, reward_scale: float, actions: int = 1
    ) -> None:
        """Wrap what `make` makes of a seed; `scaling` prepares raw observations, once for each.

        Args:
            actions: numbers of an action, each within [-1, 1].
        """
        self._make, self._scaling, self._scale = make, scaling, reward_scale
        self._environment = make(0)
        rows, width = self._prepared(self._environment.observe()).shape
        self.num_envs = rows
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, rows)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, rows)
        self._ended = torch.zeros(rows, dtype=torch.bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """Begin with a seed, which RLlib gives each of its runners; without one nothing begins anew."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._environment = self._make(int(seed))
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._seen(self._environment.observe()), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all rows; those whose episode ended in the last step begin a new one."""
        taken = torch.as_tensor(np.asarray(actions, dtype=np.float32)).reshape(self.num_envs, -1)
        step = self._environment.step(torch.where(self._ended.unsqueeze(1), 0.0, taken))
        nothing = torch.zeros(self.num_envs, dtype=torch.bool)
        begun, truncated = self._ended, nothing if step.truncated is None else step.truncated
        rewards = torch.where(begun, 0.0, step.rewards * self._scale)
        terminals, truncated = step.terminals & ~begun, truncated & ~begun
        seen = self._environment.observe()
        if step.last is not None:
            seen = torch.where(truncated.unsqueeze(1), step.last, seen)
        self._ended = terminals | truncated
        return self._seen(seen), rewards.numpy(), terminals.numpy(), truncated.numpy(), {}

    def _prepared(self, observations: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._scaling(observations)
        return found

    def _seen(self, observations: Tensor) -> Array:
        return self._prepared(observations).numpy().copy()
