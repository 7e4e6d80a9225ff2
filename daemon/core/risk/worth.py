"""What a held option would fetch: the second figure beside its mark, for stops and loss limits.

A narrow quote fetches its bid. Where quotes are wide, the mark says nothing: it is whatever their ask lets stand. Then
the option would fetch its Black-Scholes price at the underlying's last bar and at the volatility of the last narrow
quote, less half of that quote's spread, and never more than the ask. A figure counts when a second one, a second later,
agrees: the higher of both is believed. A tape, whose quotes are a minute apart, has none of this.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Any

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, mid, paid
from daemon.core.draft import Draft
from daemon.core.events import Quote
from daemon.core.instruments.option_market import option_terms, price, volatility_at, years_to_expiry
from daemon.core.instruments.quotes import is_wide
from daemon.core.state import ZERO, Book, State, Worth
from strategies.kit.units import MINUTE_NS, SECOND_NS

SPLIT_MOVE = 0.2  # of the underlying since the last narrow quote; as much as a split of 5 for 4


def note_quotes(draft: Draft, quotes: tuple[Quote, ...]) -> None:
    """Take these quotes into what the held options would fetch; forget the options that are held no more."""
    if draft.identity.by_tape:
        return
    _forget(draft)
    for quote in quotes:
        if quote.symbol in draft.book.positions and option_terms(quote.symbol)[1]:
            _note(draft, quote, new=True)


def note_bar(draft: Draft) -> bool:
    """Take the underlying's new close into what options with wide quotes would fetch; returns True if there are any."""
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
    """Return what a share of the option would fetch in USD, once confirmed; None where nothing is known."""
    worth = draft.worths.get(symbol)
    return None if worth is None else worth.confirmed


def fetch_equity(draft: Draft | State[Any], book: Book) -> Decimal:
    """Return the equity in USD if each option fetched no more than it would; never above the equity at the marks."""
    equity = book.equity
    if isinstance(draft.worths, UnsetType):
        return equity
    for symbol, worth in draft.worths.items():
        position, mark = book.positions.get(symbol), draft.marks.get(symbol)
        if position is not None and position.quantity > 0 and mark is not None and worth.confirmed is not None:
            equity -= max(mark - worth.confirmed, ZERO) * (position.quantity * position.multiplier)
    return equity


def wide_since(draft: Draft, then_ns: int, began_ns: int) -> list[str]:
    """Return the held options whose quotes are wide, and were at `then_ns`; nothing before `began_ns` counts."""
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
    bar_end_ns = draft.session.last_bar_ns + draft.spec.bar_interval_s * SECOND_NS
    late_ns = draft.trading.broker.blind_min * MINUTE_NS
    if worth is None or session is None or spot <= 0.0 or draft.now_ns - bar_end_ns >= late_ns:
        return None
    years = _years(draft, symbol, draft.now_ns)
    then = _years(draft, symbol, worth.narrow_ns)
    if years is None or then is None:
        return None
    if abs(spot / worth.spot - 1.0) >= SPLIT_MOVE:
        return None
    strike, right, _ = option_terms(symbol)
    volatility = volatility_at(float(worth.middle), worth.spot, strike, then, right)
    value = price(spot, strike, years, volatility, right)
    return Decimal(repr(value)).quantize(CENT, rounding=ROUND_FLOOR)


def _note(draft: Draft, quote: Quote, *, new: bool) -> None:
    """Compute what the option would fetch by its newest quote, and believe what two figures agree on."""
    symbol = quote.symbol
    worth = draft.worths.get(symbol) or _first(draft, symbol)
    if worth is None:
        return
    narrow, middle = new and not is_wide(quote, draft.trading.risk), mid(quote)
    if narrow and draft.marks.get(symbol) == middle:  # the guard of prices took it
        worth = replace(
            worth, middle=middle, spread=quote.ask - quote.bid, spot=draft.session.spot, narrow_ns=draft.now_ns
        )
    draft.worths = {**draft.worths, symbol: worth}
    figure: Decimal | None = quote.bid
    if not narrow:
        modelled = model_price(draft, symbol)
        figure = None if modelled is None else max(modelled - worth.spread / 2, quote.bid)
        if figure is not None and quote.ask > 0:
            figure = min(figure, quote.ask)
    draft.worths = {**draft.worths, symbol: _believed(worth, figure, draft.now_ns)}


def _believed(worth: Worth, figure: Decimal | None, now_ns: int) -> Worth:
    """Return the worth after a new figure: the higher one of two that are a second apart is believed."""
    if figure is None:
        return replace(worth, confirmed=None, doubted=None)
    if worth.doubted is None:
        return replace(worth, doubted=figure, doubted_ns=now_ns)
    if now_ns < worth.doubted_ns + SECOND_NS:
        return replace(worth, doubted=max(worth.doubted, figure))
    return replace(worth, confirmed=max(worth.doubted, figure), doubted=figure, doubted_ns=now_ns)


def _first(draft: Draft, symbol: str) -> Worth | None:
    """Return what is known before any narrow quote: the option was worth what was paid, at the present spot."""
    cost, spot = paid(draft.book, symbol), draft.session.spot
    return None if cost is None or spot <= 0.0 else Worth(cost, ZERO, spot, draft.now_ns)


def _years(draft: Draft, symbol: str, at_ns: int) -> float | None:
    """Return the years of variance time from `at_ns` to the close of the option's expiry; None where it is unknown."""
    session, expiry = draft.session.session, option_terms(symbol)[2]
    later = tuple(known for known in draft.session.upcoming if known.date <= expiry)
    if session is None or expiry < session.date or (later[-1].date if later else session.date) != expiry:
        return None
    return years_to_expiry(at_ns, session, later)


def _forget(draft: Draft) -> None:
    if any(symbol not in draft.book.positions for symbol in draft.worths):
        draft.worths = {s: worth for s, worth in draft.worths.items() if s in draft.book.positions}
