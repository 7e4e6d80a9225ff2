"""Both learners come to the known values of a small MDP; goals, terms and heads by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.rl.tabular import ACTIONS, STATES, Tabular
from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients
from training.rl.dqn.dqn import Dqn, DqnTrainer, conservative_loss, divergence
from training.rl.dqn.networks import Head, QNetwork, explore, head_loss
from training.rl.dqn.pqn import PqnTrainer, trace_returns
from training.rl.dqn.presets import RECIPES, build, build_pqn
from training.rl.dqn.replay import Choices
from training.rl.ppo import make_deterministic

QUICK = DqnCoefficients(
    learning_rate=5e-3,
    schedule="linear",
    discount=0.8,
    environments=128,
    batch=512,
    gradient_steps=1,
    per_transitions=128,
    learning_starts=512,
    capacity=50_000,
    target_every=1,
    smoothing=0.05,
    widths=(32, 32),
    reward_scale=0.1,  # differences stay below 1: above, Huber's loss learns medians rather than means
    epsilon=1.0,
)


def worst(network: QNetwork, scale: float = 1.0) -> float:
    """The largest difference from Q* over all states and actions, of values of rewards times `scale`."""
    with torch.no_grad():
        values = network.values(torch.eye(STATES)) / scale
    return float(np.abs(values.numpy() - Tabular(1, 1).best_values()).max())


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="plain"),
        pytest.param({"double": True, "dueling": True, "priority": 0.5, "normalised": True}, id="all"),
    ],
)
def test_dqn_learns_the_known_values_of_a_small_mdp(more: dict[str, Any]) -> None:
    make_deterministic()
    c = replace(QUICK, **more)
    trainer = DqnTrainer(build(STATES, c, actions=ACTIONS, seed=1), Tabular(128, 1), c, total_steps=80_000, seed=1)
    while not trainer.done:
        trainer.update()
    assert worst(trainer.dqn.network, c.reward_scale) < 0.15


def test_dqn_with_returns_over_three_steps_comes_to_the_best_choices() -> None:
    make_deterministic()
    c = replace(QUICK, returns=3, epsilon=0.1, epsilon_share=0.5)
    trainer = DqnTrainer(build(STATES, c, actions=ACTIONS, seed=1), Tabular(128, 1), c, total_steps=80_000, seed=1)
    while not trainer.done:
        trainer.update()
    with torch.no_grad():
        choices = trainer.dqn.network.values(torch.eye(STATES)).argmax(dim=1).numpy()
    values = Tabular(1, 1).best_values()
    assert np.allclose(values[np.arange(STATES), choices], values.max(axis=1), atol=0.1)


def test_pqn_learns_the_known_values_of_a_small_mdp() -> None:
    make_deterministic()
    c = PqnCoefficients(
        learning_rate=3e-3,
        discount=0.8,
        trace=0.0,  # values of the best policy whatever is tried
        environments=64,
        rollout_steps=16,
        batch=256,
        widths=(32, 32),
        epsilon=1.0,
    )
    trainer = PqnTrainer(build_pqn(STATES, c, actions=ACTIONS, seed=1), Tabular(64, 1), c, total_steps=150_000, seed=1)
    while not trainer.done:
        trainer.update()
    assert worst(trainer.pqn.network) < 0.15


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers).unsqueeze(1)


def test_goals_with_a_trace_are_those_worked_out_by_hand() -> None:
    rewards, after = column(1.0, 2.0, 3.0), column(10.0, 20.0, 30.0)
    going_on = torch.zeros(3, 1, dtype=torch.bool)
    # G_2 = 3 + 0.5 x 30 = 18; G_1 = 2 + 0.5 x (0.4 x 18 + 0.6 x 20) = 11.6;
    # G_0 = 1 + 0.5 x (0.4 x 11.6 + 0.6 x 10) = 6.32
    returns = trace_returns(rewards, going_on, after, discount=0.5, trace=0.4)
    assert returns.flatten().tolist() == pytest.approx([6.32, 11.6, 18.0])
    # without a trace: r + 0.5 V; with a whole one the discounted sum, and V after the last step
    without = trace_returns(rewards, going_on, after, discount=0.5, trace=0.0)
    assert without.flatten().tolist() == pytest.approx([6.0, 12.0, 18.0])
    whole = trace_returns(rewards, going_on, after, discount=0.5, trace=1.0)
    assert whole.flatten().tolist() == pytest.approx([1 + 0.5 * (2 + 0.5 * 18), 2 + 0.5 * 18, 18.0])


def test_goals_do_not_reach_over_an_episode_s_end() -> None:
    rewards, ends = column(1.0, 2.0, 3.0), torch.tensor([[True], [True], [False]])
    after = column(0.0, 20.0, 30.0)  # the first ended truly, the second at a time limit with the value 20
    returns = trace_returns(rewards, ends, after, discount=0.5, trace=0.4)
    assert returns.flatten().tolist() == pytest.approx([1.0, 12.0, 18.0])


def batch(network_inputs: int = 2, rows: int = 16) -> Choices:
    g = torch.Generator().manual_seed(2)
    observations, following = torch.randn(2, rows, network_inputs, generator=g)
    actions = torch.randint(3, (rows,), generator=g)
    return Choices(
        observations, following, actions, torch.randn(rows, generator=g), torch.full((rows,), 0.9), torch.empty(rows, 0)
    )


def test_a_double_goal_takes_the_target_s_value_of_the_network_s_choice() -> None:
    for double in (False, True):
        dqn = build(2, replace(QUICK, double=double), actions=3, seed=1)
        with torch.no_grad():
            for layers, biases in ((dqn.network, [0.0, 5.0, 1.0]), (dqn.target, [7.0, 2.0, 4.0])):
                layers.advantages.weights[0].zero_()
                layers.advantages.biases[0].copy_(torch.tensor(biases))
        transitions = batch()
        _, errors = dqn.update(transitions)
        values = torch.tensor([0.0, 5.0, 1.0])[transitions.actions]
        goal = transitions.rewards + 0.9 * (2.0 if double else 7.0)
        assert torch.allclose(errors, values - goal)


def test_two_streams_are_a_value_and_advantages_whose_mean_is_left_out() -> None:
    network = QNetwork(2, (4,), actions=3, seed=1, dueling=True)
    assert network.value is not None
    with torch.no_grad():
        for layers, biases in ((network.value, [5.0]), (network.advantages, [1.0, 2.0, 6.0])):
            layers.weights[0].zero_()
            layers.biases[0].copy_(torch.tensor(biases))
    assert network.values(torch.zeros(1, 2)).tolist() == [[3.0, 4.0, 8.0]]  # 5 + (1, 2, 6) - 3


def test_each_stream_is_normalised_by_itself() -> None:
    network = QNetwork(2, (64,), actions=3, seed=1, dueling=True, normalised=True)
    hidden = network._hidden(torch.randn(5, 2), torch.float32).detach()
    assert hidden.shape == (5, 2, 64)
    mean_square = hidden.square().mean(dim=2)  # of a normalised half: about a half
    assert float((mean_square - 0.5).abs().max()) < 0.35


def test_the_conservative_term_is_that_worked_out_by_hand() -> None:
    values = torch.tensor([[0.0, math.log(3.0)], [1.0, 1.0]])
    # ln(1 + 3) - ln 3 and ln(2 e) - 1 = ln 2
    expected = (math.log(4.0) - math.log(3.0) + math.log(2.0)) / 2.0
    assert float(conservative_loss(values, torch.tensor([1, 0]))[0]) == pytest.approx(expected)


def test_the_divergence_from_the_champion_is_that_worked_out_by_hand() -> None:
    champion, values = torch.tensor([[0.0, 2.0 * math.log(3.0)]]), torch.tensor([[0.0, 0.0]])
    # at temperature 2: (1/4, 3/4) against (1/2, 1/2)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(divergence(champion, values, 2.0)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(divergence(values, values, 1.0)[0]) == 0.0


def train_dqn(c: DqnCoefficients, champion: QNetwork | None, steps: int = 300) -> Dqn:
    dqn = build(2, c, actions=3, seed=5, champion=champion)
    transitions = batch()
    for _ in range(steps):
        dqn.update(transitions)
    return dqn


def test_a_learner_stays_within_its_bound_of_the_champion() -> None:
    champion = QNetwork(2, QUICK.widths, actions=3, seed=5)
    free = train_dqn(QUICK, None)
    careful = train_dqn(replace(QUICK, champion=100.0, champion_bound=0.01), champion)
    observations = batch().observations
    with torch.no_grad():
        champion_values = champion.values(observations)
        far, near = (
            float(divergence(champion_values, value.network.values(observations), 1.0)[0]) for value in (free, careful)
        )
    assert near < 0.02 < far
    assert careful.figures[-1] == "divergence"


def test_the_conservative_term_lowers_what_was_not_tried() -> None:
    free, careful = train_dqn(QUICK, None), train_dqn(replace(QUICK, conservative=1.0), None)
    transitions = batch()
    with torch.no_grad():
        gaps = [
            float(conservative_loss(value.network.values(transitions.observations), transitions.actions)[0])
            for value in (free, careful)
        ]
    assert gaps[1] < 0.5 * gaps[0]


HEADS = (Head("direction", "probability"), Head("risk", "positive", 0.01))


def test_heads_losses_are_those_worked_out_by_hand_and_unknown_labels_do_not_count() -> None:
    raw = torch.tensor([[math.log(3.0), 0.0], [0.0, 1.0], [2.0, 0.0]])
    labels = torch.tensor([[1.0, 0.02], [0.0, float("nan")], [float("nan"), float("nan")]])
    # -ln(3/4) and -ln(1/2), their mean; (ln 2 - 2)^2 / 2
    expected = (-math.log(0.75) - math.log(0.5)) / 2.0 + 0.5 * (math.log(2.0) - 2.0) ** 2
    assert float(head_loss(HEADS, raw, labels)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(head_loss(HEADS, raw, torch.full((3, 2), float("nan")))[0]) == 0.0


def test_heads_learn_probabilities_and_sizes() -> None:
    make_deterministic()
    dqn = build(1, replace(QUICK, learning_rate=1e-2), actions=3, seed=1, heads=HEADS)
    g = torch.Generator().manual_seed(1)
    for _ in range(400):
        sign = torch.where(torch.rand(256, generator=g) < 0.5, 1.0, -1.0)
        rises = (torch.rand(256, generator=g) < 0.5 + 0.3 * sign).float()
        excursion = 0.02 + 0.01 * sign + 0.002 * torch.randn(256, generator=g)
        rows = sign.unsqueeze(1)
        dqn.update(
            Choices(
                rows,
                rows,
                torch.zeros(256, dtype=torch.int64),
                sign,
                torch.zeros(256),
                torch.stack([rises, excursion], dim=1),
            )
        )
    q, direction, risk = dqn.network(torch.tensor([[1.0], [-1.0]]))
    assert q.shape == (2, 3)
    assert direction.tolist() == pytest.approx([0.8, 0.2], abs=0.05)
    assert risk.tolist() == pytest.approx([0.03, 0.01], abs=0.002)


def test_a_share_of_actions_is_uniform() -> None:
    values = torch.tensor([[0.0, 1.0, 0.0]]).expand(60_000, -1)
    shares = torch.bincount(explore(values, 0.3, torch.Generator().manual_seed(1)), minlength=3) / 60_000
    assert shares.tolist() == pytest.approx([0.1, 0.8, 0.1], abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"schedule": "steep"}, "schedule is 'steep'"),
        ({"batch": 0}, "batch is 0: expected at least 1"),
        ({"capacity": 4}, "capacity is 4"),
        ({"widths": ()}, "widths is"),
        ({"epsilon": 0.5, "epsilon_start": 0.1}, "epsilon is 0.5 and epsilon_start 0.1"),
        ({"priority": 1.5}, "priority is 1.5: expected 0 to 1"),
        ({"champion": 1.0}, "champion is 1.0: expected 0 without a champion"),
    ],
)
def test_coefficients_of_dqn_that_do_not_fit_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(2, replace(QUICK, **wrong), actions=3, seed=1)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"trace": 1.1}, "trace is 1.1: expected 0 to 1"),
        ({"batch": 1000}, "batch is 1000: expected a divisor of rollout_steps x environments, 4096"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_coefficients_of_pqn_that_do_not_fit_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build_pqn(2, replace(PqnCoefficients(), **wrong), actions=3, seed=1)


def test_an_unknown_precision_and_an_unknown_kind_of_head_are_refused() -> None:
    with pytest.raises(ValueError, match="precision is 'int8'"):
        build(2, RECIPES["online"], actions=3, seed=1, precision="int8")
    with pytest.raises(ValueError, match="a head's kind is 'rank': expected one of probability, positive"):
        QNetwork(2, (4,), actions=3, seed=1, heads=(Head("x", "rank"),))
