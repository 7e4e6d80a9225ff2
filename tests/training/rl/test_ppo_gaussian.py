"""Real numbers as actions: SB3's losses, gradients and steps, hand-worked densities, repeatable runs, and learning."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor, nn

from tests.support.rl.against_sb3 import (
    ENVIRONMENTS,
    INPUTS,
    ROWS,
    STEPS,
    VARIANTS,
    Made,
    NoEnvironment,
    Twin,
    compare,
    theirs,
)
from tests.support.rl.noise import NOISY, Noise
from tests.support.rl.trained import train, weight_bytes
from training.rl.coefficients import Coefficients
from training.rl.distributions import evaluate, log_deviations, sample, within_bounds
from training.rl.ppo import Trainer, losses, make_deterministic, minibatch
from training.rl.protocols import Batch, Step

NUMBERS = 7


class StillBox(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces alone: its transitions are made up by the tests."""

    observation_space = spaces.Box(-10.0, 10.0, (INPUTS,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (NUMBERS,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), 0.0, False, False, {}


class MadeNumbers(Made):
    """Actions drawn around 0 with deviation 0.8, some beyond 1, with log-probabilities near those of that density."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        random = np.random.default_rng(seed + 100)
        self.actions = random.normal(scale=0.8, size=(STEPS, ENVIRONMENTS, NUMBERS)).astype(np.float32)
        exact = -0.5 * (self.actions / 0.8) ** 2 - math.log(0.8) - 0.5 * math.log(2 * math.pi)
        self.log_probabilities = exact.sum(-1).astype(np.float32) + self.log_probabilities + np.float32(math.log(3))

    def fill(self, buffer: Any, **more: Any) -> None:
        for t in range(STEPS):
            value, probability = (torch.from_numpy(of[t]) for of in (self.values, self.log_probabilities))
            buffer.add(self.observations[t], self.actions[t], self.rewards[t], self.starts[t], value, probability)
        buffer.compute_returns_and_advantage(torch.from_numpy(self.last_values), self.ends[-1])


class GaussianTwin(Twin):
    """The layers of an SB3 policy for numbers, and its deviations."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.log_std = nn.Parameter(policy.log_std.detach().clone())


class Steering(nn.Module):
    """Five numbers to two means and a value, with deviations of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.heads = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.25]))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.heads.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations * 2.0

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.heads(prepared)
        return answer[:, :2], answer[:, 2]


class RememberingSteering(nn.Module):
    """The same with a GRU of 8 in between."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.memory = nn.GRUCell(5, 8)
        self.heads = nn.Linear(8, 3)
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.25]))

    def prepare(self, observations: Tensor) -> Tensor:
        return observations * 2.0

    def start(self, count: int) -> Tensor:
        return torch.zeros(count, 8)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.memory(prepared, hidden)
        answer = self.heads(hidden)
        return answer[:, :2], answer[:, 2], hidden

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        means, values = [], []
        for observation, start in zip(prepared, starts, strict=True):
            mean, value, hidden = self(observation, torch.where(start.unsqueeze(1), 0.0, hidden))
            means.append(mean)
            values.append(value)
        return torch.stack(means), torch.stack(values)


KINDS = [Steering, RememberingSteering]


class Limited(Noise):
    """Noise that looks at what it is given."""

    def step(self, actions: Tensor) -> Step:
        assert actions.dtype == torch.float32
        assert actions.shape == (self._count, 2)
        self.last_actions = actions.clone()
        return super().step(actions)


