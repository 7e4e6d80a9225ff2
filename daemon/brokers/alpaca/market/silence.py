"""When quiet is silence: a stream that should speak and has not for too long. Pure; its caller looks and acts.

The first look past the limit is silence, and so is each later one, a minute apart, until news came. To act loudly is
due at the 1st, 2nd, 4th, 8th … look, so that a stream that stays silent is reconnected ever more seldom.
"""

from __future__ import annotations

from strategies.kit.units import MINUTE_NS


class Silence:
    """Counts silent looks. `limit_ns` is how long quiet may last."""

    def __init__(self, limit_ns: int, now_ns: int) -> None:
        self.looks = 0  # silent ones in a row
        self.quiet_ns = 0  # how long it was quiet at the last look
        self._limit_ns = limit_ns
        self._since_ns = now_ns  # nothing was expected before

    @property
    def loud(self) -> bool:
        """Whether this silent look is one to act loudly on."""
        return self.looks > 0 and self.looks & (self.looks - 1) == 0

    def look(self, now_ns: int, newest_ns: int | None) -> int:
        """Judge; returns when to look again. `newest_ns` is the time of the newest news, None when none is expected."""
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
