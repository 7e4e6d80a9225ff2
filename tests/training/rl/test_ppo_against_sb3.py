"""The same losses, gradients and advantages as Stable-Baselines3's PPO and sb3-contrib's RecurrentPPO compute.

Their own `train()` runs on a buffer filled with made-up transitions, as one minibatch; what it leaves in its gradients,
its log and its weights is compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer, generalized_advantages, losses, make_deterministic
from training.rl.protocols import Batch, Step

STEPS, ENVIRONMENTS, INPUTS, ACTIONS, HIDDEN = 16, 4, 5, 3, 6
ROWS = STEPS * ENVIRONMENTS
LOGGED = ("train/policy_gradient_loss", "train/value_loss", "train/entropy_loss", "train/approx_kl")
TOLERANCE = 1e-6
VARIANTS = [
    Coefficients(),
    Coefficients(entropy=0.02, value=0.7, clip=0.1),
    Coefficients(value_clip=0.15, entropy=0.01),
    Coefficients(normalize_advantage=False),
]


class Still(gymnasium.Env[np.ndarray, np.int64]):
    """Spaces alone: its transitions are made up by the tests."""

    observation_space = spaces.Box(-10.0, 10.0, (INPUTS,), np.float32)
    action_space = spaces.Discrete(ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), 0.0, False, False, {}


class Made:
    """Transitions of a rollout, time first; ratios and values lie in and out of the clips."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        shape = (STEPS, ENVIRONMENTS)
        self.observations = random.normal(size=(*shape, INPUTS)).astype(np.float32)
        self.actions = random.integers(0, ACTIONS, size=shape)
        self.rewards = random.normal(size=shape).astype(np.float32)
        self.values = random.normal(scale=0.3, size=shape).astype(np.float32)
        self.log_probabilities = (np.log(1 / ACTIONS) + random.normal(scale=0.2, size=shape)).astype(np.float32)
        self.ends = random.random(shape) < 0.15
        self.starts = np.vstack([[False, True, False, True], self.ends[:-1]])
        self.last_values = random.normal(size=ENVIRONMENTS).astype(np.float32)
        self.hidden = random.normal(scale=0.5, size=(ENVIRONMENTS, 4, HIDDEN)).astype(np.float32)

    def fill(self, buffer: RolloutBuffer, **more: Any) -> None:
        for t in range(STEPS):
            value, probability = (torch.from_numpy(of[t]) for of in (self.values, self.log_probabilities))
            of_step = self.observations[t], self.actions[t][:, None], self.rewards[t], self.starts[t]
            buffer.add(*of_step, value, probability, **more)
        buffer.compute_returns_and_advantage(torch.from_numpy(self.last_values), self.ends[-1])

    def batch(self, advantages: np.ndarray, returns: np.ndarray, hidden: bool = False) -> Batch:
        flat = [
            torch.from_numpy(np.ascontiguousarray(of)).flatten(0, 1)
            for of in (self.observations, self.actions, self.log_probabilities, advantages, returns, self.values)
        ]
        batch = Batch(*flat)
        if not hidden:
            return batch
        return replace(batch, hidden=torch.from_numpy(self.hidden), starts=torch.from_numpy(self.starts).flatten())


class NoEnvironment:
    """Never asked: the rollout is given."""

    def observe(self) -> Tensor:
        raise NotImplementedError

    def step(self, actions: Tensor) -> Step:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


