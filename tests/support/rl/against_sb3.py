"""Our PPO and that of Stable-Baselines3 on the same rollout."""

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
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from training.rl.coefficients import Coefficients
from training.rl.ppo import losses
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
