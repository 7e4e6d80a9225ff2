"""The dry run's side of recorded quotes: the paper broker of a replay with them, and a session's bars and quotes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from daemon.core.events import Event, Quote, QuotesReceived, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.recorded import RecordedPaperBroker
from daemon.tapes.quotes.day import QuoteCounts, QuotedSession
from training.desks.scalper.recorded.days import QuotedDay

CENT = Decimal("0.01")


class Recorded:
    """Recorded quotes by date. See `training.desks.minutes.Venue`.

    With `times` each quote's half-spread is so many times what it was: the bid rounded down, the ask up, to the cent.
    """

    mode: Final = "recorded"

    def __init__(self, days: Mapping[str, QuotedDay], underlying: str, times: int = 1) -> None:
        self._days = days
        self._underlying = underlying
        self._times = times

    def broker(self, trading: Trading, underlying: str) -> RecordedPaperBroker:
        """See `Venue`."""
        return RecordedPaperBroker(trading, underlying)

    def feed(self, machine: Machine, events: Iterable[Event]) -> Iterator[Event]:
        """See `Venue`; a session without quotes has its bars and no contract."""
        session, counts = QuotedSession(self._underlying, None, None), QuoteCounts()
        for read in events:
            event = read
            if isinstance(read, SessionScheduled):
                known = self._days.get(read.session.date)
                event = read if known is None else replace(read, upcoming=known.scheduled.upcoming)
                quotes = None if known is None else known.quotes
                session = QuotedSession(self._underlying, quotes, None if known is None else known.listed)
            yield event
            for following in session.following(event, machine.market_state, counts):
                yield self._widened(following)

    def widened(self, times: int) -> Recorded:
        """See `Venue`."""
        return Recorded(self._days, self._underlying, times)

    def _widened(self, event: Event) -> Event:
        if self._times == 1 or not isinstance(event, QuotesReceived):
            return event
        return replace(event, quotes=tuple(widened(quote, self._times) for quote in event.quotes))


def widened(quote: Quote, times: int) -> Quote:
    """Return the quote with so many times its half-spread around the same mid; a missing side stays missing."""
    if not min(quote.bid, quote.ask):
        return quote
    middle, half = (quote.bid + quote.ask) / 2, (quote.ask - quote.bid) / 2 * times
    bid, ask = math.floor((middle - half) / CENT), math.ceil((middle + half) / CENT)
    return replace(quote, bid=max(bid, 0) * CENT, ask=ask * CENT)
