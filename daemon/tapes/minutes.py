"""Recorded bars as feed events: CSV, CSV.gz or Parquet in, `SessionScheduled`, `BarClosed`, `SessionEnded` out.

The order of events depends on the file, the calendar and the strategy's symbols only, never on batch sizes or the
clock, so a replay resumes by skipping a count. A bad row becomes `BarRejected`, an unreadable file a `TapeError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from math import gcd
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, BarRejected, ClockTicked, Event, PartClosed, SessionEnded, SessionScheduled
from daemon.core.instruments.quotes import FAULTS, faults, values_text
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.bars import open_bars
from daemon.tapes.files import BarRows, TapeError
from strategies.kit.contract import HOUR, OPEN, Bar, Grid, Session
from strategies.kit.timeframes import joined
from strategies.kit.units import DAY_S, HOUR_S, SECOND_NS

__all__ = ["REJECT_REASONS", "TapeCounts", "TapeError", "TapeInfo", "TapeSource", "scan"]

OPEN_S = 1800  # past an hour, in New York and in UTC
_BEGIN = {OPEN: "at 9:30 plus whole lengths", HOUR: "at the full hour plus whole lengths"}
_OTHERS = {OPEN: HOUR, HOUR: OPEN}
OPENS_S, CLOSES_S = 9 * HOUR_S + OPEN_S, 16 * HOUR_S  # seconds of a regular session, since midnight in New York
STEPS_TO_JUDGE, DATES_TO_JUDGE = 20, 3
LATE_SHARE = 4  # with more than one late row in so many, the file is not in order of time
REJECT_REASONS = (*FAULTS[1:], "duplicate", "out_of_order")
"""Reasons of a rejected row. `high_below_low` also covers an open or close outside of [low, high]."""


class TapeInfo(msgspec.Struct, frozen=True):
    """Result of a first pass over a tape. Times are bar starts in nanoseconds UTC, of the strategy's rows."""

    sha256: str  # of the file's bytes
    rows: int  # of all symbols
    rows_by_symbol: dict[str, int]
    first_ns: int
    last_ns: int
    dates: int  # New York dates that have rows, extended hours included
    symbols: tuple[str, ...]  # the strategy's
    interval_s: int  # the strategy's
    symbol_assumed: bool  # the file has no symbol column
    synthetic: str  # the label of a synthetic tape, empty for recorded data
    dearest: float = 0.0  # USD, on tapes of days: the highest good price of the strategy's symbols
    adjusted: bool = False  # prices are multiplied by adj_close / close
    resorted: bool = False  # the file is not in order of time: its rows are sorted
    anchor: str = OPEN  # of the strategy's bars: `Grid.anchor`
    part_s: int = 0  # length of the file's bars, if the strategy's are made of shorter ones
    remark: str = ""  # see `TapeCounts`; after a second pass

    @property
    def first_date(self) -> str:
        """New York date (`YYYY-MM-DD`) of the earliest row."""
        return str(new_york_days(np.array([self.first_ns]))[0])

    @property
    def last_date(self) -> str:
        """New York date (`YYYY-MM-DD`) of the latest row."""
        return str(new_york_days(np.array([self.last_ns]))[0])


