"""Both agents come within a twentieth of the best policy, which linear-quadratic control gives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.support.rl.planted_sizing import BANDIT, INPUTS, MDP, PlantedSizing, Sizing, best_rule, share_of_optimum
from tests.support.rl.trained import train_agent
from training.rl.kernels import use_fast_float32
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import make_deterministic

QUICK = OffPolicyCoefficients(
    learning_rate=3e-3,
    schedule="linear",
    environments=64,
    batch=512,
    gradient_steps=2,
    per_transitions=64,
    learning_starts=1024,
    smoothing=0.02,
    actor_delay=2,
    reward_scale=10.0,
    actor_widths=(32, 32),
    critic_widths=(48, 48),
    normalised=True,
)


def test_the_best_rule_without_costs_is_the_signal_over_the_risk() -> None:
    assert best_rule(BANDIT) == pytest.approx((BANDIT.gain / BANDIT.risk, 0.0))


def test_the_best_rule_is_a_maximum() -> None:
    of_signal, of_held = best_rule(MDP)
    for a, b in ((0.03, 0.0), (-0.03, 0.0), (0.0, 0.08), (0.0, -0.08)):
        assert 0.9 < share_of_optimum(MDP, partial(linear, of_signal + a, of_held + b)) < 0.9999


def linear(of_signal: float, of_held: float, observed: torch.Tensor) -> torch.Tensor:
    return of_signal * observed[:, :1] + of_held * observed[:, 1:2]


@pytest.mark.parametrize(
    ("name", "precision", "sizing"),
    [
        pytest.param("sac", "float32", BANDIT, id="sac-bandit"),
        pytest.param("td3", "float32", BANDIT, id="td3-bandit"),
        pytest.param("sac", "float32", MDP, id="sac-mdp"),
        pytest.param("td3", "float32", MDP, id="td3-mdp"),
        pytest.param("sac", "bf16", MDP, id="sac-mdp-bf16"),
    ],
)
def test_an_agent_earns_95_percent_of_the_optimum(name: str, precision: str, sizing: Sizing) -> None:
    make_deterministic()
    use_fast_float32()  # as a run does
    c = replace(QUICK, discount=sizing.discount)
    agent = build(name, INPUTS, c, seed=1, precision=precision)
    trainer = OffPolicyTrainer(agent, PlantedSizing(sizing, c.environments, 1), c, total_steps=40_000, seed=1)
    train_agent(trainer)
    assert share_of_optimum(sizing, agent.actor) >= 0.95


def test_the_exported_actor_answers_within_the_bounds_and_prepares_by_itself() -> None:
    class Halved(torch.nn.Module):
        def forward(self, raw: torch.Tensor) -> torch.Tensor:
            return 0.5 * raw

    for name in ("sac", "td3"):
        actor = build(name, INPUTS, QUICK, seed=1, scaling=Halved()).actor
        raw = 100.0 * torch.randn(50, INPUTS, generator=torch.Generator().manual_seed(1))
        actions = actor(raw).detach()
        assert actions.shape == (50, 1)
        assert float(actions.abs().max()) <= 1.0
        assert torch.equal(actions, actor.mean(0.5 * raw).detach().tanh())
