"""Recorded bars as the feed events of a daily desk: daily bars, or minutes of shares merged into days.

The file is read whole and sorted, so it may be sorted by symbol. The order of events depends only on file, calendar,
symbols and the rules `basket`. No event has a price before its time, and times never go backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.core.events import (
    BarClosed,
    BarRejected,
    Event,
    Price,
    PricesPrinted,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.instruments.quotes import FAULTS, faults, values_text
from daemon.core.limits import Basket
from daemon.core.paper.shares import on_grid
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.bars import AnyBars, open_bars
from daemon.tapes.files import TapeError
from daemon.tapes.minutes import (
    TapeCounts,
    TapeInfo,
    check_calendar,
    check_symbols,
    events_after,
    new_york_days,
    utc_text,
)
from strategies.kit.contract import Bar, Session
from strategies.kit.units import DAY_S, MINUTE_NS, SECOND_NS

MINUTE_S = 60
SCHEDULED_BEFORE_NS = 30 * MINUTE_NS  # the open: the announcement of a session
_NEXT_PRINT_NS = MINUTE_NS  # after the one before, on a daily tape: fills the waiting buys


@dataclass(frozen=True, slots=True)
class _Columns:
    """The strategy's rows, sorted by start and then by the strategy's order of symbols; equal ones in file order."""

    start_ns: npt.NDArray[np.int64]  # (n,)
    places: npt.NDArray[np.int64]  # (n,) in the strategy's order of symbols
    prices: npt.NDArray[np.float64]  # (5, n), adjusted
    counts: dict[str, int]  # all rows by symbol


def scan_daily(path: Path, symbols: tuple[str, ...]) -> TapeInfo:
    """Read the whole tape and describe it; `interval_s` is a day or a minute, as found.

    Raises TapeError, whose message names the file, the finding, the expected value and the cure.
    """
    file = open_bars(path, symbols, adjust=True)
    digest = file.digest()
    columns = _read(file, symbols)
    if not columns.counts:
        raise TapeError(f"{path}: the file has a header and no row; expected bars: check how it was written")
    check_symbols(path, columns.counts, symbols)
    interval_s = _interval_s(path, columns.start_ns)
    return TapeInfo(
        sha256=digest,
        rows=sum(columns.counts.values()),
        rows_by_symbol=dict(sorted(columns.counts.items())),
        first_ns=int(columns.start_ns[0]),
        last_ns=int(columns.start_ns[-1]),
        dates=len(set(new_york_days(columns.start_ns).tolist())),
        symbols=symbols,
        interval_s=interval_s,
        symbol_assumed=file.symbol_assumed,
        synthetic=file.synthetic,
        dearest=_dearest(columns.prices),
        adjusted=file.adjusts and interval_s == DAY_S,
    )


def _dearest(prices: npt.NDArray[np.float64]) -> float:
    """Return the highest finite close of prices (5, n); 0.0 without any."""
    closes = prices[3]
    return float(closes[np.isfinite(closes)].max(initial=0.0))


def check_rule(path: Path, info: TapeInfo, basket: Basket) -> None:
    """Raise TapeError if the desk decides before the close and the tape has only daily bars."""
    if basket.decide == "before_close" and info.interval_s == DAY_S:
        raise TapeError(
            f'{path}: basket.decide is "before_close" and the tape has daily bars, which are known at the close; '
            f'expected minute bars: pass a tape of minutes, or set basket.decide to "after_close"'
        )


def _interval_s(path: Path, starts: npt.NDArray[np.int64]) -> int:
    """Return a day or a minute: the most frequent distance of consecutive starts."""
    steps = np.diff(starts) // SECOND_NS
    values, counts = np.unique(steps[steps > 0], return_counts=True)
    commonest = int(values[np.argmax(counts)]) if values.size else DAY_S
    if commonest >= DAY_S - 3600:  # a day of 23 hours, when daylight saving time begins
        return DAY_S
    if commonest == MINUTE_S:
        return MINUTE_S
    raise TapeError(
        f"{path}: most bars are {commonest} s apart; expected daily bars or bars of {MINUTE_S} s: pass such a tape"
    )


def _read(file: AnyBars, symbols: tuple[str, ...]) -> _Columns:
    place_of = {symbol: place for place, symbol in enumerate(symbols)}
    starts: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    places: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    prices: list[npt.NDArray[np.float64]] = [np.empty((5, 0))]
    counts: dict[str, int] = {}
    for rows in file.batches():
        for name, count in zip(rows.names, np.bincount(rows.codes, minlength=len(rows.names)).tolist(), strict=True):
            counts[name] = counts.get(name, 0) + count
        at = np.array([place_of.get(name, -1) for name in rows.names], dtype=np.int64)[rows.codes]
        ours = at >= 0
        starts.append(rows.start_ns[ours])
        places.append(at[ours])
        prices.append(rows.prices[:, ours])
    start, place = np.concatenate(starts), np.concatenate(places)
    order = np.lexsort((place, start))  # stable: of two rows of one bar the file's first stays first
    return _Columns(start[order], place[order], np.concatenate(prices, axis=1)[:, order], counts)


class DailyTapeSource:
    """The tape as an iterator of feed events, in order of time.

    For each session with a row: `SessionScheduled`; `RebalanceDue` before the open or, on minutes, before the close;
    `PricesPrinted` at the open and later; `BarRejected` for bad rows; at the close `BarClosed` for each symbol with a
    bar, in the strategy's order, and `SessionEnded`. A day of minutes is first open, highest high, lowest low, last
    close and summed volume of its good minutes. With `parts` a daily tape prints the open a third time: a sale, or
    fraction, that the auction did not fill trades at the second print, and buys for that cash at the third.

    `skip` is the number of feed events in the journal; they are skipped. Raises TapeError when the tape has fewer, the
    calendar does not span it or it cannot support `basket.decide`.
    """

    def __init__(
        self,
        path: Path,
        info: TapeInfo,
        calendar: SessionCalendar,
        basket: Basket,
        skip: int = 0,
        *,
        parts: bool = False,
    ) -> None:
        self._prints = 3 if parts else 2
        self.counts = TapeCounts(info.symbols)
        self._path = path
        self._info = info
        self._calendar = calendar
        self._skip = skip
        self._before_close = basket.decide == "before_close"
        self._before_close_ns = basket.before_close_min * MINUTE_NS
        self._before_open_ns = basket.before_open_min * MINUTE_NS
        self._daily = info.interval_s == DAY_S
        check_rule(path, info, basket)
        check_calendar(path, info, calendar)
        self._sessions = calendar.sessions
        begins = [midnight_ns(session.date) if self._daily else session.open_ns for session in self._sessions]
        self._begins = np.array(begins, dtype=np.int64)  # start of each session's first bar
        self._closes = np.array([session.close_ns for session in self._sessions], dtype=np.int64)

    def __iter__(self) -> Iterator[Event]:
        """Yield feed events from the first that is not yet journaled. Each call reads the file anew."""
        self.counts = TapeCounts(self._info.symbols)
        yield from events_after(self._path, self._events(), self._skip)

    def _events(self) -> Iterator[Event]:
        info, counts = self._info, self.counts
        columns = _read(open_bars(self._path, info.symbols, adjust=info.adjusted), info.symbols)
        starts, places, prices = columns.start_ns, columns.places, columns.prices
        counts.other_symbols = sum(columns.counts.values()) - starts.size
        at = np.searchsorted(self._begins, starts, side="right") - 1
        inside = (at >= 0) & (starts < self._closes[at])
        if not inside.any():
            raise TapeError(
                f"{self._path}: no row lies in a session of the exchange, the first one at {utc_text(int(starts[0]))}; "
                f"expected the start of each bar, of a day's midnight in New York: write the times with their real zone"
            )
        counts.outside_hours = int(np.count_nonzero(~inside))
        starts, places, prices, at = starts[inside], places[inside], prices[:, inside], at[inside]
        masks = faults(prices, (starts - self._begins[at]) % (info.interval_s * SECOND_NS))
        indices, firsts = np.unique(at, return_index=True)
        absent = np.setdiff1d(np.arange(indices[0], indices[-1]), indices)
        counts.absent_sessions = [self._sessions[index].date for index in absent]
        for index, low, high in zip(indices, firsts, [*firsts[1:], starts.size], strict=True):
            cut = slice(int(low), int(high))
            yield from self._session(
                int(index), starts[cut].tolist(), places[cut].tolist(), masks[cut].tolist(), prices[:, cut]
            )

    def _session(
        self,
        index: int,
        starts: Sequence[int],
        places: Sequence[int],
        fault_codes: Sequence[int],
        prices: npt.NDArray[np.float64],
    ) -> Iterator[Event]:
        """Yield the events of one session, from its rows in time order."""
        session, upcoming, previous = self._calendar.around(self._sessions[index].date)
        first_ns = SCHEDULED_BEFORE_NS if self._before_close else max(SCHEDULED_BEFORE_NS, self._before_open_ns)
        yield SessionScheduled(session.open_ns - first_ns, session, upcoming, previous)
        if not self._before_close:
            yield RebalanceDue(session.open_ns - self._before_open_ns, session.date)
        good: dict[int, list[Bar]] = {}  # by start, in the strategy's order of symbols
        rejections: list[BarRejected] = []
        newest_slot = (-1, -1)
        for start, place, fault, row in zip(starts, places, fault_codes, prices.T.tolist(), strict=True):
            reason = FAULTS[fault] or ("duplicate" if (start, place) == newest_slot else "")
            symbol = self._info.symbols[place]
            if reason:
                self.counts.reject(reason, symbol, start)
                end_ns = session.close_ns if self._daily else min(start + MINUTE_NS, session.close_ns)
                detail = f"{values_text(row)}; start {utc_text(start)}"
                rejections.append(BarRejected(end_ns, symbol, start, reason, detail))
            else:
                newest_slot = (start, place)
                good.setdefault(start, []).append(Bar(symbol, start, *row))
        if self._daily:
            bars = tuple(bar for minute in good.values() for bar in minute)
            for number in range(self._prints):
                at_ns = session.open_ns + number * _NEXT_PRINT_NS
                yield PricesPrinted(at_ns, session.date, opening=not number, prices=_opens(bars))
            yield from rejections
        else:
            day = _Day(session.date, self._info.symbols)
            yield from self._minutes(session, good, rejections, day)
            bars = day.bars()
        self.counts.bars += len(bars)
        for bar in bars:
            self.counts.see(bar, session.date)
            yield BarClosed(session.close_ns, bar)
        yield SessionEnded(session.close_ns, session.date)

    def _minutes(
        self, session: Session, good: dict[int, list[Bar]], rejections: list[BarRejected], day: _Day
    ) -> Iterator[Event]:
        """Yield the events between open and close, and add the minutes to `day`.

        At each time: rejected bars of the minute that ended, prices of the one that begins, then the question.
        """
        due_ns = session.close_ns - self._before_close_ns if self._before_close else -1
        refusals: dict[int, list[BarRejected]] = {}
        for refusal in rejections:
            refusals.setdefault(refusal.time_ns, []).append(refusal)
        running: list[Bar] = []  # bars of the current minute
        for now in sorted({session.open_ns, *good, *refusals, *((due_ns,) if self._before_close else ())}):
            if running and running[0].start_ns + MINUTE_NS <= now:
                day.add(running)
                running = []
            yield from refusals.get(now, ())
            running = good.get(now, running)
            if now in good or now == session.open_ns:
                opens = _opens(good.get(now, ()))
                yield PricesPrinted(now, session.date, opening=now == session.open_ns, prices=opens)
            if now == due_ns:
                yield RebalanceDue(now, session.date, day.bars())
        day.add(running)


class _Day:
    """One session's bars, built from minutes."""

    def __init__(self, date: str, symbols: tuple[str, ...]) -> None:
        self._start_ns = midnight_ns(date)
        self._symbols = symbols
        self._bars: dict[str, Bar] = {}

    def add(self, minutes: Sequence[Bar]) -> None:
        """Add bars that closed, later than those before."""
        for bar in minutes:
            so_far = self._bars.get(bar.symbol)
            self._bars[bar.symbol] = (
                Bar(bar.symbol, self._start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume)
                if so_far is None
                else Bar(
                    bar.symbol,
                    self._start_ns,
                    so_far.open,
                    max(so_far.high, bar.high),
                    min(so_far.low, bar.low),
                    bar.close,
                    so_far.volume + bar.volume,
                )
            )

    def bars(self) -> tuple[Bar, ...]:
        """Return the day's bars so far, in the strategy's order of symbols."""
        return tuple(self._bars[symbol] for symbol in self._symbols if symbol in self._bars)


def _opens(bars: Sequence[Bar]) -> tuple[Price, ...]:
    return tuple(Price(bar.symbol, on_grid(bar.open)) for bar in bars)
