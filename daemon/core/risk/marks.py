"""Which quotes count as prices: one guard for all desks. Equity, peak, stops and loss limits use these prices alone.

An invalid quote changes nothing. A narrow one is a price at its mid; a wide or one-sided one only bounds the price. A
price that leaps away from the last mark counts when a later quote confirms it. Quotes in an option desk's replay are
computed from its bars and need no guard.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import mark, mid, paid
from daemon.core.draft import Draft
from daemon.core.events import Quote
from daemon.core.instruments.quotes import QuoteGuard, is_leap, is_quote, price_of
from daemon.core.risk.splits import believed, stands
from daemon.core.state import Book, Leap
from strategies.kit.units import SECOND_NS

CONFIRM_NS = SECOND_NS // 2  # quotes of one burst do not confirm each other; conflated ones are a second apart


def guarded(draft: Draft) -> bool:
    """Return False for the market of an option desk's replay, whose quotes follow from its bars."""
    return draft.desk.holds.guards_replays or draft.identity.mode != "replay"


def take_quotes(draft: Draft, quotes: tuple[Quote, ...]) -> tuple[Quote, ...]:
    """Keep valid quotes and mark what the desk holds (a share desk: all) with them; returns the kept quotes.

    A quote older than the newest of its symbol came late and changes nothing.
    """
    newest = draft.quotes
    kept = tuple(
        [
            quote
            for quote in quotes
            if is_quote(quote, draft.now_ns)
            and (quote.symbol not in newest or quote.quoted_ns >= newest[quote.symbol].quoted_ns)
        ]
    )
    if kept:
        draft.quotes = {**draft.quotes, **{quote.symbol: quote for quote in kept}}
    if guarded(draft):
        _mark(draft, kept)
    return kept


def _mark(draft: Draft, quotes: tuple[Quote, ...]) -> None:
    """Move the marks; an option desk drops them with the position."""
    marks, leaps, guard = dict(draft.marks), dict(draft.leaps), draft.desk.holds.guard(draft.trading)
    held_only = draft.desk.holds.marks_held_only
    if held_only:
        marks = {symbol: price for symbol, price in marks.items() if symbol in draft.book.positions}
        leaps = {symbol: leap for symbol, leap in leaps.items() if symbol in draft.book.positions}
    for quote in quotes:
        symbol = quote.symbol
        if stands(draft.basket, symbol) or (held_only and symbol not in draft.book.positions):
            continue  # other shares than the book's; or a contract that is not in use
        known = marks.get(symbol, paid(draft.book, symbol))
        price = price_of(quote, known, guard)
        if price is None:
            continue
        taken, doubt = _judge(price, quote.quoted_ns, known, leaps.pop(symbol, None), guard)
        if taken is not None and not believed(draft, symbol, taken):
            taken, doubt = None, Leap(price, quote.quoted_ns)
        if taken is not None:
            marks[symbol] = taken
        if doubt is not None:
            leaps[symbol] = doubt
    draft.marks, draft.leaps = marks, leaps


def _judge(
    price: Decimal, quoted_ns: int, known: Decimal | None, doubt: Leap | None, guard: QuoteGuard
) -> tuple[Decimal | None, Leap | None]:
    """Return the accepted price (None: the mark stays) and the leap that waits for confirmation.

    Two quotes beyond the same side of the mark confirm as much of the leap as both support: a continuing fall is
    followed one quote behind.
    """
    if known is None or not is_leap(price, known, guard):
        return price, None
    new = Leap(price, quoted_ns)
    if doubt is None or (doubt.price - known) * (price - known) < 0:
        return None, new
    if quoted_ns < doubt.quoted_ns + CONFIRM_NS:
        return None, doubt
    both = min(price, doubt.price, key=lambda price: abs(price - known))
    return (both, new) if is_leap(price, both, guard) else (price, None)


# --- their uses -------------------------------------------------------------------------------------------------------


def marked(draft: Draft, symbol: str) -> Decimal | None:
    """Return the price in USD at which a position counts; None when none is known or confirmed."""
    if guarded(draft):
        return draft.marks.get(symbol)
    quote = draft.quotes.get(symbol)
    return None if quote is None else mid(quote)


def measure(draft: Draft, symbol: str) -> Decimal | None:
    """Return the reference price: the mark, or before there is one the price paid; None when not held."""
    known = marked(draft, symbol)
    return paid(draft.book, symbol) if known is None and guarded(draft) else known


def leaps(draft: Draft, quote: Quote) -> bool:
    """Return True for a quote with another price than the mark, not yet confirmed by a second one."""
    known, guard = measure(draft, quote.symbol), draft.desk.holds.guard(draft.trading)
    price = price_of(quote, known, guard)
    return price is not None and is_leap(price, known, guard)


def for_stop(draft: Draft, quote: Quote) -> Quote | None:
    """Return the quote as a stop sees it: its range is the confirmed mark alone. None before there is one.

    A range within a second comes from one quote; only a replay's market derives it from its bar. There it counts when
    the mark is the quote's own.
    """
    if not guarded(draft):
        return quote
    price = draft.marks.get(quote.symbol)
    if price is None or (draft.identity.by_tape and price == mid(quote)):
        return None if price is None else quote
    return replace(quote, low=price, high=price)


def mark_book(draft: Draft, book: Book) -> Book:
    """Return the book with equity, peak and drawdown at the marks."""
    return draft.desk.holds.mark_book(draft, book)


def mark_options(draft: Draft, book: Book) -> Book:
    """Return the book at the confirmed marks; positions without one count at cost."""
    known = {symbol: price for symbol in book.positions if (price := marked(draft, symbol)) is not None}
    return mark(book, known, draft.session.spot)


def mark_shares(draft: Draft, book: Book) -> Book:
    """Return the book at the marks, on the fine grid of a desk of shares."""
    return mark(book, draft.marks, draft.session.spot, fine=bool(draft.marks))
