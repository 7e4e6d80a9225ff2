"""Short cash in proportion: against exact fractions, against the paper broker's reservation, and by hand."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.desks.shares.sizes import fractions_fit, share_out, slack, step_cost, units_a_usd, whole_units

BUYS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**10)), min_size=1, max_size=12)


def by_fractions(counts: list[int], costs: list[int], available: int) -> list[Fraction]:
    """What each buy would keep if shares were endlessly fine."""
    needed = sum(count * cost for count, cost in zip(counts, costs, strict=True))
    part = Fraction(max(available, 0), needed) if needed > max(available, 0) else Fraction(1)
    return [count * part for count in counts]


@given(buys=BUYS, available=st.integers(-(10**9), 10**17), per_share=st.sampled_from([1, 10_000]))
def test_it_never_costs_more_than_there_is_and_no_count_grows(
    buys: list[tuple[int, int]], available: int, per_share: int
) -> None:
    counts, costs = map(list, zip(*buys, strict=True))
    new_counts = share_out(counts, costs, available, per_share)
    assert all(0 <= now <= count for now, count in zip(new_counts, counts, strict=True))
    total_cost = sum(count * cost for count, cost in zip(new_counts, costs, strict=True))
    assert total_cost <= max(available, 0)
    if sum(count * cost for count, cost in zip(counts, costs, strict=True)) <= available:
        assert new_counts == counts


@given(buys=BUYS, share=st.floats(0.0, 1.2), per_share=st.sampled_from([1, 10_000]))
def test_every_buy_keeps_the_same_part_but_for_one_share(
    buys: list[tuple[int, int]], share: float, per_share: int
) -> None:
    counts, costs = map(list, zip(*buys, strict=True))
    needed = sum(count * cost for count, cost in zip(counts, costs, strict=True))
    available = floor(Fraction(share) * needed)
    cent = units_a_usd(per_share) // 100
    for now, ideal, count in zip(
        share_out(counts, costs, available, per_share), by_fractions(counts, costs, available), counts, strict=True
    ):
        grain = count * (Fraction(1, 2**20) + (Fraction(2 * cent, needed) if needed else 0))  # of the part itself
        assert ideal - 1 - grain < now < ideal + 1
        assert per_share == 1 or now <= ideal


@given(buys=BUYS, share=st.floats(0.0, 1.0))
def test_what_is_left_over_buys_no_further_share_with_a_larger_remainder(
    buys: list[tuple[int, int]], share: float
) -> None:
    """By brute force: a buy that got none of what was left over could not be paid when its turn came."""
    counts, costs = map(list, zip(*buys, strict=True))
    needed = sum(count * cost for count, cost in zip(counts, costs, strict=True))
    available = floor(Fraction(share) * needed)
    new_counts = share_out(counts, costs, available)
    if new_counts == counts:
        return
    part = Fraction(available // 10_000 * 2**20 // -(-needed // 10_000), 2**20)
    base = [floor(count * part) for count in counts]
    cash = available - sum(count * cost for count, cost in zip(base, costs, strict=True))
    order = sorted(range(len(counts)), key=lambda place: (base[place] - counts[place] * part, place))
    for place in order:
        if counts[place] and costs[place] <= cash:
            cash -= costs[place]
            base[place] += 1
    assert new_counts == base


def test_three_stocks_and_too_little_money_by_hand() -> None:
    usd = 10**6
    # 10 x 100 + 10 x 50 + 4 x 25 = 1,600 USD are wanted and 800 are there: half of each
    assert share_out([10, 10, 4], [100 * usd, 50 * usd, 25 * usd], 800 * usd) == [5, 5, 2]
    # 790: the part is 0.49375; 4, 4 and 1 cost 625, and the 165 left go to 0.975 (C), 0.9375 (A); B costs too much then
    assert share_out([10, 10, 4], [100 * usd, 50 * usd, 25 * usd], 790 * usd) == [5, 4, 2]
    assert share_out([1, 1], [60 * usd, 60 * usd], 60 * usd) == [1, 0]  # a tie goes to the first
    assert share_out([3, 3], [60 * usd, 60 * usd], 0) == [0, 0]
    assert share_out([100_000, 5_000], [1_000_000, 2_000_000], 55_000 * 10**6, 10_000) == [50_000, 2_500]


@given(
    buys=st.lists(st.tuples(st.integers(1, 10**8), st.integers(1, 5 * 10**7)), min_size=1, max_size=6),
    rate=st.sampled_from(["0", "0.0001", "0.0005", "0.001", "0.0003"]),
    per_share=st.sampled_from([1, 10_000]),
    share=st.floats(0.0, 1.5),
)
def test_the_reservations_of_the_orders_are_covered(
    buys: list[tuple[int, int]], rate: str, per_share: int, share: float
) -> None:
    """Each order reserves its limit and its cost rounded up to 1e-6 USD, one after the other."""
    counts = [count for count, _ in buys]
    limits = [Decimal(ticks) / 10_000 for _, ticks in buys]
    costs = [step_cost(limit, Decimal(rate), per_share) for limit in limits]
    needed = sum(count * cost for count, cost in zip(counts, costs, strict=True))
    cash = Decimal(floor(Fraction(share) * needed)) / units_a_usd(per_share)
    available = whole_units(cash, per_share) - slack(per_share) * len(buys)
    for count, limit in zip(share_out(counts, costs, available, per_share), limits, strict=True):
        amount = limit * count / per_share
        cash -= amount + (amount * Decimal(rate)).quantize(Decimal("0.000001"), ROUND_CEILING) if count else 0
    assert cash >= 0


@pytest.mark.parametrize(
    ("equity", "prices", "fits"),
    [
        (60_000.0, (1_000.0, 400.0, 0.0), False),  # a third is 20,000 USD: 20 shares of the dearest
        (59_999.0, (1_000.0, 400.0, 0.0), True),
        (1_000.0, (0.0, float("inf")), False),
        (0.0, (5.0,), True),
        (0.0, (), False),
    ],
)
def test_fractions_are_for_accounts_that_pay_for_few_shares(
    equity: float, prices: tuple[float, ...], fits: bool
) -> None:
    assert fractions_fit(equity, prices) is fits
