"""The papers' own numbers for probabilistic and deflated Sharpe ratios, and limits that must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evidence.overfitting import (
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    minimum_track_record,
    probabilistic_sharpe,
)
from training.evidence.statistics import Series


def _noise(sessions: int, trials: int, seed: int) -> Series:
    return np.random.default_rng(seed).normal(0.0, 0.01, size=(sessions, trials))


def test_the_probabilistic_sharpe_ratio_is_that_of_the_papers_hedge_fund() -> None:
    # Bailey & López de Prado 2012: two years of months, an annual ratio of 1.59, skewness -2.448, kurtosis 10.164
    assert probabilistic_sharpe(0.458, 24) == pytest.approx(0.982, abs=5e-4)
    assert probabilistic_sharpe(0.458, 24, -2.448, 10.164) == pytest.approx(0.913, abs=5e-4)


@pytest.mark.parametrize(
    ("periods", "skew", "kurt", "years"),
    [(252, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_the_minimum_track_record_is_that_of_the_paper(periods: int, skew: float, kurt: float, years: float) -> None:
    # the same paper: an annual ratio of 2 told from 1 with 95 %
    root = math.sqrt(periods)
    needed = minimum_track_record(2.0 / root, skew, kurt, threshold=1.0 / root)
    assert needed is not None
    assert needed / periods == pytest.approx(years, abs=0.005)


def test_a_record_as_long_as_the_minimum_has_just_the_wanted_probability() -> None:
    needed = minimum_track_record(0.1, -0.5, 5.0)
    assert needed is not None
    assert probabilistic_sharpe(0.1, math.ceil(needed), -0.5, 5.0) >= 0.95
    assert probabilistic_sharpe(0.1, math.floor(needed), -0.5, 5.0) < 0.95
    assert minimum_track_record(0.0) is None
    assert minimum_track_record(-0.1) is None


@pytest.mark.parametrize(("trials", "deflated"), [(100, 0.9004), (46, 0.9505)])
def test_the_deflated_sharpe_ratio_is_that_of_the_papers_example(trials: int, deflated: float) -> None:
    # Bailey & López de Prado 2014: annual ratio 2.5 over 1,250 days of which 250 make a year, variance of trials 1/2
    threshold = expected_maximum(math.sqrt(0.5 / 250), trials)
    if trials == 100:
        assert threshold == pytest.approx(0.1132, abs=5e-5)
    sharpe = probabilistic_sharpe(2.5 / math.sqrt(250), 1250, -3.0, 10.0, threshold)
    assert sharpe == pytest.approx(deflated, abs=5e-5)


def test_the_expected_maximum_is_what_the_best_of_many_random_numbers_is_on_average() -> None:
    best = np.random.default_rng(1).normal(0.0, 0.2, size=(20_000, 50)).max(axis=1).mean()
    assert expected_maximum(0.2, 50) == pytest.approx(float(best), rel=0.02)  # an asymptotic formula
    assert expected_maximum(0.2, 1) == 0.0


def test_with_one_trial_the_deflated_ratio_is_the_probabilistic_one() -> None:
    returns = _noise(60, 1, 3)[:, 0] + 0.002
    sharpe = deflated_sharpe(returns, [float(returns.mean() / returns.std(ddof=1))])
    assert (sharpe.trials, sharpe.threshold) == (1, 0.0)
    assert sharpe.deflated == sharpe.probabilistic


def test_the_deflated_ratio_takes_moments_of_the_series_and_the_deviation_of_all_trials() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    returns = np.random.default_rng(4).gamma(2.0, 0.01, size=80) - 0.015
    ratios = [0.3, 0.1, -0.2, 0.05, 0.12]
    ratio = returns.mean() / returns.std(ddof=1)
    spread = 1 - scipy_stats.skew(returns) * ratio + (scipy_stats.kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    gumbel, normal = 0.5772156649, scipy_stats.norm
    best = (1 - gumbel) * normal.ppf(1 - 1 / 9) + gumbel * normal.ppf(1 - 1 / (9 * math.e))
    threshold = np.std(ratios, ddof=1) * best
    sharpe = deflated_sharpe(returns, ratios, trials=9, effective=3.0)
    assert sharpe.threshold == pytest.approx(threshold)
    assert sharpe.deflated == pytest.approx(normal.cdf((ratio - threshold) * math.sqrt(79 / spread)))
    assert sharpe.deflated_effective is not None
    assert sharpe.deflated < sharpe.deflated_effective < sharpe.probabilistic


def test_degenerate_series_have_a_defined_deflated_ratio_and_a_note() -> None:
    flat = deflated_sharpe(np.zeros(20), [0.0, 0.0])
    assert (flat.probabilistic, flat.deflated, flat.minimum_sessions) == (0.5, 0.5, None)
    assert "no deviation" in flat.note
    assert "20 sessions are few" in flat.note
    assert deflated_sharpe(np.array([0.01]), []).deflated == 0.5
    lone = deflated_sharpe(_noise(101, 1, 1)[:, 0], [0.1], trials=10)
    assert lone.deviation == pytest.approx(0.1)  # one over the root of 100
    assert "one ratio" in lone.note
    with pytest.raises(ValueError, match="1 trials with 2"):
        deflated_sharpe(np.array([0.01, 0.02]), [0.1, 0.2], trials=1)
    with pytest.raises(ValueError, match="not finite"):
        deflated_sharpe(np.array([0.01, 0.02]), [0.1, math.nan])


def test_copies_of_a_trial_count_once_in_the_effective_number_and_independent_ones_each() -> None:
    one = _noise(4000, 5, 1)
    assert effective_trials(one) == pytest.approx(5.0, abs=0.05)
    assert effective_trials(np.repeat(one[:, :2], 4, axis=1)) == pytest.approx(2.0, abs=0.05)
    assert effective_trials(np.column_stack([one, np.zeros(4000)])) == effective_trials(one)
    assert effective_trials(np.zeros((10, 3))) == 1.0
