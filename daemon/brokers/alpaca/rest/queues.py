"""Request queues for blocking REST calls: one worker thread each, exits first, a share of the rate limit.

The queue lives on the event loop and is bounded; only the call itself runs in the thread, so nothing blocks the loop.
Rate limits follow the desk's clock; deadlines are real seconds and include the waiting, unless a call sets `wait_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.pacing.token_bucket import TokenBucket
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.host.time.clock import Clock

T = TypeVar("T")

PAUSE_MAX_S = 60  # cap on Retry-After: the broker counts in windows of a minute
PAUSE_DEFAULT_S = 5  # after a refusal for the rate that names no time


class Urgency(IntEnum):
    """Priority of a call; the lowest goes first, equal ones first come first."""

    EXIT = 0  # exits and cancels
    ENTRY = 1
    READ = 2


class NotStarted(Exception):
    """The call never left: the queue was full or closed, or its deadline passed while it waited."""


class StillRunning(Exception):
    """The call's deadline passed while it ran: it may or may not take effect."""


@dataclass(slots=True, eq=False)
class _Call:
    work: Callable[[], Any]
    urgency: Urgency
    answer: asyncio.Future[Any]
    started: asyncio.Event = field(default_factory=asyncio.Event)


class RequestQueue:
    """One thread and its queue. `reserve` tokens are kept for exits; at `floor` remaining calls the queue pauses.

    With `oldest_each` every n-th call is the one that has waited longest, so that no call starves.
    """

    def __init__(
        self, name: str, bucket: TokenBucket, clock: Clock, *, reserve: int = 0, floor: int = 0, oldest_each: int = 0
    ) -> None:
        self.name = name
        self.clock = clock
        self._bucket = bucket
        self._reserve = reserve
        self._floor = floor
        self._oldest_each = oldest_each
        self._taken = 0
        self._capacity = 256
        self._queue: list[tuple[int, int, _Call]] = []
        self._number = itertools.count()
        self._wake = asyncio.Event()
        self._paused_until_ns = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"queue-{name}")
        self._dispatcher: asyncio.Task[None] | None = None
        self._closed = False

    async def call(self, work: Callable[[], T], urgency: Urgency, deadline_s: float, wait_s: float | None = None) -> T:
        """Run `work` in the queue's thread at its turn. Raises NotStarted, StillRunning, and errors of `work`.

        With `wait_s` it waits that long for its turn, however full the queue is, and the deadline begins with its turn.
        A cancelled caller leaves the queue; a running call ends without a receiver.
        """
        self._admit(full_too=wait_s is not None)
        call = _Call(work, urgency, asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, (urgency, next(self._number), call))
        self._wake.set()
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch(), name=f"queue-{self.name}")
        waited_s = deadline_s
        try:
            if wait_s is not None:
                waited_s = wait_s
                await _turn(call, wait_s)
            if wait_s is None or call.started.is_set():
                await asyncio.wait({call.answer}, timeout=deadline_s)
            if call.answer.done():
                answer: T = call.answer.result()
                return answer
        finally:
            call.answer.cancel()  # leaves the queue; nothing where it is done
        if call.started.is_set():
            raise StillRunning(f"queue {self.name}: no answer within {deadline_s} s")
        raise NotStarted(f"queue {self.name}: its turn did not come within {waited_s:g} s; nothing was sent")

    def observe(self, status: int, headers: Mapping[str, str]) -> None:
        """Apply the broker's rate headers: pause until Reset, or for Retry-After, at most a minute. From the thread."""
        now = self.clock.now_ns()
        pause_s = _number(headers.get("Retry-After"))
        remaining, reset_s = _number(headers.get("X-Ratelimit-Remaining")), _number(headers.get("X-Ratelimit-Reset"))
        if pause_s is None and (status == 429 or (remaining is not None and remaining <= self._floor)):
            default_s = PAUSE_DEFAULT_S if status == 429 else None
            pause_s = default_s if reset_s is None else reset_s - now / SECOND_NS
        if pause_s is not None and pause_s > 0:
            self._paused_until_ns = now + round(min(pause_s, PAUSE_MAX_S) * SECOND_NS)

    async def close(self) -> None:
        """Refuse waiting calls and join the thread: a running call is bounded by its socket's deadlines."""
        self._closed = True
        for _, _, call in self._queue:
            if not call.answer.done():
                call.answer.set_exception(NotStarted(f"queue {self.name} was closed; nothing was sent"))
        self._wake.set()
        if self._dispatcher is not None:
            await self._dispatcher
        await asyncio.to_thread(self._thread.shutdown)

    # --- the queue ------------------------------------------------------------------------------------------------

    def _admit(self, *, full_too: bool) -> None:
        if self._closed:
            raise NotStarted(f"queue {self.name} is closed; nothing was sent")
        if full_too:
            return
        if len(self._queue) >= self._capacity:
            self._queue = [entry for entry in self._queue if not entry[2].answer.done()]
            heapq.heapify(self._queue)
        if len(self._queue) >= self._capacity:
            raise NotStarted(f"queue {self.name}: {len(self._queue)} calls wait already; nothing was sent")

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while (call := await self._next()) is not None:
            call.started.set()
            running = loop.run_in_executor(self._thread, call.work)
            await asyncio.wait({running})
            error = running.exception()
            if call.answer.done():
                continue  # cancelled meanwhile
            if error is not None:
                call.answer.set_exception(error)
            else:
                call.answer.set_result(running.result())

    async def _next(self) -> _Call | None:
        """Return the first call of the queue, once the rate allows it; None after `close`."""
        while not self._closed:
            while self._queue and self._queue[0][2].answer.done():
                heapq.heappop(self._queue)
            self._wake.clear()
            if not self._queue:
                await self._wake.wait()
                continue
            wait_ns = self._wait_ns(self._queue[0][2].urgency)
            if wait_ns <= 0:
                self._bucket.take()
                return self._first()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.001, self.clock.real_s(wait_ns)))
        return None

    def _first(self) -> _Call:
        """Take the next call out of the queue, which has an awaited one at its head."""
        self._taken += 1
        if not self._oldest_each or self._taken % self._oldest_each:
            return heapq.heappop(self._queue)[2]
        self._queue = [entry for entry in self._queue if not entry[2].answer.done()]
        oldest = min(self._queue, key=lambda entry: entry[1])
        self._queue.remove(oldest)
        heapq.heapify(self._queue)
        return oldest[2]

    def _wait_ns(self, urgency: Urgency) -> int:
        kept = 0 if urgency is Urgency.EXIT else self._reserve
        return max(self._paused_until_ns - self.clock.now_ns(), self._bucket.wait_ns(kept))


