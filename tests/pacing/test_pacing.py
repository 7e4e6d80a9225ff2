"""A back-off doubles from its first wait to its longest; a bucket allows its size at once, then one each interval."""

from __future__ import annotations

import pytest

from daemon.pacing import TokenBucket, back_off_s


def test_the_wait_doubles_up_to_the_longest() -> None:
    waits = [back_off_s(failures, 0.5, 30.0) for failures in (1, 2, 3, 6, 7, 8, 10**6)]
    assert waits == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("random_unit", "sure", "wait_s"),
    [(0.0, 0.5, 1.0), (0.5, 0.5, 1.5), (0.0, 0.0, 0.0), (0.25, 0.0, 0.5), (0.7, 1.0, 2.0)],
)
def test_only_what_is_not_sure_is_drawn(random_unit: float, sure: float, wait_s: float) -> None:
    assert back_off_s(2, 1.0, 60.0, random_unit, sure=sure) == wait_s


SECOND_NS = 10**9


def test_the_bucket_allows_its_size_at_once_and_then_one_each_interval() -> None:
    now = [100 * SECOND_NS]
    bucket = TokenBucket(lambda: now[0], 6, 6)
    for _ in range(6):
        assert bucket.wait_ns() == 0
        bucket.take()
    assert bucket.wait_ns() == 10 * SECOND_NS
    now[0] += 9 * SECOND_NS
    assert bucket.wait_ns() == 1 * SECOND_NS
    now[0] += 3 * SECOND_NS // 2
    assert bucket.wait_ns() == 0
    bucket.take()
    assert bucket.wait_ns() == 19 * SECOND_NS // 2


def test_the_bucket_never_holds_more_than_its_size() -> None:
    now = [0]
    bucket = TokenBucket(lambda: now[0], 2, 2)
    now[0] = 86_400 * SECOND_NS
    for _ in range(2):
        assert bucket.wait_ns() == 0
        bucket.take()
    assert bucket.wait_ns() == 30 * SECOND_NS


def test_tokens_that_are_kept_are_waited_for_and_a_clock_that_steps_back_takes_none() -> None:
    now = [50 * SECOND_NS]
    bucket = TokenBucket(lambda: now[0], 60, 3)
    assert bucket.wait_ns(left=2) == 0
    bucket.take()
    assert bucket.wait_ns(left=2) == 1 * SECOND_NS
    now[0] = 10 * SECOND_NS
    assert bucket.wait_ns() == 0
    assert bucket.wait_ns(left=2) == 1 * SECOND_NS
    now[0] = 11 * SECOND_NS
    assert bucket.wait_ns(left=2) == 0
