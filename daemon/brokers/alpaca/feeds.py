"""Assemble the market feed of one desk: streams, history, chain and quotes, with their waits from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from daemon.brokers.alpaca.market.chain import ChainReader
from daemon.brokers.alpaca.market.daily_feed import DailyFeed
from daemon.brokers.alpaca.market.daily_history import DailyHistory, OwnDesk
from daemon.brokers.alpaca.market.feed import LiveFeed, Options, Timing
from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.quote_stream import ReadQuotes, Recorder
from daemon.brokers.alpaca.market.share_quotes import ShareQuotes
from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, SocketDeadlines
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.brokers.api import FeedDesk, LogEvent, Put
from daemon.config.load import Credentials, Settings
from daemon.config.tables import AUTO
from daemon.host.time.clock import Clock
from strategies.kit.contract import DailyStrategy, ShareStrategy, Spec, Strategy
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import by_kind

Feed = LiveFeed | DailyFeed
USUAL_BACKOFF_S = 30.0  # the default longest back-off; the waits of streams and look-ups scale with it


def scale_of(settings: Settings) -> float:
    """Return by how much the waits are longer than the usual ones."""
    return settings.alpaca.backoff_max_s / USUAL_BACKOFF_S


@dataclass(frozen=True, slots=True)
class Feeds:
    """What feeds are made of. `put` takes their events; `listings` makes the client of the contracts' list."""

    settings: Settings
    keys: Credentials
    clock: Clock
    put: Put
    log: LogEvent
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

    def _recorder(self, desk: FeedDesk) -> Recorder | None:
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
