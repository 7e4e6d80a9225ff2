"""The paper broker of a replay with recorded option quotes: orders fill at the quotes of a later minute.

As `daemon.core.paper.quotes`, and where a minute has no quote of an order's contract, at the bid or ask that the option
market of `daemon.core.instruments.option_market` gives at that minute's end. Such fills are counted.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from daemon.core.events import ContractsListed, Event, OrderFilled, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import SessionMarket, expiries_from
from daemon.core.paper.paper import ORDER_NEWS, filled
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.state import PaperState, RecordedState, usd


class RecordedPaperBroker(QuotePaperBroker):
    """The paper broker of one desk on recorded quotes. Holds rules only: every result depends on the arguments alone.

    Invariant: no order fills at a price from before it was sent, recorded or modelled.
    """

    __slots__ = ()

    EMITS: ClassVar[tuple[type[Event], ...]] = ORDER_NEWS

    def start(self) -> RecordedState:
        """Return the state before any event: the configured cash and nothing else."""
        return RecordedState(cash=self._paper.cash_usd)

    def _schedule(self, state: PaperState, event: SessionScheduled, news: list[Event]) -> PaperState:
        before = state.session
        state = super()._schedule(state, event, news)
        return state if state.session is before else replace(state, market=None)

    def _list(self, state: PaperState, event: ContractsListed) -> PaperState:
        """Note the contracts, and the market that prices them where a minute has no quote: none without volatility."""
        session, market = state.session, None
        if session is not None and event.volatility is not None:
            market = SessionMarket(session, expiries_from(session, state.upcoming), event.volatility, 0)
        return replace(super()._list(state, event), market=market, listed_for=event.session_date)

    def _trade(self, state: PaperState, event: QuotesReceived, news: list[Event]) -> PaperState:
        """Fill at the recorded quotes; at a bar's close also the orders whose contract has none in this minute."""
        state = super()._trade(state, event, news)
        recorded = sum(isinstance(news_item, OrderFilled) for news_item in news)
        if event.closes_bar_ns:
            state = self._fill_unquoted(state, event, news)
            state = replace(state, closed_bar_ns=event.closes_bar_ns)
        modelled = sum(isinstance(news_item, OrderFilled) for news_item in news) - recorded
        assert isinstance(state, RecordedState)
        return replace(
            state,
            fills_recorded=state.fills_recorded + recorded,
            fills_modelled=state.fills_modelled + modelled,
        )

    def _fill_unquoted(self, state: PaperState, event: QuotesReceived, news: list[Event]) -> PaperState:
        """Fill orders that were sent before the bar began at the modelled bid or ask of its close."""
        market, bar, session = state.market, state.last_bar, state.session
        if market is None or bar is None or session is None or bar.start_ns != event.closes_bar_ns:
            return state
        if event.time_ns >= session.close_ns:
            return state
        quoted = {quote.symbol for quote in event.quotes}
        for order in state.orders:
            if order.symbol in quoted or order.submitted_ns > bar.start_ns:
                continue
            cents = market.cents(order.symbol, bar.close, event.time_ns, self._paper)
            price = None if cents is None else usd(cents[1 if order.side > 0 else 0])
            limit = order.limit_price
            if price and (limit is None or order.side * (limit - price) >= 0):
                state = filled(state, order, (price, event.time_ns), self._paper, event.time_ns, news)
        return state
