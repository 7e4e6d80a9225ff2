"""A file of minute bars with recorded option quotes made ready for `option_scalper`.

Of a session's chain only contracts that the desk could hold are kept: a few strikes of one expiry near the money, as
the dry run and the price table need them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from daemon.core.events import ContractsListed, Event, Quote, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import (
    bid_ask_cents_array,
    expiries_from,
    price_array,
    years_to_expiry,
)
from daemon.core.instruments.quotes import PENNY_ROOTS, choose_expiry, nearest
from daemon.core.limits import Trading
from daemon.core.paper.quotes import RecordedPaperBroker
from daemon.core.state import OptionChain
from daemon.core.step import Machine
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeSource, scan
from daemon.tapes.quotes.day import DayQuotes, QuoteCounts, QuotedSession, later_sessions, volatility_of
from daemon.tapes.quotes.tape import OptionQuotes, option_quotes
from strategies.kit.contract import AnyStrategy, Spec
from strategies.kit.units import MINUTE_NS
from training.data.quotes.source import QuoteSource
from training.data.sessions import calendar_of_bars
from training.desks.kind import SYNTHETIC
from training.desks.scalper.data import Data
from training.desks.scalper.history import RIGHTS, History, TradingDay, check_contracts, read_history
from training.desks.scalper.market import Market
from training.desks.scalper.recorded.market import (
    Int64Array,
    QuoteTable,
    RecordedMarket,
    SessionQuotes,
    modelled,
    quote_table,
)
from training.evaluate.bars import MODELLED, Venue
from training.study.folds import HistoryError, explained

CENT = Decimal("0.01")
_ROWS = ("start_ns", "open", "high", "low", "close", "features", "minute", "gap")


class RecordedVenue:
    """Recorded quotes by date in the dry run: the broker that fills on them, a session's bars and quotes; a `Venue`.

    With `times` each quote's half-spread is multiplied by it, the bid rounded down and the ask up to the cent.
    """

    mode: Final = "recorded"

    def __init__(self, days: Mapping[str, QuotedDay], underlying: str, times: int = 1) -> None:
        self._days = days
        self._underlying = underlying
        self._times = times

    def broker(self, trading: Trading, spec: Spec) -> RecordedPaperBroker:
        """See `Venue`."""
        return RecordedPaperBroker(trading, spec.symbols[0])

    def feed(self, machine: Machine, events: Iterable[Event]) -> Iterator[Event]:
        """See `Venue`; a session without quotes has its bars and no contract."""
        session, counts = QuotedSession(self._underlying, None, None), QuoteCounts()
        for feed_event in events:
            event = feed_event
            if isinstance(feed_event, SessionScheduled):
                quoted_day = self._days.get(feed_event.session.date)
                event = (
                    feed_event
                    if quoted_day is None
                    else msgspec.structs.replace(feed_event, upcoming=quoted_day.scheduled.upcoming)
                )
                quotes = None if quoted_day is None else quoted_day.quotes
                session = QuotedSession(self._underlying, quotes, None if quoted_day is None else quoted_day.listed)
            yield event
            for following in session.following(event, machine.market_state, counts):
                yield self._widened(following)

    def widened(self, times: int) -> RecordedVenue:
        """See `Venue`."""
        return RecordedVenue(self._days, self._underlying, times)

    def _widened(self, event: Event) -> Event:
        if self._times == 1 or not isinstance(event, QuotesReceived):
            return event
        return msgspec.structs.replace(event, quotes=tuple(widened(quote, self._times) for quote in event.quotes))


def widened(quote: Quote, times: int) -> Quote:
    """Return the quote with its half-spread times `times` around the same mid; a missing side stays missing."""
    if not min(quote.bid, quote.ask):
        return quote
    middle, half = (quote.bid + quote.ask) / 2, (quote.ask - quote.bid) / 2 * times
    bid, ask = math.floor((middle - half) / CENT), math.ceil((middle + half) / CENT)
    return msgspec.structs.replace(quote, bid=max(bid, 0) * CENT, ask=ask * CENT)


@dataclass(frozen=True, slots=True)
class QuotedData(Data):
    """`Data` with recorded quotes. Copies of the sessions with modelled prices are appended to the history."""

    prices: QuoteTable
    quoted: dict[str, QuotedDay]
    quotes: OptionQuotes
    usable: int  # sessions of the bars, with quotes or without
    share: float  # share of training episodes on modelled prices
    copies: dict[str, TradingDay]  # the modelled sessions by date

    @property
    def facts(self) -> dict[str, Any]:
        """See `Data`."""
        return {
            "option_quote_coverage": {
                "synthetic": self.quotes.file.synthetic,
                "sessions": len(self.days),
                "sessions_of_the_bars": self.usable,
                "first_session": min(self.days),
                "last_session": max(self.days),
                "contract_minutes": coverage(self.quoted, tuple(self.days)),
                "faulty_rows": sum(day.quotes.faulty for day in self.quoted.values()),
            }
        }

    @property
    def other_venues(self) -> dict[str, Venue]:
        """See `Data`."""
        return {SYNTHETIC: MODELLED}

    @property
    def venue(self) -> Venue:
        """See `Data`."""
        return RecordedVenue(self.quoted, self.info.symbols[0])

    def market(self, days: Sequence[TradingDay], trading: Trading, **more: Any) -> Market:
        """See `Data`."""
        return RecordedMarket(self.history, self.prices, days, trading, **more)

    def training_market(self, dates: Sequence[str], from_date: str, trading: Trading, **more: Any) -> Market:
        """See `Data`; modelled sessions are all up to the last of `dates`, also those without quotes."""
        modelled_days = [day for date, day in self.copies.items() if from_date <= date <= dates[-1]]
        days = (*self.on(dates), *modelled_days)
        return RecordedMarket(
            self.history, self.prices, days, trading, modelled=len(modelled_days), share=self.share, **more
        )


def load_quoted(path: Path, machine: AnyStrategy, trading: Trading, source: QuoteSource) -> QuotedData:
    """Read a bars file and a file of option quotes.

    Raises:
        TapeError, CalendarError, HistoryError: a file cannot be trained on; the text gives reason and cure.
        ValueError: the quotes are no longer those that the run began with.
    """
    spec = machine.spec
    info = scan(path, spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    quotes = option_quotes(source.path, spec.symbols[0], source.root, source.closes)
    if quotes.sha256 != source.sha256:
        raise ValueError(
            f"{source.path} changed while the run was at work: its SHA-256 is {quotes.sha256[:12]}, expected "
            f"{source.sha256[:12]}; put the old file back and give the same command again"
        )
    calendar = calendar_of_bars((path, info))
    bars = TapeSource(path, info, calendar)
    with explained(lambda: bars.counts.remark):
        history = read_history(bars, spec, trading)
    info = msgspec.structs.replace(info, remark=bars.counts.remark)
    quoted = quoted_days(quotes, history, calendar, trading)
    days = {day.session.date: day for day in history.usable if day.session.date in quoted}
    sessions = [(day, session_quotes(quoted[date], history, day, trading)) for date, day in days.items()]
    usable = history.usable
    copies: dict[str, TradingDay] = {}
    if source.synthetic_share > 0.0:
        prices = [modelled(history, day, trading) for day in usable]
        history, modelled_days = with_copies(history, usable)
        sessions += zip(modelled_days, prices, strict=True)
        copies = {day.session.date: day for day in modelled_days}
    table = quote_table(history, sessions, trading)
    return QuotedData(info, bars, history, table, days, quoted, quotes, len(usable), source.synthetic_share, copies)


def with_copies(history: History, days: Sequence[TradingDay]) -> tuple[History, tuple[TradingDay, ...]]:
    """The history with copies of these sessions' rows appended, and the copied sessions."""
    end = len(history.close)
    copies: list[TradingDay] = []
    for day in days:
        by = end - day.first
        copies.append(replace(day, first=end, end=day.end + by, flatten=day.flatten + by))
        end += day.end - day.first
    rows = np.concatenate([np.arange(len(history.close)), *(np.arange(day.first, day.end) for day in days)])
    return replace(history, **{name: getattr(history, name)[rows] for name in _ROWS}), tuple(copies)


