"""Which quotes count as prices: one guard for all desks. Equity, peak, stops and loss limits use these prices alone.

An invalid quote changes nothing. A narrow one is a price at its mid; a wide or one-sided one only bounds the price. A
price that leaps away from the last mark counts when a later quote confirms it. Quotes in an option desk's replay are
computed from its bars and need no guard.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from daemon.core.book import mark, mid, paid
from daemon.core.draft import Draft
from daemon.core.events import Quote
from daemon.core.limits import Basket, Risk
from daemon.core.risk.splits import believed, stands
from daemon.core.state import ZERO, Book, Leap
from strategies.kit.units import SECOND_NS

FUTURE_NS = 2 * SECOND_NS  # a quote stamped further ahead would make each later one old and stay fresh too long
CONFIRM_NS = SECOND_NS // 2  # quotes of one burst do not confirm each other; conflated ones are a second apart
NARROW_USD = Decimal("0.10")  # an option's quote is never too wide below this: cheap ones trade in steps of 5 cents
STEP_USD = Decimal("0.02")  # an option's price never leaps by less
PRICE_MAX = Decimal(10) ** 9  # USD; anything above is no valid price, and too long to compute with


class QuoteGuard(NamedTuple):
    """The limits within which a quote is accepted at once: parts of the price, and USD amounts below which they do not
    apply."""

    width: Decimal  # (ask - bid) / mid
    leap: Decimal
    narrow_usd: Decimal
    step_usd: Decimal


def share_guard(rules: Basket) -> QuoteGuard:
    """Return the guard of a share desk: its collar on either side of the mid, and between two prices."""
    collar = Decimal(str(rules.price_collar))
    return QuoteGuard(2 * collar, collar, ZERO, ZERO)


def option_guard(limits: Risk) -> QuoteGuard:
    """Return the guard of an option desk: its limits on the width of a quote and on a leap."""
    return QuoteGuard(Decimal(str(limits.mark_width_max)), Decimal(str(limits.mark_leap_max)), NARROW_USD, STEP_USD)


def guarded(draft: Draft) -> bool:
    """Return False for the market of an option desk's replay, whose quotes follow from its bars."""
    return draft.desk.holds.guards_replays or draft.identity.mode != "replay"


def is_quote(quote: Quote, now_ns: int) -> bool:
    """Return False for an invalid quote: no side, a negative, crossed or infinite price, a time in the future."""
    bid, ask = quote.bid, quote.ask
    if not (bid.is_finite() and ask.is_finite()) or min(bid, ask) < 0 or bid == ask == 0 or bid > ask > 0:
        return False
    if max(bid, ask) > PRICE_MAX:
        return False
    return quote.quoted_ns <= now_ns + FUTURE_NS


def middle_of(quote: Quote, guard: QuoteGuard) -> Decimal | None:
    """Return the mid of a quote in USD; None when a side is missing or both lie too far apart."""
    middle = (quote.bid + quote.ask) / 2
    narrow = quote.ask - quote.bid <= max(guard.width * middle, guard.narrow_usd)
    return middle if ZERO < quote.bid <= quote.ask and narrow else None


def is_wide(quote: Quote, limits: Risk) -> bool:
    """Return True for a quote wider than one at which the desk itself would buy, or without a side."""
    width = max(Decimal(str(limits.spread_max)) * (quote.bid + quote.ask) / 2, NARROW_USD)
    return not (ZERO < quote.bid <= quote.ask and quote.ask - quote.bid <= width)


def is_leap(price: Decimal, known: Decimal | None, guard: QuoteGuard) -> bool:
    """Return True for a price too far from the last known one to be accepted from one quote alone."""
    return known is not None and abs(price - known) > max(guard.leap * max(price, known), guard.step_usd)


def price_of(quote: Quote, known: Decimal | None, guard: QuoteGuard) -> Decimal | None:
    """Return the price in USD that a quote implies; None when it adds nothing to the known one.

    A wide or one-sided quote bounds the price: at most the ask, at least the bid.
    """
    middle = middle_of(quote, guard)
    if middle is not None or known is None:
        return middle
    bound = min(max(known, quote.bid), quote.ask) if quote.ask else max(known, quote.bid)
    return None if bound == known else bound


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
