"""The overfitting probability against the paper's definition split by split, and limits that must hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from tests.support.examples import examples
from training.evidence.overfitting import backtest_overfitting
from training.evidence.statistics import Series


def _noise(sessions: int, trials: int, seed: int) -> Series:
    return np.random.default_rng(seed).normal(0.0, 0.01, size=(sessions, trials))


def test_choosing_among_noise_is_overfitting_about_every_other_time() -> None:
    probabilities = [backtest_overfitting(_noise(64, 6, seed)).probability for seed in range(30)]
    values = [share for share in probabilities if share is not None]
    assert len(values) == 30
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)  # each deviates by about 0.2


def test_a_trial_that_is_truly_good_is_not_overfitted() -> None:
    trials = _noise(200, 20, 1)
    trials[:, 7] += 0.01
    result = backtest_overfitting(trials)
    assert (result.splits, result.trials, result.sessions) == (12_870, 20, 200)
    assert result.probability is not None
    assert result.probability < 0.01
    assert result.probability_of_loss is not None
    assert result.probability_of_loss < 0.01


def test_a_trial_that_earns_only_in_the_sessions_that_chose_it_is_overfitted() -> None:
    trials = _noise(64, 4, 2)
    trials += 0.02 * np.kron(np.eye(4), np.ones((16, 1)))  # each has one lucky quarter
    result = backtest_overfitting(trials)
    assert result.probability is not None
    assert result.probability > 0.5
    assert result.degradation_slope is not None
    assert result.degradation_slope < 0.0


def _by_the_book(trials: Series, blocks: int) -> tuple[float, float, float]:
    """PBO, probability of loss and slope as the paper words them, split by split with scipy's ranks."""
    scipy_stats = pytest.importorskip("scipy.stats")
    parts = np.array_split(np.arange(len(trials)), blocks)
    logits, inside, outside = [], [], []
    for half in itertools.combinations(range(blocks), blocks // 2):
        rows = np.concatenate([parts[block] for block in half])
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
    result = backtest_overfitting(matrix, blocks=8)
    assert result.splits == 70
    assert (result.probability, result.probability_of_loss, result.degradation_slope) == pytest.approx(
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


@settings(max_examples=examples(10))
@given(matrix=arrays(np.float64, (17, 3), elements=some.sampled_from([-0.02, -0.01, 0.0, 0.01, 0.02])))
def test_whatever_trials_earned_the_shares_are_always_shares(matrix: Series) -> None:
    result = backtest_overfitting(matrix)
    if result.probability is None:
        assert result.note
    else:
        assert 0.0 <= result.probability <= 1.0 + 1e-12
        assert result.probability_of_loss is not None
        assert 0.0 <= result.probability_of_loss <= 1.0 + 1e-12
