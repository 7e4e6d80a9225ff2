"""PPO's arithmetic against hand-worked numbers, and its reproducibility."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from training.network import IDENTITY, ActorCritic
from training.ppo import (
    Batch,
    Coefficients,
    Progress,
    Step,
    generalized_advantages,
    losses,
    make_deterministic,
    train,
)

SMALL = Coefficients(environments=16, rollout_steps=8, batch=64, epochs=4, learning_rate=3e-3)


class Signpost:
    """A one-step game: the last row's first feature names the action that pays 1; others pay 0."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._draw()

    def _draw(self) -> None:
        self._answer = torch.randint(0, 2, (self._count,), generator=self._generator)

    def observe(self) -> Tensor:
        observation = torch.zeros(self._count, 20, 23)
        observation[:, -1, 0] = self._answer.float() * 2.0 - 1.0
        return observation

    def step(self, actions: Tensor) -> Step:
        rewards = (actions == self._answer).float()
        self._draw()
        return Step(rewards, torch.ones(self._count, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return {"answer": self._answer, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._answer = state["answer"]
        self._generator.set_state(state["generator"])


def test_advantages_of_a_hand_worked_example_with_a_terminal_in_the_middle() -> None:
    # discount 1/2, lambda 1/2:  step 2: 2 + 0.5 x 2 - 1.5 = 1.5;  step 1 ends: 0 - 1 = -1;
    # step 0: delta 1 + 0.5 x 1 - 0.5 = 1, and 1 + 0.25 x (-1) = 0.75
    advantages = generalized_advantages(
        rewards=torch.tensor([[1.0], [0.0], [2.0]]),
        values=torch.tensor([[0.5], [1.0], [1.5]]),
        ends=torch.tensor([[False], [True], [False]]),
        last_values=torch.tensor([2.0]),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert advantages.squeeze(1).tolist() == [0.75, -1.0, 1.5]


def test_with_lambda_one_advantages_are_discounted_returns_less_the_value() -> None:
    advantages = generalized_advantages(
        rewards=torch.tensor([[1.0], [2.0]]),
        values=torch.tensor([[10.0], [20.0]]),
        ends=torch.tensor([[False], [False]]),
        last_values=torch.tensor([4.0]),
        discount=0.5,
        gae_lambda=1.0,
    )
    assert advantages.squeeze(1).tolist() == [1 + 0.5 * 2 + 0.25 * 4 - 10, 2 + 0.5 * 4 - 20]


def test_the_loss_of_a_hand_worked_batch() -> None:
    network = ActorCritic(IDENTITY, seed=0)
    for layer, bias in ((network.policy.actor[-1], [0.0] * 6), (network.critic[-1], [2.0])):
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    batch = Batch(  # all logits 0, so every probability is 1/6: the ratios are 1.5 and 0.5
        observations=torch.zeros(2, 460),
        actions=torch.tensor([1, 5]),
        log_probabilities=torch.tensor([math.log(1 / 6 / 1.5), math.log(1 / 6 / 0.5)]),
        advantages=torch.tensor([1.0, -1.0]),  # normalised: +-1 / sqrt(2)
        returns=torch.tensor([3.0, 0.0]),
        values=torch.tensor([2.0, 2.0]),
    )
    loss, figures = losses(network, batch, Coefficients(entropy=0.1, value=0.5))
    policy_loss = -(1.2 - 0.8) / math.sqrt(2) / 2  # both ratios are clipped, at 1.2 and 0.8
    value_loss = (1.0 + 4.0) / 2
    kl = ((0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))) / 2
    total = policy_loss - 0.1 * math.log(6) + 0.5 * value_loss
    assert figures.tolist() == pytest.approx([policy_loss, value_loss, math.log(6), kl, 1.0, total], rel=1e-6)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-6)


def test_the_defaults_are_those_of_stable_baselines3_and_the_strategy() -> None:
    c = Coefficients()
    assert (c.learning_rate, c.gae_lambda, c.clip, c.entropy, c.value, c.max_grad_norm, c.epochs) == (
        3e-4, 0.95, 0.2, 0.0, 0.5, 0.5, 10,
    )  # fmt: skip
    assert c.discount == 0.99


def test_two_runs_with_one_seed_end_with_the_same_bytes() -> None:
    assert _trained(seed=3) == _trained(seed=3) != _trained(seed=4)


def test_it_learns_to_read_a_signpost() -> None:
    make_deterministic()
    network = ActorCritic(IDENTITY, seed=1)
    seen: list[Progress] = []
    train(network, Signpost(16, seed=1), SMALL, total_steps=4_000, seed=1, on_update=seen.append)
    assert seen[0].reward < 0.35  # six actions, one right: 1/6 by chance
    assert seen[-1].reward > 0.9
    assert seen[-1].steps >= 4_000


def _trained(seed: int) -> bytes:
    make_deterministic()
    network = ActorCritic(IDENTITY, seed)
    train(network, Signpost(16, seed), SMALL, total_steps=512, seed=seed)
    return b"".join(parameter.detach().numpy().tobytes() for parameter in network.parameters())
