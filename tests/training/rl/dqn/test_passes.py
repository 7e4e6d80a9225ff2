"""Answers, gradients and losses by hand are those of the network and of autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.rl.dqn.coefficients import DqnCoefficients
from training.rl.dqn.dqn import Pass, conservative_loss, difference_loss, divergence
from training.rl.dqn.networks import Head, QNetwork, head_loss
from training.rl.dqn.presets import build
from training.rl.dqn.replay import Choices
from training.rl.off_policy.learner import PRODUCTS

ROWS, INPUTS, ACTIONS = 48, 5, 3
HEADS = (Head("direction", "probability"), Head("risk", "positive", 0.5))
TOLERANCE = 1e-6


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest(tensors: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(tensors, expected, strict=True) if b.numel())


@pytest.mark.parametrize("widths", [(16,), (24, 16), (8, 16, 12)])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="plain"),
        pytest.param({"heads": HEADS}, id="heads"),
        pytest.param({"dueling": True}, id="dueling"),
        pytest.param({"dueling": True, "normalised": True, "heads": HEADS}, id="all"),
    ],
)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", TOLERANCE), ("bf16", 0.02)])
def test_a_pass_answers_as_the_network_and_finds_autograd_s_gradients(
    widths: tuple[int, ...], more: dict[str, Any], precision: str, tolerance: float
) -> None:
    network, products = QNetwork(INPUTS, widths, actions=ACTIONS, seed=1, **more), PRODUCTS[precision]
    prepared, parameters = random(ROWS, INPUTS), list(network.parameters())
    values, heads = network.answers(prepared, products)
    by_values, by_heads = random(*values.shape, seed=2) / ROWS, random(*heads.shape, seed=3) / ROWS
    expected = torch.autograd.grad((values * by_values).sum() + (heads * by_heads).sum(), parameters)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 9.0)  # what was there does not count
    way = Pass(network, products)
    with torch.no_grad():
        answers = way.answers(prepared)
        later_values = way.values(prepared[:7])  # what is kept for the way back stays
        way.back(by_values, by_heads)
    assert largest([later_values], [values[:7].detach()]) < tolerance
    assert largest(list(answers), [values.detach(), heads.detach()]) < tolerance
    assert (
        largest([parameter.grad for parameter in parameters if parameter.grad is not None], list(expected)) < tolerance
    )
    assert all(bool(tensor.any()) for tensor in expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_differences_is_hubers_and_its_gradient_autograd_s(weighted: bool) -> None:
    errors = (3.0 * random(ROWS)).requires_grad_()
    weights = random(ROWS, seed=2).sigmoid() if weighted else None
    rows = nn.functional.smooth_l1_loss(errors, torch.zeros(ROWS), reduction="none")
    expected = (rows if weights is None else rows * weights).mean()
    loss, by_errors = difference_loss(errors.detach(), weights)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.allclose(by_errors, torch.autograd.grad(expected, errors)[0], atol=1e-7)


def batch() -> Choices:
    labels = torch.stack([random(ROWS, seed=4).sign().relu(), random(ROWS, seed=5).abs()], dim=1)
    labels[::5] = float("nan")
    actions = random(ROWS, seed=6).abs().mul(2.0).long().clamp(max=ACTIONS - 1)
    observations, following = random(2, ROWS, INPUTS, seed=7)
    weights = random(ROWS, seed=9).sigmoid()
    return Choices(observations, following, actions, random(ROWS, seed=8), torch.full((ROWS,), 0.9), labels, weights)


def test_all_terms_of_the_loss_reach_the_weights_as_by_autograd() -> None:
    c = DqnCoefficients(
        widths=(16, 12),
        normalised=True,
        dueling=True,
        double=True,
        conservative=0.7,
        champion=2.0,
        champion_bound=0.0,
        heads=0.5,
        max_grad_norm=None,
        discount=0.9,
    )
    champion = build(INPUTS, replace(c, champion=0.0), actions=ACTIONS, seed=8, heads=HEADS).network
    dqn = build(INPUTS, c, actions=ACTIONS, seed=1, heads=HEADS, champion=champion)
    transitions = batch()
    network, parameters = dqn.network, list(dqn.network.parameters())
    values, heads = network.answers(transitions.observations)
    rows = torch.arange(ROWS)
    with torch.no_grad():  # the target still has the network's weights
        following = network.values(transitions.following)
        goals = transitions.rewards + 0.9 * following[rows, following.argmax(dim=1)]
        champion_values = champion.values(transitions.observations)
    huber = nn.functional.smooth_l1_loss(values[rows, transitions.actions], goals, reduction="none")
    assert transitions.weights is not None
    terms = [
        (transitions.weights * huber).mean(),
        conservative_loss(values, transitions.actions)[0],
        divergence(champion_values, values, 1.0)[0],
        head_loss(HEADS, heads, transitions.labels)[0],
    ]
    loss = terms[0] + 0.7 * terms[1] + 2.0 * terms[2] + 0.5 * terms[3]
    expected = torch.autograd.grad(loss, parameters)
    figures, errors = dqn.update(transitions)
    assert (
        largest([parameter.grad for parameter in parameters if parameter.grad is not None], list(expected)) < TOLERANCE
    )
    norm = torch.linalg.vector_norm(torch.cat([tensor.flatten() for tensor in expected]))
    assert figures.tolist() == pytest.approx(
        [
            float(term.detach())
            for term in (loss, errors.abs().mean(), values[rows, transitions.actions].mean(), norm, *terms[1:])
        ],
        rel=1e-5,
    )
