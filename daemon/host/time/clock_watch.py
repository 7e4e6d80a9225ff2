"""Holds back leaps of the host's wall clock that the monotonic clock does not show. Pure, no I/O.

Time then goes on as if without the leap, until the broker's clock decides which one is right (`Clock.correct`).
"""

from __future__ import annotations

import threading

LEAP_NS = 5_000_000_000  # a larger change between two readings is a leap, not a correction
SLEW_PARTS = 1000  # a slewed clock gains or loses at most one part in this many; Linux' own limit is half of that


class LeapWatch:
    """Compares both clocks at every reading, in either direction.

    `lead_ns` is how far the host's clock is ahead of the time taken, `leaps` counts what was held back, `leap_ns` is
    the newest of them. Gains and losses below `LEAP_NS` pass, but together no more than a slewed clock has.
    Thread-safe.
    """

    __slots__ = ("_host_ns", "_lock", "_slack_ns", "_steady_ns", "lead_ns", "leap_ns", "leaps")

    def __init__(self) -> None:
        self.lead_ns = 0
        self.leaps = 0
        self.leap_ns = 0
        self._host_ns: int | None = None
        self._steady_ns = 0
        self._slack_ns = LEAP_NS
        self._lock = threading.Lock()

    def taken(self, host_ns: int, steady_ns: int) -> int:
        """Return the time to use, from a reading of the host's clock and of the steady clock (nanoseconds)."""
        with self._lock:
            if self._host_ns is not None:
                passed_ns = steady_ns - self._steady_ns
                self._judge(host_ns - self._host_ns - passed_ns, passed_ns)
            self._host_ns, self._steady_ns = host_ns, steady_ns
            return host_ns - self.lead_ns

    def _judge(self, gained_ns: int, passed_ns: int) -> None:
        self._slack_ns = min(LEAP_NS, self._slack_ns + max(passed_ns, 0) // SLEW_PARTS)
        if abs(gained_ns) > self._slack_ns:
            self.lead_ns += gained_ns
            self.leaps += 1
            self.leap_ns = gained_ns
        else:
            self._slack_ns -= abs(gained_ns)

    def go_on_by(self, ahead_ns: int) -> None:
        """Shift the time by `ahead_ns` (may be negative); a rest below `LEAP_NS` follows the host."""
        self.lead_ns -= ahead_ns
        if abs(self.lead_ns) <= LEAP_NS:
            self.lead_ns = 0
