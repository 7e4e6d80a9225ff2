"""A tape of bars with recorded option quotes: the events of a live feed, from two files.

The contracts of a session follow its `SessionScheduled`, and after each bar come the quotes of that minute's end, of
the contracts that the desk uses: watched, held and ordered. A journal resumes after any of these events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from daemon.core.events import BarClosed, Contract, ContractsListed, Event, Quote, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import parse_occ, session_volatility
from daemon.core.limits import Trading
from daemon.core.paper.state import RecordedState
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeError, digest_of
from daemon.tapes.minutes import TapeCounts, TapeSource
from daemon.tapes.quotes.closes import closes_in
from daemon.tapes.quotes.faults import FAULTS, STALE_NS, faults
from daemon.tapes.quotes.reader import Int64Array, QuoteFile, SessionQuotes
from daemon.tapes.quotes.schema import MINUTE
from daemon.tapes.quotes.spot import spots
from strategies.kit.contract import Session

STANDING = frozenset(("lean", "databento"))
"""Sources without a row for a minute without a new quote: there the last quote stands, for `STALE_NS` at most."""


@dataclass(frozen=True, slots=True)
class OptionQuotes:
    """A checked file of recorded quotes, for a replay. `closes` (date to USD) give the volatility; None: the tape's."""

    file: QuoteFile
    sha256: str
    root: str  # OCC root of the contracts
    closes: Mapping[str, float] | None = None
    closes_name: str = ""


def option_quotes(path: Path, underlying: str, root: str = "", closes: Path | None = None) -> OptionQuotes:
    """Check a file of quotes for a desk on `underlying`; `root` is that of its contracts, "" for the underlying's.

    `closes` is a file of bars of the underlying. Raises TapeError.
    """
    file = QuoteFile(path)
    if file.interval != MINUTE:
        raise TapeError(f"{path}: quotes of the interval {file.interval}; expected minutes: pass a file with minutes")
    wanted = root or underlying
    first = next(file.sessions(), None)
    roots = set() if first is None else set(first.contracts.roots) - {""}
    if wanted not in roots:
        found = ", ".join(sorted(roots)) or "none"
        raise TapeError(
            f"{path}: no contract of {wanted} in its first session; found {found}: name it by --option-root"
        )
    digest = digest_of(path)
    if closes is None:
        return OptionQuotes(file, digest, wanted)
    return OptionQuotes(file, digest, wanted, closes_in(closes, underlying), closes.name)


@dataclass(slots=True)
class QuoteCounts:
    """What the desk was given since this run began. `quotes` counts asked contracts and minutes by what there was."""

    sessions: int = 0  # of the tape
    with_quotes: int = 0  # of them
    quotes: Counter[str] = field(default_factory=Counter)  # recorded, standing, missing
    faulty: int = 0  # rows of the file that are left out, in sessions of the tape


class QuotedTape:
    """The bars of `tape`, which begins at its first event, with `quotes`; the first `skip` events are in the journal.

    `market` returns the paper broker's present state. Raises TapeError as `TapeSource` does, and for unusable quotes.
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
        self._last_close: float | None = None  # of the tape's last session before the running one
        self._session: Session | None = None
        self._day: DayQuotes | None = None

    @property
    def counts(self) -> TapeCounts:
        """Counts of the bars."""
        return self._tape.counts

    def __iter__(self) -> Iterator[Event]:
        """Yield the events from the first that was not journaled."""
        sessions = self._quotes.file.sessions()
        held: SessionQuotes | None = None
        number = 0
        for number, read in enumerate(self._tape, start=1):
            event = read
            if isinstance(read, SessionScheduled):
                while held is None or held.date < read.session.date:
                    held = next(sessions, None)
                    if held is None:
                        break
                self._begin(read.session, held)
                event = replace(read, upcoming=self._upcoming(read))
            if number > self._skip:
                yield event
            if number >= self._skip:
                yield from self._following(event)
            if isinstance(event, BarClosed):
                self._note_close(event)
        if number < self._skip:
            raise TapeError(
                f"the journal holds {self._skip} events of the tape, which has {number}: resume with the tape the "
                f"journal was written from, or start with a fresh state directory"
            )

    def _begin(self, session: Session, quotes: SessionQuotes | None) -> None:
        self._session = session
        self._day = None
        if quotes is not None and quotes.date == session.date:
            self._day = DayQuotes(quotes, session, self._quotes.root)
            self.quote_counts.faulty += self._day.faulty
        self.quote_counts.sessions += 1
        self.quote_counts.with_quotes += self._day is not None

    def _upcoming(self, event: SessionScheduled) -> tuple[Session, ...]:
        """Return the sessions after it, more than a live desk knows where the rules allow later expiries."""
        sessions, most = self._calendar.sessions, self._trading.contracts.max_days
        at = sessions.index(event.session)
        return sessions[at + 1 : at + 1 + max(most, len(event.upcoming))]

    def _following(self, event: Event) -> Iterator[Event]:
        """Yield what follows an event of the bars, unless the journal holds it."""
        market, session = self._market(), self._session
        match event:
            case SessionScheduled() if self._day is not None and market.listed_for < event.session.date:
                yield self._listed(event, self._day)
            case BarClosed() if session is not None and event.bar.symbol == self._underlying:
                if market.closed_bar_ns < event.bar.start_ns:
                    yield QuotesReceived(event.time_ns, event.bar.start_ns, self._quoted(market, event.time_ns))

    def _listed(self, event: SessionScheduled, day: DayQuotes) -> ContractsListed:
        """Return the contracts of the file within the rules' days, so many strikes on each side of the last close."""
        rule, each_side = self._trading.contracts, self._trading.paper.strikes_each_side
        dates = [event.session.date, *(later.date for later in event.upcoming)][rule.min_days : rule.max_days + 1]
        terms = [found for found in day.contracts(self._trading.paper.open_interest) if found.expiry in set(dates)]
        strikes = sorted({found.strike for found in terms})
        spot = day.first_spot if self._last_close is None else self._last_close
        if spot is not None:
            below = [strike for strike in strikes if strike <= spot][-each_side:]
            above = [strike for strike in strikes if strike > spot][:each_side]
            strikes = [*below, *above]
        kept = set(strikes)
        contracts = tuple(found for found in terms if found.strike in kept)
        return ContractsListed(event.time_ns, event.session.date, contracts, self._volatility(event))

    def _volatility(self, event: SessionScheduled) -> float | None:
        """Return the session's volatility from the closes before it; None where yesterday's or earlier are missing."""
        known = sorted(date for date in self._closes if date < event.session.date)
        before = event.previous[-1].date if event.previous else ""
        if not known or known[-1] != before:
            return None
        return session_volatility([self._closes[date] for date in known], self._trading.paper)

    def _note_close(self, event: BarClosed) -> None:
        if self._session is not None and event.bar.symbol == self._underlying:
            self._last_close = event.bar.close
            if self._quotes.closes is None:
                self._closes[self._session.date] = event.bar.close

    def _quoted(self, market: RecordedState, end_ns: int) -> tuple[Quote, ...]:
        """Return the quotes at a minute's end of the contracts in use."""
        used = (
            *market.watched,
            *(held.symbol for held in market.holdings if held.symbol != self._underlying),
            *(order.symbol for order in market.orders),
        )
        found: list[Quote] = []
        for symbol in dict.fromkeys(used):
            quote, kind = self._day.quote(symbol, end_ns) if self._day is not None else (None, "missing")
            self.quote_counts.quotes[kind] += 1
            if quote is not None:
                found.append(quote)
        return tuple(found)