async def _turn(call: _Call, wait_s: float) -> None:
    """Wait until the call's turn comes, its queue is closed, or `wait_s` has passed (`math.inf`: for ever)."""
    turn = asyncio.ensure_future(call.started.wait())
    try:
        timeout_s = None if wait_s == math.inf else wait_s
        await asyncio.wait({turn, call.answer}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        turn.cancel()


def _number(value: str | None) -> float | None:
    """Parse a header's number of seconds or calls; None for anything else."""
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e12 else None


def account_queues(clock: Clock) -> tuple[RequestQueue, RequestQueue]:
    """Return the queues for orders and for reads of one account: with `listing_queue` at most 200 calls a minute.

    Orders have 60 a minute and 80 at once, of which 40 are for exits and cancels only: fifty positions can be left with
    a cancel and a sale each in twenty seconds. Reads have 36 and 16 at once, and pause when the broker has 20 calls or
    fewer left. Look-ups go before reports, but every third call is the one that has waited longest: a report, which
    settles all orders at once, comes however many of them are looked up.
    """
    orders = RequestQueue("orders", TokenBucket(clock.now_ns, 60, 80), clock, reserve=40)
    reads = RequestQueue("reads", TokenBucket(clock.now_ns, 36, 16), clock, floor=20, oldest_each=3)
    return orders, reads


def listing_queue(clock: Clock) -> RequestQueue:
    """Return the queue for the lists of contracts: large, slow, never urgent. 4 a minute and 4 at once."""
    return RequestQueue("listing", TokenBucket(clock.now_ns, 4, 4), clock, floor=20)


def market_queue(clock: Clock) -> RequestQueue:
    """Return the queue for market data: a budget of its own, 200 calls a minute."""
    return RequestQueue("market", TokenBucket(clock.now_ns, 150, 50), clock)
