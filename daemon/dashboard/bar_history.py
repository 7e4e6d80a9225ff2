"""Bars of a journal in buckets of any length, so that a year of minutes draws as fast as a day.

A journal has no index on bars: it is read once, and later reads add only new rows. A bar takes 48 bytes of memory. A
bucket is a whole one: its first open, highest high, lowest low, last close and the sum of the volumes.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.core.session import NEW_YORK
from daemon.engine.state_dir import parts_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from strategies.kit.contract import Bar
from strategies.kit.units import DAY_S, SECOND_NS

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

POINTS_MOST = 2000  # most buckets of one answer
LEAST = 60  # least bars on both sides of the visible ones
AT_ONCE = 20_000  # rows of one statement, to keep transactions short
OPEN_S = int(9.5 * 3600)  # buckets of hours begin with the session, like the exchange's hours
HOUR_S = 3600
WEEK_S, MONTH_S, YEAR_S = 7 * DAY_S, 31 * DAY_S, 366 * DAY_S
STEPS = {
    60: "1 min",
    120: "2 min",
    300: "5 min",
    600: "10 min",
    900: "15 min",
    1800: "30 min",
    HOUR_S: "1 hour",
    2 * HOUR_S: "2 hours",
    DAY_S: "1 day",
    WEEK_S: "1 week",
    MONTH_S: "1 month",
    YEAR_S: "1 year",
}
"""Lengths of buckets in seconds, by name; a month and a year are the calendar's."""
_SQL = (
    "SELECT kind, payload FROM events WHERE id > ? AND id <= ? "
    "AND kind IN ('BarClosed', 'BarCorrected', 'HistoryAdjusted', 'SharesSplit') ORDER BY id"
)


class Buckets(NamedTuple):
    """Consecutive buckets. `places` has the index of each one's first bar in the series, and one more for the end."""

    step_s: int  # 0: the bars themselves
    places: IntArray
    values: Float64Array  # (n, 6): time of the first bar in seconds UTC, open, high, low, close, volume


class _Event(msgspec.Struct):
    """The part of an event with one or more bars, or a split."""

    bar: Bar | None = None
    symbol: str = ""
    bars: tuple[Bar, ...] = ()
    ratio: float = 0.0
    from_ns: int = 0


_event = msgspec.json.Decoder(_Event)


class Series:
    """The bars of one symbol by their start, each once. Prices USD."""

    def __init__(self) -> None:
        self._columns = [array("d") for _ in range(6)]
        self._split_ns = 0  # time from which the newest split applies

    def __len__(self) -> int:
        return len(self._columns[0])

    @property
    def times(self) -> Sequence[float]:
        """Starts in seconds since 1970 UTC, rising."""
        return self._columns[0]

    def add(self, bar: Bar, *, corrected: bool = False) -> None:
        """Insert a bar. Of two with one start the first stays, unless the later one is a correction."""
        times, start = self._columns[0], bar.start_ns / SECOND_NS
        row = (start, bar.open, bar.high, bar.low, bar.close, bar.volume)
        if not times or start > times[-1]:
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
            return
        place = bisect_left(times, start)
        there = times[place] == start
        if there and not corrected:
            return
        for column, value in zip(self._columns, row, strict=True):
            if there:
                column[place] = value
            else:
                column.insert(place, value)

    def adjust(self, bars: Sequence[Bar]) -> None:
        """Replace the bars from the first of these on, and scale older ones by the same ratio, as after a split."""
        if not bars:
            return
        place = bisect_left(self._columns[0], bars[0].start_ns / SECOND_NS)
        if place < len(self) and self._columns[4][place] > 0:
            ratio = bars[0].close / self._columns[4][place]
            for column in self._columns[1:5]:
                for earlier in range(place):
                    column[earlier] *= ratio
        for column in self._columns:
            del column[place:]
        for bar in bars:
            self.add(bar)

    def split(self, ratio: float, from_ns: int) -> None:
        """Adjust the bars before `from_ns` for a split, `ratio` new shares for each old one; repeats change nothing."""
        if from_ns <= self._split_ns:
            return
        self._split_ns = from_ns
        for place in range(bisect_left(self._columns[0], from_ns / SECOND_NS)):
            for column in self._columns[1:5]:
                column[place] /= ratio
            self._columns[5][place] *= ratio

    def rows(self, first: int, beyond: int) -> Float64Array:
        """Return the bars from index `first` up to `beyond`, (n, 6)."""
        return np.array([column[first:beyond] for column in self._columns], dtype=np.float64).T

    def buckets(self, begin: float, end: float, points: int, step_s: int | None = None) -> Buckets:
        """Return the buckets of a span and of as many bars on both sides of it, at most POINTS_MOST.

        Args:
            begin, end: the visible span, seconds UTC, both included.
            points: most buckets within the span; their length is the shortest that fits.
            step_s: their fixed length; another is chosen if it needs more than POINTS_MOST.
        """
        times = self._columns[0]
        first, beyond = bisect_left(times, begin), bisect_right(times, end)
        visible_times = np.array(times[first:beyond])
        if step_s is None or _count(visible_times, step_s) > POINTS_MOST:
            step_s = step_of(visible_times, points)
        around = max(beyond - first, LEAST)
        first_place, right = self._whole(max(first - around, 0), min(beyond + around, len(self)), step_s)
        whole = join_buckets(self.rows(first_place, right), step_s)
        places = whole.places + first_place
        inside = np.searchsorted(places[:-1], (first, beyond), side="left")
        spare = max(POINTS_MOST - int(inside[1] - inside[0]) - 2, 0) // 2
        low, high = max(int(inside[0]) - 1 - spare, 0), min(int(inside[1]) + 1 + spare, len(whole.values))
        return Buckets(step_s, places[low : high + 1], whole.values[low:high])

    def _whole(self, first_place: int, right: int, step_s: int) -> tuple[int, int]:
        """Widen a range of bars so that it splits no bucket."""
        if not step_s or first_place >= right:
            return first_place, right
        times, far = self._columns[0], step_s + DAY_S
        far_left = bisect_left(times, times[first_place] - far)
        far_right = bisect_right(times, times[right - 1] + far)
        keys = keys_of(np.array(times[far_left:far_right]), step_s)
        inner_first, inner_right = first_place - far_left, right - far_left
        first_place = far_left + int(np.searchsorted(keys, keys[inner_first], side="left"))
        right = far_left + int(np.searchsorted(keys, keys[inner_right - 1], side="right"))
        return first_place, right


