"""Detects silence: a stream without news for too long. Pure; its caller polls and acts.

The first poll past the limit is silent, and so is each later one, a minute apart, until news comes. Loud action is due
at the 1st, 2nd, 4th, 8th … silent poll, so that a silent stream is reconnected less and less often.
"""

from __future__ import annotations

from strategies.kit.units import MINUTE_NS


class Silence:
    """Counts silent polls. `limit_ns` is how long quiet may last."""

    def __init__(self, limit_ns: int, now_ns: int) -> None:
        self.looks = 0  # silent ones in a row
        self.quiet_ns = 0  # how long it was quiet at the last poll
        self._limit_ns = limit_ns
        self._since_ns = now_ns  # nothing was expected before

    @property
    def loud(self) -> bool:
        """Return whether this silent poll calls for loud action."""
        return self.looks > 0 and self.looks & (self.looks - 1) == 0

    def look(self, now_ns: int, newest_ns: int | None) -> int:
        """Poll; return when to poll again. `newest_ns` is the time of the newest news, None when none is expected."""
        if newest_ns is None:
            self.looks, self.quiet_ns, self._since_ns = 0, 0, now_ns
            return now_ns + MINUTE_NS
        begun_ns = max(newest_ns, self._since_ns)
        self.quiet_ns = now_ns - begun_ns
        if self.quiet_ns < self._limit_ns:
            self.looks = 0
            return min(begun_ns + self._limit_ns, now_ns + MINUTE_NS)
        self.looks += 1
        return now_ns + MINUTE_NS
