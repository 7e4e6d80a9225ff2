"""What is luck must look like luck: noise, true edges, hopeless crowds, random traders, short tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evidence.significance import detectable, random_p_value, snooping
from training.evidence.statistics import Series


def _noise(sessions: int, trials: int, seed: int) -> Series:
    return np.random.default_rng(seed).normal(0.0, 0.01, size=(sessions, trials))


def _p_values(trials: Series, seed: int = 0) -> tuple[float, float]:
    """Those of the Reality Check and of the test of superior predictive ability."""
    result = snooping(trials, seed=seed)
    assert result.reality_check is not None
    assert result.superior_ability is not None
    return result.reality_check, result.superior_ability


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
    result = snooping(trials)
    assert (result.reality_check, result.superior_ability) == (1.0, 1.0)
    assert result.note


def test_too_few_sessions_give_no_p_value() -> None:
    result = snooping(_noise(10, 3, 1) + 0.05)
    assert (result.reality_check, result.superior_ability) == (None, None)
    assert result.note == "10 sessions are too few for a test; at least 16 are needed"


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
    effect = detectable(sessions, 0.03)
    assert effect.mean is not None
    critical = scipy_stats.t.ppf(0.95, sessions - 1)
    power = scipy_stats.nct.sf(critical, sessions - 1, effect.mean / 0.03 * math.sqrt(sessions))
    assert power == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("sessions", [1, 2, 9])
def test_fewer_than_ten_sessions_are_too_few_for_a_figure(sessions: int) -> None:
    effect = detectable(sessions, 0.03)
    assert (effect.mean, effect.sharpe_annual) == (None, None)
    assert effect.words.endswith("too few for any test.")


def test_twenty_sessions_see_only_what_is_too_good_to_be_true() -> None:
    effect = detectable(20, 0.03)
    assert effect.sharpe_annual == pytest.approx(9.14, abs=0.01)  # (1.645 + 0.842) / √(20 - 1.645² / 2) x √252
    assert "at least 9.1 (here a mean of +1.73% a session, +35% in sum)" in effect.words
    assert detectable(20, 0.0).mean is None
    assert detectable(1, 0.03).sharpe_annual is None