def scan(path: Path, symbols: tuple[str, ...], interval_s: int, anchor: str = OPEN) -> TapeInfo:
    """Read the whole tape once, in batches, and describe it.

    `symbols`, `interval_s` and `anchor` are the strategy's (`Spec`). Shorter bars that join to the interval are
    accepted. Raises TapeError, whose message names the file, the finding, the expected and the cure.
    """
    file = open_bars(path, symbols)
    digest = file.digest()
    counts: Counter[str] = Counter()
    days: set[date] = set()  # with rows of the strategy
    places_seen: set[int] = set()  # the strategy's symbols seen, by place
    first_ns, last_ns, own_count, late, by_symbol = 2**63 - 1, -1, 0, 0, False
    steps = _Steps(interval_s, anchor)
    for rows in file.batches():
        counts.update(dict(zip(rows.names, np.bincount(rows.codes, minlength=len(rows.names)).tolist(), strict=True)))
        places = _places(rows, symbols)
        starts, places = rows.start_ns[places >= 0], places[places >= 0]
        if not starts.size:
            continue
        newest = np.maximum.accumulate(np.append(last_ns, starts))
        behind = starts < newest[:-1]
        own_count, late = own_count + starts.size, late + int(np.count_nonzero(behind))
        for place in sorted(set(places.tolist()) - places_seen):
            by_symbol = by_symbol or bool(behind[np.argmax(places == place)])
            places_seen.add(place)
        first_ns, last_ns = min(first_ns, int(starts.min())), int(newest[-1])
        dates = new_york_days(starts)
        steps.add(starts, dates)
        days.update(dates.tolist())
    if not counts:
        raise TapeError(f"{path}: the file has a header and no row; expected bars: check how it was written")
    check_symbols(path, counts, symbols)
    mixed = LATE_SHARE * late > own_count
    part_s = steps.commonest_s() if steps.wrong() else 0
    if part_s and (interval_s % part_s or OPEN_S % part_s):
        raise TapeError(
            f"{path}: most bars are {part_s} s apart; expected bars of {interval_s} s, or shorter ones that join to "
            f"them, such as minutes: pass a tape of the strategy's interval or of minutes"
            + ("; its rows are not in order of time: sort them by timestamp first" if mixed else "")
        )
    if steps.labelled_by_ends(part_s or interval_s, len(days)):
        raise TapeError(
            f"{path}: most dates have a bar at 16:00, the session's end, and none at 9:30, its begin: all are labelled"
            " by their end; expected their start: subtract a bar's length from each timestamp"
        )
    if not part_s and steps.off_grid():
        other = _OTHERS[anchor]
        raise TapeError(
            f"{path}: most bars of {interval_s} s do not begin {_BEGIN[anchor]}, which bar_anchor = {anchor!r} "
            f"expects: pass bars of minutes, of which longer ones are made, or set bar_anchor = {other!r} in the spec: "
            f"then they begin {_BEGIN[other]}"
        )
    return TapeInfo(
        sha256=digest,
        rows=counts.total(),
        rows_by_symbol=dict(sorted(counts.items())),
        first_ns=first_ns,
        last_ns=last_ns,
        dates=len(days),
        symbols=symbols,
        interval_s=interval_s,
        symbol_assumed=file.symbol_assumed,
        synthetic=file.synthetic,
        resorted=by_symbol or mixed,
        anchor=anchor,
        part_s=part_s,
    )