def join_buckets(rows: Float64Array, step_s: int) -> Buckets:
    """Merge bars, (n, 6) as in `Buckets`, to buckets of this length; 0 keeps them as they are."""
    count = len(rows)
    if not step_s or not count:
        return Buckets(step_s, np.arange(count + 1), rows)
    keys = keys_of(rows[:, 0], step_s)
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = np.append(starts[1:], count)
    bucket_rows = np.column_stack(
        (
            rows[starts, 0],
            rows[starts, 1],
            np.maximum.reduceat(rows[:, 2], starts),
            np.minimum.reduceat(rows[:, 3], starts),
            rows[ends - 1, 4],
            np.add.reduceat(rows[:, 5], starts),
        )
    )
    return Buckets(step_s, np.append(starts, count), bucket_rows)


def step_of(times: Float64Array, points: int) -> int:
    """Return the shortest length with at most `points` buckets of these bars; 0 if the bars are few enough."""
    if len(times) <= points:
        return 0
    own_step_s = float(np.min(np.diff(times)))
    return next((step_s for step_s in STEPS if step_s > own_step_s and _count(times, step_s) <= points), YEAR_S)


def _count(times: Float64Array, step_s: int) -> int:
    """Return the number of buckets of a length that these bars make."""
    if not step_s or not len(times):
        return len(times)
    return 1 + int(np.count_nonzero(np.diff(keys_of(times, step_s))))


def keys_of(times: Float64Array, step_s: int) -> IntArray:
    """Return the number of each bar's bucket, by New York's clock. Non-decreasing, as the times are."""
    local = _local(times)
    if step_s < DAY_S:
        return np.asarray((local - OPEN_S) // step_s, dtype=np.int64)
    days = local // DAY_S
    if step_s == WEEK_S:
        return np.asarray((days + 3) // 7, dtype=np.int64)  # 1 January 1970 was a Thursday
    dates = days.astype("datetime64[D]")
    if step_s == MONTH_S:
        return np.asarray(dates.astype("datetime64[M]").astype(np.int64))
    return np.asarray(dates.astype("datetime64[Y]").astype(np.int64)) if step_s == YEAR_S else days


def days_of(times: Float64Array) -> IntArray:
    """Return the New York days since 1970."""
    return _local(times) // DAY_S


def _local(times: Float64Array) -> IntArray:
    """Return New York's local time in seconds, as if it were UTC; the zone is looked up once an hour."""
    seconds = times.astype(np.int64)
    hours, inverse = np.unique(seconds // HOUR_S, return_inverse=True)
    offsets = [_offset_s(int(hour) * HOUR_S) for hour in hours]
    return seconds + np.array(offsets, dtype=np.int64)[inverse]


@lru_cache(maxsize=2**16)
def _offset_s(second: int) -> int:
    offset = datetime.fromtimestamp(second, UTC).astimezone(NEW_YORK).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


class BarHistory:
    """Bars of a journal, by symbol. Thread-safe."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._series: dict[str, Series] = {}
        self._last_id = 0
        self._generation = -1

    @contextmanager
    def reading(self, symbol: str, generation: int) -> Iterator[Series]:
        """Yield a symbol's bars up to the newest row. `generation` changes with the journal.

        Raises JournalError, sqlite3.Error, OSError.
        """
        with self._lock:
            if generation != self._generation:
                self._series, self._last_id, self._generation = {}, 0, generation
            for part in [self._journal] if self._goes_on() else parts_of(self._journal):
                self._read(part)
            yield self._series.get(symbol, Series())

    def _goes_on(self) -> bool:
        """Return whether the journal's own file has all rows after those already read; False after a rotation."""
        with closing(JournalReader(self._journal)) as reader:
            first = reader.query("SELECT min(id) AS id FROM events")[0]["id"] or 1
        return 0 < self._last_id >= first - 1

    def _read(self, part: Path) -> None:
        try:
            with closing(JournalReader(part)) as reader:
                ends = reader.query("SELECT min(id) AS first, max(id) AS last FROM events")[0]
                after_id, last = max(self._last_id, (ends["first"] or 1) - 1), ends["last"] or 0
                while after_id < last:
                    upto = min(after_id + AT_ONCE, last)
                    for row in reader.query(_SQL, (after_id, upto)):
                        self._take(row)
                    self._last_id = after_id = upto
        except (JournalError, sqlite3.Error, OSError):
            if part == self._journal:
                raise  # an unreadable earlier file only omits its bars

    def _take(self, row: sqlite3.Row) -> None:
        try:
            event = _event.decode(row["payload"])
        except (msgspec.DecodeError, UnicodeError):
            return  # a damaged row: the follower reports it
        if event.bar is not None:
            series = self._series.setdefault(event.bar.symbol, Series())
            series.add(event.bar, corrected=row["kind"] == "BarCorrected")
        elif event.bars:
            self._series.setdefault(event.symbol, Series()).adjust(event.bars)
        elif event.ratio > 0.0:
            self._series.setdefault(event.symbol, Series()).split(event.ratio, event.from_ns)
