"""Pacing of repetitions: a rate limit, polling, and the wait after failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from strategies.kit.units import MINUTE_NS


class TokenBucket:
    """Token bucket: at most `per_minute + burst` calls in any minute of the clock `now_ns`. For one thread."""

    __slots__ = ("_burst", "_now_ns", "_ns_each", "_seen_ns", "_tokens")

    def __init__(self, now_ns: Callable[[], int], per_minute: float, burst: int) -> None:
        self._now_ns = now_ns
        self._ns_each = MINUTE_NS / per_minute
        self._burst = self._tokens = float(burst)
        self._seen_ns = now_ns()

    def wait_ns(self, left: int = 0) -> int:
        """Return the time until a call may go that leaves at least `left` tokens; 0 for now."""
        now = self._now_ns()
        passed_ns = max(now - self._seen_ns, 0)  # a clock that is set back costs no call
        self._tokens = min(self._burst, self._tokens + passed_ns / self._ns_each)
        self._seen_ns = now
        return max(0, round((left + 1 - self._tokens) * self._ns_each))

    def left(self) -> float:
        """Return how many calls may go at once now."""
        self.wait_ns()
        return max(self._tokens, 0.0)

    def take(self) -> None:
        """Count one call."""
        self._tokens -= 1.0


DOUBLINGS_MOST = 16  # so that no count of failures overflows


def back_off_s(failures: int, first_s: float, most_s: float, random_unit: float = 1.0, *, sure: float = 0.5) -> float:
    """Return the wait after `failures` (from 1) failures: doubles from `first_s` up to `most_s`.

    The share `sure` of it is fixed. The rest is scaled by `random_unit` in [0, 1), so that many daemons do not return
    at once; 1.0 is the full wait.
    """
    full_s = min(most_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS_MOST))
    return full_s * (sure + (1.0 - sure) * random_unit)


async def look_again(look: Callable[[], Awaitable[None]], wake: asyncio.Event, poll_s: float) -> None:
    """Call `look` now, then each `poll_s` seconds (0: never by itself) and whenever `wake` is set, until cancelled.

    Setting `wake` during a call causes another one. Raises what `look` raises.
    """
    while True:
        wake.clear()
        await look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(poll_s or None):
                await wake.wait()
