"""The queue of messages for the broker: the trading thread puts, the side thread takes; neither waits.

Without locks: only one thread puts, only one takes, and each counts only its own operations; single operations of a
deque and a dict are atomic. Invariant: offered = published + dropped + conflated + refused + waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

REST_S = 0.01  # after an empty take, the least time between two wake-ups by the trading thread


class Item(NamedTuple):
    """An item to publish under a topic. On a retained topic only the newest counts."""

    topic: str
    thing: object
    retained: bool


class Counts(NamedTuple):
    """Counts of all offered items since the start, by their fate."""

    offered: int
    published: int
    dropped: int  # the queue was full
    conflated: int  # replaced by a newer one of a retained topic
    refused: int  # could not be encoded, or too large for the broker
    waiting: int


class Outbox:
    """Holds at most `limit` items, and one of each retained topic. When it is full the oldest is dropped."""

    def __init__(self, limit: int) -> None:
        self._queue: deque[Item] = deque(maxlen=limit)
        self._newest: dict[str, Item] = {}
        self._retries: deque[Item] = deque()  # taken and not published: next to be taken
        self._queued_count = self._retained_count = 0  # counted by the thread that puts
        self._taken_count = self._retained_taken_count = self._hand = 0  # counted by the thread that takes
        self._published_count = self._refused_count = self._retry_conflations = 0
        self._turn = False
        self._armed = False
        self._wake: Callable[[], None] = _no_wake

    # --- the thread that puts -----------------------------------------------------------------------------------------

    def put(self, topic: str, thing: object) -> None:
        """Put an item; each one counts."""
        self._queue.append(Item(topic, thing, False))
        self._queued_count += 1
        if self._armed:
            self._armed = False
            self._wake()

    def put_retained(self, topic: str, thing: object) -> None:
        """Put the newest item of a retained topic; it is never dropped, only replaced."""
        self._newest[topic] = Item(topic, thing, True)
        self._retained_count += 1
        if self._armed:
            self._armed = False
            self._wake()

    # --- the thread that takes ----------------------------------------------------------------------------------------

    async def get(self) -> Item:
        """Wait, without polling, for the next item: one given back, else in turns a retained topic and the oldest."""
        while (item := self._take()) is None:
            await asyncio.sleep(REST_S)  # items put meanwhile need no wake-up
            if self._queue or self._newest:
                continue
            loop, arrival = asyncio.get_running_loop(), asyncio.Event()

            def wake(loop: asyncio.AbstractEventLoop = loop, arrival: asyncio.Event = arrival) -> None:
                with contextlib.suppress(RuntimeError):  # the side thread has ended
                    loop.call_soon_threadsafe(arrival.set)

            self._wake, self._armed = wake, True
            if not self._queue and not self._newest:
                await arrival.wait()
            self._armed = False
        return item

    def take_newest(self, topic: str) -> Item | None:
        """Return the waiting item of a retained topic, out of turn; None where none waits."""
        item = self._newest.pop(topic, None)
        if item is not None:
            self._retained_taken_count += 1
        else:
            item = next((other for other in self._retries if other.topic == topic), None)
            if item is None:
                return None
            self._retries.remove(item)
        self._hand += 1
        return item

    def published(self) -> None:
        """Count a taken item as published."""
        self._hand -= 1
        self._published_count += 1

    def refused(self) -> None:
        """Count a taken item that can never be published."""
        self._hand -= 1
        self._refused_count += 1

    def give_back(self, items: Iterable[Item]) -> None:
        """Return items that were not published to the front; drop retained ones that have a newer one."""
        rest: list[Item] = []
        for item in items:
            self._hand -= 1
            if item.retained and item.topic in self._newest:
                self._retry_conflations += 1
            else:
                rest.append(item)
        self._retries.extendleft(reversed(rest))

    def counts(self) -> Counts:
        """Return the counts; exact while no put is under way."""
        queued_count, taken_count, waiting = self._queued_count, self._taken_count, len(self._queue)
        retained_count = self._retained_count
        retained_taken_count = self._retained_taken_count
        newest = len(self._newest)
        return Counts(
            offered=queued_count + retained_count,
            published=self._published_count,
            dropped=max(queued_count - taken_count - waiting, 0),
            conflated=max(retained_count - retained_taken_count - newest, 0) + self._retry_conflations,
            refused=self._refused_count,
            waiting=waiting + newest + len(self._retries) + self._hand,
        )

    def _take(self) -> Item | None:
        while self._retries:
            item = self._retries.popleft()
            if item.retained and item.topic in self._newest:
                self._retry_conflations += 1
                continue
            self._hand += 1
            return item
        if self._newest and not (self._queue and self._turn):
            item = self._newest.popitem()[1]
            self._retained_taken_count += 1
        elif self._queue:
            item = self._queue.popleft()
            self._taken_count += 1
        else:
            return None
        self._turn = item.retained  # retained topics and others take turns
        self._hand += 1
        return item


def _no_wake() -> None:
    """Do nothing: no `get` waits."""
