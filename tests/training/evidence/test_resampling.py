"""Intervals against theory, other libraries and hand calculation; the same seed always gives the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from training.evidence.resampling import (
    STATISTICS,
    block_length,
    improvement_probability,
    interquartile_mean,
    interval,
    paired_difference,
    pooled_intervals,
    resamples,
    seeds_interval,
)
from training.evidence.statistics import Series, sharpe


def _series(seed: int, sessions: int = 120) -> Series:
    return np.random.default_rng(seed).standard_t(4, size=sessions) * 0.01 + 0.001


DEGENERATE = [np.zeros(20), np.array([0.01]), np.full(20, 0.1), np.full(7, -0.3)]


@pytest.mark.parametrize("returns", DEGENERATE, ids=["all zero", "one session", "constant gain", "constant loss"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_series_without_deviation_has_an_interval_of_no_width_and_a_note(returns: Series, statistic: str) -> None:
    estimate = interval(returns, statistic)
    expected = {"mean": returns[0], "sum": returns[0] * len(returns), "sharpe": 0.0}[statistic]
    assert (estimate.low, estimate.estimate, estimate.high) == pytest.approx((expected, expected, expected))
    assert estimate.note
    assert (sharpe(returns), block_length(returns)) == (0.0, 1.0)


@given(
    returns=some.lists(some.sampled_from([-0.03, -0.01, 0.0, 0.0, 0.02]), min_size=1, max_size=30),
    seed=some.integers(0, 9),
)
def test_an_interval_is_always_finite_and_in_order(returns: list[float], seed: int) -> None:
    for statistic in STATISTICS:
        estimate = interval(np.array(returns), statistic, seed=seed)
        assert math.isfinite(estimate.estimate)
        assert -math.inf < estimate.low <= estimate.high < math.inf


@pytest.mark.parametrize("block", [1.0, 4.5])
def test_resampled_means_deviate_as_politis_and_romano_say(block: float) -> None:
    steps = np.random.default_rng(5).normal(size=60)
    values = steps + 0.8 * np.roll(steps, 1)
    index = resamples(60, block, 20_000, np.random.default_rng(6))
    centred, keep = values - values.mean(), 1.0 - 1.0 / block
    variance = float(centred @ centred) / 60  # lemma 1 of their paper
    for lag in range(1, 60):
        weight = (1 - lag / 60) * keep**lag + lag / 60 * keep ** (60 - lag)
        variance += 2 * weight * float(centred[:-lag] @ centred[lag:]) / 60
    assert values[index].mean(axis=1).var() == pytest.approx(variance / 60, rel=0.05)
    follows = (index[:, 1:] == (index[:, :-1] + 1) % 60).mean()
    assert follows == pytest.approx(keep + (1 - keep) / 60, abs=0.005)
    assert np.bincount(index.ravel(), minlength=60).std() < 0.05 * index.size / 60  # every session equally often


def test_the_interval_of_a_mean_is_close_to_that_of_the_normal_distribution() -> None:
    returns = np.random.default_rng(7).normal(0.001, 0.01, size=400)
    estimate = interval(returns, seed=1)
    half = 1.96 * returns.std() / 20.0
    assert (estimate.low, estimate.high) == pytest.approx(
        (returns.mean() - half, returns.mean() + half), abs=0.15 * half
    )
    assert estimate.note == ""


def test_the_same_seed_gives_the_same_interval_and_the_sum_is_the_mean_of_all_sessions() -> None:
    returns = _series(8, 25)
    mean, total = interval(returns, "mean", seed=3), interval(returns, "sum", seed=3)
    assert mean == interval(returns, "mean", seed=3)
    assert (total.low, total.high) == pytest.approx((mean.low * 25, mean.high * 25))
    assert interval(returns, "mean", seed=4) != mean
    assert "25 sessions are few" in mean.note


def test_blocks_grow_with_the_memory_of_a_series() -> None:
    noise = np.random.default_rng(9).normal(size=500)
    slow = np.convolve(noise, np.ones(10), mode="valid")
    assert block_length(slow) > 5.0 > block_length(noise) >= 1.0
    assert block_length(noise[:8]) == pytest.approx(2.0)  # too few to tell: their cube root


def test_what_both_players_share_leaves_the_paired_difference() -> None:
    market = _series(10, 60) * 5.0
    edge = np.random.default_rng(11).normal(0.002, 0.001, size=60)
    paired, alone = paired_difference(market + edge, market), interval(market + edge)
    assert paired.low > 0.0 > alone.low
    assert paired.estimate == pytest.approx(float(edge.mean()))
    ratio = paired_difference(market + edge, market, "sharpe")
    assert ratio.estimate == pytest.approx(sharpe(market + edge) - sharpe(market))
    assert ratio.low > 0.0
    same = paired_difference(market, market, "sharpe")
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="60 sessions against 59"):
        paired_difference(market, market[1:])


def test_the_interquartile_mean_is_the_trimmed_mean() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    for count in (1, 3, 10, 11):
        scores = _series(12, count)
        assert interquartile_mean(scores) == pytest.approx(scipy_stats.trim_mean(scores, 0.25))


def test_an_outlier_among_the_seeds_does_not_move_the_interquartile_mean() -> None:
    folds = [_series(13, 10), _series(14, 10)]
    wild = [np.append(folds[0][1:], 50.0), folds[1]]
    assert seeds_interval(wild).estimate == pytest.approx(seeds_interval(folds).estimate, abs=0.005)
    assert seeds_interval(folds).note == ""
    few = seeds_interval([np.array([0.1, 0.3]), np.array([0.2])])
    assert few.low <= few.estimate <= few.high
    assert "1 seed is no evidence about others" in few.note


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    first, second = [np.array([1.0, 3.0]), np.array([5.0])], [np.array([2.0, 3.0]), np.array([5.0])]
    probability = improvement_probability(first, second)  # pairs: 1<2, 1<3, 3>2, 3=3: 1.5 of 4; then a tie
    assert probability.estimate == pytest.approx((1.5 / 4 + 0.5) / 2)
    assert probability.low <= probability.estimate <= probability.high
    better = improvement_probability([np.arange(10.0) + 10], [np.arange(10.0)])
    assert (better.estimate, better.low, better.high, better.note) == (1.0, 1.0, 1.0, "")
    with pytest.raises(ValueError, match="1 folds against 2"):
        improvement_probability(first[:1], second)


def test_a_pooled_figure_is_over_all_rows_and_not_the_mean_of_sessions() -> None:
    parts = np.array([[9.0, 9.0], [0.0, 1.0]] * 20)  # right ones and rows: 9 of 9 in one session, 0 of 1 in the next
    (estimate,) = pooled_intervals(parts, [lambda sums: sums[:, 0] / sums[:, 1]], blocks_of=parts[:, 0])
    assert estimate.estimate == pytest.approx(0.9)
    assert 0.8 < estimate.low < 0.9 < estimate.high < 1.0


def test_a_pooled_interval_covers_the_truth_about_as_often_as_it_claims() -> None:
    """Ten rows of a session are copies of one draw: who takes them for independent covers a third as often."""
    covered = 0
    for seed in range(40):
        hits = np.where(np.random.default_rng(seed).random(100) < 0.5, 10.0, 0.0)
        parts = np.stack([hits, np.full(100, 10.0)], axis=1)
        (estimate,) = pooled_intervals(parts, [lambda sums: sums[:, 0] / sums[:, 1]], blocks_of=hits)
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered >= 33  # at 95 % fewer have a probability of 0.3 %


def test_a_pooled_figure_of_one_session_has_no_interval() -> None:
    (estimate,) = pooled_intervals(
        np.array([[3.0, 4.0]]), [lambda sums: sums[:, 0] / sums[:, 1]], blocks_of=np.array([1.0])
    )
    assert (estimate.low, estimate.estimate, estimate.high) == (0.75, 0.75, 0.75)
    assert "there is one alone" in estimate.note