class _Steps:
    """Distances of bars, to each other and to the grid: distinguish a tape of another interval from one with holes."""

    def __init__(self, interval_s: int, anchor: str) -> None:
        self._interval_s = interval_s
        self._from_s = OPEN_S if anchor == OPEN else 0
        self._grid_s = gcd(interval_s, HOUR_S)  # the open is at half past an hour, in UTC too
        self._bars = self._on_grid = 0
        self._counts: Counter[int] = Counter()
        self._dates_at: dict[int, set[date]] = {OPENS_S: set(), CLOSES_S: set()}  # with a bar of this label

    def add(self, starts: npt.NDArray[np.int64], dates: npt.NDArray[np.datetime64]) -> None:
        if self._interval_s < DAY_S:  # a daily bar has only one label
            days, places = np.unique(dates, return_inverse=True)
            labels_s = (starts - np.array([midnight_ns(str(day)) for day in days])[places]) // SECOND_NS
            for at_s, found in self._dates_at.items():
                found.update(days[np.unique(places[labels_s == at_s])].tolist())
        self._bars += starts.size
        self._on_grid += int(np.count_nonzero((starts // SECOND_NS - self._from_s) % self._grid_s == 0))
        steps = np.abs(np.diff(starts)) // SECOND_NS  # a file may begin with its newest row
        values, counts = np.unique(steps[steps > 0], return_counts=True)
        self._counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def commonest_s(self) -> int:
        return self._counts.most_common(1)[0][0]

    def labelled_by_ends(self, length_s: int, dates: int) -> bool:
        """Return True if most dates have a bar at the close and few have one at the open, with enough of both.

        False for bars that do not divide half an hour, which may have none at the open.
        """
        opens, closes = (4 * len(self._dates_at[at_s]) for at_s in (OPENS_S, CLOSES_S))
        return OPEN_S % length_s == 0 and dates >= DATES_TO_JUDGE and opens < dates and closes >= 3 * dates

    def off_grid(self) -> bool:
        """Return True with enough bars, fewer than a quarter of them on the strategy's grid."""
        return self._interval_s < DAY_S and self._bars >= STEPS_TO_JUDGE and 4 * self._on_grid < self._bars

    def wrong(self) -> bool:
        """Return True with enough steps, fewer than a quarter of them of the interval. Gaps of days do not count."""
        total = self._counts.total()
        return self._interval_s < DAY_S and total >= STEPS_TO_JUDGE and 4 * self._counts[self._interval_s] < total


REJECTED_SHARE, OUTSIDE_SHARE = 0.01, 0.05  # of the rows, from which on the remark reports them
NAMED = 3  # symbols named in a remark
LACKING_SHARE, LACKING_FEW = 0.05, 2  # of the sessions since a symbol's first bar: reported if more have none
SPLITS = (2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 1.5, 0.5, 1 / 3, 0.25, 0.2, 0.1, 0.05)
"""New shares for each old one, of the splits with which a leap of the price is compared."""
NEAR = 0.05  # relative distance to such a ratio: a share moves less in most nights
NO_SPLIT = 0.6, 1.4  # no split is near a ratio between these, which nearly all bars have
LEAP = 3.0  # ratio of two bars' prices, or its inverse, that no share reaches
CURES = {
    "not_finite": "a price or volume is missing: fill or remove such rows",
    "not_positive": "a price is zero or negative: check the columns",
    "high_below_low": "open, high, low and close contradict each other: check the order of the columns",
    "negative_volume": "check the column volume",
    "off_grid": "a bar starts between two bars of the strategy's grid: label bars by their start, a day's by midnight "
    "in New York (-05:00 in winter, -04:00 in summer)",
    "duplicate": "several rows have one time and symbol: keep one of them",
    "out_of_order": "sort the file by timestamp",
}


def likely_split(close_before: float, open_after: float) -> float | None:
    """Return the new shares for each old one, of the split that would explain two prices; None if none would."""
    ratio = close_before / open_after
    if NO_SPLIT[0] < ratio < NO_SPLIT[1]:
        return None
    return next((value for value in SPLITS if abs(ratio / value - 1.0) < NEAR), None)


@dataclass(slots=True)
class _Course:
    """Summary of one symbol's good bars so far."""

    first: int  # number of the first session that has one
    sessions: int  # number of sessions with one
    session: str  # of the newest one
    close: float  # of the newest one


@dataclass(slots=True)
class TapeCounts:
    """Counts of the rows that a `TapeSource` has read so far."""

    symbols: tuple[str, ...] = ()  # the strategy's
    bars: int = 0
    outside_hours: int = 0  # extended hours and days without a session: skipped
    other_symbols: int = 0  # not the strategy's: skipped
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    absent_sessions: list[str] = field(default_factory=list)  # New York dates without a bar, between others with one
    first_rejected: dict[str, str] = field(default_factory=dict)  # by reason: symbol and start
    leaps: list[str] = field(default_factory=list)  # price jumps between two bars like those of a split or an error
    _sessions: int = 0
    _session: str = ""
    _courses: dict[str, _Course] = field(default_factory=dict)  # by symbol

    def reject(self, reason: str, symbol: str, start_ns: int) -> None:
        """Count a rejected row."""
        self.rejected[reason] += 1
        self.first_rejected.setdefault(reason, f"{symbol} at {utc_text(start_ns)}")

    def see(self, bar: Bar, session: str) -> None:
        """Take a good bar of a session, in order of time."""
        if session != self._session:
            self._session, self._sessions = session, self._sessions + 1
        course = self._courses.get(bar.symbol)
        if course is None:
            self._courses[bar.symbol] = _Course(self._sessions, 1, session, bar.close)
            return
        ratio = course.close / bar.open
        if not NO_SPLIT[0] < ratio < NO_SPLIT[1] and (
            likely_split(course.close, bar.open) or not 1.0 / LEAP < ratio < LEAP
        ):
            self.leaps.append(f"{bar.symbol} on {session} from {course.close:g} to {bar.open:g}")
        course.sessions += session != course.session
        course.session, course.close = session, bar.close

    @property
    def leap(self) -> str:
        """Return how many prices jump as by a split or an error, and the first one; "" if none."""
        count = len(self.leaps)
        if not count:
            return ""
        subject = f"{count:,} prices leap from a bar to the next, the first" if count > 1 else "A price leaps:"
        return (
            f"{subject} {self.leaps[0]}. If that is a split that the bars are not adjusted for, or a wrong price, the "
            "results are wrong: adjust the bars, or correct the row."
        )

    @property
    def absent(self) -> str:
        """Return which symbols have no good bar at all; "" if none."""
        names = [symbol for symbol in self.symbols if symbol not in self._courses]
        if not names:
            return ""
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"There is no good bar of {', '.join(names[:NAMED])}{more}: nothing of it can be traded."

    @property
    def lacking(self) -> str:
        """Return which symbols have no bar in many sessions since their first; "" if none."""
        lacks = {
            symbol: (count, course.session)
            for symbol, course in self._courses.items()
            if (count := self._sessions - course.first + 1 - course.sessions)
            > max(LACKING_FEW, LACKING_SHARE * (self._sessions - course.first + 1))
        }
        if not lacks:
            return ""
        named = [
            f"{symbol} {count:,} (its last bar is of {last})"
            for symbol, (count, last) in sorted(lacks.items(), key=lambda item: -item[1][0])
        ]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        return (
            "Sessions without a bar since a symbol's first one, while others have bars: "
            f"{', '.join(named[:NAMED])}{more}. "
            "What is held of it then keeps its last price."
        )

    @property
    def holes(self) -> str:
        """Return how many sessions lack a bar between others with one; "" if none."""
        count, first = len(self.absent_sessions), min(self.absent_sessions, default="")
        if not count:
            return ""
        return (
            f"{count:,} session{'s' * (count > 1)} between the first bar and the last {'have' if count > 1 else 'has'} "
            f"none, the first {first}: the desk goes across as over one night."
        )

    @property
    def rejection(self) -> str:
        """Return how many bars were rejected, the main reason and the cure; "" for a hundredth or fewer."""
        reject_count = self.rejected.total()
        if reject_count <= REJECTED_SHARE * (reject_count + self.bars):
            return ""
        reason, count = self.rejected.most_common(1)[0]
        return (
            f"{reject_count:,} of {reject_count + self.bars:,} bars were rejected, {count:,} of them as {reason}, the "
            f"first of {self.first_rejected[reason]}: {CURES[reason]}."
        )

    @property
    def left_out(self) -> str:
        """Return how many rows lie outside of the sessions."""
        return f"{self.outside_hours:,} of {self._rows:,} rows lie outside of regular sessions and were left out."

    @property
    def mostly_left_out(self) -> bool:
        """Return whether so many rows lie outside that a remark is due."""
        return self.outside_hours > OUTSIDE_SHARE * self._rows

    @property
    def remark(self) -> str:
        """Describe the unused part of the tape for a person; "" if it is small."""
        left_out = self.left_out if self.mostly_left_out else ""
        return " ".join(filter(None, (left_out, *self.of_bars)))

    @property
    def of_bars(self) -> tuple[str, ...]:
        """Return the problems with the bars within the sessions, for a person."""
        return tuple(filter(None, (self.rejection, self.absent, self.holes, self.leap, self.lacking)))

    @property
    def _rows(self) -> int:
        return self.outside_hours + self.rejected.total() + self.bars


class TapeSource:
    """The tape as an iterator of feed events, in the order in which they happened.

    `SessionScheduled` (at the open) precedes a session's first row, `SessionEnded` (at the close) follows its last.
    `BarClosed` has the bar's end as its time; bars that closed together follow one another in the strategy's order of
    symbols. A row is a duplicate when the tape is still at its start and has a good row of its symbol, out of order
    when the tape is past its start. Times never go backwards. A file that is sorted otherwise (`TapeInfo.resorted`) is
    read in order of time. Sessions without a row are left out.

    Of a file of shorter bars each is a `PartClosed`, unless `parts` is False, and the `BarClosed` of the whole follows
    the last one within it. A bar labelled by the full hour before the open, as some vendors' first hour is, begins at
    the open.

    With `tick_ns`, a `ClockTicked` follows `tick_ns` after the end of a bar that some symbols lack. A desk that waits
    for all symbols then decides.

    `skip` is the number of feed events in the journal; they are skipped. Raises TapeError when the tape has fewer or
    the calendar does not span it, CalendarError when it lacks the days around a session.
    """

    def __init__(
        self,
        path: Path,
        info: TapeInfo,
        calendar: SessionCalendar,
        skip: int = 0,
        *,
        tick_ns: int = 0,
        parts: bool = True,
    ) -> None:
        self.counts = TapeCounts(info.symbols)
        self._path = path
        self._info = info
        self._calendar = calendar
        self._skip = skip
        self._tick_ns = tick_ns
        self._sessions = calendar.sessions
        check_calendar(path, info, calendar)
        self._parts = parts
        self._grid = Grid(info.interval_s * SECOND_NS, info.anchor)
        self._opens = np.array([session.open_ns for session in self._sessions], dtype=np.int64)
        self._begins = self._opens  # label of a session's first bar
        if info.interval_s >= DAY_S:
            self._begins = np.array([midnight_ns(session.date) for session in self._sessions], dtype=np.int64)
        elif info.anchor == HOUR and not info.part_s:
            self._begins = self._opens - self._opens % self._grid.length_ns
        self._closes = np.array([session.close_ns for session in self._sessions], dtype=np.int64)

    def __iter__(self) -> Iterator[Event]:
        """Return feed events from the first that was not journaled. Each call reads the file again."""
        self.counts = TapeCounts(self._info.symbols)
        return events_after(self._path, self._events(), self._skip)

    def _events(self) -> Iterator[Event]:
        symbols, counts = self._info.symbols, self.counts
        now, end_ns, index = -1, 0, -1  # start of the current bars, their end, their session
        bars_by_place: dict[int, Bar] = {}  # by position in the strategy's order
        whole = _Whole(self._grid)  # the current bar, made of shorter ones
        file = open_bars(self._path, symbols)
        for batch in file.in_order() if self._info.resorted else file.batches():
            for start, slot, at, place, fault, *prices in self._classify(batch):
                if slot > now:
                    yield from self._closed_bars(bars_by_place, end_ns, index, whole)
                    bars_by_place = {}
                    if at != index or slot >= whole.end_ns:
                        yield from self._join_bars(whole, index)
                    if at != index:
                        if index >= 0:
                            yield SessionEnded(self._sessions[index].close_ns, self._sessions[index].date)
                            counts.absent_sessions += [session.date for session in self._sessions[index + 1 : at]]
                        index = at
                        yield self._schedule_event(index)
                    now = slot
                    end_ns = self._end_ns(slot, index)
                reason = FAULTS[fault]
                if not reason and slot < now:
                    reason = "out_of_order"
                elif not reason and place in bars_by_place:
                    reason = "duplicate"
                if reason:
                    counts.reject(reason, symbols[place], start)
                    yield BarRejected(end_ns, symbols[place], start, reason, _detail(start, now, prices))
                else:
                    bars_by_place[place] = Bar(symbols[place], slot, *prices)
                    counts.see(bars_by_place[place], self._sessions[index].date)
        yield from self._closed_bars(bars_by_place, end_ns, index, whole)
        yield from self._join_bars(whole, index)
        if index >= 0:
            yield SessionEnded(self._sessions[index].close_ns, self._sessions[index].date)

    def _end_ns(self, slot: int, index: int) -> int:
        session, part_s = self._sessions[index], self._info.part_s
        if part_s or self._info.interval_s >= DAY_S:
            return min(slot + (part_s or self._info.interval_s) * SECOND_NS, session.close_ns)
        return self._grid.at(slot, session)[1]

    def _closed_bars(self, bars_by_place: dict[int, Bar], end_ns: int, index: int, whole: _Whole) -> list[Event]:
        """Return the bars of one time; for a file of shorter bars its parts, and the whole bars that end with them."""
        if not self._info.part_s:
            return self._together(bars_by_place, end_ns, index)
        events: list[Event] = []
        for key in sorted(bars_by_place):
            if self._parts:
                events.append(PartClosed(end_ns, bars_by_place[key]))
            whole.add(key, bars_by_place[key], self._sessions[index])
        if bars_by_place and end_ns == whole.end_ns:
            events += self._join_bars(whole, index)
        return events

    def _join_bars(self, whole: _Whole, index: int) -> list[Event]:
        """Return the unfinished whole bars as they end."""
        end_ns, bars = whole.end_ns, whole.take()
        return self._together(bars, end_ns, index) if bars else []

    def _together(self, bars_by_place: dict[int, Bar], end_ns: int, index: int) -> list[Event]:
        """Return the bars of one time, and a tick if symbols have none and the session goes on."""
        events: list[Event] = [BarClosed(end_ns, bars_by_place[key]) for key in sorted(bars_by_place)]
        self.counts.bars += len(bars_by_place)
        if self._tick_ns and 0 < len(bars_by_place) < len(self._info.symbols):
            ticks_ns = end_ns + self._tick_ns
            if ticks_ns < self._sessions[index].close_ns:
                events.append(ClockTicked(ticks_ns))
        return events

    def _schedule_event(self, index: int) -> SessionScheduled:
        session, upcoming, previous = self._calendar.around(self._sessions[index].date)
        return SessionScheduled(session.open_ns, session, upcoming, previous)

    def _classify(self, rows: BarRows) -> Iterator[tuple[int, ...]]:
        """Yield the regular-session rows of the strategy's symbols: (start, slot, session, place, fault, prices…).

        `slot` is the start of the bar on the session's grid that holds `start`; `fault` an index into FAULTS.
        """
        places = _places(rows, self._info.symbols)
        at = np.searchsorted(self._begins, rows.start_ns, side="right") - 1
        ours = places >= 0
        inside = ours & (at >= 0) & (rows.start_ns < self._closes[at])
        self.counts.other_symbols += int(np.count_nonzero(~ours))
        self.counts.outside_hours += int(np.count_nonzero(ours & ~inside))
        start, at, places, prices = rows.start_ns[inside], at[inside], places[inside], rows.prices[:, inside]
        length_ns = (self._info.part_s or self._info.interval_s) * SECOND_NS
        off_grid = (start - self._begins[at]) % length_ns
        slots = start - off_grid
        if self._begins is not self._opens and self._info.anchor == HOUR:
            off_grid[start == self._opens[at]] = 0  # the first bar, labelled by the open itself
            slots = np.maximum(slots, self._opens[at])
        masks = faults(prices, off_grid)
        columns = (start, slots, at, places, masks, *prices)
        return zip(*(column.tolist() for column in columns), strict=True)


class _Whole:
    """The unfinished bars of all symbols on a tape of shorter ones."""

    def __init__(self, grid: Grid) -> None:
        self.end_ns = 2**63 - 1  # their end; far in the future while there are none
        self._grid = grid
        self._start_ns = 0
        self._parts: dict[int, list[Bar]] = {}

    def add(self, place: int, part: Bar, session: Session) -> None:
        self._start_ns = self._grid.at(part.start_ns, session)[0]
        self.end_ns = self._grid.at(self._start_ns, session)[1]
        self._parts.setdefault(place, []).append(part)

    def take(self) -> dict[int, Bar]:
        """Return them by their symbols' positions, and reset."""
        bars = {place: joined(self._start_ns, parts) for place, parts in self._parts.items()}
        self._parts, self.end_ns = {}, 2**63 - 1
        return bars


def _places(rows: BarRows, symbols: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return (n,) each row's position in the strategy's order of symbols, -1 for other symbols."""
    return np.array([symbols.index(name) if name in symbols else -1 for name in rows.names])[rows.codes]


def _detail(start_ns: int, now_ns: int, prices: Sequence[float]) -> str:
    return f"{values_text(prices)}; start {utc_text(start_ns)}, the tape is at {utc_text(now_ns)}"


def check_calendar(path: Path, info: TapeInfo, calendar: SessionCalendar) -> None:
    """Raise TapeError when the calendar does not span the tape."""
    if info.first_date < calendar.sessions[0].date or calendar.sessions[-1].date < info.last_date:
        raise TapeError(
            f"{path}: the bars are from {info.first_date} to {info.last_date}, the calendar holds "
            f"{calendar.sessions[0].date} to {calendar.sessions[-1].date}: load the calendar for the tape's dates"
        )


def check_symbols(path: Path, counts: Iterable[str], symbols: tuple[str, ...]) -> None:
    """Raise TapeError if no row has one of the strategy's symbols, or if some differ only in capitals or blanks."""
    names = set(counts)
    otherwise = sorted(name for name in names.difference(symbols) if name.strip().upper() in symbols)
    if not otherwise and not names.isdisjoint(symbols):
        return
    if not names.isdisjoint(symbols):
        detail = ", ".join(f"{name!r} beside {name.strip().upper()}" for name in otherwise[:8])
    else:
        more = ", …" if len(symbols) > 8 else ""
        detail = f"no row of {', '.join(symbols[:8])}{more}; found {', '.join(sorted(names)[:8])}"
    cure = (
        "write the symbols in capital letters, without blanks, in every row"
        if otherwise
        else "pass a tape of the strategy's symbols"
    )
    raise TapeError(f"{path}: {detail}: {cure}")


def events_after(path: Path, events: Iterator[Event], skip: int) -> Iterator[Event]:
    """Yield the events after the first `skip`, which were journaled. Raises TapeError when there are fewer."""
    skip_count = sum(1 for _ in islice(events, skip))
    if skip_count < skip:
        raise TapeError(
            f"{path}: the journal holds {skip} feed events, the tape has {skip_count}: resume with the "
            f"tape the journal was written from, or start with a fresh state directory"
        )
    yield from events


def utc_text(time_ns: int) -> str:
    """Format a time for a refusal, to the second."""
    return f"{np.datetime64(time_ns, 'ns').astype('datetime64[s]')}Z"


def new_york_days(start_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    """Return New York dates of bar starts. New York is four or five hours behind UTC; no bar starts from 23:00 to
    midnight."""
    return (start_ns - 4 * 3600 * SECOND_NS).astype("datetime64[ns]").astype("datetime64[D]")
