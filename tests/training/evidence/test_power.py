"""Promotion of simulated tests: noise passes at most once in a hundred, planted edges at the stated rates.

500 tests of a fixed seed; the bounds are exact quantiles of binomial counts, 0.1 % on each side. `make bench-promotion`
simulates 10,000 for each line.
"""

from __future__ import annotations

import numpy as np
import pytest

from training.evidence.power import DAYS, MINUTES, OF_RETURNS, Cadence, first_failed, rate, simulate_test

SERIES = 500


@pytest.mark.parametrize(("cadence", "sessions"), [(MINUTES, 60), (MINUTES, 250), (DAYS, 756), (DAYS, 1512)])
def test_noise_passes_at_most_once_in_a_hundred(cadence: Cadence, sessions: int) -> None:
    binom = pytest.importorskip("scipy.stats").binom
    assert rate(cadence, sessions, 0.0, SERIES).passed <= binom.ppf(0.999, SERIES, 0.01)


@pytest.mark.parametrize(("cadence", "sessions", "ratio", "power"), [(MINUTES, 60, 10.0, 0.73), (DAYS, 756, 2.5, 0.81)])
def test_a_planted_edge_passes_at_the_stated_rate(cadence: Cadence, sessions: int, ratio: float, power: float) -> None:
    """The rates stand in TRAINING.md, of 1,000 tests: their own deviation (0.014) widens the bounds."""
    binom = pytest.importorskip("scipy.stats").binom
    share = rate(cadence, sessions, ratio, 200, seed=1).passed
    assert binom.ppf(0.001, 200, power - 0.03) <= share <= binom.ppf(0.999, 200, power + 0.03)


def test_a_planted_edge_can_pass_and_what_is_no_edge_fails_for_its_reason() -> None:
    random = np.random.default_rng(2)
    assert first_failed(simulate_test(DAYS, 1512, 4.0, random), compounds=True) == ""
    assert first_failed(simulate_test(DAYS, 755, 6.0, random), compounds=True) == "length"
    assert first_failed(simulate_test(MINUTES, 60, -3.0, random), compounds=False) == "lead"
    assert first_failed(simulate_test(MINUTES, 60, 20.0, random), compounds=False) == ""


def test_a_criterion_of_returns_is_one_of_the_table() -> None:
    from training.evidence.criteria import CRITERIA

    assert set(OF_RETURNS) < {criterion.name for criterion in CRITERIA}
