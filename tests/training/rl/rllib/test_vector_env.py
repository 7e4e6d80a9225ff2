"""An environment of ours as RLlib steps it: a step of its own between two episodes, and what a time limit cut off."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.support.rl.planted_sizing import BANDIT, PlantedSizing
from training.rl.rllib.engine import TensorVectorEnv

ROWS = 6


class Doubled(nn.Module):
    """A scaling that is seen."""

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return 2.0 * raw


def made(seed: int) -> PlantedSizing:
    return PlantedSizing(BANDIT, ROWS, seed)


def test_rows_are_environments_whose_observations_are_prepared_and_rewards_scaled() -> None:
    place, ours = TensorVectorEnv(made, Doubled(), 10.0), made(7)
    seen, _ = place.reset(seed=7)
    np.testing.assert_array_equal(seen, 2.0 * ours.observe().numpy())
    actions = np.linspace(-1.0, 1.0, ROWS, dtype=np.float32).reshape(ROWS, 1)
    _, rewards, terminals, _, _ = place.step(actions)
    step = ours.step(torch.from_numpy(actions))
    np.testing.assert_allclose(rewards, 10.0 * step.rewards.numpy(), rtol=1e-6)
    assert place.num_envs == ROWS
    assert not terminals.any()
    assert seen in place.observation_space


def test_after_a_time_limit_a_step_begins_the_next_episode_and_earns_nothing() -> None:
    place = TensorVectorEnv(made, nn.Identity(), 1.0)
    place.reset(seed=3)
    everything = np.ones((ROWS, 1), dtype=np.float32)
    ended = np.zeros(ROWS, dtype=bool)
    begun = 0
    for _ in range(3 * BANDIT.steps):
        seen, rewards, _, truncated, _ = place.step(everything)
        held = seen[:, 1]
        np.testing.assert_array_equal(held[~ended], 1.0)  # at a time limit too: what it cut off is seen
        np.testing.assert_array_equal(held[ended], 0.0)  # the action of that step was ignored
        np.testing.assert_array_equal(rewards[ended], 0.0)
        assert not truncated[ended].any()
        begun += int(ended.sum())
        ended = truncated
    assert begun >= 2 * ROWS


def test_a_seed_begins_anew_and_none_goes_on() -> None:
    place = TensorVectorEnv(made, nn.Identity(), 1.0)
    first, _ = place.reset(seed=3)
    moved, *_ = place.step(np.zeros((ROWS, 1), dtype=np.float32))
    np.testing.assert_array_equal(place.reset()[0], moved)
    np.testing.assert_array_equal(place.reset(seed=3)[0], first)
    assert not np.array_equal(place.reset(seed=4)[0], first)
