"""Exploration: the probabilities by hand, and draws that depend on epoch, decision and place alone."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from daemon.core.desks.shares.desk import behaviour, draw
from daemon.core.limits import Exploration

VALUES = (0.1, 0.4, -0.2)
ALL, NO_BUY = (True, True, True), (True, False, True)
EPSILON = Exploration("epsilon", epsilon=0.03)


def test_epsilon_is_spread_over_what_is_allowed_and_the_rest_is_the_greedy_ones() -> None:
    assert behaviour(VALUES, 1, ALL, EPSILON) == pytest.approx((0.01, 0.98, 0.01))
    assert behaviour(VALUES, 1, NO_BUY, EPSILON) == pytest.approx((0.985, 0.0, 0.015))  # the first stands for it
    assert behaviour(VALUES, 1, (True, False, False), EPSILON) == pytest.approx((1.0, 0.0, 0.0))


def test_without_exploration_the_greedy_action_is_certain() -> None:
    assert behaviour(VALUES, 1, ALL, Exploration()) == (0.0, 1.0, 0.0)


def test_a_softmax_is_over_the_allowed_values_alone() -> None:
    rules = Exploration("softmax", temperature=0.5)
    weights = [exp(0.2), exp(-0.4)]
    assert behaviour(VALUES, 1, NO_BUY, rules) == pytest.approx(
        (weights[0] / sum(weights), 0.0, weights[1] / sum(weights))
    )


@given(
    st.tuples(*[st.floats(-1e3, 1e3)] * 3), st.tuples(st.just(True), st.booleans(), st.booleans()), st.integers(0, 2)
)
def test_the_probabilities_sum_to_one_and_nothing_forbidden_has_any(
    values: tuple[float, ...], allowed: tuple[bool, ...], greedy: int
) -> None:
    for rules in (EPSILON, Exploration("softmax", temperature=0.1), Exploration()):
        probabilities = behaviour(values, greedy, allowed, rules)
        assert sum(probabilities) == pytest.approx(1.0)
        assert all(share == 0.0 for share, free in zip(probabilities, allowed, strict=True) if not free)


def test_a_draw_is_the_first_double_of_philox_under_the_key() -> None:
    """numpy's own generator gives the point; SHA-256 of `epoch|decision|place` is the key."""
    for decision in range(50):
        key = int.from_bytes(sha256(f"e1|{decision}|0".encode()).digest()[:16], "little")
        point = Generator(Philox(key=key)).random()
        assert draw("e1", decision, 0, (0.25, 0.5, 0.25)) == (0 if point < 0.25 else 1 if point < 0.75 else 2)


def test_draws_follow_the_probabilities_and_differ_by_epoch_decision_and_place() -> None:
    shares = (0.2, 0.5, 0.3)
    draws = [draw("e1", decision, 0, shares) for decision in range(4000)]
    counts = Counter(draws)
    for action, share in enumerate(shares):
        assert counts[action] / 4000 == pytest.approx(share, abs=0.03)  # four standard deviations
    assert draws == [draw("e1", decision, 0, shares) for decision in range(4000)]
    assert draws != [draw("e2", decision, 0, shares) for decision in range(4000)]
    assert draws != [draw("e1", decision, 1, shares) for decision in range(4000)]


def test_nothing_impossible_is_drawn_where_a_sum_is_rounded_down() -> None:
    assert {draw("e", n, 0, (0.0, 0.0, 0.0)) for n in range(5)} == {0}
    assert {draw("e", n, 0, (0.0, 1.0, 0.0)) for n in range(200)} == {1}
