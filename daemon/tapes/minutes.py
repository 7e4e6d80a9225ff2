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

from daemon.core.events import BarClosed, BarRejected, ClockTicked, Event, SessionEnded, SessionScheduled
from daemon.core.instruments.quotes import FAULTS, faults, values_text
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.bars import open_bars
from daemon.tapes.files import BarRows, TapeError
from strategies.kit.contract import Bar
from strategies.kit.units import DAY_S, SECOND_NS

__all__ = ["REJECT_REASONS", "TapeCounts", "TapeError", "TapeInfo", "TapeSource", "scan"]

HOUR_S = 3600
OPEN_S = 1800  # past an hour, in New York and in UTC
STEPS_TO_JUDGE = 20
LATE_SHARE = 4  # with more than one row in so many behind another, the file has another order than that of time
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
    dearest: float = 0.0  # USD, of days: the highest good price of the strategy's symbols
    adjusted: bool = False  # prices are multiplied by adj_close / close
    resorted: bool = False  # the file is not in order of time: its rows are sorted

    @property
    def first_date(self) -> str:
        """New York date (`YYYY-MM-DD`) of the earliest row."""
        return str(new_york_days(np.array([self.first_ns]))[0])

    @property
    def last_date(self) -> str:
        """New York date (`YYYY-MM-DD`) of the latest row."""
        return str(new_york_days(np.array([self.last_ns]))[0])


def scan(path: Path, symbols: tuple[str, ...], interval_s: int) -> TapeInfo:
    """Read the whole tape once, in batches, and describe it.

    `symbols` and `interval_s` are the strategy's (`Spec`). Raises TapeError, whose message names the file, the finding,
    the expected and the cure.
    """
    file = open_bars(path, symbols)
    digest = file.digest()
    counts: Counter[str] = Counter()
    days: set[date] = set()  # that have rows of the strategy
    begun: set[int] = set()  # the strategy's symbols seen, by place
    first_ns, last_ns, ours, late, by_symbol = 2**63 - 1, -1, 0, 0, False
    steps = _Steps(interval_s)
    for rows in file.batches():
        counts.update(dict(zip(rows.names, np.bincount(rows.codes, minlength=len(rows.names)).tolist(), strict=True)))
        places = _places(rows, symbols)
        starts, places = rows.start_ns[places >= 0], places[places >= 0]
        if not starts.size:
            continue
        newest = np.maximum.accumulate(np.append(last_ns, starts))
        behind = starts < newest[:-1]
        ours, late = ours + starts.size, late + int(np.count_nonzero(behind))
        for place in sorted(set(places.tolist()) - begun):
            by_symbol = by_symbol or bool(behind[np.argmax(places == place)])
            begun.add(place)
        first_ns, last_ns = min(first_ns, int(starts.min())), int(newest[-1])
        steps.add(starts)
        days.update(new_york_days(starts).tolist())
    if not counts:
        raise TapeError(f"{path}: the file has a header and no row; expected bars: check how it was written")
    if not any(symbol in counts for symbol in symbols):
        raise of_others(path, counts, symbols)
    if steps.wrong():
        raise TapeError(
            f"{path}: most bars are {steps.commonest_s()} s apart; expected bars of {interval_s} s: pass a tape of the "
            f"strategy's interval"
        )
    if steps.off_open():
        raise TapeError(
            f"{path}: most bars of {interval_s} s do not begin a multiple of {interval_s} s after the open at 9:30; "
            f"expected 9:30 and so on: hours from the full hour mix two of the session's, so make them of minutes"
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
        resorted=by_symbol or LATE_SHARE * late > ours,
    )


