"""Leaps of the host's wall clock against one that is never set. Expected times are added up by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from daemon.host.time.clock import Clock, LeapWatch
from daemon.host.time.schedule import Schedule

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
NOON = 1_720_008_000 * SECOND  # 2024-07-03T12:00:00Z


class Host:
    """A host with both clocks: `pass_s` lets time pass, `leap_s` sets the wall clock."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 7 * SECOND
        self.clock = Clock.real(lambda: self.wall, lambda: self.steady, LeapWatch())

    def pass_s(self, seconds: float) -> int:
        self.wall += round(seconds * SECOND)
        self.steady += round(seconds * SECOND)
        return self.clock.now_ns()

    def leap_s(self, seconds: float) -> int:
        self.wall += round(seconds * SECOND)
        return self.clock.now_ns()


def test_a_leap_of_eight_hours_is_held_back_and_time_goes_on_as_if_it_had_not_been() -> None:
    host = Host()
    host.pass_s(10)
    assert host.leap_s(8 * 3600) == NOON + 10 * SECOND
    assert host.pass_s(60) == NOON + 70 * SECOND
    watch = host.clock.watch
    assert watch is not None
    assert (watch.leaps, watch.leap_ns, watch.lead_ns) == (1, 8 * HOUR, 8 * HOUR)


def test_a_clock_that_is_set_right_again_is_followed_again() -> None:
    host = Host()
    host.leap_s(8 * 3600)
    host.pass_s(60)
    assert host.leap_s(-8 * 3600) == NOON + 60 * SECOND
    assert host.pass_s(1) == host.wall
    assert host.clock.stepped_back_ns == 0


def test_a_leap_back_is_held_too_and_time_keeps_its_speed() -> None:
    host = Host()
    assert host.leap_s(-8 * 3600) == NOON
    assert host.pass_s(60) == NOON + 60 * SECOND


def test_a_leap_that_the_broker_s_clock_confirms_is_taken_over() -> None:
    host = Host()
    host.leap_s(1800)  # a suspended host: its monotonic clock stood still
    host.clock.correct(1_800_200_000_000)  # the broker's, give or take a fifth of a second
    assert host.pass_s(1) == host.wall == NOON + 1801 * SECOND


def test_a_leap_back_that_the_broker_s_clock_confirms_is_made_up_for_at_half_speed() -> None:
    host = Host()
    host.leap_s(-60)
    host.clock.correct(-60 * SECOND)
    assert host.pass_s(20) == NOON + 10 * SECOND
    assert host.pass_s(110) == NOON + 70 * SECOND == host.wall  # half of 110 s would fall behind the host's own time


def test_before_the_first_event_a_clock_goes_by_the_broker_s_at_once() -> None:
    host = Host()
    host.clock.correct(-8 * HOUR, at_once=True)
    assert host.clock.now_ns() == NOON - 8 * HOUR
    assert host.pass_s(5) == NOON - 8 * HOUR + 5 * SECOND


def test_a_slewed_clock_passes_and_many_small_steps_do_not() -> None:
    host = Host()
    for _ in range(10_000):  # half a thousandth faster, as fast as Linux slews
        host.wall += SECOND // 2000
        assert host.pass_s(1) == host.wall
    for _ in range(4):
        host.leap_s(4)
    assert host.wall - host.clock.now_ns() >= 8 * SECOND  # of sixteen seconds five pass and a little


def test_many_small_steps_back_do_not_pass_either() -> None:
    host = Host()
    for _ in range(10):
        host.pass_s(60)
        host.leap_s(-4)
    assert host.clock.now_ns() - host.wall >= 30 * SECOND  # of forty seconds five pass and a little


def test_a_simulated_clock_is_corrected_in_its_own_time() -> None:
    wall, steady = [NOON], [0]
    clock = Clock(lambda: wall[0], NOON, NOON, 60, lambda: steady[0], LeapWatch())
    wall[0] += HOUR
    assert clock.now_ns() == NOON
    clock.correct(60 * HOUR)
    assert clock.now_ns() == NOON + 60 * HOUR


async def test_a_job_waits_for_the_desk_s_clock_where_the_host_s_has_leapt_past_it() -> None:
    wall, steady = datetime.now(UTC), [0]
    begin = round(wall.timestamp() * 1e9)
    host = [begin]
    clock = Clock.real(lambda: host[0], lambda: steady[0], LeapWatch())
    schedule, ran = Schedule(clock, lambda *_: None), asyncio.Event()

    async def job() -> None:
        ran.set()

    schedule.start()
    try:
        # the library goes by this process's true wall clock, to which the job's time has come
        schedule.at(begin - HOUR, "past", job)
        host[0] -= 2 * HOUR
        clock.correct(-2 * HOUR, at_once=True)
        for _ in range(50):
            await asyncio.sleep(0)
        assert clock.now_ns() == begin - 2 * HOUR
        await asyncio.sleep(0.2)
        assert not ran.is_set()
        host[0] += HOUR
        steady[0] += HOUR
        await asyncio.wait_for(ran.wait(), 60)
    finally:
        schedule.stop()
