"""Measurements that need a task of their own: the lag of the trading loop, and the size of the write-ahead log."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemon.host.latency import Buckets
from daemon.host.time.virtual_time import VirtualLoop

EVERY_S = 0.1
WINDOW_S = 60.0
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """`run` on the loop to be watched; `buckets` and `newest_max_s` may be read from any thread.

    `monotonic` and `sleep` are the clock and the sleep, so that a test can simulate time.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.buckets = Buckets(BOUNDS_S)
        self._monotonic, self._sleep = monotonic, sleep
        self._peaks: deque[tuple[float, float]] = deque()  # (time, lag), lags descending: the first is the largest

    async def run(self) -> None:
        """Measure until cancelled; a loop in virtual time is never late."""
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            return
        while True:
            begin_s = self._monotonic()
            await self._sleep(EVERY_S)
            woke = self._monotonic()
            self._note(woke, max(woke - begin_s - EVERY_S, 0.0))

    def newest_max_s(self) -> float:
        """Return the largest lag of the last minute in seconds, 0.0 where none was measured."""
        oldest = self._monotonic() - WINDOW_S
        return max((lag_s for at, lag_s in tuple(self._peaks) if at >= oldest), default=0.0)

    def _note(self, now: float, lag_s: float) -> None:
        self.buckets.add(lag_s)
        peaks = self._peaks
        while peaks and peaks[-1][1] <= lag_s:  # earlier ones that are no larger can never be the maximum again
            peaks.pop()
        peaks.append((now, lag_s))
        while peaks[0][0] < now - WINDOW_S:
            peaks.popleft()


MIB = 1 << 20
LOOK_S = 30.0


def wal_bytes(journal: Path) -> int:
    """Return the size of a journal's write-ahead log in bytes, 0 for none."""
    try:
        return journal.with_name(f"{journal.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


class WalWatch:
    """Reports `wal_large` once when the log exceeds `limit_mib`, and again only after it was smaller.

    `log(name, **fields)` logs an event of the vocabulary and raises its alarm; it is called on the loop of `run`.
    """

    def __init__(self, journal: Path, limit_mib: int, log: Callable[..., None], every_s: float = LOOK_S) -> None:
        self._journal, self._limit_mib = journal, limit_mib
        self._log = log
        self._every_s = every_s
        self._large = False

    async def run(self) -> None:
        """Check at intervals until cancelled. Raises OSError where the folder cannot be read."""
        while True:
            self.look()
            await asyncio.sleep(self._every_s)

    def look(self) -> None:
        """Check once."""
        size = wal_bytes(self._journal)
        large = size > self._limit_mib * MIB
        if large and not self._large:
            self._log("wal_large", mib=round(size / MIB, 1), limit_mib=self._limit_mib)
        self._large = large
