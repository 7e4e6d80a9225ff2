"""The paper broker: simulates a broker and an option market, as a pure function of journaled events and effects.

It lists contracts, quotes them after each bar, matches orders and settles expiries. It reads no clock and draws no
random number, so replaying the journal rebuilds it exactly. Rules for users: docs/PAPER.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.effects import CancelOrder, Effect, SubmitOrder, WatchContracts
from daemon.core.events import (
    BarClosed,
    CancelRejected,
    Contract,
    ContractExpired,
    ContractsListed,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    PartClosed,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.instruments.option_market import (
    OccContract,
    SessionMarket,
    bid_ask_cents,
    occ_symbol,
    option_terms,
    price,
    session_market,
)
from daemon.core.limits import Paper, Trading
from daemon.core.paper.fees import fees
from daemon.core.paper.refusals import refusal
from daemon.core.paper.state import (
    PaperPosition,
    PaperState,
    RestingOrder,
    SessionClose,
    came_in_parts,
    held_options,
    usd,
    with_trade,
)
from daemon.core.state import ZERO
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import whole_of

ORDER_NEWS: tuple[type[Event], ...] = (
    OrderAccepted,
    OrderRejected,
    OrderFilled,
    OrderCanceled,
    OrderExpired,
    CancelRejected,
    ContractExpired,
)
"""Events of every paper broker about orders and holdings."""


class PaperBroker:
    """The paper broker of one option desk. Holds only rules: every result depends only on the arguments."""

    __slots__ = ("_contracts", "_paper", "_trading", "_underlying")

    EMITS: ClassVar[tuple[type[Event], ...]] = (ContractsListed, QuotesReceived, *ORDER_NEWS)  # events it may emit
    MOVED_BY: ClassVar[frozenset[type[Event]]] = frozenset(
        (BarClosed, PartClosed, SessionScheduled, SessionEnded)
    )  # effects excepted

    def __init__(self, trading: Trading, underlying: str) -> None:
        self._trading = trading
        self._contracts = trading.contracts
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
        bar: Bar | None = None
        part = False
        narrow: frozenset[str] = frozenset()
        match event:
            case BarClosed() | PartClosed() if self._is_regular(state, event.bar):
                bar, part = event.bar, isinstance(event, PartClosed)
                if not part and came_in_parts(state, bar):
                    narrow = frozenset(holding.symbol for holding in state.holdings)  # their ranges came with the parts
                else:
                    state = self._trade(state, bar, event.time_ns, news)
                if part:
                    state = replace(state, part_ns=event.time_ns)
                    narrow = _filled_within(bar, news)
            case BarClosed():
                state = self._remember(state, event.bar)
            case SessionScheduled():
                state = self._schedule(state, event, news)
            case SessionEnded():
                if state.session is not None and state.session.date == event.date:
                    state = self._end(state, state.session, event.time_ns, news)
        for effect in effects:
            state = self._carry_out(state, effect, event.time_ns, news)
        if bar is not None:
            quotes = self._quotes(state, bar, event.time_ns, narrow)
            news.append(QuotesReceived(event.time_ns, 0 if part else bar.start_ns, quotes))
        return state, tuple(news)

    # --- the session ----------------------------------------------------------------------------------------------

    def _schedule(self, state: PaperState, event: SessionScheduled, news: list[Event]) -> PaperState:
        """Begin a session; first end an unfinished one, and settle expiries of missed days.

        If the session is already running, only list its contracts again.
        """
        session = event.session
        if state.session is not None and state.session.date >= session.date:
            self._list(state.market, event.time_ns, news)
            return state
        if state.session is not None:
            state = self._end(state, state.session, event.time_ns, news)
        expired_options = [
            (holding, contract) for holding, contract in held_options(state) if contract.expiry < session.date
        ]
        state = settle(state, expired_options, self._underlying, event.time_ns, news)
        state = replace(
            state,
            session=session,
            upcoming=event.upcoming,
            previous=event.previous,
            seen=tuple(order.client_order_id for order in state.orders),
        )
        return self._open_market(state, session, event.time_ns, news)

    def _open_market(self, state: PaperState, session: Session, time_ns: int, news: list[Event]) -> PaperState:
        """List the session's chain, with volatility and strikes fixed from earlier closes, if there are enough."""
        closes = [session_close.close for session_close in state.closes if session_close.date < session.date]
        market = session_market(session, state.upcoming, closes, self._paper)
        self._list(market, time_ns, news)
        return replace(state, market=market)

    def _list(self, market: SessionMarket | None, time_ns: int, news: list[Event]) -> None:
        if market is None:
            return
        interest = self._paper.open_interest
        contracts = tuple(
            _contract(self._underlying, expiry, right, strike, interest)
            for expiry in market.listed_expiries(self._contracts.min_days, self._contracts.max_days)
            for strike in market.listed_strikes(self._paper.strikes_each_side)
            for right in (1, -1)
        )
        news.append(ContractsListed(time_ns, market.session.date, contracts, market.volatility))

    def _is_regular(self, state: PaperState, bar: Bar) -> bool:
        session = state.session
        return (
            session is not None
            and bar.symbol == self._underlying
            and session.open_ns <= bar.start_ns < session.close_ns
        )

    def _remember(self, state: PaperState, bar: Bar) -> PaperState:
        """Store the close of an earlier session from its history bars; the later bar of a session wins."""
        for session in state.previous:
            if bar.symbol == self._underlying and session.open_ns <= bar.start_ns < session.close_ns:
                return replace(state, closes=self._with_close(state.closes, session.date, bar.close))
        return state

    def _with_close(self, closes: tuple[SessionClose, ...], date: str, close: float) -> tuple[SessionClose, ...]:
        other_closes = [session_close for session_close in closes if session_close.date != date]
        sorted_closes = sorted([*other_closes, SessionClose(date, close)], key=lambda session_close: session_close.date)
        return tuple(sorted_closes[-self._paper.volatility_sessions - 1 :])

    def _end(self, state: PaperState, session: Session, time_ns: int, news: list[Event]) -> PaperState:
        """Expire the working orders, store the close, and settle the day's expiries at it."""
        news.extend(OrderExpired(time_ns, order.client_order_id) for order in state.orders)
        closes = state.closes
        if state.last_bar is not None:
            closes = self._with_close(closes, session.date, state.last_bar.close)
        state = replace(state, orders=(), closes=closes, session=None, market=None, last_bar=None)
        due = [(holding, contract) for holding, contract in held_options(state) if contract.expiry <= session.date]
        return settle(state, due, self._underlying, time_ns, news)

    # --- orders ---------------------------------------------------------------------------------------------------

    def _carry_out(self, state: PaperState, effect: Effect, time_ns: int, news: list[Event]) -> PaperState:
        match effect:
            case WatchContracts():
                return replace(state, watched=effect.symbols)
            case SubmitOrder():
                reason = refusal(state, effect, time_ns, self._trading, self._underlying)
                return submit(state, effect, reason, time_ns, news)
            case CancelOrder():
                return cancel(state, effect.client_order_id, time_ns, news)
        return state

    # --- matching and quotes --------------------------------------------------------------------------------------

    def _trade(self, state: PaperState, bar: Bar, time_ns: int, news: list[Event]) -> PaperState:
        """Fill the orders sent before the bar began, first come first; then store the bar as the last one."""
        if state.market is None and state.last_bar is None and state.session is not None:
            state = self._open_market(state, state.session, time_ns, news)
        state = replace(state, last_bar=bar)
        for order in state.orders:
            rule = self._fill if order.stop_price is UNSET else self._stop
            fill = rule(state, order, bar, time_ns)
            if fill is None:
                continue
            if order.stop_price is not UNSET and order.limit_price is not None and fill[0] < order.limit_price:
                state, _ = elect(state, order)
            else:
                state = fill_order(state, order, fill, self._paper, time_ns, news)
        return state

    def _stop(self, state: PaperState, order: RestingOrder, bar: Bar, end_ns: int) -> tuple[Decimal, int] | None:
        """Return the price and the time at which `bar` elects a stop, None if its bid stays above it.

        At the open if that is at or below the stop; else a cent below the stop if the bar's worst price touches it.
        """
        market, stop = state.market, order.stop_price
        if market is None or isinstance(stop, UnsetType) or order.submitted_ns > bar.start_ns:
            return None
        worst = bar.low if option_terms(order.symbol)[1] > 0 else bar.high
        for underlying, at_ns, least in ((bar.open, bar.start_ns, ZERO), (worst, end_ns, stop - CENT)):
            cents = market.cents(order.symbol, underlying, at_ns, self._paper)
            if cents is not None and usd(cents[0]) <= stop:
                price = max(usd(cents[0]), least)
                return (price, at_ns) if price else None
        return None

    def _fill(self, state: PaperState, order: RestingOrder, bar: Bar, end_ns: int) -> tuple[Decimal, int] | None:
        """Return the price and the time at which the order trades within `bar`, None if it does not.

        At the open if it is marketable there; else at its own limit if the bar's best price touches that.
        """
        market = state.market
        if market is None or order.submitted_ns > bar.start_ns:
            return None
        price_index = 1 if order.side > 0 else 0  # buys trade at the ask, sells at the bid
        cents = market.cents(order.symbol, bar.open, bar.start_ns, self._paper)
        if cents is None:
            return None
        at_open, limit = usd(cents[price_index]), order.limit_price
        if limit is None:
            return (at_open, bar.start_ns) if at_open else None
        if order.side * (limit - at_open) >= 0:
            return at_open, bar.start_ns
        best = bar.low if option_terms(order.symbol)[1] * order.side > 0 else bar.high
        cents = market.cents(order.symbol, best, end_ns, self._paper)
        if cents is not None and order.side * (limit - usd(cents[price_index])) >= 0:
            return limit, end_ns
        return None

    def _quotes(self, state: PaperState, bar: Bar, end_ns: int, narrow: frozenset[str]) -> tuple[Quote, ...]:
        """Return quotes of the watched and held contracts at the bar's close; none for a contract without a price.

        The bar's extreme mids are computed only for held contracts that are not in `narrow`: only they may have a stop.
        """
        market, paper, symbols = state.market, self._paper, state.watched
        if market is None:
            return ()
        held_symbols = [holding.symbol for holding in state.holdings]
        if held_symbols:
            symbols = tuple(dict.fromkeys((*symbols, *held_symbols)))
        volatility = market.volatility
        quotes: list[Quote] = []
        years, last_expiry = None, ""  # time to the expiry of the last symbol; most contracts share one
        for symbol in symbols:
            strike, right, expiry = option_terms(symbol)
            if expiry != last_expiry:
                years, last_expiry = market.years(expiry, end_ns), expiry
            if years is None:
                continue
            bid, ask = bid_ask_cents(price(bar.close, strike, years, volatility, right), paper)
            if symbol not in held_symbols or symbol in narrow:
                middle = _mid_usd(bid + ask)
                quotes.append(Quote(symbol, usd(bid), usd(ask), middle, middle, end_ns))
                continue
            worst, best = (bar.low, bar.high) if right > 0 else (bar.high, bar.low)
            low = sum(bid_ask_cents(price(worst, strike, years, volatility, right), paper))
            high = sum(bid_ask_cents(price(best, strike, years, volatility, right), paper))
            quotes.append(Quote(symbol, usd(bid), usd(ask), _mid_usd(low), _mid_usd(high), end_ns))
        return tuple(quotes)


