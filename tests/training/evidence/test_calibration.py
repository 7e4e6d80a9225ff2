"""Confidence and wins counted by hand, and Wilson's interval from the textbook."""

from __future__ import annotations

import numpy as np
import pytest

from training.evidence.calibration import calibration, wilson


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_calibration_of_four_trades_is_that_worked_out_by_hand() -> None:
    result = calibration(np.array([0.9, 0.6, 0.8, 0.5]), np.array([True, False, True, True]), bins=2)
    assert [(part.trades, part.won) for part in result.bins] == [(2, 0.5), (2, 1.0)]
    assert [part.confidence for part in result.bins] == pytest.approx([0.55, 0.85])
    assert result.brier == pytest.approx((0.01 + 0.36 + 0.04 + 0.25) / 4)
    assert result.expected_error == pytest.approx((0.05 + 0.15) / 2)
    assert "not of a win" in result.note


def test_a_confidence_that_is_right_has_no_error_and_one_that_is_sure_and_wrong_has_all() -> None:
    random = np.random.default_rng(15)
    confidence = random.uniform(0.5, 1.0, size=20_000)
    right = calibration(confidence, random.random(20_000) < confidence)
    assert right.expected_error == pytest.approx(0.0, abs=0.015)
    assert [part.trades for part in right.bins] == [2_000] * 10
    assert sum(part.low <= part.confidence <= part.high for part in right.bins) >= 8
    wrong = calibration(np.ones(5), np.zeros(5, dtype=np.bool_))
    assert (wrong.brier, wrong.expected_error, len(wrong.bins)) == (1.0, 1.0, 1)


def test_equal_confidences_stay_in_one_bin_and_no_trade_has_no_bin() -> None:
    result = calibration(np.array([0.6] * 5 + [0.7]), np.array([True] * 3 + [False] * 3), bins=3)
    assert [part.trades for part in result.bins] == [5, 1]
    empty = calibration(np.array([]), np.array([], dtype=np.bool_))
    assert (empty.trades, empty.bins, empty.brier, empty.expected_error) == (0, (), None, None)