# --- the sessions of a file of quotes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuotedDay:
    """One session with recorded quotes. `counts`: contract minutes near the money by the state of their quote."""

    scheduled: SessionScheduled  # includes the later sessions that the rules need
    listed: ContractsListed
    quotes: DayQuotes
    chain: OptionChain
    counts: Counter[str]  # recorded, standing, missing
    near: tuple[tuple[float, ...], Int64Array]  # strikes near the money, and the index of the nearest one at each close


def quoted_days(
    quotes: OptionQuotes, history: History, calendar: SessionCalendar, trading: Trading
) -> dict[str, QuotedDay]:
    """The usable sessions of the history that the file has quotes of, by date.

    Raises:
        HistoryError: no session of the bars has quotes, or the contracts cannot be trained on.
        TapeError: the file is damaged.
    """
    if quotes.root not in PENNY_ROOTS:
        raise HistoryError(
            f"{quotes.file.path}: contracts of {quotes.root}; training knows those that trade in cents "
            f"({', '.join(sorted(PENNY_ROOTS))}): pass quotes of one of them"
        )
    ends = {day.session.date: float(history.close[day.end - 1]) for day in history.days}
    closes = dict(quotes.closes or ends)
    usable = {day.session.date: day for day in history.usable}
    days: dict[str, QuotedDay] = {}
    for session in quotes.file.sessions():
        day = usable.get(session.date)
        if day is None:
            continue
        upcoming, previous = calendar.around(session.date)[1:]
        event = SessionScheduled(day.session.open_ns, day.session, upcoming, previous)
        scheduled = later_sessions(event, calendar.sessions, trading)
        volatility = volatility_of(closes, scheduled, trading.paper)
        quoted_day = _quoted_day(
            DayQuotes(session, day.session, quotes.root), scheduled, volatility, history, day, trading
        )
        if quoted_day is not None:
            days[session.date] = quoted_day
    if not days:
        raise HistoryError(
            f"{quotes.file.path}: no session of the bars that can be traded has quotes within the rules' days; "
            "expected quotes and bars of the same sessions: pass files that overlap"
        )
    return days


