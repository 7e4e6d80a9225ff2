"""Streamed and REST bars of one symbol and session as one sequence: ascending, each minute at most once. Pure.

The rule: a bar is known by its start. Newer than the last one given, it is given; while a repair is under way it is
held instead, until the REST bars have gone out before it. Given before with the same values, it is dropped; with other
values it is a correction. Older than the last one given and never given, it comes too late and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from daemon.core.events import BarClosed, BarCorrected, BarRejected
from strategies.kit.contract import Bar

MOST_HELD = 400  # more than a session's minutes

Given = BarClosed | BarCorrected | BarRejected


class BarMerge:
    """Bars in, events out. `last_ns` is the start of the last bar given out, or the place before the first one.

    `now_ns` of each call becomes the events' time. Whatever the order and number of bars that come in, `BarClosed`
    goes out in strictly ascending order of start.
    """

    def __init__(self, last_ns: int, most_held: int = MOST_HELD) -> None:
        self.last_ns = last_ns
        self.holding = False
        self.counts: Counter[str] = Counter()  # duplicate, overflow
        self._most_held = most_held
        self._given: dict[int, Bar] = {}  # the session's, so that a repeat is told from a correction
        self._held: dict[int, Bar] = {}

    def know(self, bars: Iterable[Bar], last_ns: int = 0) -> None:
        """Bars that were given out before this merge began; none up to `last_ns` is given out any more."""
        for bar in bars:
            self._given[bar.start_ns] = bar
        self.last_ns = max(self.last_ns, last_ns, *self._given)

    def hold(self) -> None:
        """A repair begins: keep new bars back until `repaired` or `release`."""
        self.holding = True

    def add(self, bar: Bar, now_ns: int) -> list[Given]:
        """A streamed bar, first or updated: both say what the minute was, so both are treated alike."""
        if bar.start_ns <= self.last_ns:
            return self._again(bar, now_ns)
        if not self.holding:
            return [self._give(bar, now_ns)]
        if bar.start_ns not in self._held and len(self._held) >= self._most_held:
            del self._held[min(self._held)]
            self.counts["overflow"] += 1
        self._held[bar.start_ns] = bar
        return []

    def repaired(self, bars: Sequence[Bar], now_ns: int) -> list[Given]:
        """REST's bars, in any order: they go out with the held ones, of which the streamed version wins; then go on."""
        late = [bar for bar in bars if bar.start_ns <= self.last_ns]
        newer = {bar.start_ns: bar for bar in bars if bar.start_ns > self.last_ns} | self._held
        events = [event for bar in late if bar.start_ns in self._given for event in self._again(bar, now_ns)]
        self._held = {}
        self.holding = False
        return [*events, *(self._give(newer[start], now_ns) for start in sorted(newer))]

    def release(self, now_ns: int) -> list[Given]:
        """Go on without REST's bars."""
        return self.repaired((), now_ns)

    def _give(self, bar: Bar, now_ns: int) -> BarClosed:
        self.last_ns = bar.start_ns
        self._given[bar.start_ns] = bar
        return BarClosed(now_ns, bar)

    def _again(self, bar: Bar, now_ns: int) -> list[Given]:
        known = self._given.get(bar.start_ns)
        if known == bar:
            self.counts["duplicate"] += 1
            return []
        if known is None:
            detail = f"the bar came after a later one was given: its minute is {bar.start_ns}, the last {self.last_ns}"
            return [BarRejected(now_ns, bar.symbol, bar.start_ns, "out_of_order", detail)]
        self._given[bar.start_ns] = bar
        return [BarCorrected(now_ns, bar)]
