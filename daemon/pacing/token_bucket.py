"""A limit on how often something is done: so many at once, and more at an even rate."""

from __future__ import annotations

from collections.abc import Callable

from strategies.kit.units import MINUTE_NS


class TokenBucket:
    """At most `per_minute + burst` calls in any minute of the clock `now_ns`. Used by one thread."""

    __slots__ = ("_burst", "_now_ns", "_ns_each", "_seen_ns", "_tokens")

    def __init__(self, now_ns: Callable[[], int], per_minute: float, burst: int) -> None:
        self._now_ns = now_ns
        self._ns_each = MINUTE_NS / per_minute
        self._burst = self._tokens = float(burst)
        self._seen_ns = now_ns()

    def wait_ns(self, left: int = 0) -> int:
        """How long until a call may go that leaves at least `left` tokens; 0 for now."""
        now = self._now_ns()
        passed_ns = max(now - self._seen_ns, 0)  # a clock that was set right at the start costs no call
        self._tokens = min(self._burst, self._tokens + passed_ns / self._ns_each)
        self._seen_ns = now
        return max(0, round((left + 1 - self._tokens) * self._ns_each))

    def take(self) -> None:
        """Count one call."""
        self._tokens -= 1.0
