"""Alpaca as a broker of the registry: the account outside of a desk, and the assembly of its parts.

`AlpacaAdmin` has the checks before a start, the clock, and the two requests of the panic. The rest assembles
connections from the settings: addresses, keys, deadlines and waits. All waits scale with `alpaca.backoff_max_s`. Feed
and broker share one client for reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.market.chain import ChainReader
from daemon.brokers.alpaca.market.daily_feed import DailyFeed, DailyHistory, OwnDesk, ShareQuotes
from daemon.brokers.alpaca.market.feed import LiveFeed, Options, ReadQuotes
from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, SocketDeadlines
from daemon.brokers.alpaca.rest.client import (
    Access,
    Deadlines,
    Raw,
    Refused,
    account_queues,
    connections,
    listing_queue,
    market_queue,
)
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.link import BrokerLink, Closings, Timeouts
from daemon.brokers.alpaca.trading.report import Reporter, block_reason, execution_of
from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads, parse_announcements
from daemon.brokers.api import (
    AccountSummary,
    BrokerClock,
    BulkResult,
    EventLogger,
    FeedDesk,
    LedgerStream,
    MarketFeed,
    Put,
    ShortSales,
    TradingDesk,
)
from daemon.config.checks import ADDRESSES
from daemon.config.load import Credentials, DeskSettings
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS, FeedTable
from daemon.core.draft import PROTECTION
from daemon.core.events import Announcement
from daemon.core.limits import AUTO
from daemon.core.state import State
from daemon.host.time.clock import Clock
from strategies.kit.contract import DailyStrategy, ShareStrategy, Spec, Strategy
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS
from strategies.registry import by_kind

if TYPE_CHECKING:
    from daemon.brokers.alpaca.market.recorder import OptionRecorder
    from daemon.brokers.alpaca.trading.activity_stream import ActivityLine, ActivityStream

NOT_IN_PLAN = 403  # "subscription does not permit querying recent SIP data"; also for keys of another service
DONE = ("200", "204", "207")
SHORTING_CURE = (
    "set no_shorting in the account's configuration (its page at the broker, or PATCH /v2/account/configurations)"
)


class AlpacaAdmin:
    """The account's reads, prices for `--check`, and a client that can send, made on first use."""

    def __init__(
        self,
        reads: TradingReads,
        market: Callable[[], MarketData],
        orders: Callable[[], TradingOrders],
        settings: DeskSettings,
    ) -> None:
        self._reads, self._market, self._orders, self._settings = reads, market, orders, settings
        self._feed: FeedTable = settings.feed

    async def account(self) -> AccountSummary:
        """GET /v2/account."""
        raw = await self._reads.account()
        level = str(raw.get("options_trading_level"))
        return AccountSummary(
            number=str(raw.get("account_number")),
            blocked=block_reason(raw, strange(self._settings, raw)),
            cash=str(raw.get("cash")),
            equity=str(raw.get("equity")),
            options_level=int(level) if level.isascii() and level.isdecimal() else None,
        )

    async def short_sales(self) -> ShortSales:
        """GET /v2/account/configurations."""
        refused = (await self._reads.configurations()).get("no_shorting") is True
        return ShortSales(refused, "no_shorting", SHORTING_CURE)

    async def ledger_stream(self, since_ns: int, until_ns: int) -> LedgerStream:
        """Replay GET /v2beta1/events/activities, and compare each `ref_id` with the ids of the same lines in REST."""
        from daemon.brokers.alpaca.trading.activity_stream import probe

        access = self._reads.access
        answer = await probe(access, since_ns, until_ns, access.deadlines.whole_s)
        if isinstance(answer, str):
            return LedgerStream(answer, 0, 0)
        executions = {execution_of(wire.text(row.get("id"))) for row in await self._reads.activities(since_ns - DAY_NS)}
        return LedgerStream("", len(answer), sum(line.ref_id in executions for line in answer))

    async def clock(self) -> BrokerClock:
        """GET /v2/clock."""
        return broker_clock(await self._reads.clock())

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Decimal]:
        """Return symbol -> newest bid; 0 for an unreadable one."""
        rows = await self._market().latest_quotes(tuple(symbols), self._feed.name)
        return {symbol: _bid(row) for symbol, row in rows.items()}

    async def feeds(self, symbol: str, *, options: bool) -> tuple[str, str]:
        """Read a quote, and a contract's snapshot, of the feeds by subscription; 403 means the free ones."""
        return await feeds_of_plan(self._market(), symbol, options=options)

    async def bars(self, symbol: str, start_ns: int, end_ns: int) -> int:
        """Return the number of the feed's minute bars."""
        return len(await self._market().bars(symbol, start_ns, end_ns, self._feed.name))

    async def day_bars(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> Mapping[str, int]:
        """Return symbol -> number of the feed's daily bars."""
        rows = await self._market().day_bars(tuple(symbols), start_ns, end_ns, self._feed.name)
        return {symbol: len(bars) for symbol, bars in rows.items() if bars}

    async def contracts(
        self, symbol: str, dates: tuple[str, str], strikes: tuple[Decimal, Decimal]
    ) -> Mapping[str, Decimal]:
        """Return the asks of the option chain's newest quotes."""
        chain = await self._market().option_chain(symbol, *dates, *strikes, self._feed.options)
        quotes = {contract: (row or {}).get("latestQuote") or {} for contract, row in chain.items()}
        return {contract: Decimal(str(quote.get("ap") or 0)) for contract, quote in quotes.items()}

    async def actions(self, symbols: Collection[str], first_date: str, last_date: str) -> tuple[Announcement, ...]:
        """GET /v2/corporate_actions/announcements."""
        actions = parse_announcements(await self._reads.corporate_actions(first_date, last_date))
        return tuple(action for action in actions if action.symbol in symbols)

    async def cancel_all(self) -> BulkResult:
        """DELETE /v2/orders."""
        return _bulk_result(await self._orders().cancel_all())

    async def close_all(self) -> BulkResult:
        """DELETE /v2/positions, orders cancelled."""
        return _bulk_result(await self._orders().close_all())

    async def left(self) -> tuple[str, ...]:
        """Return open orders, then positions."""
        open_orders = await self._reads.open_orders()
        positions = await self._reads.positions()
        return (
            *(f"order {row.get('id')} {row.get('side')} {row.get('qty')} {row.get('symbol')}" for row in open_orders),
            *(f"position {row.get('qty')} {row.get('symbol')}" for row in positions),
        )


async def feeds_of_plan(market: MarketData, symbol: str, *, options: bool) -> tuple[str, str]:
    """Return the feeds of shares and of options that the account may read, as `AlpacaAdmin.feeds`. Raises RestError."""
    stocks = await _first_allowed(STOCK_FEEDS, lambda feed: market.latest_quotes((symbol,), feed))
    if not options:
        return stocks, OPTION_FEEDS[0]
    return stocks, await _first_allowed(OPTION_FEEDS, lambda feed: market.any_snapshot(symbol, feed))


async def _first_allowed(feeds: tuple[str, str], ask: Callable[[str], Awaitable[object]]) -> str:
    """Return the first of these feeds that the account may read. Raises RestError; Refused for neither."""
    by_subscription, free = feeds
    try:
        await ask(by_subscription)
    except Refused as refusal:
        if refusal.status != NOT_IN_PLAN:
            raise
        await ask(free)  # invalid keys are refused here too
        return free
    return by_subscription


def strange(settings: DeskSettings, account: Raw) -> str:
    """Return why the account behind a gateway cannot be the configured one, "" where it can, and without a gateway.

    A desk behind a gateway only sees loopback addresses, so the gateway's statement replaces the proof by addresses.
    """
    gateway = account.get("gateway")
    if not isinstance(gateway, dict):
        return ""
    kind, clock = wire.text(gateway.get("account")), settings.clock
    if kind != settings.desk.account:
        return f'the gateway serves a {kind or "?"} account, desk.account is "{settings.desk.account}"'
    if gateway.get("real_time") is not False and (clock.sim_start or clock.socket or clock.rate != 1.0):
        return "the gateway's account is in real time, [clock] is not: take its keys out"
    prefix, gateway_prefix = settings.guard.prefix, wire.text(gateway.get("guard_prefix"))
    if prefix and gateway_prefix != prefix:
        cure = "what the guard rests would be another's: make both the same"
        return (
            f'guard.prefix is "{prefix}", and guard_prefix of the gateway\'s sub-account is "{gateway_prefix}": {cure}'
        )
    return ""


def broker_clock(raw: Raw) -> BrokerClock:
    """Parse the answer of GET /v2/clock. Raises Malformed."""
    is_open, next_ns = raw.get("is_open"), {"next_open": 0, "next_close": 0}
    for name in next_ns:
        with contextlib.suppress(wire.Malformed):
            next_ns[name] = wire.time_ns(raw.get(name), name)
    now_ns = wire.time_ns(raw.get("timestamp"))
    return BrokerClock(now_ns, is_open if isinstance(is_open, bool) else None, *next_ns.values())


def _bid(row: Raw) -> Decimal:
    try:
        return wire.decimal(row.get("bp"), "bp")
    except wire.Malformed:
        return Decimal(0)


def _bulk_result(rows: list[Raw]) -> BulkResult:
    """Parse a row for each order or position: {symbol or id, status, body}."""
    refusals = []
    for row in rows:
        if str(row.get("status")) not in DONE:
            body = row.get("body")
            message = wire.text(body.get("message")) if isinstance(body, dict) else ""
            refusals.append(f"{row.get('symbol') or row.get('id')}: refused: {row.get('status')} {message}")
    return BulkResult(len(rows), tuple(refusals))


USUAL_BACKOFF_S = 30.0  # the default longest back-off; the waits of streams and look-ups scale with it


def scale_of(settings: DeskSettings) -> float:
    """Return the factor by which the waits are longer than usual."""
    return settings.alpaca.backoff_max_s / USUAL_BACKOFF_S


def endpoint(settings: DeskSettings, keys: Credentials, url: str) -> Endpoint:
    """Return the market-data stream at this address, with the deadlines and waits of the settings."""
    alpaca, scale = settings.alpaca, scale_of(settings)
    deadlines = SocketDeadlines(
        alpaca.handshake_timeout_s, alpaca.handshake_timeout_s, alpaca.ping_s, alpaca.ping_s, 2.0
    )
    back_off = BackOff(0.5 * scale, 30 * scale, 20 * scale, 60 * scale, 30 * scale)
    return Endpoint(url, keys.key, keys.secret, deadlines, back_off)


def trade_stream(
    settings: DeskSettings,
    keys: Credentials,
    log: EventLogger,
    *,
    on_update: Callable[[object], None],
    on_state: Callable[[bool, str], None],
    on_taken: Callable[[str], None],
) -> TradeStream:
    """Return the account's stream of trade updates."""
    alpaca, scale = settings.alpaca, scale_of(settings)
    deadlines = StreamDeadlines(
        open_s=alpaca.handshake_timeout_s,
        reply_s=alpaca.handshake_timeout_s,
        ping_s=alpaca.ping_s,
        pong_s=alpaca.ping_s,
        close_s=2.0,
        first_pause_s=0.5 * scale,
        longest_pause_s=USUAL_BACKOFF_S * scale,
        throttled_s=10 * scale,
        unauthorized_s=60 * scale,
    )
    url = settings.address("trade_stream_url")
    return TradeStream(url, keys.key, keys.secret, on_update, on_state, on_taken, deadlines, log)


def quoted_symbols(state: State[Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the symbols that a daily desk works on, quoted often, and those it holds, for stops that rest all day."""
    orders = [order.symbol for order in state.orders.values() if order.purpose != PROTECTION]
    return frozenset((*orders, *(work.symbol for work in state.works.values()))), frozenset(state.book.positions)


VIRTUAL_S = 300.0  # real seconds for an answer where time is virtual and passes at full speed


def accesses(settings: DeskSettings, credentials: Credentials) -> tuple[Access, Access, Access]:
    """Return the access for orders, trading reads and market data."""
    keys = (credentials.key, credentials.secret)
    alpaca = settings.alpaca

    def deadlines(read_s: float) -> Deadlines:
        if settings.clock.socket:  # the server ends a hanging call in virtual time
            return Deadlines(VIRTUAL_S, VIRTUAL_S, VIRTUAL_S, read_s * 2.5, max(60.0, read_s))
        return Deadlines(min(3.0, read_s), read_s, read_s * 1.5, read_s * 2.5, max(60.0, read_s))

    trading, data, pool = settings.address("trading_url"), settings.address("data_url"), connections()
    return (
        Access(trading, *keys, deadlines(alpaca.order_timeout_s), pool),
        Access(trading, *keys, deadlines(alpaca.read_timeout_s), pool),
        Access(data, *keys, deadlines(alpaca.read_timeout_s)),
    )


class Alpaca:
    """The registry's entry: addresses, and a connection made from `[alpaca]` and `[feed]`."""

    def service(self, settings: DeskSettings) -> str:
        """Return `alpaca.trading_url`."""
        return settings.address("trading_url")

    def services(self, settings: DeskSettings) -> tuple[str, ...]:
        """Return all addresses of `[alpaca]`."""
        return tuple(settings.address(name) for name in ADDRESSES)

    def connect(
        self, settings: DeskSettings, keys: Credentials, clock: Clock, put: Put, log: EventLogger
    ) -> AlpacaConnection:
        """Return a connection for one desk."""
        return AlpacaConnection(settings, keys, clock, put, log)


BROKER = Alpaca()


class AlpacaConnection:
    """Clients, feed and link of one desk; clients are made on first use. `put` takes the feed's events."""

    def __init__(self, settings: DeskSettings, keys: Credentials, clock: Clock, put: Put, log: EventLogger) -> None:
        self._settings, self._keys, self._clock = settings, keys, clock
        self._put, self._log = put, log
        self.start_wait_s = settings.alpaca.handshake_timeout_s
        self.clock_skew_max_s = settings.alpaca.clock_skew_max_s
        self._order_access, self._read_access, self._data_access = accesses(settings, keys)
        self._order_queue, self._read_queue = account_queues(clock)
        self._data_queue, self._list_queue = market_queue(clock), listing_queue(clock)
        self._scale = scale_of(settings)

    @cached_property
    def _reads(self) -> TradingReads:
        return TradingReads(self._read_access, self._read_queue)

    @cached_property
    def _market(self) -> MarketData:
        return MarketData(self._data_access, self._data_queue)

    @cached_property
    def _orders(self) -> TradingOrders:
        return TradingOrders(self._order_access, self._order_queue)

    @cached_property
    def admin(self) -> AlpacaAdmin:
        """Return the account outside of the desk."""
        return AlpacaAdmin(self._reads, lambda: self._market, lambda: self._orders, self._settings)

    async def close(self) -> None:
        """End the threads of the request queues."""
        for queue in (self._order_queue, self._read_queue, self._list_queue, self._data_queue):
            await queue.close()

    def market_feed(self, desk: FeedDesk) -> MarketFeed:
        """Return the feed for the strategy's decisions: at each bar, or once a session."""
        if AUTO in (self._settings.feed.name, self._settings.feed.options):
            raise ValueError(f"feed is {AUTO!r}: its name is chosen before a desk is made (feed_choice)")
        return by_kind(
            desk.strategy,
            option=lambda strategy: self._option_feed(desk, strategy),
            shares=lambda strategy: self._share_feed(desk, strategy),
            days=lambda strategy: self._daily_feed(desk, strategy),
        )

    def _option_feed(self, desk: FeedDesk, strategy: Strategy) -> MarketFeed:
        """Return streams and history of the underlying, with its option chain."""
        settings, market = self._settings, self._market
        symbol, feed = strategy.spec.symbols[0], settings.feed.options
        chain = ChainReader(self._listings(), market, symbol, settings.contracts, feed, self._log)
        options = Options(chain, self._endpoint("option_stream_url"), self._recorder(desk))
        return self._bar_feed(desk, strategy.spec, lambda symbols: market.latest_option_quotes(symbols, feed), options)

    def _share_feed(self, desk: FeedDesk, strategy: ShareStrategy) -> MarketFeed:
        """Return streams, history and quotes of the strategy's symbols."""
        return self._bar_feed(
            desk, strategy.spec, lambda symbols: self._market.latest_quotes(symbols, self._settings.feed.name)
        )

    def _bar_feed(
        self, desk: FeedDesk, spec: Spec, read_quotes: ReadQuotes, options: Options | None = None
    ) -> LiveFeed:
        name = self._settings.feed.name
        return LiveFeed(
            self._clock,
            desk.calendar,
            spec,
            self._put,
            self._log,
            history=BarHistory(self._market, desk.cache_dir, name, MINUTE_NS // SECOND_NS, self._log),
            read_quotes=read_quotes,
            stock=self._endpoint("stream_url"),
            options=options,
            timing=self._timing(),
            as_traded=desk.as_traded,
            is_closed=desk.is_closed,
            days=self._listings().calendar,
        )

    def _recorder(self, desk: FeedDesk) -> OptionRecorder | None:
        """Return the recorder of option quotes, if `[record]` has one."""
        if not self._settings.record.enabled:
            return None
        from daemon.brokers.alpaca.market.recorder import recorder_for

        return recorder_for(self._settings, desk.cache_dir.with_name("quotes"), self._clock, self._log)

    def _daily_feed(self, desk: FeedDesk, strategy: DailyStrategy) -> MarketFeed:
        """Return history and quotes of a daily strategy's symbols."""
        name, market, clock, put, log = self._settings.feed.name, self._market, self._clock, self._put, self._log
        return DailyFeed(
            clock,
            desk.calendar,
            OwnDesk(strategy, self._settings.basket, desk.state, desk.settled),
            put,
            log,
            history=DailyHistory(market, name, strategy.spec.symbols, log),
            quotes=ShareQuotes(market, name, clock, desk.calendar, put, log, lambda: quoted_symbols(desk.state())),
            days=self._listings().calendar,
            timing=self._timing(),
        )

    def _timing(self) -> Timing:
        table, scale = self._settings.feed, self._scale
        return Timing(
            silence_ns=table.silence_s * SECOND_NS,
            repair_s=table.repair_s,
            retry_first_s=0.5 * scale,
            retry_most_s=USUAL_BACKOFF_S * scale,
            stagger_s=0.5 * scale,
        )

    def _endpoint(self, name: str) -> Endpoint:
        return endpoint(self._settings, self._keys, self._settings.address(name))

    def _listings(self) -> TradingReads:
        return TradingReads(self._read_access, self._list_queue)

    def trading(self, desk: TradingDesk) -> BrokerLink:
        """Return the link for the account's orders; its client is the only one that can send while the desk runs."""
        settings, scale = self._settings, self._scale
        owner, closings = (desk.identity.epoch, desk.identity.strategy), Closings()
        ours = wire.is_ours(*owner)
        return BrokerLink(
            self._clock,
            desk.put,
            self._log,
            self._orders,
            self._reads,
            Reporter(
                self._reads,
                self._clock,
                wire.is_ours(*owner, settings.guard.prefix),
                self._log,
                desk.clocks,
                agreed_ns=lambda: desk.broker().agreed_ns,
                differs=lambda: desk.broker().suspicion is not None,
                waits=desk.waits,
                under_name=closings.named,
                strange=partial(strange, settings),
            ),
            partial(trade_stream, settings, self._keys, self._log),
            ours,
            Timeouts(
                report_every_s=settings.alpaca.report_every_s,
                missing_gap_s=scale,
                first_pause_s=0.5 * scale,
                longest_pause_s=30 * scale,
            ),
            closings,
            self._activity_stream if settings.alpaca.activity_stream else None,
            desk.panicked,
        )

    def _activity_stream(self, *, on_line: Callable[[ActivityLine | None], None]) -> ActivityStream:
        from daemon.brokers.alpaca.trading.activity_stream import ActivityDeadlines, ActivityStream

        alpaca, scale = self._settings.alpaca, self._scale
        deadlines = ActivityDeadlines(
            open_s=alpaca.handshake_timeout_s,
            idle_s=900 * scale,
            first_pause_s=0.5 * scale,
            longest_pause_s=30 * scale,
            refused_s=900 * scale,
        )
        return ActivityStream(self._read_access, self._clock.now_ns, deadlines, self._log, on_line)
