"""Time by hand: what a clock shows follows from its formula, and no step of the host's clock turns it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.host.time.clock import Clock, skew_ns

SECOND = 1_000_000_000
NOON = 1_720_008_000 * SECOND  # 2024-07-03T12:00:00Z
OPEN = 1_720_013_400 * SECOND  # 2024-07-03T13:30:00Z


class Host:
    """A host whose wall clock is set by hand, and whose sleeps are noted and let it go on."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.naps: list[float] = []

    def __call__(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_ns += round(seconds * SECOND)


def shows(times: list[int]) -> Callable[[], int]:
    return iter(times).__next__


def test_a_real_clock_shows_the_host_s_time() -> None:
    clock = Clock.real(Host(NOON))
    assert (clock.now_ns(), clock.is_simulated, clock.stepped_back_ns) == (NOON, False, 0)
    assert clock.to_real_datetime(NOON) == datetime(2024, 7, 3, 12, tzinfo=UTC)
    assert clock.real_s(90 * SECOND) == 90


def test_a_simulated_clock_runs_at_its_rate_from_its_anchor() -> None:
    host = Host(NOON + 2 * SECOND)
    clock = Clock.simulated(NOON / SECOND, OPEN, 60, host)
    assert clock.is_simulated
    assert clock.now_ns() == OPEN + 120 * SECOND  # two real seconds are two simulated minutes
    assert clock.real_s(90 * SECOND) == 1.5
    assert clock.to_real_datetime(OPEN + 600 * SECOND) == datetime(2024, 7, 3, 12, 0, 10, tzinfo=UTC)
    host.now_ns = NOON - SECOND
    assert Clock.simulated(NOON / SECOND, OPEN, 60, host).now_ns() == OPEN - 60 * SECOND


def test_while_the_host_s_clock_is_back_time_goes_on_at_half_speed_and_the_largest_step_is_remembered() -> None:
    clock = Clock.real(shows([100, 100, 40, 50, 70, 130]), shows([0, 1, 2, 12, 32, 92]))
    assert [clock.now_ns() for _ in range(5)] == [100, 100, 105, 115, 130]
    assert clock.stepped_back_ns == 60  # 100 to 40


def test_while_the_host_s_clock_is_back_not_even_single_nanoseconds_are_lost() -> None:
    """Read every nanosecond, time still goes on at half speed: whoever waits for it wakes."""
    clock = Clock.real(shows([100, *[40] * 20]), shows(list(range(21))))
    assert [clock.now_ns() for _ in range(20)] == [100 + passed // 2 for passed in range(1, 21)]


@given(
    st.lists(st.integers(NOON, NOON + 10**15), min_size=2), st.floats(0.01, 10_000) | st.none(), st.integers(0, 10**15)
)
def test_time_never_goes_back(times: list[int], rate: float | None, later: int) -> None:
    source = shows(times)
    clock = Clock.real(source) if rate is None else Clock.simulated(NOON / SECOND, OPEN, rate, source)
    readings = [clock.now_ns() for _ in times[1:]]
    assert readings == sorted(readings)


@given(st.floats(0.01, 10_000), st.integers(-(10**14), 10**15))
def test_a_moment_given_to_a_scheduler_is_never_too_early_nor_off_by_more_than_two_microseconds(
    rate: float, offset: int
) -> None:
    target = OPEN + offset
    moment = Clock.simulated(NOON / SECOND, OPEN, rate, Host(NOON)).to_real_datetime(target)
    real_ns = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // (moment.resolution) * 1000
    assert Clock.simulated(NOON / SECOND, OPEN, rate, Host(real_ns)).now_ns() >= target
    assert Clock.simulated(NOON / SECOND, OPEN, rate, Host(real_ns - 2000)).now_ns() < target


async def test_sleeping_ends_when_the_time_is_shown_and_reads_the_clock_now_and_then() -> None:
    host = Host(NOON)
    clock = Clock.simulated(NOON / SECOND, OPEN, 60, host)
    await clock.sleep_until(OPEN + 720 * SECOND, host.sleep)
    assert host.naps == [5.0, 5.0, 2.0]
    assert clock.now_ns() == OPEN + 720 * SECOND
    await clock.sleep_until(OPEN, host.sleep)
    assert len(host.naps) == 3


async def test_a_host_that_was_suspended_is_late_by_at_most_one_nap() -> None:
    host = Host(NOON)

    async def suspended(seconds: float) -> None:
        await host.sleep(seconds)
        host.now_ns += 3600 * SECOND

    await Clock.real(host).sleep_until(NOON + 1800 * SECOND, suspended)
    assert host.naps == [5.0]


async def test_the_host_s_own_clock_is_the_default() -> None:
    clock = Clock.real()
    target = clock.now_ns() + 1_000_000
    await clock.sleep_until(target)
    assert clock.now_ns() >= target


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        Clock.simulated(0, 0, rate, Host(0))


def test_skew_is_the_broker_s_time_against_the_middle_of_the_request() -> None:
    assert skew_ns(NOON + 250, NOON, NOON + 100) == 200
    assert skew_ns(NOON - 50, NOON, NOON + 100) == -100
