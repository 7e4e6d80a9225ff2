"""CartPole-v1 is learned to its known score: a mean of 475 over 100 episodes, gymnasium's reward threshold for it.

The game is gymnasium's own, all carts stepped together. Its states are set here because it begins an episode one step
late.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor, nn

from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer, make_deterministic
from training.rl.protocols import Step

SOLVED = 475.0
COEFFICIENTS = Coefficients(
    environments=32, rollout_steps=32, batch=256, epochs=20, learning_rate=1e-3, discount=0.98, gae_lambda=0.8
)  # as rl-baselines3-zoo's for CartPole-v1 (gamma, lambda, batch, epochs, rate), with 32 environments instead of 8


class CartPole:
    """`count` carts; reward 1 a step, a time limit at 500."""

    def __init__(self, count: int, seed: int) -> None:
        self._game = CartPoleVectorEnv(count)
        self._game.reset(seed=seed)
        self._state: Any = self._game.state  # (4, count)
        self._generator = torch.Generator().manual_seed(seed)

    def observe(self) -> Tensor:
        return torch.from_numpy(self._state.T.astype(np.float32))

    def step(self, actions: Tensor) -> Step:
        last, rewards, terminals, truncated, _ = self._game.step(actions.numpy())
        self._state, ends = self._game.state, terminals | truncated
        fresh = torch.rand(4, int(ends.sum()), generator=self._generator, dtype=torch.float64) * 0.1 - 0.05
        self._state[:, ends] = fresh.numpy()
        self._game.steps[ends] = 0
        self._game.prev_done[:] = False  # begun at once: the game would begin at the next step
        over = torch.from_numpy(terminals)
        return Step(torch.from_numpy(rewards), over, torch.from_numpy(truncated) & ~over, torch.from_numpy(last))

    def state_dict(self) -> dict[str, Any]:
        state, steps = torch.from_numpy(self._state), torch.from_numpy(self._game.steps)
        return {"state": state, "steps": steps, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._game.state = self._state = state["state"].numpy()
        self._game.steps = state["steps"].numpy()
        self._generator.set_state(state["generator"])


class Small(nn.Module):
    """Two layers of 64 for the actor and two for the critic."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
            for outputs in (2, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, 0.01 if module.out_features == 2 else 1.0, generator)
                nn.init.zeros_(module.bias)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(prepared), self.critic(prepared).squeeze(-1)


def test_gymnasium_calls_cartpole_solved_at_475() -> None:
    assert gymnasium.spec("CartPole-v1").reward_threshold == SOLVED


@pytest.mark.parametrize(("seed", "precision"), [(1, "float32"), (2, "float32"), (3, "bf16")])
def test_cartpole_is_learned_to_its_known_score(seed: int, precision: str) -> None:
    make_deterministic()
    network = Small(seed)
    trainer = Trainer(network, CartPole(32, seed), COEFFICIENTS, total_steps=50_000, seed=seed, precision=precision)
    while not trainer.done:
        trainer.update()
    assert _mean_length(network, episodes=100, seed=1000 + seed) >= SOLVED


@torch.no_grad()
def _mean_length(network: Small, episodes: int, seed: int) -> float:
    """Steps until each of `episodes` first episodes ended, playing the likelier action in gymnasium's own game."""
    game = gymnasium.make_vec("CartPole-v1", num_envs=episodes, vectorization_mode="vector_entry_point")
    observations, _ = game.reset(seed=seed)
    lengths, alive = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while alive.any():
        actions = network.actor(torch.from_numpy(observations)).argmax(-1).numpy()
        observations, _, terminals, truncated, _ = game.step(actions)
        lengths += alive
        alive &= ~(terminals | truncated)
    return float(lengths.mean())
