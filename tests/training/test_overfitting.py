"""The papers' own numbers, other libraries, and limits that must hold: all noise, one good trial, equal trials."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from training.overfitting import (
    backtest_overfitting,
    deflated_sharpe,
    detectable,
    effective_trials,
    expected_maximum,
    minimum_track_record,
    probabilistic_sharpe,
    random_p_value,
    snooping,
)
from training.statistics import Series


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
    found = probabilistic_sharpe(2.5 / math.sqrt(250), 1250, -3.0, 10.0, threshold)
    assert found == pytest.approx(deflated, abs=5e-5)


def test_the_expected_maximum_is_what_the_best_of_many_random_numbers_is_on_average() -> None:
    best = np.random.default_rng(1).normal(0.0, 0.2, size=(20_000, 50)).max(axis=1).mean()
    assert expected_maximum(0.2, 50) == pytest.approx(float(best), rel=0.02)  # an asymptotic formula
    assert expected_maximum(0.2, 1) == 0.0


def test_with_one_trial_the_deflated_ratio_is_the_probabilistic_one() -> None:
    returns = _noise(60, 1, 3)[:, 0] + 0.002
    found = deflated_sharpe(returns, [float(returns.mean() / returns.std(ddof=1))])
    assert (found.trials, found.threshold) == (1, 0.0)
    assert found.deflated == found.probabilistic


def test_the_deflated_ratio_takes_moments_of_the_series_and_the_deviation_of_all_trials() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    returns = np.random.default_rng(4).gamma(2.0, 0.01, size=80) - 0.015
    ratios = [0.3, 0.1, -0.2, 0.05, 0.12]
    ratio = returns.mean() / returns.std(ddof=1)
    spread = 1 - scipy_stats.skew(returns) * ratio + (scipy_stats.kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    gumbel, normal = 0.5772156649, scipy_stats.norm
    best = (1 - gumbel) * normal.ppf(1 - 1 / 9) + gumbel * normal.ppf(1 - 1 / (9 * math.e))
    threshold = np.std(ratios, ddof=1) * best
    found = deflated_sharpe(returns, ratios, trials=9, effective=3.0)
    assert found.threshold == pytest.approx(threshold)
    assert found.deflated == pytest.approx(normal.cdf((ratio - threshold) * math.sqrt(79 / spread)))
    assert found.deflated_effective is not None
    assert found.deflated < found.deflated_effective < found.probabilistic


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


def test_choosing_among_noise_is_overfitting_about_every_other_time() -> None:
    found = [backtest_overfitting(_noise(64, 6, seed)).probability for seed in range(30)]
    known = [share for share in found if share is not None]
    assert len(known) == 30
    assert np.mean(known) == pytest.approx(0.5, abs=0.1)  # each deviates by about 0.2


def test_a_trial_that_is_truly_good_is_not_overfitted() -> None:
    trials = _noise(200, 20, 1)
    trials[:, 7] += 0.01
    found = backtest_overfitting(trials)
    assert (found.splits, found.trials, found.sessions) == (12_870, 20, 200)
    assert found.probability is not None
    assert found.probability < 0.01
    assert found.probability_of_loss is not None
    assert found.probability_of_loss < 0.01


def test_a_trial_that_earns_only_in_the_sessions_that_chose_it_is_overfitted() -> None:
    trials = _noise(64, 4, 2)
    trials += 0.02 * np.kron(np.eye(4), np.ones((16, 1)))  # each has one lucky quarter
    found = backtest_overfitting(trials)
    assert found.probability is not None
    assert found.probability > 0.5
    assert found.degradation_slope is not None
    assert found.degradation_slope < 0.0


def _by_the_book(trials: Series, blocks: int) -> tuple[float, float, float]:
    """PBO, probability of loss and slope as the paper words them, split by split with scipy's ranks."""
    scipy_stats = pytest.importorskip("scipy.stats")
    parts = np.array_split(np.arange(len(trials)), blocks)
    logits, inside, outside = [], [], []
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        rows = np.concatenate([parts[block] for block in chosen])
        rest = np.setdiff1d(np.arange(len(trials)), rows)
        ins = trials[rows].mean(axis=0) / trials[rows].std(axis=0, ddof=1)
        outs = trials[rest].mean(axis=0) / trials[rest].std(axis=0, ddof=1)
        best = int(np.argmax(ins))
        omega = scipy_stats.rankdata(outs)[best] / (trials.shape[1] + 1)
        logits.append(math.log(omega / (1 - omega)))
        inside.append(ins[best])
        outside.append(outs[best])
    slope = float(np.polyfit(inside, outside, 1)[0])
    return float(np.mean(np.array(logits) <= 1e-12)), float(np.mean(np.array(outside) < 0)), slope


@pytest.mark.parametrize(("sessions", "trials", "seed"), [(43, 5, 1), (64, 6, 2), (50, 2, 3)])
def test_all_splits_at_once_are_the_papers_splits_one_by_one(sessions: int, trials: int, seed: int) -> None:
    matrix = _noise(sessions, trials, seed) + np.linspace(0.0, 0.003, trials)
    found = backtest_overfitting(matrix, blocks=8)
    assert found.splits == 70
    assert (found.probability, found.probability_of_loss, found.degradation_slope) == pytest.approx(
        _by_the_book(matrix, 8)
    )


