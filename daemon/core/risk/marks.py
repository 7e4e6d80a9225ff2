"""Which quotes count as prices: one guard for all desks. Equity, peak, stops and loss limits use these prices alone.

An invalid quote changes nothing. A narrow one is a price at its mid; a wide or one-sided one only bounds the price. A
price that leaps away from the last mark counts when a later quote confirms it. Quotes in an option desk's replay are
computed from its bars and need no guard.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Any

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, average_price, begin_session_at, mark, mid
from daemon.core.draft import Draft
from daemon.core.events import Quote
from daemon.core.instruments.option_market import option_terms, price, volatility_at, years_to_expiry
from daemon.core.instruments.quotes import QuoteGuard, is_leap, is_quote, is_wide, price_of
from daemon.core.risk.splits import believed
from daemon.core.state import ZERO, Book, Leap, State, Worth
from strategies.kit.contract import Bar
from strategies.kit.units import MINUTE_NS, SECOND_NS

CONFIRM_NS = SECOND_NS // 2  # quotes of one burst do not confirm each other; conflated ones are a second apart


def guarded(draft: Draft) -> bool:
    """Return False for the market of an option desk's replay, whose quotes follow from its bars."""
    return draft.desk.holds.guards_replays or draft.identity.mode != "replay"


def take_quotes(draft: Draft, quotes: tuple[Quote, ...]) -> tuple[Quote, ...]:
    """Keep valid quotes and mark what the desk holds (a share desk: all) with them; returns the kept quotes.

    A quote older than the newest of its symbol came late and changes nothing.
    """
    newest = draft.quotes
    valid_quotes = tuple(
        [
            quote
            for quote in quotes
            if is_quote(quote, draft.now_ns)
            and (quote.symbol not in newest or quote.quoted_ns >= newest[quote.symbol].quoted_ns)
        ]
    )
    if valid_quotes:
        draft.quotes = {**draft.quotes, **{quote.symbol: quote for quote in valid_quotes}}
    if guarded(draft):
        _mark(draft, valid_quotes)
    return valid_quotes


def _mark(draft: Draft, quotes: tuple[Quote, ...]) -> None:
    """Move the marks; an option desk drops them with the position."""
    held_only, book = draft.desk.holds.marks_held_only, draft.book
    if held_only and not book.positions:
        draft.marks, draft.leaps = {}, {}
        return
    marks, leaps, guard = dict(draft.marks), dict(draft.leaps), draft.desk.holds.guard(draft.trading)
    unsettled_symbols = draft.basket.uncertain_symbols
    if held_only:
        marks = {symbol: price for symbol, price in marks.items() if symbol in book.positions}
        leaps = {symbol: leap for symbol, leap in leaps.items() if symbol in book.positions}
    for quote in quotes:
        symbol = quote.symbol
        if symbol in unsettled_symbols or (held_only and symbol not in book.positions):
            continue  # shares other than the book's, or a contract that is not held
        reference = marks.get(symbol, average_price(book, symbol))
        price = price_of(quote, reference, guard)
        if price is None:
            continue
        new_mark, doubt = _judge(price, quote.quoted_ns, reference, leaps.pop(symbol, None), guard)
        if new_mark is not None and not believed(draft, symbol, new_mark):
            new_mark, doubt = None, Leap(price, quote.quoted_ns)
        if new_mark is not None:
            marks[symbol] = new_mark
        if doubt is not None:
            leaps[symbol] = doubt
    draft.marks, draft.leaps = marks, leaps


def _judge(
    price: Decimal, quoted_ns: int, reference: Decimal | None, doubt: Leap | None, guard: QuoteGuard
) -> tuple[Decimal | None, Leap | None]:
    """Return the accepted price (None: the mark stays) and the leap that waits for confirmation.

    Two quotes beyond the same side of the mark confirm as much of the leap as both support: a continuing fall is
    followed one quote behind.
    """
    if reference is None or not is_leap(price, reference, guard):
        return price, None
    new = Leap(price, quoted_ns)
    if doubt is None or (doubt.price - reference) * (price - reference) < 0:
        return None, new
    if quoted_ns < doubt.quoted_ns + CONFIRM_NS:
        return None, doubt
    confirmed_price = min(price, doubt.price, key=lambda price: abs(price - reference))
    return (confirmed_price, new) if is_leap(price, confirmed_price, guard) else (price, None)


