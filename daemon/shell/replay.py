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

    async def next(self) -> Event | None:
        """The next event, None at the tape's end or after `stop`."""
        event = next(self._events, None)
        if event is None or self._speed is None:
            return event
        now = time.monotonic()
        if self._origin is None:
            self._origin = (event.time_ns, now)
        first_ns, began = self._origin
        delay = began + (event.time_ns - first_ns) / 1e9 / self._speed - now
        if delay > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), delay)
            except TimeoutError:
                return event
        return None if self._stopped.is_set() else event

    def stop(self) -> None:
        """Give nothing more."""
        self._stopped.set()