def _filled_within(bar: Bar, news: Sequence[Event]) -> frozenset[str]:
    """Return the symbols filled after the bar's open, so that part of its range was before the fill."""
    fills = [event for event in news if isinstance(event, OrderFilled)]
    return frozenset(fill.symbol for fill in fills if fill.filled_ns > bar.start_ns)


def settle(
    state: PaperState,
    due: Sequence[tuple[PaperPosition, OccContract]],
    underlying: str,
    time_ns: int,
    news: list[Event],
) -> PaperState:
    """Exercise or write off expired options at the last known close; at least one must be known."""
    for holding, contract in due:
        strike, right = contract.strike, contract.right
        exercised = right * (Decimal(repr(state.closes[-1].close)) - strike) >= CENT
        count = whole_of(holding.quantity)
        shares = right * OPTION_MULTIPLIER * count if exercised else 0
        holdings = with_trade(state.holdings, holding.symbol, -holding.quantity, ZERO)
        holdings = with_trade(holdings, underlying, shares, strike)
        state = replace(state, cash=state.cash - shares * strike, holdings=holdings)
        news.append(ContractExpired(time_ns, holding.symbol, count, underlying, shares, strike))
    return state


def submit(state: PaperState, order: SubmitOrder, reason: str, time_ns: int, news: list[Event]) -> PaperState:
    """Accept the order, or reject it when `reason` is not empty.

    Raises ValueError when its client order id was submitted before.
    """
    name = order.client_order_id
    if name in state.seen:
        raise ValueError(f"client order id {name!r} was submitted twice; expected a new id for every submission")
    state = replace(state, seen=(*state.seen, name))
    if reason:
        news.append(OrderRejected(time_ns, name, reason))
        return state
    count, limit = whole_of(order.quantity), order.limit_price
    working = RestingOrder(name, order.symbol, order.side, count, limit, time_ns, stop_price=order.stop_price)
    news.append(OrderAccepted(time_ns, name))
    return replace(state, orders=(*state.orders, working))


