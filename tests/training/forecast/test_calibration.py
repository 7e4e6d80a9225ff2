"""Temperature, scores and drawn figures, against scikit-learn and cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from torch import nn

from training.forecast.figures import confusion, coverage, figures, reliability
from training.forecast.scores import BINS, compared, scores
from training.forecast.stage import best_temperature


def _rows(seed: int = 0, count: int = 4000, heat: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits and classes drawn of softmax(logits / heat)."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 1.5
    truth = _softmax(logits / heat)
    classes = (random.random((count, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    return logits, classes


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities


def test_the_temperature_is_the_one_that_torchs_lbfgs_finds() -> None:
    """LBFGS ends where its loss no longer changes, which leaves it 3e-6 off."""
    logits, classes = _rows(heat=2.5)
    heat = torch.ones((), dtype=torch.float64, requires_grad=True)
    search: Any = torch.optim.LBFGS([heat], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = nn.functional.cross_entropy(torch.from_numpy(logits) / heat, torch.from_numpy(classes))
        torch.autograd.backward(loss)
        return loss

    search.step(closure)
    temperature = best_temperature(logits, classes)
    assert temperature == pytest.approx(float(heat.detach()), rel=1e-5)
    assert 2.2 < temperature < 2.8


def test_a_temperature_needs_rows_and_finite_logits() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        best_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    with pytest.raises(ValueError, match="all finite: False"):
        best_temperature(np.array([[np.nan, 0.0, 0.0]]), np.array([1]))


def test_scores_are_those_of_scikit_learn() -> None:
    logits, classes = _rows()
    probabilities, sessions = _softmax(logits), np.arange(4000) // 20
    result = scores(probabilities, classes, sessions)
    assert (result.rows, result.sessions) == (4000, 200)
    assert result.log_loss.estimate == pytest.approx(log_loss(classes, probabilities), rel=1e-12)
    assert result.accuracy.estimate == accuracy_score(classes, probabilities.argmax(axis=1))
    squares = np.square(probabilities - np.eye(3)[classes]).sum(axis=1).mean()
    assert result.brier.estimate == pytest.approx(squares, rel=1e-12)
    assert result.base_rate.estimate == pytest.approx(np.bincount(classes).max() / 4000, rel=1e-12)
    for interval in (result.log_loss, result.brier, result.accuracy, result.base_rate):
        assert interval.low < interval.estimate < interval.high


def test_the_calibration_error_is_the_weighted_gap_of_scikit_learns_curve() -> None:
    logits, classes = _rows(heat=2.0)
    probabilities = _softmax(logits)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    shares, means = calibration_curve(right, sure, n_bins=BINS, strategy="uniform")
    counts = np.histogram(sure, np.linspace(0.0, 1.0, BINS + 1))[0]
    expected = (np.abs(shares - means) * counts[counts > 0]).sum() / len(sure)
    result = scores(probabilities, classes, np.arange(4000) // 20)
    assert result.expected_calibration_error.estimate == pytest.approx(expected, rel=1e-9)
    bins = reliability(sure, right)
    assert [part.right for part in bins] == pytest.approx(shares)
    assert [part.confidence for part in bins] == pytest.approx(means)
    assert [part.rows for part in bins] == counts[counts > 0].tolist()


def test_a_temperature_mends_what_was_too_sure_and_the_interval_says_so() -> None:
    logits, classes = _rows(heat=2.5)
    heat = best_temperature(logits, classes)
    comparison = compared(_softmax(logits), _softmax(logits / heat), classes, np.arange(4000) // 20, heat)
    assert comparison.temperature == heat
    assert comparison.expected_calibration_error.high < 0.0
    assert comparison.log_loss.high < 0.0
    assert comparison.log_loss.estimate == pytest.approx(
        comparison.after.log_loss.estimate - comparison.before.log_loss.estimate
    )
    assert comparison.after.accuracy == comparison.before.accuracy


def test_scores_of_no_row_are_refused_and_one_session_has_no_interval() -> None:
    with pytest.raises(ValueError, match="no row to score"):
        scores(np.empty((0, 3)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    result = scores(np.array([[0.2, 0.5, 0.3]]), np.array([1]), np.array([7]))
    assert (result.accuracy.low, result.accuracy.high) == (1.0, 1.0)
    assert "one alone" in result.accuracy.note


def test_the_confusion_matrix_is_scikit_learns() -> None:
    logits, classes = _rows(count=300)
    predicted = logits.argmax(axis=1)
    assert np.array_equal(confusion(predicted, classes), confusion_matrix(classes, predicted))


def test_coverage_takes_the_most_confident_first_and_equal_ones_together() -> None:
    sure = np.array([0.5, 0.9, 0.5, 0.7])
    right, acted = np.array([False, True, True, True]), np.array([True, True, False, True])
    points = coverage(sure, right, np.array([-0.04, 0.02, 0.0, 0.01]), acted)
    assert [(point.coverage, point.confidence, point.trades) for point in points] == [
        (0.25, 0.9, 1),
        (0.5, 0.7, 2),
        (1.0, 0.5, 3),
    ]
    assert [point.accuracy for point in points] == [1.0, 1.0, 0.75]
    assert [point.pnl for point in points] == pytest.approx([0.02, 0.03, -0.01])
    assert [point.pnl_a_trade for point in points] == pytest.approx([0.02, 0.015, -0.01 / 3])
    assert coverage(sure[:0], right[:0], sure[:0], acted[:0]) == ()


def test_only_a_predicted_buy_is_acted_on() -> None:
    probabilities = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    inputs = (probabilities, probabilities.max(axis=1), np.array([1, 2, 0]), np.array([0.03, -0.02, 0.5]))
    result = figures(*inputs, cost=0.001)
    assert result.coverage[-1].trades == 1
    assert result.coverage[-1].pnl == pytest.approx(0.029)
    assert result.confusion == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
