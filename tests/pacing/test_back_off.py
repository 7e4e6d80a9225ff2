"""A back-off doubles from its first wait to its longest, and what is drawn stays within its share."""

from __future__ import annotations

import pytest

from daemon.pacing import back_off_s


def test_the_wait_doubles_up_to_the_longest() -> None:
    waits = [back_off_s(failures, 0.5, 30.0) for failures in (1, 2, 3, 6, 7, 8, 10**6)]
    assert waits == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("random_unit", "sure", "wait_s"),
    [(0.0, 0.5, 1.0), (0.5, 0.5, 1.5), (0.0, 0.0, 0.0), (0.25, 0.0, 0.5), (0.7, 1.0, 2.0)],
)
def test_only_what_is_not_sure_is_drawn(random_unit: float, sure: float, wait_s: float) -> None:
    assert back_off_s(2, 1.0, 60.0, random_unit, sure=sure) == wait_s
