"""Returns over several steps by hand, frequencies and weights of prioritised draws by their formula, the sum tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.rl.dqn.replay import SMALLEST, ChoiceReplay, Choices, OneStep, Returns, SumTree


def step(number: float, *, reward: float = 0.0, end: str = "") -> OneStep:
    """A step from the observation `number` to `number` + 1, of one environment; `end` is "", "true" or "limit"."""
    return OneStep(
        torch.tensor([[number]]),
        torch.tensor([int(number)]),
        torch.tensor([reward]),
        torch.tensor([[number + 1.0]]),
        torch.tensor([float(end != "true")]),
        torch.tensor([end != ""]),
        torch.empty(1, 0),
    )


def summed(returns: Returns, *steps: OneStep) -> list[tuple[float, float, float, float]]:
    """Observation, reward, discount and what follows of each transition."""
    results = [returns.add(row) for row in steps]
    return [
        (float(c.observations), float(c.rewards), float(c.discounts), float(c.following))
        for c in results
        if c is not None
    ]


def test_rewards_of_three_steps_are_summed_by_hand() -> None:
    steps = [step(0, reward=1.0), step(1, reward=2.0), step(2, reward=4.0), step(3, reward=8.0)]
    # 1 + 0.5 x 2 + 0.25 x 4 = 3 and what follows after three steps; 2 + 0.5 x 4 + 0.25 x 8 = 6
    assert summed(Returns(3, 0.5), *steps) == [(0.0, 3.0, 0.125, 3.0), (1.0, 6.0, 0.125, 4.0)]


def test_no_reward_after_an_end_is_counted() -> None:
    steps = [step(0, reward=1.0), step(1, reward=2.0, end="true"), step(10, reward=4.0), step(11, reward=8.0)]
    sums = summed(Returns(3, 0.5), *steps)
    assert sums[0] == (0.0, 2.0, 0.0, 2.0)  # 1 + 0.5 x 2, and nothing follows
    assert sums[1] == (1.0, 2.0, 0.0, 2.0)


def test_after_a_time_limit_the_value_of_what_was_there_counts() -> None:
    steps = [step(0, reward=1.0), step(1, reward=2.0, end="limit"), step(10, reward=4.0), step(11)]
    sums = summed(Returns(3, 0.5), *steps)
    assert sums[0] == (0.0, 2.0, 0.25, 2.0)
    assert sums[1] == (1.0, 2.0, 0.5, 2.0)


def test_one_step_is_the_step_itself() -> None:
    assert summed(Returns(1, 0.5), step(0, reward=1.5)) == [(0.0, 1.5, 0.5, 1.0)]


def test_a_sum_tree_finds_what_a_running_sum_finds() -> None:
    generator = np.random.default_rng(1)
    numbers = generator.random(37) * (generator.random(37) < 0.7)
    tree = SumTree(37)
    tree[np.arange(37)] = numbers
    assert tree.total == pytest.approx(numbers.sum())
    sums = generator.random(1000) * tree.total
    assert tree.find(sums).tolist() == np.searchsorted(np.cumsum(numbers), sums, side="right").tolist()


def test_a_sum_tree_never_finds_what_is_zero() -> None:
    tree = SumTree(4)
    tree[np.array([1])] = np.array([0.3])
    assert tree.find(np.array([0.0, 0.3, 0.5])).tolist() == [1, 1, 1]  # the last two by rounding alone


def numbered(first: int, count: int) -> Choices:
    """Transitions whose numbers say which one it is."""
    n = torch.arange(first, first + count, dtype=torch.float32)
    return Choices(n.unsqueeze(1), n.unsqueeze(1) + 0.5, n.long() % 3, -n, 0.5 * n, n.unsqueeze(1) + 100.0)


def full_replay(priority: float, count: int = 8) -> ChoiceReplay:
    replay = ChoiceReplay(count, 2, 1, heads=1, priority=priority)
    for first in range(0, count, 2):
        replay.add(numbered(first, 2))
    return replay


def frequencies(replay: ChoiceReplay, draws: int = 200_000) -> Tensor:
    sample = replay.sample(draws, torch.Generator().manual_seed(1))
    return torch.bincount(sample.observations.flatten().long(), minlength=8) / draws


ERRORS = torch.tensor([0.0, 0.5, -1.0, 2.0, 0.1, 4.0, -0.2, 0.3])


@pytest.mark.parametrize("priority", [0.5, 1.0])
def test_frequencies_are_those_of_the_formula(priority: float) -> None:
    replay = full_replay(priority)
    replay.reprioritise(torch.arange(8), ERRORS)
    expected = (ERRORS.abs() + SMALLEST) ** priority  # P(i) = p_i^alpha / sum p^alpha, p = |error| + a little
    assert torch.allclose(frequencies(replay), expected / expected.sum(), atol=1e-4)


def test_without_priorities_all_are_as_likely() -> None:
    replay = full_replay(0.0)
    replay.reprioritise(torch.arange(8), ERRORS)
    assert torch.allclose(frequencies(replay), torch.full((8,), 0.125), atol=3e-3)


def test_weights_undo_the_priorities() -> None:
    replay = full_replay(1.0)
    replay.reprioritise(torch.arange(8), ERRORS)
    sample = replay.sample(64, torch.Generator().manual_seed(1), importance=0.5)
    assert sample.places is not None
    chances = ERRORS.abs()[sample.places] / ERRORS.abs().sum()
    expected = (8 * chances) ** -0.5  # w = (N P)^-beta, over the largest
    assert sample.weights is not None
    assert torch.allclose(sample.weights, expected / expected.max(), atol=1e-3)


def test_a_new_transition_is_as_likely_as_the_likeliest_so_far() -> None:
    replay = ChoiceReplay(8, 2, 1, heads=1, priority=1.0)
    replay.add(numbered(0, 2))
    replay.reprioritise(torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))
    replay.add(numbered(2, 2))
    assert torch.allclose(frequencies(replay)[:4], torch.tensor([0.3, 0.1, 0.3, 0.3]), atol=1e-3)


def test_a_drawn_row_keeps_together_what_belongs_together() -> None:
    sample = full_replay(0.7).sample(50, torch.Generator().manual_seed(1))
    n = sample.observations.squeeze(1)
    assert torch.equal(sample.following.squeeze(1), n + 0.5)
    assert torch.equal(sample.actions, n.long() % 3)
    assert torch.equal(sample.rewards, -n)
    assert torch.equal(sample.discounts, 0.5 * n)
    assert torch.equal(sample.labels.squeeze(1), n + 100.0)
    assert sample.places is not None
    assert torch.equal(sample.places, n.long())


def test_the_oldest_rows_are_replaced_first() -> None:
    replay = full_replay(1.0)
    replay.add(numbered(8, 2))
    assert set(replay.sample(500, torch.Generator().manual_seed(1)).observations.flatten().tolist()) == set(
        range(2, 10)
    )


@pytest.mark.parametrize("priority", [0.0, 0.6])
def test_a_replay_goes_on_from_its_state(priority: float) -> None:
    replay, other = full_replay(priority), ChoiceReplay(8, 2, 1, heads=1, priority=priority)
    replay.reprioritise(torch.arange(8), ERRORS)
    other.load_state_dict(replay.state_dict())
    for buffer in (replay, other):
        buffer.add(numbered(20, 2))
    first, second = (buffer.sample(300, torch.Generator().manual_seed(1)) for buffer in (replay, other))
    assert torch.equal(first.observations, second.observations)
    if not priority:  # each as likely as any other: nothing is to be undone
        assert first.weights is None is second.weights
        return
    assert first.weights is not None
    assert second.weights is not None
    assert torch.equal(first.weights, second.weights)


def test_an_error_that_is_not_finite_changes_no_priority() -> None:
    replay = full_replay(1.0)
    before = frequencies(replay)
    replay.reprioritise(torch.tensor([0, 1]), torch.tensor([float("nan"), 5.0]))
    assert torch.equal(frequencies(replay), before)
