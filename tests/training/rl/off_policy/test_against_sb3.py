"""The same losses, gradients and weights as Stable-Baselines3's SAC and TD3 compute.

Their own `train()` runs on given minibatches, with the noise that a seed gives; what it leaves in its gradients, its
log and its weights is compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from training.rl.off_policy.learner import Actor, TwinCritics, explained
from training.rl.off_policy.presets import RECIPES, build
from training.rl.off_policy.replay import Transitions
from training.rl.off_policy.sac import Sac
from training.rl.off_policy.td3 import Td3
from training.rl.ppo import make_deterministic

INPUTS, ROWS, WIDTHS = 5, 64, (32, 24)
TOLERANCE = 1e-6


class Still(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces alone: its transitions are made up by the tests."""

    observation_space = spaces.Box(-10.0, 10.0, (INPUTS,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(INPUTS, np.float32), 0.0, False, False, {}


def batch_of(seed: int) -> Transitions:
    """Transitions of which some ended."""
    g = torch.Generator().manual_seed(seed)
    ends = torch.rand(ROWS, generator=g) < 0.2
    observations, following = torch.randn(2, ROWS, INPUTS, generator=g)
    actions = torch.rand(ROWS, 1, generator=g) * 2.0 - 1.0
    return Transitions(observations, following, actions, torch.randn(ROWS, generator=g), (~ends).float())


class Given:
    """Hands Stable-Baselines3 one minibatch after the other."""

    def __init__(self, batches: list[Transitions]) -> None:
        self._batches = iter(batches)

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        t = next(self._batches)
        ends = 1.0 - t.goes_on.unsqueeze(1)
        return ReplayBufferSamples(t.observations, t.actions, t.following, ends, t.rewards.unsqueeze(1))


def sb3_model(kind: Any, batches: list[Transitions]) -> Any:
    model = kind("MlpPolicy", Still(), policy_kwargs={"net_arch": list(WIDTHS)}, seed=3, device="cpu")
    model.set_logger(configure(None, []))
    model.replay_buffer = Given(batches)
    return model


def layers_of(module: Any) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def same_actor(actor: Actor, sb3: list[nn.Linear]) -> None:
    """Give ours their weights; SAC's heads for mean and deviation are one layer of ours."""
    heads = sb3[len(WIDTHS) :]
    for index, layer in enumerate(sb3[: len(WIDTHS)]):
        actor.weights[index].copy_(layer.weight)
        actor.biases[index].copy_(layer.bias)
    actor.weights[-1].copy_(torch.cat([layer.weight for layer in heads]))
    actor.biases[-1].copy_(torch.cat([layer.bias for layer in heads]))


@torch.no_grad()
def same_critics(critics: TwinCritics, sb3: Any) -> None:
    for index, pair in enumerate(zip(*(layers_of(network) for network in sb3.q_networks), strict=True)):
        critics.weights[index].copy_(torch.stack([layer.weight.T for layer in pair]))
        critics.biases[index].copy_(torch.stack([layer.bias for layer in pair]).unsqueeze(1))


def theirs_of_actor(sb3: list[nn.Linear], take: Any) -> list[Tensor]:
    """Their weights or gradients in the layout of `Actor`."""
    hidden, heads = sb3[: len(WIDTHS)], sb3[len(WIDTHS) :]
    weights = [take(layer.weight) for layer in hidden] + [torch.cat([take(layer.weight) for layer in heads])]
    biases = [take(layer.bias) for layer in hidden] + [torch.cat([take(layer.bias) for layer in heads])]
    return weights + biases


def theirs_of_critics(sb3: Any, take: Any) -> list[Tensor]:
    """Their weights or gradients in the layout of `TwinCritics`."""
    pairs = list(zip(*(layers_of(network) for network in sb3.q_networks), strict=True))
    weights = [torch.stack([take(layer.weight).T for layer in pair]) for pair in pairs]
    return weights + [torch.stack([take(layer.bias) for layer in pair]).unsqueeze(1) for pair in pairs]


class Twins:
    """One of theirs and one of ours with the same weights, and their gradients as each optimizer saw them."""

    def __init__(self, name: str, batches: list[Transitions]) -> None:
        make_deterministic()
        c = replace(RECIPES["textbook"].of(name), actor_widths=WIDTHS, critic_widths=WIDTHS)
        self.sb3 = sb3_model(SAC if name == "sac" else TD3, batches)
        self.agent = build(name, INPUTS, c, seed=1)
        self.actor_layers = layers_of(self.sb3.actor)
        same_actor(self.agent.actor, self.actor_layers)
        for critics, other in ((self.agent.critics, self.sb3.critic), (self.agent.targets, self.sb3.critic_target)):
            same_critics(critics, other)
        if isinstance(self.agent, Td3):
            same_actor(self.agent._target_actor, layers_of(self.sb3.actor_target))
        self.of_critics: list[Tensor] = []
        self.of_actor: list[Tensor] = []
        self.sb3.critic.optimizer.register_step_pre_hook(self._critics_step)
        self.sb3.actor.optimizer.register_step_pre_hook(self._actor_steps)

    def _critics_step(self, *_: Any) -> None:
        self.of_critics = theirs_of_critics(self.sb3.critic, gradient)

    def _actor_steps(self, *_: Any) -> None:
        self.of_actor = theirs_of_actor(self.actor_layers, gradient)


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def weight(parameter: nn.Parameter) -> Tensor:
    return parameter.detach()


def noise_of(seed: int, count: int) -> list[Tensor]:
    """What their `count` draws of normal noise give after `torch.manual_seed(seed)`."""
    torch.manual_seed(seed)
    noise = [torch.normal(torch.zeros(ROWS, 1), torch.ones(ROWS, 1)) for _ in range(count)]
    torch.manual_seed(seed)
    return noise


def largest(tensors: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(tensors, expected, strict=True))


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [gradient(parameter) for parameter in module.parameters()]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_losses_and_gradients_of_sac_are_those_of_stable_baselines3(seed: int) -> None:
    batch = batch_of(seed)
    twins = Twins("sac", [batch])
    agent, sb3 = twins.agent, twins.sb3
    assert isinstance(agent, Sac)
    losses, of_actor = agent.descend(batch, torch.stack(noise_of(seed, 2)))
    sb3.train(1, ROWS)
    logged = sb3.logger.name_to_value
    assert float(losses[0]) == pytest.approx(logged["train/critic_loss"], abs=TOLERANCE)
    assert of_actor is not None
    actor_loss, _, _, temperature_loss, temperature = of_actor.tolist()
    assert actor_loss == pytest.approx(logged["train/actor_loss"], abs=TOLERANCE)
    assert temperature_loss == pytest.approx(logged["train/ent_coef_loss"], abs=TOLERANCE)
    assert temperature == pytest.approx(logged["train/ent_coef"], abs=TOLERANCE)
    assert largest(gradients_of(agent.critics), twins.of_critics) < TOLERANCE
    assert largest(gradients_of(agent.actor), twins.of_actor) < TOLERANCE
    assert all(bool(tensor.any()) for tensor in twins.of_critics + twins.of_actor)
    assert float((agent._temperature[0].grad - sb3.log_ent_coef.grad).abs()) < TOLERANCE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_losses_and_gradients_of_td3_are_those_of_stable_baselines3(seed: int) -> None:
    batches = [batch_of(seed), batch_of(seed + 10)]  # the actor moves at the second
    twins = Twins("td3", batches)
    agent, sb3 = twins.agent, twins.sb3
    assert isinstance(agent, Td3)
    noise = noise_of(seed, 2)
    first, none = agent.descend(batches[0], noise[0])
    assert none is None
    losses, of_actor = agent.descend(batches[1], noise[1])
    sb3.train(2, ROWS)
    logged = sb3.logger.name_to_value
    assert float(first[0] + losses[0]) / 2.0 == pytest.approx(logged["train/critic_loss"], abs=TOLERANCE)
    assert of_actor is not None
    assert float(of_actor[0]) == pytest.approx(logged["train/actor_loss"], abs=TOLERANCE)
    assert largest(gradients_of(agent.critics), twins.of_critics) < TOLERANCE
    assert largest(gradients_of(agent.actor), twins.of_actor) < TOLERANCE
    assert all(bool(tensor.any()) for tensor in twins.of_critics + twins.of_actor)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_weights_and_targets_after_twenty_gradient_steps_are_those_of_stable_baselines3(name: str) -> None:
    batches = [batch_of(seed) for seed in range(20)]
    twins = Twins(name, batches)
    agent, sb3 = twins.agent, twins.sb3
    before = [parameter.detach().clone() for parameter in agent.targets.parameters()]
    noise = noise_of(5, 40 if name == "sac" else 20)
    for index, batch in enumerate(batches):
        if isinstance(agent, Sac):
            agent.descend(batch, torch.stack(noise[2 * index : 2 * index + 2]))
        elif isinstance(agent, Td3):
            agent.descend(batch, noise[index])
    sb3.train(20, ROWS)
    pairs = [
        (agent.actor, theirs_of_actor(twins.actor_layers, weight)),
        (agent.critics, theirs_of_critics(sb3.critic, weight)),
        (agent.targets, theirs_of_critics(sb3.critic_target, weight)),
    ]
    if isinstance(agent, Td3):
        pairs.append((agent._target_actor, theirs_of_actor(layers_of(sb3.actor_target), weight)))
    for module, expected in pairs:
        assert largest([weight(parameter) for parameter in module.parameters()], expected) < 2e-6
    assert largest(before, pairs[2][1]) > 1e-4  # they moved


def test_the_textbook_recipe_has_stable_baselines3_s_coefficients() -> None:
    for name, kind in (("sac", SAC), ("td3", TD3)):
        model, c = sb3_model(kind, []), RECIPES["textbook"].of(name)
        coefficients = (
            c.learning_rate,
            c.discount,
            c.batch,
            c.smoothing,
            c.learning_starts,
            c.capacity,
            c.update_to_data,
        )
        sb3_coefficients = (model.learning_rate, model.gamma, model.batch_size, model.tau, model.learning_starts)
        assert coefficients == (*sb3_coefficients, model.buffer_size, model.gradient_steps / model.train_freq.frequency)
    assert isinstance(model, TD3)
    assert (c.actor_delay, c.target_noise, c.target_noise_clip) == (
        model.policy_delay,
        model.target_policy_noise,
        model.target_noise_clip,
    )


def test_what_the_critics_explain_is_what_stable_baselines3_measures_of_its_own() -> None:
    generator = torch.Generator().manual_seed(3)
    goals = torch.randn(ROWS, generator=generator)
    values = torch.stack([0.5 * goals, torch.randn(ROWS, generator=generator)])
    expected = [explained_variance(value.numpy(), goals.numpy()) for value in values]
    assert float(explained(values, goals)) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(explained(goals, goals)) == 1.0
    assert float(explained(values[:, :1], goals[:1])) == 1.0  # one goal varies by nothing