class Twin(nn.Module):
    """The layers of an SB3 policy, as a network of ours."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.actor = nn.Sequential(*copy.deepcopy(policy.mlp_extractor.policy_net), copy.deepcopy(policy.action_net))
        self.critic = nn.Sequential(*copy.deepcopy(policy.mlp_extractor.value_net), copy.deepcopy(policy.value_net))

    def prepare(self, observations: Tensor) -> Tensor:
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(prepared), self.critic(prepared).squeeze(-1)


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


def theirs(
    kind: Any,
    name: str,
    c: Coefficients,
    policy: dict[str, Any] | None = None,
    steps: bool = False,
    world: Callable[[], gymnasium.Env[np.ndarray, Any]] = Still,
) -> Any:
    """Their algorithm, one minibatch to an epoch; without `steps` weights stay and gradients are not clipped."""
    still = {} if steps else {"optimizer_class": torch.optim.SGD}
    model = kind(
        name,
        DummyVecEnv([world] * ENVIRONMENTS),
        learning_rate=c.learning_rate if steps else 0.0,
        n_steps=STEPS,
        batch_size=ROWS,
        n_epochs=c.epochs if steps else 1,
        gamma=c.discount,
        gae_lambda=c.gae_lambda,
        clip_range=c.clip,
        clip_range_vf=c.value_clip,
        normalize_advantage=c.normalize_advantage,
        ent_coef=c.entropy,
        vf_coef=c.value,
        max_grad_norm=c.max_grad_norm if steps else 1e9,
        seed=1,
        device="cpu",
        policy_kwargs={**still, **(policy or {})},
    )
    model.set_logger(configure(None, []))
    return model


def compare(
    model: Any, network: Any, batch: Batch, c: Coefficients, pairs: Sequence[tuple[nn.Module, nn.Module]]
) -> None:
    """Run their `train()` and our `losses` and compare figures and every gradient."""
    loss, figures = losses(network, batch, c)
    torch.autograd.backward(loss)
    model.train()
    logged = model.logger.name_to_value
    policy, value, entropy, kl, clipped, total = figures.tolist()
    assert [policy, value, -entropy, kl] == pytest.approx([logged[name] for name in LOGGED], abs=TOLERANCE)
    assert clipped == pytest.approx(logged["train/clip_fraction"])
    assert 0.05 < clipped < 0.95  # both branches are taken
    assert total == pytest.approx(logged["train/loss"], abs=TOLERANCE)
    for ours, sb3 in pairs:
        for parameter, other in zip(ours.parameters(), sb3.parameters(), strict=True):
            assert parameter.grad is not None
            assert other.grad is not None
            assert bool(other.grad.any())
            assert float((parameter.grad - other.grad).abs().max()) < TOLERANCE


@pytest.mark.parametrize("c", VARIANTS, ids=["defaults", "entropy", "value clip", "plain advantages"])
@pytest.mark.parametrize("seed", [1, 2])
def test_losses_and_gradients_are_those_of_stable_baselines3(c: Coefficients, seed: int) -> None:
    make_deterministic()
    made, model = Made(seed), theirs(PPO, "MlpPolicy", c)
    made.fill(model.rollout_buffer)
    batch = made.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
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
    made, model = Made(3), theirs(RecurrentPPO, "MlpLstmPolicy", c, architecture)
    h, c_, g, d = (part.unsqueeze(0) for part in torch.from_numpy(made.hidden).unbind(1))
    made.fill(model.rollout_buffer, lstm_states=RNNStates((h, c_), (g, d)))
    batch = made.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns, hidden=True)
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
    made, model = Made(4), theirs(PPO, "MlpPolicy", c, steps=True)
    model.target_kl = target_kl
    made.fill(model.rollout_buffer)
    network = Twin(model.policy)
    before = copy.deepcopy(network)
    batch = made.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
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
    made = Made(seed)
    buffer = RolloutBuffer(
        STEPS, Still.observation_space, Still.action_space, "cpu", gae_lambda=0.9, gamma=0.97, n_envs=ENVIRONMENTS
    )
    made.fill(buffer)
    rewards, values, ends, last = (
        torch.from_numpy(of) for of in (made.rewards, made.values, made.ends, made.last_values)
    )
    advantages = generalized_advantages(rewards, values, ends, last, discount=0.97, gae_lambda=0.9)
    np.testing.assert_allclose(advantages.numpy(), buffer.advantages, atol=TOLERANCE)


def _seed_that_draws_zero(bound: int) -> int:
    return next(seed for seed in range(10_000) if np.random.RandomState(seed).randint(bound) == 0)
