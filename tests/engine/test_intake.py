"""The intake keeps the order and loses nothing but ticks and quotes between bars, and those only when it is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import BarClosed, ClockTicked, Event, OrderRejected, QuotesReceived, SessionEnded
from daemon.engine.engine import CAPACITY, Intake, IntakeFull
from strategies.kit.contract import Bar

Make = Callable[[int], Event]


def tick(number: int) -> Event:
    return ClockTicked(number)


def quotes(number: int) -> Event:
    """Quotes between bars."""
    return QuotesReceived(number, 0, ())


def closing(number: int) -> Event:
    """The quotes that close a bar: the strategy waits for them."""
    return QuotesReceived(number, 60_000_000_000, ())


def bar(number: int) -> Event:
    return BarClosed(number, Bar("SPY", number, 1.0, 1.0, 1.0, 1.0, 1.0))


def rejected(number: int) -> Event:
    return OrderRejected(number, "a", "no")


def ended(number: int) -> Event:
    return SessionEnded(number, "2024-07-03")


REPLACEABLE = (tick, quotes)
OTHERS = (closing, bar, rejected, ended)


def drain(intake: Intake) -> list[Event]:
    """All that waits."""
    events = []
    while (event := intake.poll()) is not None:
        events.append(event)
    return events


def replaceable(event: Event) -> bool:
    return isinstance(event, ClockTicked) or (isinstance(event, QuotesReceived) and event.closes_bar_ns == 0)


def test_events_leave_in_the_order_in_which_they_came() -> None:
    intake = Intake()
    events = [make(number) for number, make in enumerate((*REPLACEABLE, *OTHERS) * 3)]
    for event in events:
        intake.put(event)
    assert len(intake) == 18
    assert drain(intake) == events
    assert (len(intake), intake.poll(), intake.dropped) == (0, None, 0)


def test_a_full_intake_drops_the_oldest_tick_or_quote_between_bars_for_each_event_that_comes() -> None:
    intake = Intake(4)
    for event in (bar(1), quotes(2), closing(3), tick(4), bar(5), tick(6)):
        intake.put(event)
    assert intake.dropped == 2
    assert drain(intake) == [bar(1), closing(3), bar(5), tick(6)]


@pytest.mark.parametrize("make", [*REPLACEABLE, *OTHERS])
def test_where_nothing_may_be_dropped_the_process_ends_and_says_why(make: Make) -> None:
    intake = Intake(4)
    waiting = [kind(number) for number, kind in enumerate(OTHERS)]
    for event in waiting:
        intake.put(event)
    name = type(make(9)).__name__
    with pytest.raises(IntakeFull, match=rf"^4 events wait and {name} came: the engine does not keep up; the daemon"):
        intake.put(make(9))
    assert drain(intake) == waiting


def test_what_was_taken_makes_room() -> None:
    intake = Intake(1)
    for number in range(5):
        intake.put(bar(number))
        assert intake.poll() == bar(number)


def test_it_holds_ten_thousand_events_unless_told_otherwise() -> None:
    intake = Intake()
    for number in range(CAPACITY):
        intake.put(bar(number))
    assert len(intake) == 10_000
    with pytest.raises(IntakeFull):
        intake.put(bar(CAPACITY))


async def test_whoever_waits_gets_the_next_event_as_soon_as_it_comes() -> None:
    intake = Intake()
    waiting = asyncio.ensure_future(intake.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    intake.put(bar(1))
    intake.put(bar(2))
    assert await waiting == bar(1)
    assert await intake.next() == bar(2)


async def test_after_the_end_what_waits_is_taken_and_then_there_is_nothing_for_ever() -> None:
    intake = Intake()
    intake.put(bar(1))
    intake.end()
    intake.put(bar(2))
    assert [await intake.next() for _ in range(3)] == [bar(1), None, None]
    assert intake.poll() is None


async def test_the_end_wakes_whoever_waits() -> None:
    intake = Intake()
    waiting = asyncio.ensure_future(intake.next())
    await asyncio.sleep(0)
    intake.end()
    assert await waiting is None


kinds = st.sampled_from((*REPLACEABLE, *OTHERS))


@given(st.lists(st.one_of(kinds, st.none())), st.integers(1, 8))
def test_nothing_but_ticks_and_quotes_between_bars_is_ever_lost(actions: Sequence[Make | None], size: int) -> None:
    """None takes an event out; anything else puts one in."""
    intake, came, events_out = Intake(size), [], []
    for number, action in enumerate(actions):
        if action is None:
            event = intake.poll()
            events_out += [] if event is None else [event]
            continue
        length = len(intake)
        try:
            intake.put(action(number))
        except IntakeFull:
            assert length == size
            break
        came.append(action(number))
        assert len(intake) == min(length + 1, size)
    events_out += drain(intake)
    assert [e for e in events_out if not replaceable(e)] == [e for e in came if not replaceable(e)]
    assert [e.time_ns for e in events_out] == sorted(e.time_ns for e in events_out)
    assert len(came) - len(events_out) == intake.dropped
