"""A tape as the engine's source: as fast as possible or at N times real time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator

from daemon.core.events import Event


class ReplaySource:
    """Emits the tape's events. With `speed` N an event waits until its time, N times as fast as recorded.

    Events of an operator come before the tape's next event. `stop` ends the waiting and the source.
    """

    def __init__(self, events: Iterator[Event], speed: float | None) -> None:
        self._events = events
        self._speed = speed
        self._stopped = False
        self._woken = asyncio.Event()
        self._put: deque[Event] = deque()
        self._origin: tuple[int, float] | None = None
        self._held: Event | None = None  # read, but not due yet

    def put(self, event: Event) -> None:
        """Queue an event of the operator. Used on the event loop's thread only."""
        self._put.append(event)
        self._woken.set()

    def poll(self) -> Event | None:
        """Return the next event if it is due, else None; without a speed every event is due."""
        if self._put:
            return self._put.popleft()
        if self._stopped and self._speed is not None:
            return None
        event, self._held = self._held if self._held is not None else next(self._events, None), None
        if event is None or self._speed is None or self._delay_s(event, self._speed) <= 0:
            return event
        self._held = event
        return None

    async def next(self) -> Event | None:
        """Wait for the next event; None at the tape's end or after `stop`."""
        while True:
            event = self.poll()
            if event is not None or self._held is None or self._speed is None or self._stopped:
                return event
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), max(self._delay_s(self._held, self._speed), 0.0))

    def _delay_s(self, event: Event, speed: float) -> float:
        now = time.monotonic()
        if self._origin is None:
            self._origin = (event.time_ns, now)
        first_ns, began = self._origin
        return began + (event.time_ns - first_ns) / 1e9 / speed - now

    def stop(self) -> None:
        """Emit nothing more."""
        self._stopped = True
        self._woken.set()
