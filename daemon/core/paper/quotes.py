"""Paper brokers that fill orders at real quotes: of a live feed, as events; of a replay, at each minute's end.

They list and quote nothing themselves; like `daemon.core.paper.paper` they are pure functions of journaled events and
effects. Invariant: no order fills at a quote from before the order, and no quote fills one order twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.effects import CancelOrder, Effect, SubmitOrder, WatchContracts
from daemon.core.events import (
    BarClosed,
    ContractsListed,
    Event,
    OrderExpired,
    OrderFilled,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.instruments.option_market import SessionMarket, expiries_from, option_terms
from daemon.core.limits import Trading
from daemon.core.paper.paper import ORDER_NEWS, cancel, elect, fill_order, settle, submit
from daemon.core.paper.refusals import refusal_in_market
from daemon.core.paper.state import (
    PaperState,
    RecordedState,
    RestingOrder,
    SessionClose,
    held_options,
    holding_quantity,
    usd,
)
from strategies.kit.contract import Bar


class QuotePaperBroker:
    """The paper broker of one option desk on a live feed. Holds only rules: results depend only on the arguments."""

    __slots__ = ("_paper", "_underlying")

    EMITS: ClassVar[tuple[type[Event], ...]] = ORDER_NEWS  # the events that it may emit
    MOVED_BY: ClassVar[frozenset[type[Event]]] = frozenset(
        (BarClosed, ContractsListed, QuotesReceived, SessionScheduled, SessionEnded)
    )  # effects excepted

    def __init__(self, trading: Trading, underlying: str) -> None:
        self._paper = trading.paper
        self._underlying = underlying

    def start(self) -> PaperState:
        """Return the state before any event: only the configured cash."""
        return PaperState(cash=self._paper.cash_usd)

    def step(
        self, state: PaperState, event: Event, effects: Sequence[Effect] = ()
    ) -> tuple[PaperState, tuple[Event, ...]]:
        """Return the state after `event` and the core's `effects` for it, and the broker's events.

        Raises ValueError when a client order id is submitted twice, a broken invariant of the caller.
        """
        news: list[Event] = []
        match event:
            case BarClosed():
                state = self._remember(state, event.bar)
            case ContractsListed():
                state = self._list(state, event)
            case QuotesReceived():
                state = self._trade(state, event, news)
            case SessionScheduled():
                state = self._schedule(state, event, news)
            case SessionEnded():
                if state.session is not None and state.session.date == event.date:
                    state = self._end(state, state.session.date, event.time_ns, news)
        for effect in effects:
            state = self._carry_out(state, effect, event.time_ns, news)
        return state, tuple(news)

    # --- the session ----------------------------------------------------------------------------------------------

    def _schedule(self, state: PaperState, event: SessionScheduled, news: list[Event]) -> PaperState:
        """Begin a session; first end an unfinished one, and settle expiries of missed days."""
        session = event.session
        if state.session is not None:
            if state.session.date >= session.date:
                return state
            state = self._end(state, state.session.date, event.time_ns, news)
        return replace(
            self._settle(state, session.date, event.time_ns, news, today=False),
            session=session,
            upcoming=event.upcoming,
            previous=event.previous,
            seen=tuple(order.client_order_id for order in state.orders),
            listed=tuple(symbol for symbol in state.listed if option_terms(symbol)[2] >= session.date),
        )

    def _list(self, state: PaperState, event: ContractsListed) -> PaperState:
        """Store the tradable contracts."""
        return replace(state, listed=tuple(contract.symbol for contract in event.contracts))

    def _remember(self, state: PaperState, bar: Bar) -> PaperState:
        """Store the underlying's newest regular bar of this session; its close settles the day's expiries."""
        session, last = state.session, state.last_bar
        if session is None or bar.symbol != self._underlying or not session.open_ns <= bar.start_ns < session.close_ns:
            return state
        return state if last is not None and bar.start_ns < last.start_ns else replace(state, last_bar=bar)

    def _end(self, state: PaperState, date: str, time_ns: int, news: list[Event]) -> PaperState:
        """Expire the working orders, store the close, and settle the day's expiries at it."""
        news.extend(OrderExpired(time_ns, order.client_order_id) for order in state.orders)
        closes = state.closes if state.last_bar is None else (SessionClose(date, state.last_bar.close),)
        state = replace(state, orders=(), quotes=(), closes=closes, session=None, last_bar=None)
        return self._settle(state, date, time_ns, news, today=True)

    def _settle(self, state: PaperState, date: str, time_ns: int, news: list[Event], *, today: bool) -> PaperState:
        """Settle expiries before `date`, and with `today` also those of `date`, at the last known close."""
        if not state.closes:  # no close yet: wait for the first session with a bar
            return state
        due = [
            option for option in held_options(state) if option[1].expiry < date or (today and option[1].expiry == date)
        ]
        return settle(state, due, self._underlying, time_ns, news)

    # --- orders ---------------------------------------------------------------------------------------------------

    def _carry_out(self, state: PaperState, effect: Effect, time_ns: int, news: list[Event]) -> PaperState:
        match effect:
            case WatchContracts():
                return _watch(state, effect.symbols)
            case SubmitOrder():
                tradable = effect.symbol in state.listed or holding_quantity(state, effect.symbol) > 0
                reason = refusal_in_market(state, effect, time_ns, self._paper, tradable, lambda s: _last_ask(state, s))
                return submit(state, effect, reason, time_ns, news)
            case CancelOrder():
                return cancel(state, effect.client_order_id, time_ns, news)
        return state

    def _trade(self, state: PaperState, event: QuotesReceived, news: list[Event]) -> PaperState:
        """Fill the working orders, first come first, at the quotes that are newer than any before."""
        fresh = _fresh(state, event.quotes)
        for working in state.orders:
            order, quote = working, fresh.get(working.symbol)
            if quote is not None and quote.quoted_ns > order.submitted_ns and _elects(order, quote.bid):
                state, order = elect(state, order)
            at = None if quote is None else _fill(order, quote)
            if quote is not None and at is not None:
                when_ns = min(quote.quoted_ns, event.time_ns)
                state = fill_order(state, order, (at, when_ns), self._paper, event.time_ns, news)
        other_quotes = tuple(quote for quote in state.quotes if quote.symbol not in fresh)
        return replace(state, quotes=(*other_quotes, *fresh.values()))