def elect(state: PaperState, stop: RestingOrder) -> tuple[PaperState, RestingOrder]:
    """Turn an elected stop into a market or limit order; return the state and that order."""
    order = replace(stop, stop_price=UNSET)
    return replace(state, orders=tuple([order if other is stop else other for other in state.orders])), order


def cancel(state: PaperState, name: str, time_ns: int, news: list[Event]) -> PaperState:
    """Cancel a working order, or reject the cancel with a reason."""
    rest = tuple(order for order in state.orders if order.client_order_id != name)
    if len(rest) < len(state.orders):
        news.append(OrderCanceled(time_ns, name))
        return replace(state, orders=rest)
    news.append(CancelRejected(time_ns, name, "order is not cancelable" if name in state.seen else "order not found"))
    return state


def fill_order(
    state: PaperState, order: RestingOrder, fill: tuple[Decimal, int], paper: Paper, time_ns: int, news: list[Event]
) -> PaperState:
    """Return the state after an execution at (price, time), of at most the quantity that one bar or quote can fill."""
    fill_price, filled_ns = fill
    quantity = min(order.quantity - order.filled, paper.contracts_per_minute)
    so_far, cost = order.filled + quantity, order.cost + fill_price * quantity
    fees_usd = fees(so_far, cost * OPTION_MULTIPLIER, order.side, paper)
    name, symbol, side = order.client_order_id, order.symbol, order.side
    news.append(OrderFilled(time_ns, name, symbol, side, fill_price, filled_ns, so_far, cost, fees_usd, quantity))
    rest = (
        () if so_far == order.quantity else (replace(order, filled=so_far, cost=cost, fees=fees_usd, stop_price=UNSET),)
    )
    at = state.orders.index(order)
    return replace(
        state,
        cash=state.cash - side * fill_price * OPTION_MULTIPLIER * quantity - (fees_usd - order.fees),
        holdings=with_trade(state.holdings, symbol, side * quantity, fill_price),
        orders=(*state.orders[:at], *rest, *state.orders[at + 1 :]),
    )


@lru_cache(maxsize=8192)
def _contract(underlying: str, expiry: str, right: int, strike: int, open_interest: int) -> Contract:
    """Return a listed contract at a whole-dollar strike."""
    dollars = Decimal(strike)
    return Contract(occ_symbol(underlying, expiry, right, dollars), expiry, right, dollars, open_interest)


@lru_cache(maxsize=65536)
def _mid_usd(bid_and_ask: int) -> Decimal:
    """Return the mid in USD from the sum in cents of bid and ask, exact to the half cent."""
    return usd(bid_and_ask // 2) if bid_and_ask % 2 == 0 else Decimal(bid_and_ask * 5).scaleb(-3)
