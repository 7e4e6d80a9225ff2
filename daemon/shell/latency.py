"""A latency histogram of bounded size: microsecond buckets, coarser as they grow. Percentiles within 1.6 %."""

from __future__ import annotations

from collections import Counter

_EXACT = 64  # buckets up to here are whole microseconds; above, 64 to each doubling


class Latency:
    """Counts durations by bucket; memory does not grow with their number."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        us = duration_ns // 1000
        if us >= _EXACT:
            shift = us.bit_length() - 7
            us = (us >> shift) << shift
        self._counts[us] += 1
        self.count += 1

    def percentile(self, share: float) -> int:
        """The smallest bucket in microseconds that `share` (0 to 1) of the durations do not exceed; 0 without any."""
        wanted, seen = share * self.count, 0
        for us in sorted(self._counts):
            seen += self._counts[us]
            if seen >= wanted:
                return us
        return 0
