"""Bins, shares and the stability index: by hand, against scipy, and against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from strategies.kit.reference import chance_level, edges_of, histogram, psi, shares_of, usual_level


def test_deciles_of_a_hundred_numbers_are_every_tenth_one() -> None:
    assert edges_of(range(1, 101)) == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    assert shares_of(range(1, 101), edges_of(range(1, 101))).tolist() == [0.1] * 10


def test_a_value_on_an_edge_belongs_to_the_bin_below_it_and_the_outer_bins_are_open() -> None:
    assert shares_of([-1e9, 1.0, 1.5, 2.0, 1e9], (1.0, 2.0)).tolist() == [0.4, 0.4, 0.2]


def test_what_is_no_number_is_counted_in_the_last_bin() -> None:
    assert shares_of([0.0, float("nan")], (1.0, 2.0)).tolist() == [0.5, 0.0, 0.5]


def test_few_distinct_values_get_a_bin_each() -> None:
    assert edges_of([-1.0, 0.0, 1.0, 0.0]) == (-0.5, 0.5)


def test_one_value_alone_has_a_bin_for_itself_so_that_any_other_is_seen() -> None:
    edges = edges_of([3.0, 3.0])
    assert shares_of([3.0, 2.999, 3.001, 3.0], edges).tolist() == [0.25, 0.5, 0.25]


def test_a_value_that_most_rows_have_makes_fewer_bins_and_none_of_them_is_empty() -> None:
    values = [0.0] * 85 + list(range(1, 16))
    edges = edges_of(values)
    assert edges == (0.0, 5.0)  # the 90 % quantile is the 90th smallest
    assert shares_of(values, edges).tolist() == [0.85, 0.05, 0.10]


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no values"):
        shares_of([], (1.0,))


def test_the_index_by_hand() -> None:
    expected = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    assert float(psi([0.5, 0.5], [0.6, 0.4])) == pytest.approx(expected, abs=1e-15)


def test_an_empty_bin_counts_as_one_of_a_ten_thousandth() -> None:
    expected = (1.0 - 0.5) * math.log(2.0) + (0.0001 - 0.5) * math.log(0.0001 / 0.5)
    assert float(psi([0.5, 0.5], [1.0, 0.0])) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=2, max_size=12))
def test_the_index_is_the_sum_of_both_relative_entropies_and_never_negative(counts: list[tuple[int, int]]) -> None:
    one, other = (np.array(part) / sum(part) for part in zip(*counts, strict=True))
    index = float(psi(one, other))
    assert index == pytest.approx(stats.entropy(one, other) + stats.entropy(other, one), abs=1e-9)
    assert index >= 0.0


@pytest.mark.parametrize("bins", [2, 3, 6, 10, 16])
def test_the_level_of_chance_is_the_chi_square_quantile_to_a_hundredth(bins: int) -> None:
    expected = stats.chi2.ppf(0.99, bins - 1) * (1 / 500 + 1 / 40_000)
    assert chance_level(bins, 500, 40_000) == pytest.approx(expected, rel=0.01)


def test_two_samples_of_one_distribution_exceed_the_level_of_chance_about_once_in_a_hundred() -> None:
    random, shares, draws = np.random.default_rng(7), [0.1] * 10, 20_000
    one, other = random.multinomial(2000, shares, draws) / 2000, random.multinomial(5000, shares, draws) / 5000
    beyond = float((psi(one, other) > chance_level(10, 5000, 2000)).mean())
    assert beyond == pytest.approx(0.01, abs=0.003)  # its own error is 0.0007


def test_one_bin_cannot_drift() -> None:
    assert chance_level(1, 500, 500) == 0.0


def test_what_is_usual_is_told_by_the_longest_window_not_beyond_the_rows() -> None:
    within = ((60, 0.5), (125, 0.25), (250, 0.125))
    assert [usual_level(within, rows) for rows in (59, 60, 249, 10_000)] == [0.0, 0.5, 0.25, 0.125]
    assert usual_level((), 500) == 0.0


def test_a_histogram_keeps_rounded_shares_its_columns_and_how_far_its_parts_are() -> None:
    values = np.repeat([0.0, 1.0], 120)[:, None]  # 240 rows: the first half one value, the second the other
    distribution = histogram("regime", values, columns=(4,), of_the_desk=True)
    assert (distribution.name, distribution.edges, distribution.shares, distribution.columns) == (
        "regime",
        (0.5,),
        (0.5, 0.5),
        (4,),
    )
    assert distribution.of_the_desk
    ((length, level),) = distribution.within  # four windows of 60 fit side by side, none of 125
    assert length == 60
    assert level == pytest.approx(float(psi([0.5, 0.5], [1.0, 0.0])), abs=1e-6)


def test_too_short_a_sample_says_nothing_of_its_parts() -> None:
    assert histogram("few", np.arange(239.0)[:, None]).within == ()


def test_values_of_several_columns_are_pooled() -> None:
    distribution = histogram("pair", np.array([[1.0, 2.0], [1.0, 3.0]]), edges=(1.5, 2.5))
    assert distribution.shares == (0.5, 0.25, 0.25)
