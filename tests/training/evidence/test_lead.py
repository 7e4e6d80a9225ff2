"""The lead over the best baseline: its bound against resampling itself, its halves by the book, what is too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from training.evidence.lead import lead_of, lower_bound, resampled_deviation
from training.evidence.overfitting import backtest_overfitting, loss_probability
from training.evidence.resampling import resamples
from training.evidence.statistics import Series


def _noise(sessions: int, trials: int, seed: int) -> Series:
    return np.random.default_rng(seed).normal(0.0, 0.01, size=(sessions, trials))


@pytest.mark.parametrize(("sessions", "block"), [(30, 1.0), (60, 4.0), (200, 7.0)])
def test_the_deviation_in_closed_form_is_that_of_resampled_means(sessions: int, block: float) -> None:
    random = np.random.default_rng(3)
    series = 0.3 * random.normal(size=sessions).cumsum() + random.normal(size=sessions)
    means = series[resamples(sessions, block, 20_000, random)].mean(axis=1)
    # of 20,000 means the deviation itself deviates by 1 / sqrt(40,000)
    assert resampled_deviation(series, block) == pytest.approx(means.std(), rel=0.025)


def test_the_bound_of_independent_returns_is_students() -> None:
    series = _noise(50, 1, 4)[:, 0]
    usual = stats.ttest_1samp(series, 0.0).confidence_interval(0.98).low
    assert lower_bound(series, 1.0) == pytest.approx(usual, abs=1e-12)


def test_the_best_baseline_is_the_one_with_the_largest_net_return() -> None:
    first, second = np.array([0.5, -0.5] * 10), np.array([0.01, 0.0] * 10)
    returns = np.array([0.02, 0.01] * 9 + [0.03, 0.01])
    lead = lead_of(returns, {"first": first, "second": second}, returns[:, None])
    assert lead is not None
    assert (lead.baseline, lead.loss) == ("second", 0.0)
    assert lead.mean == pytest.approx(float((returns - second).mean()))
    wild = first + 0.01  # 0.2 in sum, and less than nothing when compounded
    assert (lead_of(returns, {"wild": wild, "second": second}, returns[:, None]) or lead).baseline == "wild"
    assert (
        lead_of(returns, {"wild": wild, "second": second}, returns[:, None], compounds=True) or lead
    ).baseline == "second"


def test_what_shows_nothing_has_no_bound() -> None:
    returns = _noise(40, 1, 1)[:, 0]
    assert lead_of(returns, {}, returns[:, None]) is None
    same = lead_of(returns, {"itself": returns}, returns[:, None])
    assert same is not None
    assert (same.low, same.deflated, same.loss) == (None, None, None)
    few = lead_of(returns[:15], {"flat": np.zeros(15)}, returns[:15, None])
    assert few is not None
    assert few.low is None
    with pytest.raises(ValueError, match="40 sessions against 39 of flat"):
        lead_of(returns, {"flat": np.zeros(39)}, returns[:, None])


def test_the_probability_of_loss_is_that_of_the_whole_cross_validation() -> None:
    for seed in range(3):
        matrix = _noise(64, 5, seed) + 0.001
        assert loss_probability(matrix) == backtest_overfitting(matrix).probability_of_loss
    assert loss_probability(_noise(15, 3, 1)) is None
    assert loss_probability(np.empty((64, 0))) is None


def test_seeds_that_agree_do_not_undo_the_deflation_by_earlier_trials() -> None:
    """Their ratios hardly deviate, but those of the earlier settings did, of which nothing is known but the number."""
    returns = _noise(400, 1, 8)[:, 0] + 0.001
    agreeing = returns[:, None] + 1e-6 * _noise(400, 10, 9)
    flat = {"flat": np.zeros(400)}
    alone, later = lead_of(returns, flat, agreeing), lead_of(returns, flat, agreeing, earlier=90)
    assert alone is not None
    assert later is not None
    ratio = returns.mean() / returns.std(ddof=1)
    # of 100 trials without skill: ratios deviate by 1 / sqrt(399), the best one is 2.53 deviations above 0
    shape = stats.skew(returns), stats.kurtosis(returns, fisher=False)
    spread = math.sqrt(1 - shape[0] * ratio + (shape[1] - 1) / 4 * ratio**2)
    luck = 0.4227843351 * stats.norm.isf(1 / 100) + 0.5772156649 * stats.norm.isf(1 / (100 * math.e))
    expected = stats.norm.cdf((ratio - luck / math.sqrt(399)) * math.sqrt(399) / spread)
    assert later.deflated == pytest.approx(expected, abs=1e-9)
    assert alone.deflated is not None
    assert alone.deflated > stats.norm.cdf(ratio * math.sqrt(399) / spread) - 0.01  # ten that are one


def test_ten_worse_trials_lower_the_overfitting_probability_and_not_the_probability_of_loss() -> None:
    """Why an ablation is left out of the first, and what is asked of a promotion is the second."""
    alone, mixed, losses = [], [], []
    for seed in range(12):
        headline = _noise(120, 10, seed)
        worse = np.column_stack([headline, _noise(120, 10, 100 + seed) - 0.004])
        alone.append(backtest_overfitting(headline).probability or 0.0)
        mixed.append(backtest_overfitting(worse).probability or 0.0)
        losses.append((loss_probability(headline) or 0.0, loss_probability(worse) or 0.0))
    assert np.mean(mixed) < np.mean(alone) - 0.1  # what the criterion must not see
    assert all(after == pytest.approx(before, abs=0.02) for before, after in losses)
    assert not math.isnan(float(np.mean(alone)))
