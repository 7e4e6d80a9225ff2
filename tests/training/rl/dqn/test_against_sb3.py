"""The same loss, gradients and weights as Stable-Baselines3's DQN computes, also over several steps.

Its own `train()` runs on given minibatches; what it leaves in its gradients, its log and its weights is compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from tests.support.rl.against_sb3 import ACTIONS, INPUTS, Still
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.networks import QNetwork
from training.rl.dqn.presets import RECIPES, build
from training.rl.dqn.replay import Choices
from training.rl.ppo import make_deterministic

ROWS, WIDTHS = 64, (32, 24)
TOLERANCE = 1e-6


def batch_of(seed: int, steps: int = 1) -> Choices:
    """Transitions of which some ended, discounted over up to `steps`; rewards reach both parts of Huber's loss."""
    g = torch.Generator().manual_seed(seed)
    observations, following = torch.randn(2, ROWS, INPUTS, generator=g)
    actions = torch.randint(ACTIONS, (ROWS,), generator=g)
    rewards = 2.0 * torch.randn(ROWS, generator=g)
    discounts = 0.99 ** torch.randint(1, steps + 1, (ROWS,), generator=g)
    goes_on = (torch.rand(ROWS, generator=g) >= 0.2).float()
    return Choices(observations, following, actions, rewards, discounts * goes_on, torch.empty(ROWS, 0))


class Given:
    """Hands Stable-Baselines3 one minibatch after the other."""

    def __init__(self, batches: list[Choices]) -> None:
        self._batches = iter(batches)

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        t = next(self._batches)
        ends = (t.discounts == 0.0).float()
        actions, rewards, discounts = t.actions, t.rewards, t.discounts
        columns = [tensor.unsqueeze(1) for tensor in (actions, ends, rewards, discounts)]
        return ReplayBufferSamples(t.observations, columns[0], t.following, *columns[1:])


def layers_of(module: Any) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def same(network: QNetwork, sb3: Any) -> None:
    """Give ours their weights."""
    for parameter, other in zip(parameters(network), theirs_of(sb3, lambda parameter: parameter), strict=True):
        parameter.copy_(other)


def parameters(network: QNetwork) -> list[nn.Parameter]:
    weights = [*network.body.weights, *network.advantages.weights]
    return weights + [*network.body.biases, *network.advantages.biases]


def theirs_of(sb3: Any, take: Any) -> list[Tensor]:
    layers = layers_of(sb3)
    return [take(layer.weight) for layer in layers] + [take(layer.bias) for layer in layers]


def sb3_model() -> Any:
    return DQN("MlpPolicy", Still(), policy_kwargs={"net_arch": list(WIDTHS)}, seed=3, device="cpu")


class Twins:
    """One of theirs and one of ours with the same weights, and their gradients as the optimizer saw them."""

    def __init__(self, batches: list[Choices]) -> None:
        make_deterministic()
        c = replace(RECIPES["textbook"], widths=WIDTHS)
        self.sb3 = sb3_model()
        self.sb3.set_logger(configure(None, []))
        self.sb3.replay_buffer = Given(batches)
        with torch.no_grad():  # a target that differs from the network
            for parameter in self.sb3.q_net_target.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8)))
        self.dqn: Dqn = build(INPUTS, c, actions=ACTIONS, seed=1)
        same(self.dqn.network, self.sb3.q_net)
        same(self.dqn.target, self.sb3.q_net_target)
        self.gradients: list[Tensor] = []
        self.sb3.policy.optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, *_: Any) -> None:
        self.gradients = theirs_of(self.sb3.q_net, lambda parameter: parameter.grad.clone())


def largest(tensors: list[Any], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loss_and_gradients_are_those_of_stable_baselines3(seed: int, steps: int) -> None:
    batch = batch_of(seed, steps)
    twins = Twins([batch])
    figures, _ = twins.dqn.update(batch)
    twins.sb3.train(1, ROWS)
    assert float(figures[0]) == pytest.approx(twins.sb3.logger.name_to_value["train/loss"], abs=TOLERANCE)
    assert all(bool(gradient.any()) for gradient in twins.gradients)
    assert largest([parameter.grad for parameter in parameters(twins.dqn.network)], twins.gradients) < TOLERANCE


def test_weights_after_twenty_gradient_steps_are_those_of_stable_baselines3() -> None:
    batches = [batch_of(seed) for seed in range(20)]
    twins = Twins(batches)
    before = [parameter.detach().clone() for parameter in parameters(twins.dqn.network)]
    for batch in batches:
        twins.dqn.update(batch)
    twins.sb3.train(20, ROWS)
    sb3_weights = theirs_of(twins.sb3.q_net, lambda parameter: parameter.detach())
    assert largest([parameter.detach() for parameter in parameters(twins.dqn.network)], sb3_weights) < 2e-6
    assert largest(before, sb3_weights) > 1e-4  # they moved


def test_the_textbook_recipe_has_stable_baselines3_s_coefficients() -> None:
    model, c = Twins([]).sb3, RECIPES["textbook"]
    coefficients = (c.learning_rate, c.discount, c.batch, c.smoothing, c.learning_starts, c.capacity, c.max_grad_norm)
    sb3_coefficients = (model.learning_rate, model.gamma, model.batch_size, model.tau, model.learning_starts)
    assert coefficients == (*sb3_coefficients, model.buffer_size, model.max_grad_norm)
    assert (c.gradient_steps, c.per_transitions) == (model.gradient_steps, model.train_freq.frequency)
    assert c.target_every * c.per_transitions == model.target_update_interval
    exploration = (model.exploration_initial_eps, model.exploration_final_eps, model.exploration_fraction)
    assert (c.epsilon_start, c.epsilon, c.epsilon_share) == exploration
    assert c.widths == tuple(layer.out_features for layer in layers_of(DQN("MlpPolicy", Still()).q_net)[:-1])