def _quoted_day(
    quotes: DayQuotes,
    scheduled: SessionScheduled,
    volatility: float | None,
    history: History,
    day: TradingDay,
    trading: Trading,
) -> QuotedDay | None:
    """The session's chain near the money; None where nothing fits the rules."""
    check_contracts(day, trading)
    listed = quotes.listed(scheduled, day.previous_close, volatility, trading)
    chain = choose_expiry(listed, scheduled.session, scheduled.upcoming, trading.contracts)
    if not chain.strikes:
        return None
    at_close = [nearest(chain.strikes, level) for level in history.close[day.first : day.end].tolist()]
    first, last = min(at_close), max(at_close)
    chosen = slice(first, last + 1)
    quotes.keep([contract.symbol for contract in (*chain.calls[chosen], *chain.puts[chosen])])
    near = (chain.strikes[chosen], np.array(at_close, dtype=np.int64) - first)
    return QuotedDay(scheduled, listed, quotes, chain, Counter(), near)


def session_quotes(quoted_day: QuotedDay, history: History, day: TradingDay, trading: Trading) -> SessionQuotes:
    """The session's quotes near the money, and the modelled prices where a minute has none.

    Raises:
        HistoryError: a price is no whole cent.
    """
    strikes, at_close = quoted_day.near
    ends = history.start_ns[day.first : day.end] + MINUTE_NS
    shape = (2, len(strikes), day.end - day.first)
    usd = np.zeros((4, *shape))
    for right in range(2):
        contracts = (quoted_day.chain.calls, quoted_day.chain.puts)[right]
        first = quoted_day.chain.strikes.index(strikes[0])
        for place in range(len(strikes)):
            symbol = contracts[first + place].symbol
            rows, fresh = quoted_day.quotes.rows_at(symbol, ends)
            usd[:, right, place] = np.where(rows >= 0, quoted_day.quotes.sides(rows, fresh), 0.0)
            near = (at_close == place) & (ends < day.session.close_ns)
            counts = {"recorded": fresh, "standing": (rows >= 0) & ~fresh, "missing": rows < 0}
            quoted_day.counts.update({name: int(np.count_nonzero(mask & near)) for name, mask in counts.items()})
    bid, ask = (np.rint(side * 100).astype(np.int64) for side in usd[:2])
    if np.abs(usd[:2] * 100 - (bid, ask)).max() > 1e-6:
        raise HistoryError(
            f"session {day.session.date}: option quotes with parts of a cent; training counts in cents: pass quotes of "
            "an exchange, not averages"
        )
    return SessionQuotes(strikes, at_close, bid, ask, usd[2], usd[3], _model(quoted_day, history, day, trading))


def _model(quoted_day: QuotedDay, history: History, day: TradingDay, trading: Trading) -> tuple[Int64Array, Int64Array]:
    """Bid and ask of the option market at each close; 0 where the session's volatility is unknown."""
    strikes, bars = quoted_day.near[0], slice(day.first, day.end)
    if quoted_day.listed.volatility is None:
        none = np.zeros((2, len(strikes), day.end - day.first), dtype=np.int64)
        return none, none
    expiries = [expiry.date for expiry in expiries_from(quoted_day.scheduled.session, quoted_day.scheduled.upcoming)]
    later_sessions = quoted_day.scheduled.upcoming[: expiries.index(quoted_day.chain.expiry)]
    years = [
        years_to_expiry(start + MINUTE_NS, day.session, later_sessions) for start in history.start_ns[bars].tolist()
    ]
    rights = np.array(RIGHTS, dtype=np.float64).reshape(2, 1, 1)
    grid = np.array(strikes).reshape(1, -1, 1)
    mids = price_array(history.close[bars], grid, np.array(years), quoted_day.listed.volatility, rights)
    return bid_ask_cents_array(mids, trading.paper)


def coverage(days: Mapping[str, QuotedDay], dates: Sequence[str]) -> dict[str, int]:
    """How many contract minutes near the money the file has for these sessions."""
    total: Counter[str] = Counter()
    for date in dates:
        total.update(days[date].counts)
    return {name: total[name] for name in ("recorded", "standing", "missing")}