class DayQuotes:
    """One session's usable quotes, by contract."""

    def __init__(self, quotes: SessionQuotes, session: Session, root: str) -> None:
        found = faults(quotes, session)
        wrong = np.any([found[name] for name in FAULTS], axis=0)
        kept = np.flatnonzero(~wrong & ~found["outside"] & ~found["zero"])
        kept = kept[np.lexsort((quotes.end_ns[kept], quotes.codes[kept]))]
        self.faulty = int(np.count_nonzero(wrong))
        self._quotes = quotes
        self._root = root
        self._stands = bool(quotes.sources) and STANDING.issuperset(quotes.sources)
        codes, begins = np.unique(quotes.codes[kept], return_index=True)
        names = quotes.contracts.symbols
        parts = np.split(kept, begins[1:]) if kept.size else []
        self._rows: dict[str, Int64Array] = {
            names[code]: rows for code, rows in zip(codes.tolist(), parts, strict=True)
        }

    @property
    def first_spot(self) -> float | None:
        """The underlying at the first usable quote: recorded, else by put-call parity."""
        if not self._rows:
            return None
        rows = np.sort(np.concatenate(list(self._rows.values())))
        known = spots(self._quotes)[rows]
        known = known[np.isfinite(known)]
        return float(known[0]) if known.size else None

    def contracts(self, open_interest: int) -> list[Contract]:
        """Return the contracts with a usable quote by expiry, strike and right; their interest is not on file."""
        found = [
            Contract(symbol, occ.expiry, occ.right, occ.strike, open_interest)
            for symbol in self._rows
            if (occ := parse_occ(symbol)) is not None and occ.root == self._root
        ]
        return sorted(found, key=lambda contract: (contract.expiry, contract.strike, -contract.right))

    def quote(self, symbol: str, end_ns: int) -> tuple[Quote | None, str]:
        """Return the quote at a minute's end, and whether it is `recorded`, `standing` or `missing`."""
        rows = self._rows.get(symbol)
        at = -1 if rows is None else int(np.searchsorted(self._quotes.end_ns[rows], end_ns, side="right")) - 1
        if rows is None or at < 0:
            return None, "missing"
        row = int(rows[at])
        age_ns = end_ns - int(self._quotes.end_ns[row])
        if age_ns == 0:
            return self._made(symbol, row, end_ns, fresh=True), "recorded"
        if self._stands and age_ns <= STALE_NS:
            return self._made(symbol, row, end_ns, fresh=False), "standing"
        return None, "missing"

    def _made(self, symbol: str, row: int, end_ns: int, *, fresh: bool) -> Quote:
        """Return a row as a quote; its range are the mids of the minute's lowest and of its highest bid and ask."""
        bid, ask = _usd(self._quotes.bid[row]), _usd(self._quotes.ask[row])
        middle = (bid + ask) / 2
        low_bid, high_bid, low_ask, high_ask = self._quotes.extremes[:, row].tolist()
        low = high = middle
        if fresh and min(bid, ask) > 0 and low_bid > 0 and low_ask > 0:  # NaN is above nothing
            low = min(middle, (_usd(low_bid) + _usd(low_ask)) / 2)
        if fresh and min(bid, ask) > 0 and high_bid > 0 and high_ask > 0:
            high = max(middle, (_usd(high_bid) + _usd(high_ask)) / 2)
        return Quote(symbol, bid, ask, low, high, end_ns)


def _usd(value: float) -> Decimal:
    """Return a price of the schema, exact to 0.0001 USD."""
    return Decimal(repr(round(float(value), 4)))
