"""Short cash shared by buys on tensors: the same as the desk's own rule in whole numbers, to the last step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.desks.shares.sizes import share_out, units_a_usd
from strategies.kit.quantity import steps_of
from tests.support.examples import examples
from training.desks.daily.share_accounts import shared_steps


def rows(seed: int, per_share: int, most_usd: float) -> tuple[torch.Tensor, ...]:
    """Wants of 40 accounts with 1 to 50 symbols, their costs, and cash that mostly does not pay for all."""
    random = np.random.default_rng(seed)
    n, usd = int(random.integers(1, 51)), units_a_usd(per_share)
    price = np.exp(random.uniform(np.log(0.5), np.log(4000.0), (40, n)))
    step_cost = np.ceil(price * usd / per_share * 1.001)
    wishes = np.floor(np.exp(random.uniform(0.0, np.log(most_usd), (40, n))) / price * per_share)
    wishes[random.random((40, n)) < 0.3] = 0.0
    if seed % 2:  # equal wants at equal prices: ties
        wishes[:, :] = wishes[:, :1]
        step_cost[:, :] = step_cost[:, :1]
    needed = (wishes * step_cost).sum(1)
    free = np.floor(needed * random.random(40) ** 3 * 1.1)
    return tuple(torch.from_numpy(values) for values in (wishes, step_cost, free))


@pytest.mark.parametrize("per_share", [1, 10_000])
@given(seed=st.integers(0, 2**31), most_usd=st.sampled_from([50.0, 5_000.0, 200_000.0]))
@settings(max_examples=examples(40))
def test_the_tensors_share_cash_as_the_desk_does(per_share: int, seed: int, most_usd: float) -> None:
    wishes, step_cost, free = rows(seed, per_share, most_usd)
    steps = shared_steps(wishes, step_cost, free, per_share)
    for row in range(len(wishes)):
        counts, costs = ([int(value) for value in values[row].tolist()] for values in (wishes, step_cost))
        assert steps[row].tolist() == share_out(counts, costs, int(free[row]), per_share)


def test_a_row_that_wants_nothing_gets_nothing() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    step_cost, money = zeros + 5e6, torch.tensor([0.0, 7e6], dtype=torch.float64)
    assert torch.equal(shared_steps(zeros, step_cost, money, 1), zeros)


@given(shares=st.lists(st.one_of(st.floats(0, 1e6), st.integers(0, 10**10).map(lambda n: n / 10_000)), min_size=1))
def test_the_tensors_cut_to_steps_as_the_kit_does(shares: list[float]) -> None:
    from tests.support.training.made_up_days import trading, walk
    from training.desks.daily.markets.rebalancer import RebalancerMarket

    table = walk(5, seed=1)
    for per_share in (1, 10_000):
        market = RebalancerMarket(table, 2, 4, trading("10000", fractions=per_share > 1), count=1)
        steps = market._steps(torch.tensor(shares, dtype=torch.float64)).tolist()
        assert steps == [steps_of(value, per_share) for value in shares]
