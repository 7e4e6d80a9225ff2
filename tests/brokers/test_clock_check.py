"""The host's clock against the loopback Alpaca's: which of host and monotonic clock is believed, and what is logged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from daemon.host.time.clock import Clock, LeapWatch
from tests.support.alpaca.rest_desk import (
    SECOND_NS,
    Desk,
    clock_check,
    desk,
    eventually,
)
from tests.support.log import LogRecorder

HOUR_NS = 3600 * SECOND_NS


class Setting:
    """A desk whose host's wall clock is moved by hand; the server's is not."""

    def __init__(self, it: Desk) -> None:
        self.it, self.log, self.moved_ns, self.journal_ns = it, LogRecorder(), 0, 0
        self.clock = self.fresh_clock()
        self.check = clock_check(it.reads, self.clock, self.log, lambda: self.journal_ns)

    def fresh_clock(self) -> Clock:
        """The clock of a daemon that starts now."""
        it = self.it
        return Clock(lambda: it.clock.now_ns() + self.moved_ns, steady=it.clock.now_ns, watch=LeapWatch())

    def off_ns(self) -> int:
        """How far the desk's time is ahead of the server's."""
        return self.clock.now_ns() - self.it.clock.now_ns()

    def names(self) -> list[str]:
        return [name for name, _ in self.log.entries]


@contextlib.asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    async with desk() as it:
        yield Setting(it)


@contextlib.asynccontextmanager
async def checking(s: Setting) -> AsyncIterator[None]:
    task = asyncio.create_task(s.check.run())
    try:
        yield
    finally:
        task.cancel()


async def test_a_leap_that_the_broker_s_clock_does_not_know_is_an_alarm_and_never_the_desk_s_time() -> None:
    async with setting() as s, checking(s):
        await eventually(lambda: s.check.fault() == "")
        s.moved_ns = 8 * HOUR_NS
        assert abs(s.off_ns()) < SECOND_NS
        await eventually(lambda: s.names() == ["clock_leap"] and s.check.fault() == "")
        assert abs(s.off_ns()) < SECOND_NS
        assert dict(s.log.entries)["clock_leap"]["by_s"] == 28800.0
        s.moved_ns = 0  # chrony mended it
        assert abs(s.off_ns()) < SECOND_NS


async def test_a_host_that_was_suspended_goes_on_by_the_broker_s_clock() -> None:
    async with setting() as s, checking(s):
        await eventually(lambda: s.check.fault() == "")
        s.it.server.faults.add("clock_skew", until_ns=s.it.clock.now_ns() + HOUR_NS, skew_s=3600)
        s.moved_ns = HOUR_NS  # the monotonic clock stood still for an hour, the wall clock and the broker's did not
        await eventually(lambda: "clock_corrected" in s.names())
        assert s.names() == ["clock_leap", "clock_skew", "clock_corrected"]
        assert abs(s.off_ns() - HOUR_NS) < SECOND_NS
        assert s.check.fault() == ""


async def test_while_the_broker_does_not_answer_a_leap_stays_held_and_time_unverified() -> None:
    async with setting() as s:
        s.it.server.faults.add("http_error", where={"path": "/v2/clock"}, times=2, status=503)
        async with checking(s):
            s.moved_ns = 8 * HOUR_NS
            await eventually(lambda: s.it.count("GET", "/v2/clock") >= 1)
            assert "the host's leapt since" in s.check.fault()
            assert abs(s.off_ns()) < SECOND_NS
            await eventually(lambda: s.check.fault() == "")
        assert s.names() == ["clock_leap"]


async def test_a_start_with_a_clock_eight_hours_ahead_goes_by_the_broker_s_before_anything_is_stamped() -> None:
    async with setting() as s:
        s.moved_ns = 8 * HOUR_NS
        s.clock = s.fresh_clock()
        s.check = clock_check(s.it.reads, s.clock, s.log)
        assert s.off_ns() > 7 * HOUR_NS
        await s.check.at_start(10)
        assert abs(s.off_ns()) < SECOND_NS
        assert (s.names(), s.check.fault()) == (["clock_wrong"], "")


@pytest.mark.parametrize("wrong_h", [-3, 3])
async def test_what_the_broker_s_clock_said_wrong_at_a_start_ends_once_it_agrees_with_the_host_s(wrong_h: int) -> None:
    async with setting() as s:
        s.it.server.faults.add("clock_skew", times=2, skew_s=3600 * wrong_h)
        await s.check.at_start(10)
        await s.check.measure()  # still wrong
        assert abs(s.off_ns() - wrong_h * HOUR_NS) < SECOND_NS
        await s.check.measure()
        before_ns, at_ns = s.clock.now_ns(), s.it.clock.now_ns()
        assert s.names() == ["clock_wrong", "clock_skew", "clock_corrected"]
        if wrong_h < 0:
            assert abs(s.off_ns()) < SECOND_NS
            assert s.check.fault() == ""
        else:  # time never goes back: it goes on at half speed until the host has caught up
            await eventually(lambda: s.it.clock.now_ns() - at_ns > 2 * SECOND_NS)
            passed_ns = s.it.clock.now_ns() - at_ns
            assert abs(s.clock.now_ns() - before_ns - passed_ns // 2) < SECOND_NS // 2


async def test_a_host_s_clock_that_is_wrong_alone_is_not_followed_after_a_start() -> None:
    async with setting() as s:
        s.moved_ns = 8 * HOUR_NS
        s.clock = s.fresh_clock()
        s.check = clock_check(s.it.reads, s.clock, s.log)
        await s.check.at_start(10)
        s.it.server.faults.add("clock_skew", times=1, skew_s=3600)
        await s.check.measure()
        await s.check.measure()
        assert abs(s.off_ns()) < SECOND_NS
        assert (s.names(), s.check.fault()) == (["clock_wrong", "clock_skew"], "")


async def test_a_start_without_an_answer_goes_on_and_says_so() -> None:
    async with setting() as s:
        s.it.server.faults.add("http_error", where={"path": "/v2/clock"}, status=503)
        await s.check.at_start(10)
        assert (s.names(), s.check.fault() == "") == (["clock_unverified"], False)
        s.it.server.faults.add("http_slow", where={"path": "/v2/clock"}, seconds=0.25)
        await s.check.at_start(0.05)
        assert s.log.entries[-1][1]["problem"] == "no answer within 0.05 s"


async def test_a_small_difference_at_a_start_is_told_with_the_first_report_and_changes_no_time() -> None:
    async with setting() as s:
        s.it.server.faults.add("clock_skew", skew_s=30)
        await s.check.at_start(10)
        assert (s.names(), abs(s.off_ns()) < SECOND_NS) == ([], True)
        assert "differs from this host's" in s.check.fault()


async def test_a_journal_that_is_ahead_of_the_verified_clock_is_told_once() -> None:
    async with setting() as s:
        s.journal_ns = s.it.clock.now_ns() + 8 * HOUR_NS
        async with checking(s):
            await eventually(lambda: "clock_ahead" in s.names())
            await asyncio.sleep(0)
        assert s.names() == ["clock_ahead"]
