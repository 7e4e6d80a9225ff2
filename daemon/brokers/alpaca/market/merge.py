"""Merge streamed and REST bars of one symbol and session: ascending, each minute at most once; build wider ones. Pure.

A bar is identified by its start. A bar newer than the last emitted one is emitted; during a repair it is held until the
REST bars have gone out before it. A repeat with the same values is dropped; with other values it is a correction. An
older bar that was never emitted is too late and refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from daemon.core.events import BarClosed, BarCorrected, BarRejected
from strategies.kit.contract import Bar
from strategies.kit.units import MINUTE_NS, SECOND_NS

TORN_NS = 4 * SECOND_NS  # after its end a bar goes out without a last minute: a second before the desk stops waiting
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


class BarBuilder:
    """Minutes in, bars of `width_ns` since the open out; with a width of one minute each minute is a bar.

    A bar goes out with its last minute, with the first minute of a later one, or by `torn` some seconds after its end.
    A minute that comes after that, or changes, corrects it.
    """

    def __init__(self, open_ns: int, width_ns: int) -> None:
        self._open_ns = open_ns
        self._width_ns = width_ns
        self._out_ns = open_ns - width_ns  # start of the newest bar that went out
        self._minutes: dict[int, dict[int, Bar]] = {}  # by the bar's start
        self._own: set[int] = set()  # bars that went out and whose minutes are all here

    def know(self, minutes: Iterable[Bar], last_ns: int, now_ns: int) -> list[Bar]:
        """Note the session's minutes so far; return the bars of them that began after `last_ns` and are whole."""
        for minute in minutes:
            self._note(minute)
        self._out_ns = max(self._out_ns, last_ns)
        self._own.update(start for start in self._minutes if start <= self._out_ns)
        whole = [start for start in self._waiting() if self._is_whole(start) or start < max(self._minutes)]
        return [*(self._close(start) for start in whole), *self.torn(now_ns)]

    def take(self, event: BarClosed | BarCorrected) -> list[BarClosed | BarCorrected]:
        """Add a minute, first or corrected; return what it closes or corrects."""
        time_ns, start = event.time_ns, self._note(event.bar)
        out: list[BarClosed | BarCorrected] = []
        if start in self._own:
            out.append(BarCorrected(time_ns, self._bar(start)))
        closing = [other for other in self._waiting() if other < start or (other == start and self._is_whole(start))]
        return [*out, *(BarClosed(time_ns, self._close(other)) for other in closing)]

    def torn(self, now_ns: int) -> list[Bar]:
        """Return the bars that ended `TORN_NS` ago without their last minute, as they are."""
        return [self._close(start) for start in self._waiting() if start + self._width_ns + TORN_NS <= now_ns]

    def _note(self, minute: Bar) -> int:
        start = minute.start_ns - (minute.start_ns - self._open_ns) % self._width_ns
        self._minutes.setdefault(start, {})[minute.start_ns] = minute
        return start

    def _waiting(self) -> list[int]:
        return sorted(start for start in self._minutes if start > self._out_ns)

    def _is_whole(self, start: int) -> bool:
        return start + self._width_ns - MINUTE_NS in self._minutes[start]

    def _close(self, start: int) -> Bar:
        self._out_ns = start
        self._own.add(start)
        return self._bar(start)

    def _bar(self, start: int) -> Bar:
        rows = [bar for _, bar in sorted(self._minutes[start].items())]
        high, low = max(bar.high for bar in rows), min(bar.low for bar in rows)
        return Bar(rows[0].symbol, start, rows[0].open, high, low, rows[-1].close, sum(bar.volume for bar in rows))
