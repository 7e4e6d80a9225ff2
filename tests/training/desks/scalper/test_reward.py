"""Both rewards against numbers worked by hand, and the property that makes the potential harmless."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.desks.scalper.market import potential, reference, skill, standing, trade_statistics


def _of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_350_on_10000_with_sharpe_a_half_win_rate_065_and_drawdown_a_tenth_is_048() -> None:
    terms = standing(skill(sharpe=_of(0.5), win_rate=_of(0.65)), drawdown=_of(0.1))
    assert float(reference(_of(350.0), 10_000.0, terms)) == pytest.approx(0.48, abs=1e-12)


def test_the_reference_pays_an_idle_agent_for_one_old_win_and_the_potential_does_not() -> None:
    one_win = standing(skill(sharpe=_of(0.0), win_rate=_of(1.0)), drawdown=_of(0.0))
    idle = _of(0.0)
    assert float(reference(idle, 10_000.0, one_win)) == pytest.approx(0.2)
    reward = potential(idle, 10_000.0, one_win, one_win, terminal=torch.tensor([False]), discount=1.0)
    assert float(reward) == 0.0


def test_a_potential_step_by_hand() -> None:
    step = potential(_of(50.0), 10_000.0, _of(0.1), _of(0.3), terminal=torch.tensor([False]), discount=0.99)
    assert float(step) == pytest.approx(0.05 + 0.297 - 0.1)
    last = potential(_of(50.0), 10_000.0, _of(0.1), _of(0.3), terminal=torch.tensor([True]), discount=0.99)
    assert float(last) == pytest.approx(0.05 - 0.1)


@given(
    steps=st.lists(
        st.tuples(st.floats(-500, 500), st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50
    )
)
def test_over_an_episode_the_potential_always_pays_the_discounted_change_of_equity_and_nothing_else(
    steps: list[tuple[float, float, float, float]],
) -> None:
    discount, total, expected, before = 0.99, 0.0, 0.0, _of(0.0)
    for index, (change, sharpe, win_rate, drawdown) in enumerate(steps):
        after = standing(skill(_of(sharpe), _of(win_rate)), _of(drawdown))
        terminal = torch.tensor([index == len(steps) - 1])
        reward = potential(_of(change), 10_000.0, before, after, terminal=terminal, discount=discount)
        total += discount**index * float(reward)
        expected += discount**index * 10.0 * change / 10_000.0
        before = after
    assert total == pytest.approx(expected, abs=1e-9)


def test_sharpe_and_win_rate_of_five_trades_are_those_of_the_statistics_module() -> None:
    trades = [0.10, -0.05, 0.20, -0.30, 0.15]
    ring = torch.zeros(1, 20, dtype=torch.float64)
    ring[0, :5] = _of(*trades)
    sharpe, win_rate = trade_statistics(ring, torch.tensor([5]))
    assert float(sharpe) == pytest.approx(statistics.mean(trades) / statistics.stdev(trades))
    assert float(win_rate) == pytest.approx(3 / 5)


def test_sharpe_is_zero_below_five_trades_and_for_equal_ones_and_never_beyond_two() -> None:
    ring = torch.zeros(3, 20, dtype=torch.float64)
    ring[0, :4] = _of(0.1, 0.2, 0.3, 0.4)
    ring[1, :5] = 0.5
    ring[2, :5] = _of(1.0, 1.0, 1.0, 1.0, 1.01)
    sharpe, win_rate = trade_statistics(ring, torch.tensor([4, 5, 5]))
    assert sharpe.tolist() == [0.0, 0.0, 2.0]
    assert win_rate.tolist() == [1.0, 1.0, 1.0]


def test_only_the_last_twenty_trades_count() -> None:
    ring = torch.full((1, 20), -0.1, dtype=torch.float64)
    ring[0, :5] = 0.2  # trades 21 to 25 overwrote the first five
    _, win_rate = trade_statistics(ring, torch.tensor([25]))
    assert float(win_rate) == pytest.approx(5 / 20)


def test_without_a_trade_there_is_neither_sharpe_nor_win_rate() -> None:
    sharpe, win_rate = trade_statistics(torch.zeros(1, 20, dtype=torch.float64), torch.tensor([0]))
    assert (float(sharpe), float(win_rate)) == (0.0, 0.0)
