"""Lanes: who goes first, what the rate allows, what a deadline means. Expected values by arithmetic on the limits.

The clock's source is a number that the test sets, so that a simulated minute passes when the test says so.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from daemon.brokers.alpaca.rest.client import (
    CallPriority,
    NotSent,
    RequestQueue,
    Unanswered,
    account_queues,
    listing_queue,
    market_queue,
)
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from tests.support.simulator.lone_loop import Gate

SECOND_NS = 1_000_000_000
START_NS = 1_719_927_060 * SECOND_NS


class Hands:
    """The time, set by hand. A lane that waits looks again when a call comes in."""

    def __init__(self) -> None:
        self.now = START_NS
        self.clock = Clock.real(lambda: self.now)

    def pass_s(self, seconds: float) -> None:
        self.now += round(seconds * SECOND_NS)


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
async def lane(hands: Hands) -> AsyncIterator[RequestQueue]:
    """Six calls a minute, five at once, two of them for exits alone; pauses at three remaining."""
    lane = RequestQueue("test", TokenBucket(hands.clock.now_ns, 6, 5), hands.clock, reserve=2, floor=3)
    yield lane
    await lane.close()


def nothing() -> None:
    """A call that costs a token."""


async def go(lane: RequestQueue, urgency: CallPriority = CallPriority.EXIT, deadline_s: float = 5.0) -> None:
    await lane.call(nothing, urgency, deadline_s)


def test_a_bucket_never_allows_more_than_its_rate_and_its_burst(hands: Hands) -> None:
    bucket = TokenBucket(hands.clock.now_ns, 60, 30)
    count = 0
    for _ in range(60_000):  # a minute in steps of a millisecond, asked all the time
        if bucket.wait_ns() == 0:
            bucket.take()
            count += 1
        hands.pass_s(0.001)
    assert count == 89  # 30 at once and one a second; the sixtieth second is not over
    assert bucket.wait_ns() == 0  # now it is
    bucket.take()
    assert bucket.wait_ns() == pytest.approx(SECOND_NS)


def test_the_lanes_of_an_account_together_stay_below_its_limit(hands: Hands) -> None:
    async def most(lane: RequestQueue) -> int:
        bucket, count = lane._bucket, 0
        for _ in range(60_000):
            if bucket.wait_ns() == 0:
                bucket.take()
                count += 1
            hands.pass_s(0.001)
        return count

    async def all_of_them() -> list[int]:
        lanes = (*account_queues(hands.clock), listing_queue(hands.clock), market_queue(hands.clock))
        return [await most(lane) for lane in lanes]

    orders, reads, lists, market = asyncio.run(all_of_them())
    assert orders + reads + lists <= 200
    assert market <= 200


def test_fifty_positions_can_be_left_with_a_cancel_and_a_sale_each_within_the_minute(hands: Hands) -> None:
    async def bucket_of_orders() -> TokenBucket:
        return account_queues(hands.clock)[0]._bucket

    bucket, begin = asyncio.run(bucket_of_orders()), hands.now
    for _ in range(100):
        hands.pass_s(bucket.wait_ns() / SECOND_NS)
        bucket.take()
    assert hands.now - begin <= 20.1 * SECOND_NS  # eighty at once, twenty at one a second


async def test_a_call_with_patience_waits_for_its_turn_beyond_its_deadline_and_in_a_full_queue(
    lane: RequestQueue,
) -> None:
    gate = Gate()
    running = asyncio.create_task(lane.call(gate.wait, CallPriority.EXIT, 5))
    await asyncio.sleep(0.01)
    crowd = [asyncio.create_task(lane.call(nothing, CallPriority.READ, 5)) for _ in range(256)]
    await asyncio.sleep(0.01)
    exits = asyncio.create_task(lane.call(lambda: "left", CallPriority.EXIT, 0.01, math.inf))
    entry = asyncio.create_task(lane.call(lambda: "left", CallPriority.ENTRY, 5, 0.02))
    with pytest.raises(NotSent, match=r"its turn did not come within 0\.02 s; nothing was sent"):
        await entry
    for call in crowd:
        call.cancel()
    gate.set()
    assert await exits == "left"
    await asyncio.wait([running, *crowd])


async def test_exits_go_before_entries_before_reads_and_equals_in_their_order(lane: RequestQueue) -> None:
    gate, order = Gate(), list[str]()
    first = asyncio.create_task(lane.call(gate.wait, CallPriority.EXIT, 5))
    await asyncio.sleep(0)

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    wishes = [
        ("read", CallPriority.READ),
        ("entry", CallPriority.ENTRY),
        ("exit 1", CallPriority.EXIT),
        ("exit 2", CallPriority.EXIT),
    ]
    calls = [asyncio.create_task(lane.call(note(name), urgency, 0.5)) for name, urgency in wishes]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait([first, *calls])
    assert order == ["exit 1", "exit 2"]  # then two tokens are left, which are for exits alone
    assert [isinstance(call.exception(), NotSent) for call in calls] == [True, True, False, False]


@pytest.mark.parametrize("before", [0, 10])
async def test_however_many_look_ups_wait_a_report_has_its_turn(hands: Hands, before: int) -> None:
    _, reads = account_queues(hands.clock)
    gate, order = Gate(), list[str]()

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    try:
        first = asyncio.create_task(reads.call(gate.wait, CallPriority.EXIT, 20))
        await asyncio.sleep(0)
        look_ups = [(f"look-up {n}", CallPriority.EXIT) for n in range(10)]
        wishes = [*look_ups[:before], ("report", CallPriority.READ), *look_ups[before:]]
        calls = [asyncio.create_task(reads.call(note(name), urgency, 20)) for name, urgency in wishes]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *calls)
    finally:
        await reads.close()
    assert order[:3] == ["look-up 0", "report", "look-up 1"]  # the third call, the gate's counted
    assert order[2:] == [f"look-up {n}" for n in range(1, 10)]


async def test_the_reserve_is_for_exits_alone(lane: RequestQueue) -> None:
    for _ in range(3):
        await go(lane, CallPriority.ENTRY)
    with pytest.raises(NotSent, match="its turn did not come"):
        await go(lane, CallPriority.ENTRY, 0.05)
    await go(lane)
    await go(lane)
    with pytest.raises(NotSent):
        await go(lane, deadline_s=0.05)


async def test_a_minute_of_the_desks_clock_fills_the_bucket_again(lane: RequestQueue, hands: Hands) -> None:
    for _ in range(5):
        await go(lane)
    hands.pass_s(10)  # six a minute: one
    await go(lane)
    with pytest.raises(NotSent):
        await go(lane, deadline_s=0.05)


async def test_a_call_that_waits_in_vain_never_runs(lane: RequestQueue) -> None:
    gate, calls = Gate(), list[int]()
    blocking = asyncio.create_task(lane.call(gate.wait, CallPriority.EXIT, 5))
    await asyncio.sleep(0)
    with pytest.raises(NotSent, match="nothing was sent"):
        await lane.call(lambda: calls.append(1), CallPriority.EXIT, 0.05)
    cancelled = asyncio.create_task(lane.call(lambda: calls.append(2), CallPriority.EXIT, 5))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.set()
    await blocking
    await go(lane)
    assert calls == []


async def test_a_call_that_runs_too_long_may_have_happened_and_the_loop_goes_on(lane: RequestQueue) -> None:
    gate = Gate()
    with pytest.raises(Unanswered, match="no answer within"):
        await lane.call(gate.wait, CallPriority.EXIT, 0.05)
    gate.set()
    await go(lane)


async def test_what_the_call_raises_reaches_the_caller(lane: RequestQueue) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by hand")

    with pytest.raises(ZeroDivisionError, match="by hand"):
        await lane.call(fail, CallPriority.EXIT, 5)
    await go(lane)


async def test_a_full_queue_refuses_and_forgets_what_nobody_waits_for(lane: RequestQueue) -> None:
    gate = Gate()
    running = asyncio.create_task(lane.call(gate.wait, CallPriority.EXIT, 5))
    await asyncio.sleep(0.01)
    calls = [asyncio.create_task(lane.call(nothing, CallPriority.EXIT, 5)) for _ in range(256)]
    await asyncio.sleep(0.01)
    try:
        with pytest.raises(NotSent, match="256 calls wait"):
            await go(lane)
    finally:
        gate.set()
        for call in calls:
            call.cancel()
    await asyncio.wait([running, *calls])
    await go(lane)


async def test_closing_refuses_what_waits_and_joins_the_thread(lane: RequestQueue) -> None:
    names = {thread.name for thread in threading.enumerate()}
    await go(lane)
    assert {thread.name for thread in threading.enumerate()} - names == {"queue-test_0"}
    gate = Gate()
    running = asyncio.create_task(lane.call(gate.wait, CallPriority.EXIT, 5))
    waiting = asyncio.create_task(lane.call(nothing, CallPriority.EXIT, 5))
    await asyncio.sleep(0.01)
    gate.set()
    await lane.close()
    assert await running
    with pytest.raises(NotSent, match="was closed"):
        await waiting
    with pytest.raises(NotSent, match="is closed"):
        await go(lane)
    assert "queue-test_0" not in {thread.name for thread in threading.enumerate()}


# --- the broker's own word about the rate -------------------------------------------------------------------------


RESET = str(START_NS // SECOND_NS + 30)


@pytest.mark.parametrize(
    ("status", "headers", "paused_s"),
    [
        (429, {"Retry-After": "7"}, 7),
        (429, {"X-Ratelimit-Reset": RESET}, 30),
        (429, {"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": RESET}, 30),
        (429, {}, 5),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 5),
        (429, {"Retry-After": "86400"}, 60),  # never longer than the broker's own window
        (503, {"Retry-After": "7"}, 7),
        (200, {"X-Ratelimit-Remaining": "3", "X-Ratelimit-Reset": RESET}, 30),
        (200, {"X-Ratelimit-Remaining": "4", "X-Ratelimit-Reset": RESET}, 0),
        (200, {"X-Ratelimit-Remaining": "0"}, 0),
        (200, {"X-Ratelimit-Remaining": "nan", "X-Ratelimit-Reset": "inf"}, 0),
        (200, {"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "1"}, 0),  # a window that is over
        (200, {}, 0),
    ],
)
async def test_the_lane_pauses_as_the_broker_says(
    lane: RequestQueue, hands: Hands, status: int, headers: dict[str, str], paused_s: int
) -> None:
    lane.observe(status, headers)
    if paused_s:
        hands.pass_s(paused_s - 0.001)
        with pytest.raises(NotSent):
            await go(lane, deadline_s=0.02)
        hands.pass_s(0.001)
    await go(lane)