def _fresh(state: PaperState, quotes: Sequence[Quote]) -> dict[str, Quote]:
    """Return the running session's quotes that are newer than their contract's last one, by symbol."""
    session = state.session
    if session is None:
        return {}
    quoted_ns = {quote.symbol: quote.quoted_ns for quote in state.quotes}
    return {
        quote.symbol: quote
        for quote in quotes
        if session.open_ns <= quote.quoted_ns < session.close_ns and quote.quoted_ns > quoted_ns.get(quote.symbol, 0)
    }


def _fill(order: RestingOrder, quote: Quote) -> Decimal | None:
    """Return the order's price at this quote; None if the quote is too old, one-sided or too dear, or for a stop."""
    price = quote.ask if order.side > 0 else quote.bid  # 0: that side has no quote
    if not price or quote.quoted_ns <= order.submitted_ns or order.stop_price is not UNSET:
        return None
    limit = order.limit_price
    return price if limit is None or order.side * (limit - price) >= 0 else None


def _elects(order: RestingOrder, bid: Decimal | None) -> bool:
    """Return whether the order is a stop and this bid is at or below it; 0 is no bid."""
    return bid is not None and not isinstance(order.stop_price, UnsetType) and 0 < bid <= order.stop_price


def _watch(state: PaperState, symbols: tuple[str, ...]) -> PaperState:
    """Watch exactly these symbols, and drop the quotes of contracts that are not watched, held or being traded."""
    symbols_in_use = {
        *symbols,
        *(holding.symbol for holding in state.holdings),
        *(order.symbol for order in state.orders),
    }
    return replace(
        state, watched=symbols, quotes=tuple(quote for quote in state.quotes if quote.symbol in symbols_in_use)
    )


def _last_ask(state: PaperState, symbol: str) -> Decimal | None:
    """Return the last known ask of this session, None without one."""
    return next((quote.ask for quote in state.quotes if quote.symbol == symbol), None) or None


class RecordedPaperBroker(QuotePaperBroker):
    """The paper broker of one option desk on recorded quotes. Holds only rules: results depend only on the arguments.

    Invariant: no order fills at a price, recorded or modelled, from before it was sent.
    """

    __slots__ = ()

    EMITS: ClassVar[tuple[type[Event], ...]] = ORDER_NEWS

    def start(self) -> RecordedState:
        """Return the state before any event: only the configured cash."""
        return RecordedState(cash=self._paper.cash_usd)

    def _schedule(self, state: PaperState, event: SessionScheduled, news: list[Event]) -> PaperState:
        old_session = state.session
        state = super()._schedule(state, event, news)
        return state if state.session is old_session else replace(state, market=None)

    def _list(self, state: PaperState, event: ContractsListed) -> PaperState:
        """Store the contracts, and the market model that prices minutes without a quote; None without volatility."""
        session, market = state.session, None
        if session is not None and event.volatility is not None:
            market = SessionMarket(session, expiries_from(session, state.upcoming), event.volatility, 0)
        return replace(super()._list(state, event), market=market, listed_for=event.session_date)

    def _trade(self, state: PaperState, event: QuotesReceived, news: list[Event]) -> PaperState:
        """Fill at the recorded quotes; at a bar's close also the orders whose contract has no quote in this minute."""
        state = super()._trade(state, event, news)
        recorded_count = sum(isinstance(news_item, OrderFilled) for news_item in news)
        if event.closes_bar_ns:
            state = self._fill_at_model(state, event, news)
            state = replace(state, closed_bar_ns=event.closes_bar_ns)
        modelled_count = sum(isinstance(news_item, OrderFilled) for news_item in news) - recorded_count
        assert isinstance(state, RecordedState)
        return replace(
            state,
            fills_recorded=state.fills_recorded + recorded_count,
            fills_modelled=state.fills_modelled + modelled_count,
        )

    def _fill_at_model(self, state: PaperState, event: QuotesReceived, news: list[Event]) -> PaperState:
        """Fill orders that were sent before the bar began, at the modelled bid or ask of its close."""
        market, bar, session = state.market, state.last_bar, state.session
        if market is None or bar is None or session is None or bar.start_ns != event.closes_bar_ns:
            return state
        if event.time_ns >= session.close_ns:
            return state
        quoted_symbols = {quote.symbol for quote in event.quotes}
        for working in state.orders:
            order = working
            if order.symbol in quoted_symbols or order.submitted_ns > bar.start_ns:
                continue
            cents = market.cents(order.symbol, bar.close, event.time_ns, self._paper)
            price = None if cents is None else usd(cents[1 if order.side > 0 else 0])
            limit = order.limit_price
            if order.stop_price is not UNSET:
                if not _elects(order, price):
                    continue
                state, order = elect(state, order)
            if price and (limit is None or order.side * (limit - price) >= 0):
                state = fill_order(state, order, (price, event.time_ns), self._paper, event.time_ns, news)
        return state
