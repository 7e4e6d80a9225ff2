"""Assemble Alpaca as a broker of the registry: addresses, keys, deadlines and waits from the settings.

All waits scale with `alpaca.backoff_max_s`; nothing here runs. One read client serves feed and broker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.admin import AlpacaAdmin
from daemon.brokers.alpaca.market.daily_feed import DailyFeed, DailyHistory, OwnDesk, ShareQuotes
from daemon.brokers.alpaca.market.feed import ChainReader, LiveFeed, Options, Timing
from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.quote_stream import ReadQuotes, StreamRecorder
from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, SocketDeadlines
from daemon.brokers.alpaca.rest.client import (
    Access,
    Deadlines,
    account_queues,
    connections,
    listing_queue,
    market_queue,
)
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.link import BrokerLink, Closings, Timeouts
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.api import EventLogger, FeedDesk, MarketFeed, Put, TradingDesk
from daemon.config.checks import ADDRESSES
from daemon.config.load import Credentials, DeskSettings
from daemon.config.tables import AUTO
from daemon.host.time.clock import Clock
from strategies.kit.contract import DailyStrategy, ShareStrategy, Spec, Strategy
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import by_kind

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.activity_stream import ActivityLine, ActivityStream


Feed = LiveFeed | DailyFeed
USUAL_BACKOFF_S = 30.0  # the default longest back-off; the waits of streams and look-ups scale with it


def scale_of(settings: DeskSettings) -> float:
    """Return by how much the waits are longer than the usual ones."""
    return settings.alpaca.backoff_max_s / USUAL_BACKOFF_S


@dataclass(frozen=True, slots=True)
class Feeds:
    """What feeds are made of. `put` takes their events; `listings` makes the client of the contracts' list."""

    settings: DeskSettings
    keys: Credentials
    clock: Clock
    put: Put
    log: EventLogger
    market: MarketData
    listings: Callable[[], TradingReads]

    def market_feed(self, desk: FeedDesk) -> Feed:
        """Return the feed for the strategy's decisions: at each bar, or once a session."""
        if AUTO in (self.settings.feed.name, self.settings.feed.options):
            raise ValueError(f"feed is {AUTO!r}: its name is chosen before a desk is made (feed_choice)")
        return by_kind(
            desk.strategy,
            option=lambda strategy: self._option_feed(desk, strategy),
            shares=lambda strategy: self._share_feed(desk, strategy),
            days=lambda strategy: self._daily_feed(desk, strategy),
        )

    def _option_feed(self, desk: FeedDesk, strategy: Strategy) -> Feed:
        """Return streams and history of the underlying, with its option chain."""
        settings, market = self.settings, self.market
        symbol, feed = strategy.spec.symbols[0], settings.feed.options
        chain = ChainReader(self.listings(), market, symbol, settings.contracts, feed, self.log)
        options = Options(chain, self._endpoint("option_stream_url"), self._recorder(desk))
        return self._bar_feed(desk, strategy.spec, lambda symbols: market.latest_option_quotes(symbols, feed), options)

    def _share_feed(self, desk: FeedDesk, strategy: ShareStrategy) -> Feed:
        """Return streams, history and quotes of the strategy's symbols."""
        return self._bar_feed(
            desk, strategy.spec, lambda symbols: self.market.latest_quotes(symbols, self.settings.feed.name)
        )

    def _bar_feed(
        self, desk: FeedDesk, spec: Spec, read_quotes: ReadQuotes, options: Options | None = None
    ) -> LiveFeed:
        return LiveFeed(
            self.clock,
            desk.calendar,
            spec,
            self.put,
            self.log,
            history=BarHistory(self.market, desk.cache_dir, self.settings.feed.name, MINUTE_NS // SECOND_NS, self.log),
            read_quotes=read_quotes,
            stock=self._endpoint("stream_url"),
            options=options,
            timing=self._timing(),
        )

    def _recorder(self, desk: FeedDesk) -> StreamRecorder | None:
        """Return what records the option quotes, where `[record]` has it."""
        settings = self.settings
        if not settings.record.enabled:
            return None
        from daemon.brokers.alpaca.recorder import recorder_for

        return recorder_for(settings, desk.cache_dir.with_name("quotes"), self.clock, self.log)

    def _daily_feed(self, desk: FeedDesk, strategy: DailyStrategy) -> Feed:
        """Return history and quotes of a daily strategy's symbols."""
        name, symbols = self.settings.feed.name, strategy.spec.symbols

        def wanted() -> tuple[frozenset[str], frozenset[str]]:
            now = desk.state()
            at_work = {order.symbol for order in now.orders.values()} | {work.symbol for work in now.works.values()}
            return frozenset(at_work), frozenset(now.book.positions)

        return DailyFeed(
            self.clock,
            desk.calendar,
            OwnDesk(strategy, self.settings.basket, desk.state, desk.settled),
            self.put,
            self.log,
            history=DailyHistory(self.market, name, symbols, self.log),
            quotes=ShareQuotes(self.market, name, self.clock, desk.calendar, self.put, self.log, wanted),
            timing=self._timing(),
        )

    def _timing(self) -> Timing:
        settings, scale = self.settings, scale_of(self.settings)
        return Timing(
            silence_ns=settings.feed.silence_s * SECOND_NS,
            repair_s=settings.feed.repair_s,
            retry_first_s=0.5 * scale,
            retry_most_s=USUAL_BACKOFF_S * scale,
            stagger_s=0.5 * scale,
        )

    def _endpoint(self, name: str) -> Endpoint:
        alpaca, scale = self.settings.alpaca, scale_of(self.settings)
        deadlines = SocketDeadlines(
            alpaca.handshake_timeout_s, alpaca.handshake_timeout_s, alpaca.ping_s, alpaca.ping_s, 2.0
        )
        back_off = BackOff(0.5 * scale, 30 * scale, 20 * scale, 60 * scale, 30 * scale)
        return Endpoint(self.settings.address(name), self.keys.key, self.keys.secret, deadlines, back_off)


VIRTUAL_S = 300.0  # real seconds for an answer where time is virtual and passes at full speed


def accesses(settings: DeskSettings, credentials: Credentials) -> tuple[Access, Access, Access]:
    """Return the access for orders, trading reads and market data."""
    keys = (credentials.key, credentials.secret)
    alpaca = settings.alpaca

    def deadlines(read_s: float) -> Deadlines:
        if settings.clock.socket:  # the server ends a hanging call at its virtual time
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
        return AlpacaAdmin(self._reads, lambda: self._market, lambda: self._orders, self._settings.feed)

    async def close(self) -> None:
        """End the threads of the request queues."""
        for queue in (self._order_queue, self._read_queue, self._list_queue, self._data_queue):
            await queue.close()

    def market_feed(self, desk: FeedDesk) -> MarketFeed:
        """Return the feed for the strategy's decisions: at each bar, or once a session."""
        feeds = Feeds(self._settings, self._keys, self._clock, self._put, self._log, self._market, self._listings)
        return feeds.market_feed(desk)

    def _listings(self) -> TradingReads:
        return TradingReads(self._read_access, self._list_queue)

    def trading(self, desk: TradingDesk) -> BrokerLink:
        """Return the link for the account's orders; its client is the only one that can send while the desk runs."""
        settings, scale = self._settings, self._scale
        ours, closings = wire.is_ours(desk.identity.epoch, desk.identity.strategy), Closings()
        return BrokerLink(
            self._clock,
            desk.put,
            self._log,
            self._orders,
            self._reads,
            Reporter(
                self._reads,
                self._clock,
                ours,
                self._log,
                desk.clocks,
                agreed_ns=lambda: desk.broker().agreed_ns,
                named=closings.named,
            ),
            self._trade_stream,
            ours,
            Timeouts(
                report_every_s=settings.alpaca.report_every_s,
                missing_gap_s=scale,
                first_pause_s=0.5 * scale,
                longest_pause_s=30 * scale,
            ),
            closings,
            self._activity_stream if settings.alpaca.activity_stream else None,
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

    def _trade_stream(
        self, *, on_update: Callable[[object], None], on_state: Callable[[bool, str], None]
    ) -> TradeStream:
        alpaca, scale = self._settings.alpaca, self._scale
        deadlines = StreamDeadlines(
            open_s=alpaca.handshake_timeout_s,
            reply_s=alpaca.handshake_timeout_s,
            ping_s=alpaca.ping_s,
            pong_s=alpaca.ping_s,
            close_s=2.0,
            first_pause_s=0.5 * scale,
            longest_pause_s=30 * scale,
            throttled_s=10 * scale,
            unauthorized_s=60 * scale,
        )
        url = self._settings.address("trade_stream_url")
        return TradeStream(url, self._keys.key, self._keys.secret, on_update, on_state, deadlines, self._log)
