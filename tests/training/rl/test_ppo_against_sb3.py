"""The same losses, gradients and advantages as Stable-Baselines3's PPO and sb3-contrib's RecurrentPPO compute.

Their own `train()` runs on a buffer filled with made-up transitions, as one minibatch; what it leaves in its gradients,
its log and its weights is compared.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor, nn

from tests.support.rl.against_sb3 import (
    ENVIRONMENTS,
    HIDDEN,
    ROWS,
    STEPS,
    TOLERANCE,
    VARIANTS,
    Made,
    NoEnvironment,
    Still,
    Twin,
    compare,
    theirs,
)
from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer, generalized_advantages, make_deterministic


class CarryingTwin(nn.Module):
    """The layers of an sb3-contrib policy, step by step; the state is (h, c) of the actor, then of the critic."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.actor, self.critic = copy.deepcopy(policy.lstm_actor), copy.deepcopy(policy.lstm_critic)
        self.action, self.value = copy.deepcopy(policy.action_net), copy.deepcopy(policy.value_net)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations

    def start(self, count: int) -> Tensor:
        return torch.zeros(count, 4, HIDDEN)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one, (h, c, g, d) = prepared.unsqueeze(0), (part.unsqueeze(0).contiguous() for part in hidden.unbind(1))
        acting, (h, c) = self.actor(one, (h, c))
        judging, (g, d) = self.critic(one, (g, d))
        following = torch.stack([part.squeeze(0) for part in (h, c, g, d)], dim=1)
        return self.action(acting.squeeze(0)), self.value(judging.squeeze(0)).squeeze(-1), following

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        logits, values = [], []
        for observation, start in zip(prepared, starts, strict=True):
            hidden = torch.where(start.view(-1, 1, 1), 0.0, hidden)
            of_actions, value, hidden = self(observation, hidden)
            logits.append(of_actions)
            values.append(value)
        return torch.stack(logits), torch.stack(values)


@pytest.mark.parametrize("c", VARIANTS, ids=["defaults", "entropy", "value clip", "plain advantages"])
@pytest.mark.parametrize("seed", [1, 2])
def test_losses_and_gradients_are_those_of_stable_baselines3(c: Coefficients, seed: int) -> None:
    make_deterministic()
    data, model = Made(seed), theirs(PPO, "MlpPolicy", c)
    data.fill(model.rollout_buffer)
    batch = data.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
    network = Twin(model.policy)
    extractor = model.policy.mlp_extractor
    compare(
        model,
        network,
        batch,
        c,
        [
            (network.actor, nn.Sequential(extractor.policy_net, model.policy.action_net)),
            (network.critic, nn.Sequential(extractor.value_net, model.policy.value_net)),
        ],
    )


@pytest.mark.parametrize("c", VARIANTS[:3], ids=["defaults", "entropy", "value clip"])
def test_losses_and_gradients_through_time_are_those_of_sb3_contrib(c: Coefficients) -> None:
    make_deterministic()
    architecture = {"lstm_hidden_size": HIDDEN, "net_arch": [], "enable_critic_lstm": True}
    data, model = Made(3), theirs(RecurrentPPO, "MlpLstmPolicy", c, architecture)
    h, c_, g, d = (part.unsqueeze(0) for part in torch.from_numpy(data.hidden).unbind(1))
    data.fill(model.rollout_buffer, lstm_states=RNNStates((h, c_), (g, d)))
    batch = data.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns, hidden=True)
    network, policy = CarryingTwin(model.policy), model.policy
    model.set_random_seed(
        _seed_that_draws_zero(ROWS)
    )  # their buffer begins at a random row, which cuts a sequence in two
    compare(
        model,
        network,
        batch,
        c,
        [
            (network.actor, policy.lstm_actor),
            (network.critic, policy.lstm_critic),
            (network.action, policy.action_net),
            (network.value, policy.value_net),
        ],
    )


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e9])
@pytest.mark.parametrize("target_kl", [None, 0.05])
def test_weights_after_the_epochs_of_an_update_are_those_of_stable_baselines3(
    max_grad_norm: float, target_kl: float | None
) -> None:
    make_deterministic()
    c = Coefficients(environments=ENVIRONMENTS, rollout_steps=STEPS, batch=ROWS, epochs=6, learning_rate=2e-2)
    c = replace(c, max_grad_norm=max_grad_norm, target_kl=target_kl)
    data, model = Made(4), theirs(PPO, "MlpPolicy", c, steps=True)
    model.target_kl = target_kl
    data.fill(model.rollout_buffer)
    network = Twin(model.policy)
    before = copy.deepcopy(network)
    batch = data.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
    trainer = Trainer(network, NoEnvironment(), c, total_steps=ROWS, seed=1)
    _, epochs = trainer._improve(batch)
    model.train()
    assert epochs == model._n_updates
    assert (epochs < c.epochs) == (target_kl is not None)
    extractor = model.policy.mlp_extractor
    sb3 = nn.Sequential(extractor.policy_net, model.policy.action_net, extractor.value_net, model.policy.value_net)
    for parameter, other, start in zip(network.parameters(), sb3.parameters(), before.parameters(), strict=True):
        assert float((other - start).detach().abs().max()) > 1e-3
        assert float((parameter - other).detach().abs().max()) < 2e-5  # of steps of 2e-2 each


@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_those_of_stable_baselines3_s_buffer(seed: int) -> None:
    data = Made(seed)
    buffer = RolloutBuffer(
        STEPS, Still.observation_space, Still.action_space, "cpu", gae_lambda=0.9, gamma=0.97, n_envs=ENVIRONMENTS
    )
    data.fill(buffer)
    rewards, values, ends, last = (
        torch.from_numpy(of) for of in (data.rewards, data.values, data.ends, data.last_values)
    )
    advantages = generalized_advantages(rewards, values, ends, last, discount=0.97, gae_lambda=0.9)
    np.testing.assert_allclose(advantages.numpy(), buffer.advantages, atol=TOLERANCE)


def _seed_that_draws_zero(bound: int) -> int:
    return next(seed for seed in range(10_000) if np.random.RandomState(seed).randint(bound) == 0)
