"""A tape of bars with recorded option quotes: the events of a live feed, from two files.

The contracts of a session follow its `SessionScheduled`, and after each bar come the quotes of that minute's end, for
the contracts in use: watched, held and ordered. A journal resumes after any of these events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daemon.core.events import BarClosed, Event, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.paper.state import RecordedState
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.bars import open_bars
from daemon.tapes.files import TapeError, digest_of
from daemon.tapes.minutes import TapeCounts, TapeSource, new_york_days
from daemon.tapes.quotes.day import DayQuotes, QuoteCounts, QuotedSession, later_sessions, volatility_of
from daemon.tapes.quotes.reader import QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import MINUTE


def closes_in(path: Path, symbol: str) -> dict[str, float]:
    """Return the last close of each New York date in a file of bars, days or minutes. Raises TapeError."""
    newest: dict[str, tuple[int, float]] = {}
    calendar: SessionCalendar | None = None
    for batch in open_bars(path, (symbol,)).batches():
        if symbol not in batch.names:
            continue
        rows = np.flatnonzero(batch.codes == batch.names.index(symbol))
        days = new_york_days(batch.start_ns[rows])
        if calendar is None and rows.size:
            calendar = SessionCalendar.to_horizon(str(days.min()))
            ends = {session.date: session.close_ns for session in calendar.sessions}
        for row, day in zip(rows.tolist(), days.tolist(), strict=True):
            start, date = int(batch.start_ns[row]), str(day)
            if start < ends.get(date, 0) and start >= newest.get(date, (0, 0.0))[0]:
                newest[date] = start, float(batch.prices[3, row])
    if not newest:
        raise TapeError(f"{path}: no bar of {symbol} in a session: name a file of its bars, or the symbol of the bars")
    return {date: close for date, (_, close) in newest.items()}


@dataclass(frozen=True, slots=True)
class OptionQuotes:
    """A checked file of recorded quotes, for a replay. Volatility is from `closes` (date to USD), or from the tape."""

    file: QuoteFile
    sha256: str
    root: str  # OCC root of the contracts
    closes: Mapping[str, float] | None = None
    closes_name: str = ""


def option_quotes(path: Path, underlying: str, root: str = "", closes: Path | None = None) -> OptionQuotes:
    """Check a file of quotes for a desk on `underlying`; `root` is its contracts' root, "" for the underlying's symbol.

    `closes` is a file of bars of the underlying. Raises TapeError.
    """
    file = QuoteFile(path)
    if file.interval != MINUTE:
        raise TapeError(f"{path}: quotes of the interval {file.interval}; expected minutes: pass a file with minutes")
    name = root or underlying
    first = next(file.sessions(), None)
    roots = set() if first is None else set(first.contracts.roots) - {""}
    if name not in roots:
        roots_text = ", ".join(sorted(roots)) or "none"
        raise TapeError(
            f"{path}: no contract of {name} in its first session; found {roots_text}: name it by --option-root"
        )
    digest = digest_of(path)
    if closes is None:
        return OptionQuotes(file, digest, name)
    return OptionQuotes(file, digest, name, closes_in(closes, underlying), closes.name)


class QuotedTape:
    """The bars of `tape`, which begins at its first event, with `quotes`; the first `skip` events are in the journal.

    `market` returns the paper broker's current state. Raises TapeError as `TapeSource` does, and for unusable quotes.
    """

    def __init__(
        self,
        tape: TapeSource,
        quotes: OptionQuotes,
        calendar: SessionCalendar,
        trading: Trading,
        underlying: str,
        market: Callable[[], RecordedState],
        skip: int = 0,
    ) -> None:
        self.quote_counts = QuoteCounts()
        self._tape = tape
        self._quotes = quotes
        self._calendar = calendar
        self._trading = trading
        self._underlying = underlying
        self._market = market
        self._skip = skip
        self._closes = dict(quotes.closes or {})
        self._last_close: float | None = None  # of the tape's session before the current one
        self._date = ""  # of the running session
        self._session = QuotedSession(underlying, None, None)

    @property
    def counts(self) -> TapeCounts:
        """Counts of the bars."""
        return self._tape.counts

    def __iter__(self) -> Iterator[Event]:
        """Yield the events from the first that is not yet journaled."""
        sessions = self._quotes.file.sessions()
        arrays: QuoteArrays | None = None
        number = 0
        for number, read in enumerate(self._tape, start=1):
            event = read
            if isinstance(read, SessionScheduled):
                while arrays is None or arrays.date < read.session.date:
                    arrays = next(sessions, None)
                    if arrays is None:
                        break
                event = self._begin(read, arrays)
            if number > self._skip:
                yield event
            if number >= self._skip:
                yield from self._session.following(event, self._market(), self.quote_counts)
            if isinstance(event, BarClosed):
                self._note_close(event)
        if number < self._skip:
            raise TapeError(
                f"the journal holds {self._skip} events of the tape, which has {number}: resume with the tape the "
                f"journal was written from, or start with a fresh state directory"
            )

    def _begin(self, read: SessionScheduled, quotes: QuoteArrays | None) -> SessionScheduled:
        """Begin a session; returns its event with the sessions that the rules need."""
        event = later_sessions(read, self._calendar.sessions, self._trading)
        day, listing, date = None, None, event.session.date
        if quotes is not None and quotes.date == date:
            day = DayQuotes(quotes, event.session, self._quotes.root)
            self.quote_counts.faulty += day.faulty
            volatility = volatility_of(self._closes, event, self._trading.paper)
            listing = day.listed(event, self._last_close, volatility, self._trading)
        self._date, self._session = date, QuotedSession(self._underlying, day, listing)
        counts = self.quote_counts
        counts.sessions += 1
        if day is not None:
            counts.with_quotes += 1
            counts.first_date, counts.last_date = counts.first_date or date, date
        return event

    def _note_close(self, event: BarClosed) -> None:
        if self._date and event.bar.symbol == self._underlying:
            self._last_close = event.bar.close
            if self._quotes.closes is None:
                self._closes[self._date] = event.bar.close
