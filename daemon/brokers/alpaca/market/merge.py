"""Merge streamed and REST bars of one symbol and session: ascending, each minute at most once. Pure.

A bar is identified by its start. A bar newer than the last emitted one is emitted; during a repair it is held until the
REST bars have gone out before it. A repeat with the same values is dropped; with other values it is a correction. An
older bar that was never emitted is too late and refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from daemon.core.events import BarClosed, BarCorrected, BarRejected
from strategies.kit.contract import Bar

MOST_HELD = 400  # more than a session's minutes

Given = BarClosed | BarCorrected | BarRejected


class BarMerge:
    """Bars in, events out. `last_ns` is the start of the last emitted bar, or the place before the first one.

    `now_ns` of each call becomes the events' time. Whatever the order and number of incoming bars, `BarClosed` goes out
    in strictly ascending order of start.
    """

    def __init__(self, last_ns: int, most_held: int = MOST_HELD) -> None:
        self.last_ns = last_ns
        self.holding = False
        self.counts: Counter[str] = Counter()  # duplicate, overflow
        self._most_held = most_held
        self._given: dict[int, Bar] = {}  # the session's, to distinguish a repeat from a correction
        self._held: dict[int, Bar] = {}

    def know(self, bars: Iterable[Bar], last_ns: int = 0) -> None:
        """Note bars emitted before this merge began; none up to `last_ns` is emitted again."""
        for bar in bars:
            self._given[bar.start_ns] = bar
        self.last_ns = max(self.last_ns, last_ns, *self._given)

    def hold(self) -> None:
        """Begin a repair: hold new bars until `repaired` or `release`."""
        self.holding = True

    def add(self, bar: Bar, now_ns: int) -> list[Given]:
        """Add a streamed bar, first or updated: both are treated alike."""
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
        """Emit REST's bars, in any order, with the held ones, of which the streamed version wins; then go on."""
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