# --- their uses -------------------------------------------------------------------------------------------------------


def position_price(draft: Draft, symbol: str) -> Decimal | None:
    """Return the price in USD at which a position counts; None when none is known or confirmed."""
    if guarded(draft):
        return draft.marks.get(symbol)
    quote = draft.quotes.get(symbol)
    return None if quote is None else mid(quote)


def measure(draft: Draft, symbol: str) -> Decimal | None:
    """Return the reference price: the mark, or before there is one the price paid; None when not held."""
    price = position_price(draft, symbol)
    return average_price(draft.book, symbol) if price is None and guarded(draft) else price


def leaps(draft: Draft, quote: Quote) -> bool:
    """Return True for a quote whose price leaps from the mark and is not confirmed by a second one."""
    reference, guard = measure(draft, quote.symbol), draft.desk.holds.guard(draft.trading)
    price = price_of(quote, reference, guard)
    return price is not None and is_leap(price, reference, guard)


def for_stop(draft: Draft, quote: Quote) -> Quote | None:
    """Return the quote as a stop sees it: its range is the confirmed mark alone. None before there is one.

    A live range would rest on a single quote. A replay's market derives it from its bar: there it counts when the mark
    is the quote's own mid.
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
    marks = {symbol: price for symbol in book.positions if (price := position_price(draft, symbol)) is not None}
    return mark(book, marks, draft.session.spot)


def mark_shares(draft: Draft, book: Book) -> Book:
    """Return the book at the marks, on the fine grid of a desk of shares.

    While a price that leapt waits for a report there is no new peak: shares spun off from it may be priced already.
    """
    marked_book = mark(book, draft.marks, draft.session.spot, fine=bool(draft.marks))
    leapt = draft.basket.leapt
    if not leapt or max(leapt.values()) < draft.broker.asked_ns:
        return marked_book
    return replace(marked_book, peak=book.peak, guard_peak=book.guard_peak)


def mark_late_bar(draft: Draft, bar: Bar, quoted_from_ns: int, *, of_an_earlier_session: bool = False) -> None:
    """Mark by a bar without quotes that came late; not where a quote since `quoted_from_ns` is known.

    A change `of_an_earlier_session` than the scheduled one is no loss of this one.
    """
    quote = draft.quotes.get(bar.symbol)
    if quote is not None and quote.quoted_ns >= quoted_from_ns:
        return
    draft.desk.holds.mark_bars(draft, (bar,))
    old_equity, book = draft.book.equity, mark_book(draft, draft.book)
    draft.put_book(begin_session_at(book, book.equity - old_equity) if of_an_earlier_session else book)


SPLIT_MOVE = 0.2  # of the underlying since the last narrow quote; as much as a split of 5 for 4


def note_quotes(draft: Draft, quotes: tuple[Quote, ...]) -> None:
    """Update from these quotes what the held options would fetch; forget options that are no longer held."""
    if draft.identity.by_tape:
        return
    _forget(draft)
    for quote in quotes:
        if quote.symbol in draft.book.positions and option_terms(quote.symbol)[1]:
            _note(draft, quote, new=True)


def note_bar(draft: Draft) -> bool:
    """Update from the underlying's close what options with wide quotes would fetch; return True if there are any."""
    if draft.identity.by_tape:
        return False
    _forget(draft)
    wide = [
        quote
        for symbol, position in draft.book.positions.items()
        if position.right and (quote := draft.quotes.get(symbol)) is not None and is_wide(quote, draft.trading.risk)
    ]
    for quote in wide:
        _note(draft, quote, new=False)
    return bool(wide)


def would_fetch(draft: Draft, symbol: str) -> Decimal | None:
    """Return the price in USD that the option would fetch, once confirmed; None where it is unknown."""
    worth = draft.worths.get(symbol)
    return None if worth is None else worth.confirmed


def fetch_equity(draft: Draft | State[Any], book: Book) -> Decimal:
    """Return the equity in USD with each option at what it would fetch, where that is below its mark."""
    equity = book.equity
    if isinstance(draft.worths, UnsetType):
        return equity
    for symbol, worth in draft.worths.items():
        position, mark = book.positions.get(symbol), draft.marks.get(symbol)
        if position is not None and position.quantity > 0 and mark is not None and worth.confirmed is not None:
            equity -= max(mark - worth.confirmed, ZERO) * (position.quantity * position.multiplier)
    return equity


