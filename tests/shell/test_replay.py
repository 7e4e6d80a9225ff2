"""The replay gives the tape's events in order, at the speed asked for, and stops waiting when told to."""

from __future__ import annotations

import asyncio
import time

from daemon.core.events import ClockTicked, Event
from daemon.shell.replay import ReplaySource

HOUR = 3600 * 10**9


async def everything(source: ReplaySource) -> list[Event]:
    given = []
    while (event := await source.next()) is not None:
        given.append(event)
    return given


def hours(count: int) -> list[ClockTicked]:
    return [ClockTicked(number * HOUR) for number in range(count)]


async def test_without_a_speed_events_come_one_after_another() -> None:
    assert await everything(ReplaySource(iter(hours(1000)), None)) == hours(1000)


async def test_with_a_speed_all_events_come_in_their_order() -> None:
    began = time.monotonic()
    assert await everything(ReplaySource(iter(hours(5)), 360_000.0)) == hours(5)
    assert time.monotonic() - began >= 4 * 0.01  # never early: an hour in a hundredth of a second


async def test_the_first_event_comes_at_once_and_the_next_waits_for_its_time() -> None:
    source = ReplaySource(iter(hours(2)), 1.0)
    assert await source.next() == ClockTicked(0)
    waiting = asyncio.create_task(source.next())
    done, _ = await asyncio.wait([waiting], timeout=0.02)
    assert not done
    source.stop()
    assert await waiting is None
    assert await source.next() is None


async def test_a_stopped_source_gives_no_more_even_without_waiting() -> None:
    late = [ClockTicked(HOUR), ClockTicked(HOUR), ClockTicked(0)]  # no event waits: its time is now or past
    source = ReplaySource(iter(late), 1.0)
    assert await source.next() == late[0]
    assert await source.next() == late[1]
    source.stop()
    assert await source.next() is None
