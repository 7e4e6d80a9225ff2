"""A tape as the engine's source: its events one after another, as fast as asked for or at N times real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from daemon.core.events import Event


class ReplaySource:
    """Gives the tape's events. With `speed` N an event waits until its time has come, N times as fast as it happened.

    `stop` ends the waiting and the source.
    """

    def __init__(self, events: Iterator[Event], speed: float | None) -> None:
        self._events = events
        self._speed = speed
        self._stopped = asyncio.Event()
        self._origin: tuple[int, float] | None = None
        self._held: Event | None = None  # read, and its time has not come

    def poll(self) -> Event | None:
        """The next event if its time has come, else None; without a speed every event's has."""
        event, self._held = self._held if self._held is not None else next(self._events, None), None
        if event is None or self._speed is None:
            return event
        if self._stopped.is_set():
            return None
        if self._delay_s(event, self._speed) > 0:
            self._held = event
            return None
        return event

    async def next(self) -> Event | None:
        """The next event, waited for; None at the tape's end or after `stop`."""
        event = self.poll()
        if event is not None or self._held is None or self._speed is None:
            return event
        try:
            await asyncio.wait_for(self._stopped.wait(), self._delay_s(self._held, self._speed))
        except TimeoutError:
            event, self._held = self._held, None
            return event
        return None

    def _delay_s(self, event: Event, speed: float) -> float:
        now = time.monotonic()
        if self._origin is None:
            self._origin = (event.time_ns, now)
        first_ns, began = self._origin
        return began + (event.time_ns - first_ns) / 1e9 / speed - now

    def stop(self) -> None:
        """Give nothing more."""
        self._stopped.set()
