"""What forecasts tell apart: areas under ROC curves by hand and by scipy, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from training.forecast.labels import BUY, HOLD, SELL
from training.forecast.scores import skill


def area(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right row ranks above a wrong one, by scipy."""
    wins = mannwhitneyu(score[right], score[~right]).statistic
    return float(wins / (right.sum() * (~right).sum()))


def test_areas_are_those_of_mann_and_whitney() -> None:
    random = np.random.default_rng(2)
    classes = random.integers(3, size=6_000)
    lean = np.eye(3)[classes] * 0.8 + random.random((6_000, 3))
    probabilities = lean / lean.sum(axis=1, keepdims=True)
    result = skill(probabilities, classes, np.repeat(np.arange(60), 100))
    assert result is not None
    moves = classes != HOLD
    side = probabilities[:, BUY] / (probabilities[:, BUY] + probabilities[:, SELL])
    assert result.moves.estimate == pytest.approx(area(1.0 - probabilities[:, HOLD], moves), abs=1e-3)
    assert result.sides.estimate == pytest.approx(area(side[moves], classes[moves] == BUY), abs=1e-3)
    assert result.buy.estimate == pytest.approx(area(probabilities[:, BUY], classes == BUY), abs=1e-3)
    assert result.sell.estimate == pytest.approx(area(probabilities[:, SELL], classes == SELL), abs=1e-3)
    for one in (result.moves, result.sides, result.buy, result.sell):
        assert one.low < one.estimate < one.high


def test_who_knows_of_moves_alone_is_said_to_know_no_side() -> None:
    """Accuracy alone would read like a skill: these rows are right far above the commonest class."""
    random = np.random.default_rng(3)
    classes = random.choice(3, size=9_000, p=[0.4, 0.3, 0.3])
    still = np.where(classes == HOLD, 0.9, 0.1) + random.normal(0.0, 0.02, 9_000)
    upward = random.uniform(0.4, 0.6, 9_000)
    probabilities = np.stack([still, (1 - still) * upward, (1 - still) * (1 - upward)], axis=1)
    result = skill(probabilities, classes, np.repeat(np.arange(90), 100))
    assert result is not None
    assert (probabilities.argmax(axis=1) == classes).mean() > 0.6
    assert result.moves.low > 0.99
    assert result.sides.low < 0.5 < result.sides.high


def test_rows_of_equal_probabilities_know_nothing_and_a_missing_class_has_no_area() -> None:
    even, sessions = np.full((90, 3), 1 / 3), np.repeat(np.arange(30), 3)
    result = skill(even, np.tile([HOLD, BUY, SELL], 30), sessions)
    assert result is not None
    assert (result.moves.estimate, result.sides.estimate) == (0.5, 0.5)
    assert skill(even, np.tile([HOLD, BUY, BUY], 30), sessions) is None
