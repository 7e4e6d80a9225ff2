"""The replay gives the tape's events in order, at the speed asked for, and stops waiting on request."""

from __future__ import annotations

import asyncio
import time

import pytest

from daemon.app.replay import ReplaySource
from daemon.core.events import ClockTicked, Event, HaltRequested

HOUR = 3600 * 10**9


async def everything(source: ReplaySource) -> list[Event]:
    events = []
    while (event := await source.next()) is not None:
        events.append(event)
    return events


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


# --- what an operator puts in -------------------------------------------------------------------------------------


def halt(time_ns: int) -> HaltRequested:
    return HaltRequested(time_ns, "operator", "lunch", "ann")


async def test_what_is_put_in_comes_before_the_tape_s_next_event_and_leaves_out_none() -> None:
    source = ReplaySource(iter(hours(3)), None)
    assert source.poll() == ClockTicked(0)
    source.put(halt(1))
    source.put(halt(2))
    assert await everything(source) == [halt(1), halt(2), ClockTicked(HOUR), ClockTicked(2 * HOUR)]


async def test_what_is_put_in_while_the_tape_waits_for_its_time_comes_at_once_and_the_wait_goes_on() -> None:
    source = ReplaySource(iter(hours(2)), 1.0)  # the second event is due in an hour
    assert await source.next() == ClockTicked(0)
    waiting = asyncio.create_task(source.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    source.put(halt(1))
    assert await waiting == halt(1)
    assert source.poll() is None
    source.put(halt(2))
    assert await source.next() == halt(2)
    again = asyncio.create_task(source.next())
    await asyncio.sleep(0)
    assert not again.done()
    source.stop()
    assert await again is None


async def test_with_a_speed_the_event_that_waited_comes_after_what_was_put_in() -> None:
    source = ReplaySource(iter(hours(2)), 360_000.0)  # an hour in a hundredth of a second
    assert await source.next() == ClockTicked(0)
    source.put(halt(1))
    assert await everything(source) == [halt(1), ClockTicked(HOUR)]


@pytest.mark.parametrize("speed", [None, 360_000.0])
async def test_after_the_tape_s_end_what_is_put_in_still_comes_when_it_is_asked_for(speed: float | None) -> None:
    source = ReplaySource(iter(hours(1)), speed)
    assert await everything(source) == hours(1)
    source.put(halt(1))
    assert await everything(source) == [halt(1)]
    assert await source.next() is None


async def test_what_was_put_in_before_a_stop_is_not_lost() -> None:
    source = ReplaySource(iter(hours(2)), 1.0)
    assert await source.next() == ClockTicked(0)
    source.put(halt(1))
    source.stop()
    assert await everything(source) == [halt(1)]
