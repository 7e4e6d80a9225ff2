"""The single queue of outside events of a live desk: from feed, broker, clock and operator to the engine.

Bounded. Only ticks and quotes between bars may be dropped, oldest first, because more of them follow. When there is
none to drop, `IntakeFull` ends the process, which then recovers: nothing is lost silently.
"""

from __future__ import annotations

import asyncio
from collections import deque

from daemon.core.events import ClockTicked, Event, QuotesReceived

CAPACITY = 10_000


class IntakeFull(Exception):
    """The engine did not keep up: more events wait than the intake holds."""


class Intake:
    """A `Source` of the engine. Used on the event loop's thread only. `dropped` counts dropped ticks and quotes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Event) -> None:
        """Queue an event; a full intake drops the oldest droppable one. Raises IntakeFull.

        After `end` events are ignored: the next start's broker report covers them.
        """
        if self._ended:
            return
        if len(self._waiting) >= self._capacity:
            self._make_room(event)
        self._waiting.append(event)
        self._arrived.set()

    def _make_room(self, event: Event) -> None:
        for place, waiting in enumerate(self._waiting):
            if _replaceable(waiting):
                del self._waiting[place]
                self.dropped += 1
                return
        raise IntakeFull(
            f"{len(self._waiting)} events wait and {type(event).__name__} came: the engine does not keep up; "
            f"the daemon ends and recovers from its journal"
        )

    def end(self) -> None:
        """Accept no more events; the engine takes the rest and then ends."""
        self._ended = True
        self._arrived.set()

    def poll(self) -> Event | None:
        """Return the next event if one waits."""
        return self._waiting.popleft() if self._waiting else None

    async def next(self) -> Event | None:
        """Wait for the next event; None after `end` when the queue is empty."""
        while not self._waiting:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()


def _replaceable(event: Event) -> bool:
    return isinstance(event, ClockTicked) or (isinstance(event, QuotesReceived) and not event.closes_bar_ns)