class _Steps:
    """Distances of bars, from one another and from the open: tell a tape of another interval from one with holes."""

    def __init__(self, interval_s: int) -> None:
        self._interval_s = interval_s
        self._grid_s = gcd(interval_s, HOUR_S)  # the open is at half past an hour, in UTC too
        self._bars = self._on_grid = 0
        self._counts: Counter[int] = Counter()

    def add(self, starts: npt.NDArray[np.int64]) -> None:
        self._bars += starts.size
        self._on_grid += int(np.count_nonzero((starts // SECOND_NS - OPEN_S) % self._grid_s == 0))
        steps = np.abs(np.diff(starts)) // SECOND_NS  # a file may begin with its newest row
        values, counts = np.unique(steps[steps > 0], return_counts=True)
        self._counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def commonest_s(self) -> int:
        return self._counts.most_common(1)[0][0]

    def off_open(self) -> bool:
        """Return True with enough bars, fewer than a quarter of them on the grid of the session's open."""
        return self._interval_s < DAY_S and self._bars >= STEPS_TO_JUDGE and 4 * self._on_grid < self._bars

    def wrong(self) -> bool:
        """Return True with enough steps, fewer than a quarter of them the interval. Gaps of days do not count."""
        total = self._counts.total()
        return self._interval_s < DAY_S and total >= STEPS_TO_JUDGE and 4 * self._counts[self._interval_s] < total


@dataclass(slots=True)
class TapeCounts:
    """Counts of rows that a `TapeSource` has read so far."""

    bars: int = 0
    outside_hours: int = 0  # extended hours and days without a session: left out
    other_symbols: int = 0  # not the strategy's: left out
    rejected: Counter[str] = field(default_factory=Counter)  # by reason


class TapeSource:
    """The tape as an iterator of feed events, in the order in which they happened.

    `SessionScheduled` (at the open) precedes a session's first row, `SessionEnded` (at the close) follows its last.
    `BarClosed` has the bar's end as its time; bars that closed together follow one another in the strategy's order of
    symbols. A row is a duplicate when the tape is still at its start and has a good row of its symbol, out of order
    when the tape is past its start. Times never go backwards. A file that is sorted otherwise (`TapeInfo.resorted`) is
    read in order of time. Sessions without a row are left out.

    With `tick_ns`, a `ClockTicked` follows `tick_ns` after the end of a bar that some symbols lack. A desk that waits
    for all symbols then decides.

    `skip` is the number of feed events in the journal; they are skipped. Raises TapeError when the tape has fewer or
    the calendar does not span it, CalendarError when it lacks the days around a session.
    """

    def __init__(
        self, path: Path, info: TapeInfo, calendar: SessionCalendar, skip: int = 0, *, tick_ns: int = 0
    ) -> None:
        self.counts = TapeCounts()
        self._path = path
        self._info = info
        self._calendar = calendar
        self._skip = skip
        self._tick_ns = tick_ns
        self._sessions = calendar.sessions
        check_calendar(path, info, calendar)
        daily = info.interval_s >= DAY_S
        begins = [midnight_ns(session.date) if daily else session.open_ns for session in self._sessions]
        self._begins = np.array(begins, dtype=np.int64)  # the start of a session's first bar
        self._closes = np.array([session.close_ns for session in self._sessions], dtype=np.int64)

    def __iter__(self) -> Iterator[Event]:
        """Yield feed events from the first that was not journaled. Each call reads the file anew."""
        self.counts = TapeCounts()
        yield from resumed(self._path, self._events(), self._skip)

    def _events(self) -> Iterator[Event]:
        symbols, counts, step_ns = self._info.symbols, self.counts, self._info.interval_s * SECOND_NS
        now, end_ns, index = -1, 0, -1  # start of the current bars, their end, their session
        gathered: dict[int, Bar] = {}  # by the symbol's place in the strategy's order
        file = open_bars(self._path, symbols)
        for batch in file.in_order() if self._info.resorted else file.batches():
            for start, slot, at, place, fault, *prices in self._classified(batch):
                if slot > now:
                    yield from self._closed(gathered, end_ns, index)
                    gathered = {}
                    if at != index:
                        if index >= 0:
                            yield SessionEnded(self._sessions[index].close_ns, self._sessions[index].date)
                        index = at
                        yield self._scheduled(index)
                    now = slot
                    end_ns = min(slot + step_ns, self._sessions[index].close_ns)
                reason = FAULTS[fault]
                if not reason and slot < now:
                    reason = "out_of_order"
                elif not reason and place in gathered:
                    reason = "duplicate"
                if reason:
                    counts.rejected[reason] += 1
                    yield BarRejected(end_ns, symbols[place], start, reason, _detail(start, now, prices))
                else:
                    gathered[place] = Bar(symbols[place], start, *prices)
        yield from self._closed(gathered, end_ns, index)
        if index >= 0:
            yield SessionEnded(self._sessions[index].close_ns, self._sessions[index].date)

    def _closed(self, gathered: dict[int, Bar], end_ns: int, index: int) -> Iterator[Event]:
        """Yield the bars of one time, and a tick where symbols have none and the session goes on."""
        for key in sorted(gathered):
            yield BarClosed(end_ns, gathered[key])
        self.counts.bars += len(gathered)
        ticks_ns = end_ns + self._tick_ns
        missing = 0 < len(gathered) < len(self._info.symbols)
        if self._tick_ns and missing and ticks_ns < self._sessions[index].close_ns:
            yield ClockTicked(ticks_ns)

    def _scheduled(self, index: int) -> SessionScheduled:
        session, upcoming, previous = self._calendar.around(self._sessions[index].date)
        return SessionScheduled(session.open_ns, session, upcoming, previous)

    def _classified(self, rows: BarRows) -> Iterator[tuple[int, ...]]:
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
        off_grid = (start - self._begins[at]) % (self._info.interval_s * SECOND_NS)
        masks = faults(prices, off_grid)
        columns = (start, start - off_grid, at, places, masks, *prices)
        return zip(*(column.tolist() for column in columns), strict=True)


def _places(rows: BarRows, symbols: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return (n,) each row's place in the strategy's order of symbols, -1 for other symbols."""
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


def of_others(path: Path, counts: Iterable[str], symbols: tuple[str, ...]) -> TapeError:
    """Return the error of a tape that has rows, but none of the strategy's symbols."""
    found, more = ", ".join(sorted(counts)[:8]), ", …" if len(symbols) > 8 else ""
    names = f"{', '.join(symbols[:8])}{more}"
    return TapeError(f"{path}: no row of {names}; found {found}: pass a tape of the strategy's symbols")


def resumed(path: Path, events: Iterator[Event], skip: int) -> Iterator[Event]:
    """Yield the events after the first `skip`, which were journaled. Raises TapeError when there are fewer."""
    skipped = sum(1 for _ in islice(events, skip))
    if skipped < skip:
        raise TapeError(
            f"{path}: the journal holds {skip} feed events, the tape has {skipped}: resume with the "
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
