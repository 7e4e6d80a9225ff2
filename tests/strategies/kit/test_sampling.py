"""From logits to a choice. Expected values: the reference's test vector, and fractions worked by hand."""

from __future__ import annotations

from math import log

import pytest

from strategies.kit.contract import choose, softmax


def test_the_reference_logits_give_the_reference_probabilities() -> None:
    choice = choose([0.2, 1.5, -0.3, -0.5, -0.8, -1.0], 0.7)
    assert [round(p, 4) for p in choice.probabilities] == [0.1152, 0.7377, 0.0564, 0.0424, 0.0276, 0.0207]
    assert choice.action == 1
    assert choice.confidence == choice.probabilities[1]


def test_logarithms_of_weights_give_the_weights_back() -> None:
    assert softmax([log(1), log(2), log(5)], 1.0) == pytest.approx((1 / 8, 2 / 8, 5 / 8), abs=1e-15)
    assert softmax([log(1), log(2), log(5)], 0.5) == pytest.approx((1 / 30, 4 / 30, 25 / 30), abs=1e-15)


def test_huge_logits_do_not_overflow() -> None:
    assert softmax([1e300, -1e300, 0.0], 0.7) == (1.0, 0.0, 0.0)


def test_a_tie_goes_to_the_lowest_index() -> None:
    choice = choose([1.0, 2.0, 2.0], 0.7)
    assert choice.action == 1


def test_no_logits_and_no_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="logits are empty"):
        choose([], 0.7)
    with pytest.raises(ValueError, match=r"temperature is 0\.0, expected a number above 0"):
        softmax([1.0], 0.0)
