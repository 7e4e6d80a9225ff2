"""Ways back by hand find autograd's gradients: through layers and critics, of both agents' losses, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.rl.kernels import use_fast_float32
from training.rl.off_policy import sac, td3
from training.rl.off_policy.learner import Actor, TwinCritics
from training.rl.off_policy.passes import CriticsPass, LayersPass
from training.rl.off_policy.presets import RECIPES, build
from training.rl.off_policy.replay import Transitions

ROWS, INPUTS, ACTIONS = 48, 5, 3
WIDE = torch.float64


def random(*shape: int, seed: int = 1, dtype: torch.dtype = WIDE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE).to(dtype)


def near(tensor: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-12)


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """Its parameters; what was in their gradients does not count."""
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 9.0)
    return parameters


def check(parameters: Sequence[nn.Parameter], expected: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert bool(gradient.any())
        near(parameter.grad, gradient)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("widths", [(16,), (24, 16), (8, 16, 12)])
def test_a_pass_through_layers_finds_autograd_s_gradients(widths: tuple[int, ...], normalised: bool) -> None:
    actor = Actor(INPUTS, widths, seed=1, actions=ACTIONS, spread=True, normalised=normalised).double()
    parameters, prepared, by_answers = parameters_of(actor), random(ROWS, INPUTS), random(ROWS, 2 * ACTIONS, seed=2)
    answers = actor.answer(prepared, WIDE, WIDE)
    expected = torch.autograd.grad((answers * by_answers).sum(), parameters)
    way = LayersPass(actor, WIDE)
    with torch.no_grad():
        outputs = way.answers(prepared, keep=True)
        way.answers(prepared[:7])  # what is kept for the way back stays
        way.back(by_answers)
    near(outputs, answers.detach())
    check(parameters, expected)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("widths", [(16,), (24, 16), (8, 16, 12)])
def test_a_pass_through_critics_finds_autograd_s_gradients(widths: tuple[int, ...], normalised: bool) -> None:
    critics = TwinCritics(INPUTS, widths, seed=1, actions=ACTIONS, normalised=normalised).double()
    parameters, prepared = parameters_of(critics), random(ROWS, INPUTS)
    actions, by_values = random(ROWS, ACTIONS, seed=2).requires_grad_(), random(2, ROWS, seed=3)
    values = critics(prepared, actions)
    *expected, by_actions = torch.autograd.grad((values * by_values).sum(), [*parameters, actions])
    first = critics(prepared, actions, twins=1)
    (by_first,) = torch.autograd.grad((first * by_values[:1]).sum(), [actions])
    way = CriticsPass(critics, WIDE)
    with torch.no_grad():
        near(way.values(prepared, actions, keep=True), values.detach())
        way.back(by_values)
        check(parameters, expected)
        near(way.values(prepared, actions, twins=1, keep=True), first.detach())
        near(way.back_to_actions(by_values[:1]), by_first)
        way.values(prepared, actions, keep=True)
        near(way.back_to_actions(by_values), by_actions)
    check(parameters, expected)  # the way to the actions taught no weight anything


def test_the_last_layer_of_critics_learns_by_the_fast_products_too() -> None:
    use_fast_float32()
    critics = TwinCritics(INPUTS, (24, 48), seed=1, actions=ACTIONS)
    parameters, prepared = parameters_of(critics), random(512, INPUTS, dtype=torch.float32)
    actions, by_values = random(512, ACTIONS, dtype=torch.float32), random(2, 512, seed=2, dtype=torch.float32)
    expected = torch.autograd.grad((critics(prepared, actions) * by_values).sum(), parameters)
    way = CriticsPass(critics, torch.float32)
    with torch.no_grad():
        way.values(prepared, actions, keep=True)
        way.back(by_values)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-3)


def test_in_bfloat16_passes_answer_and_learn_what_they_do_in_float32_to_its_digits() -> None:
    gradients: dict[torch.dtype, list[Tensor]] = {}
    for products in (torch.float32, torch.bfloat16):
        critics = TwinCritics(INPUTS, (32, 16), seed=1, actions=ACTIONS)
        parameters = parameters_of(critics)
        prepared, actions, by_values = (
            random(*shape, seed=seed, dtype=torch.float32)
            for seed, shape in enumerate([(ROWS, INPUTS), (ROWS, ACTIONS), (2, ROWS)])
        )
        way = CriticsPass(critics, products)
        with torch.no_grad():
            values = way.values(prepared, actions, keep=True)
            way.back(by_values / ROWS)
            way.values(prepared, actions, keep=True)
            by_actions = way.back_to_actions(by_values)
        learnt = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        gradients[products] = [values, by_actions, *learnt]
    for exact, short in zip(*gradients.values(), strict=True):
        assert short.dtype is torch.float32
        assert float((exact - short).abs().max()) < 0.03
    exact, short = (tensors[0] for tensors in gradients.values())
    assert not torch.equal(exact, short)  # it did multiply in fewer digits


def test_the_gradients_of_sac_s_losses_are_autograd_s() -> None:
    goals, temperature = random(ROWS, seed=2), torch.tensor([0.3], dtype=WIDE)
    values = random(2, ROWS).requires_grad_()
    with torch.no_grad():
        values[0, :5] = values[1, :5]  # where both are the minimum, each has half of the gradient
    loss, by_values = sac.critic_loss(values, goals)
    near(by_values, torch.autograd.grad(loss, values)[0])
    log_probabilities = random(ROWS, seed=3)
    loss, by_values = sac.actor_loss(log_probabilities, values, temperature)
    near(by_values, torch.autograd.grad(loss, values)[0])
    log_temperature = temperature.log().requires_grad_()
    loss, by_log = sac.temperature_loss(log_temperature, log_probabilities, -1.5)
    near(by_log.view(1), torch.autograd.grad(loss, log_temperature)[0])
    expected = -(log_temperature * (log_probabilities - 1.5)).mean()  # [1], equation 18, as it is written there
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_way_back_through_the_squashing_is_autograd_s() -> None:
    mean, log_std = (random(ROWS, ACTIONS, seed=seed).requires_grad_() for seed in (1, 2))
    noise, by_actions, by_each = random(ROWS, ACTIONS, seed=3), random(ROWS, ACTIONS, seed=4), torch.tensor([0.7])
    actions, log_probabilities = sac.squashed(mean, log_std, noise)
    whole = (actions * by_actions).sum() + (by_each.double() * log_probabilities).sum()
    expected = torch.autograd.grad(whole, [mean, log_std])
    gradients = sac.back_through_squash(
        log_std.detach(), noise, actions.detach(), by_actions=by_actions, by_each=by_each.double()
    )
    for gradient, reference in zip(gradients, expected, strict=True):
        near(gradient, reference)


def test_the_gradients_of_td3_s_losses_are_autograd_s() -> None:
    values, goals = random(2, ROWS).requires_grad_(), random(ROWS, seed=2)
    for loss, by_values in (td3.critic_loss(values, goals), td3.actor_loss(values)):
        near(by_values, torch.autograd.grad(loss, values)[0])


def transitions() -> Transitions:
    shapes = ((ROWS, INPUTS), (ROWS, INPUTS), (ROWS, ACTIONS), (ROWS,))
    tensors = [random(*shape, seed=seed, dtype=torch.float32) for seed, shape in enumerate(shapes)]
    return Transitions(tensors[0], tensors[1], tensors[2].tanh(), tensors[3], torch.ones(ROWS))


def test_a_td3_s_actor_descends_its_loss_with_the_saturation_in_it() -> None:
    c = replace(RECIPES["textbook"].td3, actor_delay=1, saturation=0.4, actor_widths=(16, 12), critic_widths=(16,))
    agent, batch = build("td3", INPUTS, c, seed=1, actions=ACTIONS), transitions()
    before = [parameter.detach().clone() for parameter in agent.actor.parameters()]
    agent.update(batch, torch.Generator().manual_seed(1))
    gradients = [parameter.grad.clone() for parameter in agent.actor.parameters() if parameter.grad is not None]
    with torch.no_grad():  # the critics that the actor met are those after their step; the actor's are from before it
        for parameter, value in zip(agent.actor.parameters(), before, strict=True):
            parameter.copy_(value)
    means = agent.actor.mean(batch.observations)
    loss = -agent.critics(batch.observations, means.tanh(), twins=1).mean() + 0.4 * means.square().mean()
    for gradient, reference in zip(gradients, torch.autograd.grad(loss, list(agent.actor.parameters())), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-7)


def test_a_sac_s_logarithm_of_deviations_beyond_its_bounds_has_no_gradient() -> None:
    c = replace(RECIPES["textbook"].sac, actor_widths=(16,), critic_widths=(16,))
    agent, batch = build("sac", INPUTS, c, seed=1, actions=ACTIONS), transitions()
    with torch.no_grad():
        agent.actor.biases[-1][ACTIONS] = 50.0  # the first logarithm is at its bound everywhere, the others nowhere
    agent.update(batch, torch.Generator().manual_seed(1))
    gradient = agent.actor.biases[-1].grad
    assert gradient is not None
    assert float(gradient[ACTIONS]) == 0.0
    assert bool(gradient[ACTIONS + 1 :].all())
