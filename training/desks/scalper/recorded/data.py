"""A file of minute bars with recorded option quotes made ready for `option_scalper`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from daemon.core.events import Event, Quote, QuotesReceived, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.paper.quotes import RecordedPaperBroker
from daemon.core.step import Machine
from daemon.tapes.minutes import TapeSource, scan
from daemon.tapes.quotes.day import QuoteCounts, QuotedSession
from daemon.tapes.quotes.tape import OptionQuotes, option_quotes
from strategies.kit.contract import AnyStrategy, Spec
from training.data.quotes.source import QuoteSource
from training.data.sessions import calendar_of_bars
from training.desks.kind import SYNTHETIC
from training.desks.scalper.data import Data
from training.desks.scalper.history import History, TradingDay, read_history
from training.desks.scalper.market import Market
from training.desks.scalper.recorded.days import QuotedDay, coverage, quoted_days, session_quotes
from training.desks.scalper.recorded.market import RecordedMarket
from training.desks.scalper.recorded.table import QuoteTable, modelled, quote_table
from training.evaluate.bars import MODELLED, Venue
from training.study.folds import explained

# Recorded quotes in the dry run: the paper broker that fills on them, and a session's feed of bars and quotes.

CENT = Decimal("0.01")


class Recorded:
    """Recorded quotes by date. See `training.evaluate.bars.Venue`.

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

    def widened(self, times: int) -> Recorded:
        """See `Venue`."""
        return Recorded(self._days, self._underlying, times)

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


_ROWS = ("start_ns", "open", "high", "low", "close", "features", "minute", "gap")


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
        return Recorded(self.quoted, self.info.symbols[0])

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
