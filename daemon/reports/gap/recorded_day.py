"""A journaled session with recorded quotes in place of its own: each minute's end quotes the orders that work then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from daemon.core.effects import AnyEffect
from daemon.core.events import Event, Quote, QuotesReceived
from daemon.core.instruments.option_market import parse_occ
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.day import DayQuotes
from daemon.tapes.quotes.reader import QuoteFile
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS


def day_quotes(path: Path, session: Session) -> DayQuotes:
    """Return the session's quotes in a file, or in a folder of files called `DATE.parquet`.

    Raises ValueError: there are none, or the file is unusable.
    """
    file = path / f"{session.date}.parquet" if path.is_dir() else path
    try:
        for quotes in QuoteFile(file).sessions():
            if quotes.date == session.date:
                return DayQuotes(quotes, session, next(iter(quotes.contracts.roots), ""))
    except TapeError as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"{file}: no quote of {session.date}: pass the file of that session")


def with_recorded(
    events: Iterable[tuple[Event, tuple[AnyEffect, ...]]],
    session: Session,
    quotes: DayQuotes,
    working: Callable[[], Iterable[str]],
) -> Iterator[tuple[Event, tuple[AnyEffect, ...]]]:
    """Yield the events, and at each minute's end the recorded quotes of the contracts that are `working` by then.

    Quotes of the journal itself are left out; those that close a bar keep their place, for fills without a quote.
    """

    def quoted(end_ns: int) -> tuple[Quote, ...]:
        symbols = [symbol for symbol in dict.fromkeys(working()) if parse_occ(symbol) is not None]
        quotes_of = (quotes.quote(symbol, end_ns)[0] for symbol in symbols)
        return tuple(quote for quote in quotes_of if quote is not None)

    end_ns = session.open_ns + MINUTE_NS
    for event, effects in events:
        while end_ns <= min(event.time_ns, session.close_ns):
            yield QuotesReceived(end_ns, 0, quoted(end_ns)), ()
            end_ns += MINUTE_NS
        if isinstance(event, QuotesReceived):
            closing = quoted(event.closes_bar_ns + MINUTE_NS) if event.closes_bar_ns else ()
            yield replace(event, quotes=closing), effects
        else:
            yield event, effects