def test_equal_trials_share_a_rank_and_no_choice_is_told_where_there_is_none() -> None:
    good, bad = _noise(64, 1, 5) + 0.02, _noise(64, 1, 6) - 0.02
    pair = backtest_overfitting(
        np.column_stack([good, good, bad])
    )  # the best two tie: ranks 2.5 of 3, above the middle
    assert pair.probability == 0.0
    tied = backtest_overfitting(np.column_stack([good] * 3 + [good - 1e-4]))  # rank 3 of 4
    assert tied.probability == 0.0
    assert backtest_overfitting(np.repeat(good, 3, axis=1)).probability is None
    assert "one trial" in backtest_overfitting(good).note
    assert "15 sessions" in backtest_overfitting(_noise(15, 3, 1)).note
    idle = backtest_overfitting(np.column_stack([np.zeros(64), bad, bad * 2.0]))  # never trading beats losing
    assert idle.probability == 0.0


@settings(max_examples=10)
@given(matrix=arrays(np.float64, (17, 3), elements=some.sampled_from([-0.02, -0.01, 0.0, 0.01, 0.02])))
def test_whatever_trials_earned_the_shares_are_always_shares(matrix: Series) -> None:
    found = backtest_overfitting(matrix)
    if found.probability is None:
        assert found.note
    else:
        assert 0.0 <= found.probability <= 1.0 + 1e-12
        assert found.probability_of_loss is not None
        assert 0.0 <= found.probability_of_loss <= 1.0 + 1e-12


def _p_values(trials: Series, seed: int = 0) -> tuple[float, float]:
    """Those of the Reality Check and of the test of superior predictive ability."""
    found = snooping(trials, seed=seed)
    assert found.reality_check is not None
    assert found.superior_ability is not None
    return found.reality_check, found.superior_ability


def test_the_best_of_noise_is_no_discovery_and_a_true_edge_is() -> None:
    trials = _noise(120, 10, 8)
    assert min(_p_values(trials)) > 0.1
    trials[:, 2] += 0.006
    assert snooping(trials, seed=1) == snooping(trials, seed=1)
    assert min(_p_values(trials, seed=1)) >= 1 / 1001
    assert max(_p_values(trials, seed=1)) < 0.01


def test_a_wild_trial_hides_a_calm_edge_from_the_reality_check_alone() -> None:
    calm, wild = _noise(200, 1, 9) * 0.1 + 0.0005, _noise(200, 5, 10) * 10.0
    reality_check, superior_ability = _p_values(np.column_stack([calm, wild]))
    assert superior_ability < 0.01 < reality_check


def test_hopeless_trials_weaken_the_reality_check_but_not_the_test_of_superior_ability() -> None:
    edge, hopeless = _noise(200, 1, 11) + 0.001, _noise(200, 40, 12) - 0.01
    alone, among = _p_values(edge), _p_values(np.column_stack([edge, hopeless]))
    assert among[1] == pytest.approx(alone[1], abs=0.02)  # Hansen 2005, section 3
    assert among[0] > alone[0] + 0.1


@pytest.mark.parametrize("trials", [np.zeros((40, 3)), _noise(40, 3, 1) - 0.05])
def test_without_profit_nothing_is_discovered(trials: Series) -> None:
    found = snooping(trials)
    assert (found.reality_check, found.superior_ability) == (1.0, 1.0)
    assert found.note


def test_too_few_sessions_give_no_p_value() -> None:
    found = snooping(_noise(10, 3, 1) + 0.05)
    assert (found.reality_check, found.superior_ability) == (None, None)
    assert found.note == "10 sessions are too few for a test; at least 16 are needed"


def test_the_share_of_random_traders_counts_the_policy_and_adds_up_its_folds() -> None:
    draws = [[1.0, 5.0, -3.0, 0.0], [2.0, -1.0, 4.0, 3.0]]  # together 3, 4, 1, 3
    assert random_p_value([1.0, 2.0], draws) == (1 + 3) / (1 + 4)  # a tie does as well
    assert random_p_value([4.0, 1.0], draws) == 1 / 5
    assert random_p_value([-9.0, 0.0], draws) == 1.0
    assert random_p_value([0.1, 0.2], [[0.3], [0.0]]) == 1.0  # 0.1 + 0.2 is above 0.3 by rounding alone
    with pytest.raises(ValueError, match="1 folds of the policy"):
        random_p_value([1.0], draws)
    with pytest.raises(ValueError, match="expected draws in each fold"):
        random_p_value([1.0, 2.0], [[1.0], []])


@pytest.mark.parametrize("sessions", [10, 20, 60, 250])
def test_the_detectable_effect_is_found_four_times_out_of_five(sessions: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    found = detectable(sessions, 0.03)
    assert found.mean is not None
    critical = scipy_stats.t.ppf(0.95, sessions - 1)
    power = scipy_stats.nct.sf(critical, sessions - 1, found.mean / 0.03 * math.sqrt(sessions))
    assert power == pytest.approx(0.8, abs=0.01)


def test_twenty_sessions_see_only_what_is_too_good_to_be_true() -> None:
    found = detectable(20, 0.03)
    assert found.sharpe_annual == pytest.approx(9.14, abs=0.01)  # (1.645 + 0.842) / √(20 - 1.645² / 2) x √252
    assert "at least 9.1 (here a mean of +1.73% a session, +35% in sum)" in found.words
    assert detectable(20, 0.0).mean is None
    assert detectable(1, 0.03).sharpe_annual is None
