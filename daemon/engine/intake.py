"""The one door for events of a live desk: feed, broker, clock and operator put them in, the engine takes them out.

Bounded. Ticks and quotes between bars are all that may be dropped, the oldest first, because more of them follow; when
there is none to drop, `IntakeFull` ends the process, which then recovers: nothing is lost in silence.
"""

from __future__ import annotations

import asyncio
from collections import deque

from daemon.core.events import ClockTicked, Event, QuotesReceived

CAPACITY = 10_000


class IntakeFull(Exception):
    """The engine did not keep up: more events wait than the intake holds."""


class Intake:
    """A `Source` of the engine. Used on the event loop's thread alone. `dropped` counts ticks and quotes let go."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Event) -> None:
        """Let an event in, for a full intake in place of the oldest that may be dropped. Raises IntakeFull.

        After `end` nothing comes in: what happens at the broker from then on is told by the next start's report.
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
        """Let nothing more in; the engine takes what waits and then ends."""
        self._ended = True
        self._arrived.set()

    def poll(self) -> Event | None:
        """The next event if one waits."""
        return self._waiting.popleft() if self._waiting else None

    async def next(self) -> Event | None:
        """The next event, waited for; None after `end` when nothing waits any more."""
        while not self._waiting:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()


def _replaceable(event: Event) -> bool:
    return isinstance(event, ClockTicked) or (isinstance(event, QuotesReceived) and not event.closes_bar_ns)
