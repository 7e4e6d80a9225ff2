"""Assemble Alpaca as a broker of the registry: addresses, keys, deadlines and waits from the settings.

All waits scale with `alpaca.backoff_max_s`; nothing here runs. One read client serves feed and broker.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.admin import AlpacaAdmin
from daemon.brokers.alpaca.feeds import Feeds, scale_of
from daemon.brokers.alpaca.rest.client import Access, Deadlines, connections
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.rest.queues import account_queues, listing_queue, market_queue
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.link import BrokerLink
from daemon.brokers.alpaca.trading.own_orders import Timeouts
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.api import FeedDesk, LogEvent, MarketFeed, Put, TradingDesk
from daemon.config.checks import ADDRESSES
from daemon.config.load import Credentials, Settings
from daemon.host.time.clock import Clock

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.activity_stream import ActivityLine, ActivityStream

VIRTUAL_S = 300.0  # real seconds for an answer where time is virtual and passes at full speed


def accesses(settings: Settings, credentials: Credentials) -> tuple[Access, Access, Access]:
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

    def service(self, settings: Settings) -> str:
        """Return `alpaca.trading_url`."""
        return settings.address("trading_url")

    def services(self, settings: Settings) -> tuple[str, ...]:
        """Return all addresses of `[alpaca]`."""
        return tuple(settings.address(name) for name in ADDRESSES)

    def connect(self, settings: Settings, keys: Credentials, clock: Clock, put: Put, log: LogEvent) -> AlpacaConnection:
        """Return a connection for one desk."""
        return AlpacaConnection(settings, keys, clock, put, log)


BROKER = Alpaca()


class AlpacaConnection:
    """Clients, feed and link of one desk; clients are made on first use. `put` takes the feed's events."""

    def __init__(self, settings: Settings, keys: Credentials, clock: Clock, put: Put, log: LogEvent) -> None:
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