class Target:
    """A one-step game: the nearer both numbers are to twice what is seen and to its opposite, the better."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._draw()

    def _draw(self) -> None:
        self._hints = torch.rand(self._count, 1, generator=self._generator) - 0.5

    def observe(self) -> Tensor:
        return self._hints.expand(-1, 5)

    def step(self, actions: Tensor) -> Step:
        target = torch.cat([1.6 * self._hints, -self._hints], dim=1)
        rewards = -(actions - target).square().sum(dim=1)
        self._draw()
        return Step(rewards, torch.ones(self._count, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return {"shown": self._hints, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._hints = state["shown"]
        self._generator.set_state(state["generator"])


@pytest.mark.parametrize("c", VARIANTS, ids=["defaults", "entropy", "value clip", "plain advantages"])
@pytest.mark.parametrize("seed", [1, 2])
def test_losses_and_gradients_for_numbers_are_those_of_stable_baselines3(c: Coefficients, seed: int) -> None:
    make_deterministic()
    data, model = MadeNumbers(seed), theirs(PPO, "MlpPolicy", c, {"log_std_init": -0.2}, world=StillBox)
    data.fill(model.rollout_buffer)
    batch = data.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
    network = GaussianTwin(model.policy)
    extractor = model.policy.mlp_extractor
    compare(
        model,
        network,
        batch,
        c,
        [
            (network.actor, nn.Sequential(extractor.policy_net, model.policy.action_net)),
            (network.critic, nn.Sequential(extractor.value_net, model.policy.value_net)),
            (nn.ParameterList([network.log_std]), nn.ParameterList([model.policy.log_std])),
        ],
    )


def test_weights_and_deviations_after_an_update_are_those_of_stable_baselines3() -> None:
    make_deterministic()
    c = Coefficients(environments=ENVIRONMENTS, rollout_steps=STEPS, batch=ROWS, epochs=6, learning_rate=2e-3)
    data, model = MadeNumbers(4), theirs(PPO, "MlpPolicy", c, steps=True, world=StillBox)
    data.fill(model.rollout_buffer)
    network = GaussianTwin(model.policy)
    before = copy.deepcopy(network)
    batch = data.batch(model.rollout_buffer.advantages, model.rollout_buffer.returns)
    Trainer(network, NoEnvironment(), c, total_steps=ROWS, seed=1)._improve(batch)
    model.train()
    extractor = model.policy.mlp_extractor
    sb3 = nn.Sequential(extractor.policy_net, model.policy.action_net, extractor.value_net, model.policy.value_net)
    twins = nn.Sequential(network.actor, network.critic)
    pairs = [*zip(twins.parameters(), sb3.parameters(), strict=True), (network.log_std, model.policy.log_std)]
    starts = [*nn.Sequential(before.actor, before.critic).parameters(), before.log_std]
    for (parameter, other), start in zip(pairs, starts, strict=True):
        assert float((other - start).detach().abs().max()) > 1e-3
        assert float((parameter - other).detach().abs().max()) < 5e-6  # of steps of 2e-3 each


def test_the_density_and_the_entropy_of_a_hand_worked_action() -> None:
    # deviations 1 and 2; the action lies 0.5 and -1 deviations from the means
    densities, entropy = evaluate(
        torch.tensor([[0.0, 1.0]]), torch.tensor([0.0, math.log(2.0)]), torch.tensor([[0.5, -1.0]])
    )
    constant = 0.5 * math.log(2 * math.pi)
    assert densities.tolist() == pytest.approx([-0.125 - constant - 0.5 - math.log(2) - constant])
    assert float(entropy) == pytest.approx(2 * (0.5 + constant) + math.log(2))


def test_drawn_numbers_have_the_mean_and_the_deviation_asked_for() -> None:
    generator = torch.Generator().manual_seed(1)
    means, log_std = torch.tensor([0.3, -2.0]).expand(200_000, 2), torch.tensor([-1.0, 0.5])
    actions, densities = sample(means, log_std, generator)
    error_of_a_mean = log_std.exp() / math.sqrt(200_000)
    assert bool(((actions.mean(0) - means[0]).abs() < 4 * error_of_a_mean).all())
    assert actions.std(0).tolist() == pytest.approx(log_std.exp().tolist(), rel=0.01)
    entropy = evaluate(means, log_std, actions)[1]
    assert -float(densities.mean()) == pytest.approx(float(entropy), abs=0.01)


def test_the_environment_is_given_clipped_numbers_and_the_rollout_keeps_what_was_drawn() -> None:
    environment = Limited(6, 1)
    trainer = _trainer(Steering(1), replace(NOISY, rollout_steps=4), environment=environment)
    rollout, _ = trainer._collect()
    last = rollout.actions[-6:]
    assert rollout.actions.shape == (24, 2)
    assert bool((rollout.actions.abs() > 1.0).any())
    assert torch.equal(environment.last_actions, last.clamp(-1.0, 1.0))
    assert float(environment.last_actions.abs().max()) == 1.0
    assert torch.equal(within_bounds(torch.tensor([3, 5])), torch.tensor([3, 5]))


@pytest.mark.parametrize("kind", KINDS)
def test_before_any_step_every_ratio_of_numbers_is_one(kind: type[Steering | RememberingSteering]) -> None:
    trainer = _trainer(kind(1), replace(NOISY, learning_rate=0.0, clip=1e-5))
    for _ in range(3):
        progress = trainer.update()
        assert progress.clip_fraction == 0.0
        assert progress.gradient_norm > 0.0


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_numbers_continued_from_a_file_ends_with_the_bytes_of_an_undisturbed_one(
    kind: type[Steering | RememberingSteering], precision: str
) -> None:
    undisturbed, other = kind(1), kind(2)
    whole = _trainer(undisturbed, NOISY, precision=precision)
    for _ in range(4):
        whole.update()
    first = _trainer(kind(1), NOISY, precision=precision)
    first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = _trainer(other, NOISY, environment=Limited(6, 9), seed=9, precision=precision)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        second.update()
    assert weight_bytes(other) == weight_bytes(undisturbed) != weight_bytes(kind(1))


def test_under_bf16_means_and_log_probabilities_are_float32_and_deviations_are_not_rounded() -> None:
    trainer = _trainer(Steering(1), NOISY, precision="bf16")
    trainer.update()
    rollout, _ = trainer._collect()
    assert rollout.observations.dtype == torch.bfloat16
    assert rollout.actions.dtype == rollout.log_probabilities.dtype == torch.float32
    batch = minibatch(rollout, next(trainer._orders()), NOISY.environments, 1)
    trainer.network.zero_grad()
    loss, figures = losses(trainer.network, batch, NOISY, "bf16")
    torch.autograd.backward(loss)
    assert loss.dtype == figures.dtype == torch.float32
    gradient = trainer.network.log_std.grad
    assert isinstance(gradient, Tensor)
    assert not torch.equal(gradient, gradient.bfloat16().float())


def test_the_loss_of_a_hand_worked_batch_of_numbers() -> None:
    network = Steering(1)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)  # means 0, deviations 1, values 0
    exact = -0.5 * 1.0 - math.log(2 * math.pi)  # of (1, 0) in two dimensions
    batch = Batch(
        observations=torch.zeros(2, 5),
        actions=torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
        log_probabilities=torch.tensor([exact - math.log(1.5), exact - math.log(0.5)]),  # ratios 1.5 and 0.5
        advantages=torch.tensor([1.0, -1.0]),
        returns=torch.tensor([1.0, 2.0]),
        values=torch.zeros(2),
    )
    _, figures = losses(network, batch, Coefficients(entropy=0.1))
    entropy = math.log(2 * math.pi * math.e)
    policy_loss, value_loss = -(1.2 - 0.8) / math.sqrt(2) / 2, (1.0 + 4.0) / 2
    kl = ((0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))) / 2
    total = policy_loss - 0.1 * entropy + 0.5 * value_loss
    assert figures.tolist() == pytest.approx([policy_loss, value_loss, entropy, kl, 1.0, total], rel=1e-5)


def test_the_means_reach_a_planted_optimum() -> None:
    make_deterministic()
    network = Steering(1)
    c = Coefficients(environments=64, rollout_steps=8, batch=256, epochs=8, learning_rate=2e-2, schedule="cosine")
    rewards: list[float] = []
    train(
        network,
        Target(64, 1),
        c,
        total_steps=40_000,
        seed=1,
        on_update=lambda progress: rewards.append(progress.reward),
    )
    inputs = torch.linspace(-0.45, 0.45, 7).unsqueeze(1)
    with torch.no_grad():
        means = network(network.prepare(inputs.expand(-1, 5)))[0]
    assert float((means - torch.cat([1.6 * inputs, -inputs], dim=1)).abs().max()) < 0.1
    assert float(network.log_std.detach().max()) < -0.7  # it grew sure: noise costs
    assert rewards[-1] > rewards[0] / 8


def test_deviations_of_another_kind_are_refused() -> None:
    class Wrong(Steering):
        log_std: Any

        def __init__(self) -> None:
            super().__init__(1)
            self.log_std = nn.Parameter(torch.zeros(1, 2))

    assert log_deviations(nn.Linear(1, 1)) is None
    with pytest.raises(
        TypeError, match=r"log_std is of shape \(1, 2\): expected an nn\.Parameter of shape \(actions,\)"
    ):
        _trainer(Wrong(), NOISY).update()


def _trainer(
    network: Steering | RememberingSteering,
    c: Coefficients,
    *,
    environment: Noise | None = None,
    seed: int = 1,
    **more: Any,
) -> Trainer:
    make_deterministic()
    place = environment or Limited(c.environments, 1)
    return Trainer(network, place, c, total_steps=6 * 72, seed=seed, **more)
