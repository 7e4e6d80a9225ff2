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


def environment_of(seed: int) -> PlantedSizing:
    return PlantedSizing(BANDIT, ROWS, seed)


def test_rows_are_environments_whose_observations_are_prepared_and_rewards_scaled() -> None:
    place, plain = TensorVectorEnv(environment_of, Doubled(), 10.0), environment_of(7)
    observations, _ = place.reset(seed=7)
    np.testing.assert_array_equal(observations, 2.0 * plain.observe().numpy())
    actions = np.linspace(-1.0, 1.0, ROWS, dtype=np.float32).reshape(ROWS, 1)
    _, rewards, terminals, _, _ = place.step(actions)
    step = plain.step(torch.from_numpy(actions))
    np.testing.assert_allclose(rewards, 10.0 * step.rewards.numpy(), rtol=1e-6)
    assert place.num_envs == ROWS
    assert not terminals.any()
    assert observations in place.observation_space


def test_after_a_time_limit_a_step_begins_the_next_episode_and_earns_nothing() -> None:
    place = TensorVectorEnv(environment_of, nn.Identity(), 1.0)
    place.reset(seed=3)
    everything = np.ones((ROWS, 1), dtype=np.float32)
    ends = np.zeros(ROWS, dtype=bool)
    episodes = 0
    for _ in range(3 * BANDIT.steps):
        observations, rewards, _, truncated, _ = place.step(everything)
        positions = observations[:, 1]
        np.testing.assert_array_equal(positions[~ends], 1.0)  # at a time limit too: what it cut off is seen
        np.testing.assert_array_equal(positions[ends], 0.0)  # the action of that step was ignored
        np.testing.assert_array_equal(rewards[ends], 0.0)
        assert not truncated[ends].any()
        episodes += int(ends.sum())
        ends = truncated
    assert episodes >= 2 * ROWS


def test_a_seed_begins_anew_and_none_goes_on() -> None:
    place = TensorVectorEnv(environment_of, nn.Identity(), 1.0)
    first, _ = place.reset(seed=3)
    after, *_ = place.step(np.zeros((ROWS, 1), dtype=np.float32))
    np.testing.assert_array_equal(place.reset()[0], after)
    np.testing.assert_array_equal(place.reset(seed=3)[0], first)
    assert not np.array_equal(place.reset(seed=4)[0], first)
