"""Dead actors: those that answer the same whatever they see, and those whose critic explains nothing."""

from __future__ import annotations

import numpy as np
import pytest

from training.desks.forecast.graph import choose_weights
from training.evidence.dead import counted, saturation_of, variation_of, why_dead, with_weight


def test_one_answer_and_a_critic_that_explains_nothing_are_named() -> None:
    assert why_dead(0.3, 0.4) == ""
    assert why_dead(0.3) == ""
    assert why_dead(0.0099) == "its answers deviate by 0.0099 over what it sees (below 0.01: one answer)"
    assert why_dead(0.3, 0.0) == "its critic explains nothing (explained variance 0.000)"
    reason = why_dead(0.0, -0.2)
    assert reason.count(";") == 1
    assert "−0.200" in reason or "-0.200" in reason


def test_variation_is_the_mean_deviation_of_each_action() -> None:
    answers = np.array([[1.0, 0.2], [-1.0, 0.2], [1.0, 0.2], [-1.0, 0.2]], dtype=np.float32)
    assert variation_of(answers) == pytest.approx(0.5)  # deviations 1 and 0
    assert variation_of(answers[:1]) == 0.0


def test_an_answer_beyond_the_bound_is_saturated_whichever_it_is() -> None:
    assert saturation_of(np.array([1.0, -0.9995, 0.5, 0.998], dtype=np.float32)) == 0.5
    assert saturation_of(np.zeros(0, dtype=np.float32)) == 0.0


def test_a_dead_member_gets_no_weight_beside_a_living_one() -> None:
    weights, _ = choose_weights(lambda shares: shares[1], 2, dead=[False, True])
    assert weights == (1.0, 0.0)
    weights, _ = choose_weights(lambda shares: shares[1], 2, dead=[True, True])
    assert weights == (0.0, 1.0)  # one of them has to answer
    weights, _ = choose_weights(lambda shares: shares[1], 2)
    assert weights == (0.0, 1.0)


def test_the_dead_have_no_weight_beside_a_living_one() -> None:
    assert with_weight([False, True, False]) == (0, 2)
    assert with_weight([True, True]) == (0, 1)  # all are dead: somebody has to answer
    assert counted([0.5, 0.0], [False, True])
    assert not counted([0.5, 0.5], [False, True])
    assert counted([0.5, 0.5], [True, True])
