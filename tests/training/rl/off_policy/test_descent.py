"""A descent is `torch.optim.Adam` on parameters in one piece; it goes on from that one's state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Descent, FiniteCheck
from training.rl.off_policy.presets import build
from training.rl.off_policy.replay import Transitions


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def loss_of(module: nn.Module, index: int) -> Tensor:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(index))
    loss: Tensor = module(rows).square().sum()
    return loss


def by_torch(module: nn.Module, optimizer: torch.optim.Adam, index: int, bound: float | None) -> None:
    parameters = list(module.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss_of(module, index), parameters), strict=True):
        parameter.grad = gradient
    if bound is not None:
        nn.utils.clip_grad_norm_(parameters, bound)
    optimizer.step()


def descend(descent: Descent, module: nn.Module, loss: Tensor) -> None:
    """A step by autograd's gradients, which the ways back by hand find as well."""
    parameters = list(module.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(gradient)
    descent.take(loss.detach())


def differ(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("before", [0, 3])  # steps of a former release, whose state is that of torch's Adam
def test_a_descent_is_adam_also_from_the_state_of_torch_s(bound: float | None, before: int) -> None:
    torch_network = network()
    optimizer = torch.optim.Adam(torch_network.parameters(), lr=0.01, fused=True)
    for index in range(before):
        by_torch(torch_network, optimizer, index, bound)
    own_network = copy.deepcopy(torch_network)
    descent = Descent(own_network.parameters(), 0.5, FiniteCheck("cpu"), max_grad_norm=bound)
    descent.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    start = copy.deepcopy(own_network)
    for index in range(before, before + 5):
        by_torch(torch_network, optimizer, index, bound)
        descend(descent, own_network, loss_of(own_network, index))
    assert differ(own_network, torch_network) < 1e-7
    assert differ(own_network, start) > 1e-3
    state, other = descent.state_dict(), optimizer.state_dict()
    assert state["param_groups"][0]["lr"] == other["param_groups"][0]["lr"] == 0.01
    for index, moments in other["state"].items():
        for name, value in moments.items():
            assert torch.allclose(state["state"][index][name], value, atol=1e-6), (index, name)


def test_after_a_loss_that_is_not_finite_nothing_moves_any_more() -> None:
    module = network()
    descent = Descent(module.parameters(), 0.01, FiniteCheck("cpu"))
    descend(descent, module, loss_of(module, 1))
    before, state = copy.deepcopy(module), copy.deepcopy(descent.state_dict())
    descend(descent, module, loss_of(module, 2) * float("inf"))
    descend(descent, module, loss_of(module, 3))
    assert differ(module, before) == 0.0
    assert torch.equal(descent.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    assert float(descent.state_dict()["state"][0]["step"]) == 1.0


def test_a_td3_whose_critics_say_nothing_shrinks_what_it_squashes_only_where_that_costs() -> None:
    """The value is 0 everywhere, so the one slope of the actor's loss is that of `saturation`."""
    sizes = {}
    for saturation in (0.0, 0.5):
        c = OffPolicyCoefficients(learning_rate=1e-2, actor_widths=(8,), critic_widths=(8,), saturation=saturation)
        agent = build("td3", 3, c, seed=1)
        with torch.no_grad():
            agent.critics.weights[-1].zero_()
            agent.critics.biases[-1].zero_()
        generator = torch.Generator().manual_seed(2)
        observations = torch.randn(64, 3, generator=generator)
        zeros = torch.zeros(64)
        batch = Transitions(observations, observations, torch.zeros(64, 1), zeros, zeros)
        before = agent.actor.mean(observations).detach().square().mean()
        for _ in range(20):
            agent.update(batch, generator)
        sizes[saturation] = float(agent.actor.mean(observations).detach().square().mean() / before)
    assert sizes[0.0] == 1.0
    assert sizes[0.5] < 0.5
