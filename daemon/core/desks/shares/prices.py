"""Prices of shares: marks from printed prices, bars and quotes, and the strategy's view of them."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.book import mid
from daemon.core.desks.shares.basket import free_cash
from daemon.core.desks.view import cost_rate
from daemon.core.draft import Draft
from daemon.core.events import PricesPrinted, Quote, QuotesReceived
from daemon.core.instruments.quotes import QuoteGuard, is_quote, middle_of
from daemon.core.paper.shares import on_grid
from daemon.core.risk import splits
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import take_quotes
from daemon.core.state import ZERO, Position
from strategies.kit.contract import Bar, Portfolio, View
from strategies.kit.daily import usable


def on_prices_printed(draft: Draft, event: PricesPrinted) -> None:
    """Update marks only: fills at these prices come next, and orders move on with the quotes after them."""
    _mark(draft, {known.symbol: known.price for known in event.prices if known.price > 0})
    if draft.book.positions:
        revalue(draft)


def on_share_quotes(draft: Draft, event: QuotesReceived) -> None:
    """Update quotes and marks; record the equity if something was traded since the last record."""
    take_quotes(draft, event.quotes)
    if draft.book.positions:
        revalue(draft)
    record_traded(draft)


def price_since(quotes: tuple[Quote, ...], bar: Bar, now_ns: int, guard: QuoteGuard) -> float | None:
    """Return the mid in USD of the last narrow quote of the bar's symbol since the bar began; None without one."""
    since = [q for q in quotes if q.symbol == bar.symbol and is_quote(q, now_ns) and q.quoted_ns >= bar.start_ns]
    narrow = [quote for quote in since if middle_of(quote, guard) is not None]
    return float(mid(narrow[-1])) if narrow else None


def record_traded(draft: Draft) -> None:
    """Record the equity if something was traded since the last record."""
    if draft.stats.fills > draft.basket.fills:
        draft.basket = replace(draft.basket, fills=draft.stats.fills)
        draft.record_equity()


def mark_bars(draft: Draft, bars: tuple[Bar, ...]) -> None:
    """Mark positions at the closes of bars."""
    _mark(draft, {bar.symbol: on_grid(bar.close) for bar in bars if usable(bar)})


def _mark(draft: Draft, prices: dict[str, Decimal]) -> None:
    """Update prices; a price of shares in a split may be of other shares."""
    taken = {
        symbol: price
        for symbol, price in prices.items()
        if not splits.stands(draft.basket, symbol) and splits.believed(draft, symbol, price)
    }
    draft.marks = {**draft.marks, **taken}


def average_cost(position: Position | None) -> float:
    """Return the average price in USD of what is held; 0.0 for nothing."""
    return float(position.cost / position.quantity) if position is not None and position.quantity else 0.0


def share_view(draft: Draft, now_ns: int) -> View:
    """Return what a strategy may know now: unreserved cash, its shares, and the last known prices."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every decision")
    rules, symbols = draft.trading.basket, draft.spec.symbols
    cash = free_cash(draft.book.cash, draft.orders, draft.marks, cost_rate(draft))
    held = [draft.book.positions.get(symbol) for symbol in symbols]
    portfolio = Portfolio(
        cash=float(cash),
        equity=float(draft.book.equity),
        shares=tuple(draft.held(symbol) for symbol in symbols),
        prices=tuple(float(draft.marks.get(symbol, ZERO)) for symbol in symbols),
        shares_per_unit=rules.shares_per_unit,
        notional_per_unit=float(rules.notional_per_unit_usd),
        band=rules.band,
        weight_max=rules.weight_max,
        costs=tuple(map(average_cost, held)),
        opened_ns=tuple(position.opened_ns if position else 0 for position in held),
    )
    return View(now_ns, session, portfolio=portfolio)


def sized_view(draft: Draft, now_ns: int) -> View:
    """Return the view by which a basket is sized: a model that climbs the ladder trades a part of the equity."""
    view, share = share_view(draft, now_ns), draft.size_share
    own = view.portfolio
    if share >= 1.0 or own is None:
        return view
    sized = replace(
        own,
        equity=own.equity * share,
        shares_per_unit=max(int(own.shares_per_unit * share), 1),
        notional_per_unit=own.notional_per_unit * share,
    )
    return replace(view, portfolio=sized)
