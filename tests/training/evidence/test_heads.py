"""Scores of heads by hand: direction against the base rate, risk against the mean."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from training.evidence.heads import HeadScores, direction_scores, heads_of, risk_scores
from training.evidence.resampling import Interval
from training.report.results import direction_words, score_rows, scored


def test_scores_of_a_direction_by_hand() -> None:
    probabilities, rises = np.array([0.8, 0.6, 0.3, 0.5]), np.array([1.0, 0.0, 0.0, 1.0])
    result = direction_scores(probabilities, rises, np.array([0, 0, 1, 1]), 0.6)
    assert (result.rows, result.sessions, result.came, result.base_rate) == (4, 2, 0.5, 0.6)
    assert result.log_loss.estimate == pytest.approx(-(log(0.8) + log(0.4) + log(0.7) + log(0.5)) / 4)
    assert result.brier.estimate == pytest.approx((0.04 + 0.36 + 0.09 + 0.25) / 4)
    assert result.base_log_loss.estimate == pytest.approx(-(2 * log(0.6) + 2 * log(0.4)) / 4)
    assert result.base_brier.estimate == pytest.approx((2 * 0.16 + 2 * 0.36) / 4)
    assert result.over_brier.estimate == pytest.approx(result.brier.estimate - 0.26)
    assert result.over_log_loss.estimate == pytest.approx(result.log_loss.estimate - result.base_log_loss.estimate)


def test_scores_of_a_risk_by_hand() -> None:
    result = risk_scores(np.array([0.001, 0.003]), np.array([0.002, 0.001]), np.array([3, 7]), 0.0015)
    assert (result.came, result.expected, result.base) == (0.0015, 0.002, 0.0015)
    assert result.error.estimate == pytest.approx(sqrt((1e-6 + 4e-6) / 2))
    assert result.base_error.estimate == pytest.approx(0.0005)


def test_a_head_that_knows_is_told_from_one_that_does_not_and_from_one_that_is_wrong() -> None:
    random = np.random.default_rng(4)
    rises = (random.random(4000) < 0.5).astype(np.float64)
    sessions = np.arange(4000) // 100
    sharp = np.where(rises > 0.0, 0.7, 0.3)
    words = [
        direction_words(HeadScores(direction=direction_scores(probabilities, rises, sessions, 0.5)))
        for probabilities in (sharp, 1.0 - sharp, 0.5 + 0.001 * random.standard_normal(4000))
    ]
    assert "knows more than the base rate." in words[0]
    assert "knows less" in words[1]
    assert "is not shown" in words[2]
    assert direction_words(HeadScores()) == ""


def test_tables_have_a_row_for_each_score_and_none_without_a_head() -> None:
    one = direction_scores(np.array([0.8, 0.4]), np.array([1.0, 0.0]), np.array([0, 1]), 0.5)
    other = risk_scores(np.array([0.001, 0.003]), np.array([0.002, 0.001]), np.array([3, 7]), 0.0015)
    scores = HeadScores(direction=one, risk=other)
    assert [row[0] for row in score_rows(scores)] == [
        "direction, log loss in nats", "direction, Brier score", "risk, error in basis points",
    ]  # fmt: skip
    assert score_rows(scores)[1][1].startswith("0.1000\n")  # (0.04 + 0.16) / 2
    assert "a mean fall of 15.0 basis points came, 20.0 expected; base 15.0" in scored(scores)
    assert score_rows(HeadScores()) == []
    assert heads_of({}) is None
    assert isinstance(one.brier, Interval)