def wide_options(draft: Draft, then_ns: int, began_ns: int) -> list[str]:
    """Return the held options whose quotes have been wide since `then_ns`; nothing before `began_ns` counts."""
    return [
        symbol
        for symbol, worth in draft.worths.items()
        if (quote := draft.quotes.get(symbol)) is not None
        and is_wide(quote, draft.trading.risk)
        and max(worth.narrow_ns, began_ns) <= then_ns
    ]


def model_price(draft: Draft, symbol: str) -> Decimal | None:
    """Return the option's price in USD at the underlying's last bar and the last confirmed volatility, whole cents.

    None while the underlying's price is unknown or older than `broker.blind_min`, for an expiry that the calendar does
    not reach, and where the underlying moved by a fifth since: that may be a split.
    """
    worth, session, spot = draft.worths.get(symbol), draft.session.session, draft.session.spot
    late_ns = draft.trading.broker.blind_min * MINUTE_NS
    if worth is None or session is None or spot <= 0.0:
        return None
    if draft.now_ns - draft.desk.grid.at(draft.session.last_bar_ns, session)[1] >= late_ns:
        return None
    years = _years(draft, symbol, draft.now_ns)
    former_years = _years(draft, symbol, worth.narrow_ns)
    if years is None or former_years is None:
        return None
    if abs(spot / worth.spot - 1.0) >= SPLIT_MOVE:
        return None
    strike, right, _ = option_terms(symbol)
    volatility = volatility_at(float(worth.middle), worth.spot, strike, former_years, right)
    value = price(spot, strike, years, volatility, right)
    return Decimal(repr(value)).quantize(CENT, rounding=ROUND_FLOOR)


def _note(draft: Draft, quote: Quote, *, new: bool) -> None:
    """Compute what the option would fetch by its newest quote, which a second figure has to confirm."""
    symbol = quote.symbol
    worth = draft.worths.get(symbol) or _first(draft, symbol)
    if worth is None:
        return
    narrow, middle = new and not is_wide(quote, draft.trading.risk), mid(quote)
    if narrow and draft.marks.get(symbol) == middle:  # the price guard accepted it
        worth = replace(
            worth, middle=middle, spread=quote.ask - quote.bid, spot=draft.session.spot, narrow_ns=draft.now_ns
        )
    draft.worths = {**draft.worths, symbol: worth}
    figure: Decimal | None = quote.bid
    if not narrow:
        model_value = model_price(draft, symbol)
        figure = None if model_value is None else max(model_value - worth.spread / 2, quote.bid)
        if figure is not None and quote.ask > 0:
            figure = min(figure, quote.ask)
    draft.worths = {**draft.worths, symbol: _believe(worth, figure, draft.now_ns)}


def _believe(worth: Worth, figure: Decimal | None, now_ns: int) -> Worth:
    """Return the worth after a new figure: of two figures a second or more apart the higher one is confirmed."""
    if figure is None:
        return replace(worth, confirmed=None, doubted=None)
    if worth.doubted is None:
        return replace(worth, doubted=figure, doubted_ns=now_ns)
    if now_ns < worth.doubted_ns + SECOND_NS:
        return replace(worth, doubted=max(worth.doubted, figure))
    return replace(worth, confirmed=max(worth.doubted, figure), doubted=figure, doubted_ns=now_ns)


def _first(draft: Draft, symbol: str) -> Worth | None:
    """Return the worth before any narrow quote: the price paid, at the present price of the underlying."""
    cost, spot = average_price(draft.book, symbol), draft.session.spot
    return None if cost is None or spot <= 0.0 else Worth(cost, ZERO, spot, draft.now_ns)


def _years(draft: Draft, symbol: str, at_ns: int) -> float | None:
    """Return the years of variance time from `at_ns` to the close of the option's expiry; None where it is unknown."""
    session, expiry = draft.session.session, option_terms(symbol)[2]
    later = tuple(day for day in draft.session.upcoming if day.date <= expiry)
    if session is None or expiry < session.date or (later[-1].date if later else session.date) != expiry:
        return None
    return years_to_expiry(at_ns, session, later)


def _forget(draft: Draft) -> None:
    if any(symbol not in draft.book.positions for symbol in draft.worths):
        draft.worths = {s: worth for s, worth in draft.worths.items() if s in draft.book.positions}
