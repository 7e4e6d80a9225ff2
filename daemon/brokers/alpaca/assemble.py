"""The parts of a live desk that speak to Alpaca, made from the settings: addresses, keys, deadlines and waits.

All waits scale with `alpaca.backoff_max_s`; nothing here runs. One read client serves feed and broker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.market.chain import Chain
from daemon.brokers.alpaca.market.daily_feed import DailyFeed
from daemon.brokers.alpaca.market.daily_feed import Desk as DailyDesk
from daemon.brokers.alpaca.market.daily_history import DailyHistory
from daemon.brokers.alpaca.market.feed import LiveFeed, Timing
from daemon.brokers.alpaca.market.history import History, Known
from daemon.brokers.alpaca.market.share_quotes import ShareQuotes
from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, Tell
from daemon.brokers.alpaca.market.socket import Deadlines as SocketDeadlines
from daemon.brokers.alpaca.rest.client import Access, Deadlines
from daemon.brokers.alpaca.rest.clock_check import ClockCheck
from daemon.brokers.alpaca.rest.lanes import account_lanes, listing_lane, market_lane
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.link import BrokerLink, Patience
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.config.load import Credentials, Settings
from daemon.core.events import BrokerReported, Event
from daemon.core.state import BrokerState, Identity, State
from daemon.host.calendar import SessionCalendar
from daemon.host.clock import Clock
from strategies.kit.contract import DailyStrategy, Session, Spec
from strategies.kit.units import SECOND_NS

VIRTUAL_S = 300.0  # real seconds for an answer where time is virtual and passes as fast as it can
USUAL_BACKOFF_S = 30.0  # the waits of streams and look-ups are made for this longest one, and scale with it


def accesses(settings: Settings, credentials: Credentials) -> tuple[Access, Access, Access]:
    """How orders, trading reads and market data are reached."""
    keys = (credentials.key, credentials.secret)
    alpaca = settings.alpaca

    def deadlines(read_s: float) -> Deadlines:
        if settings.clock.socket:  # the server ends a call that hangs, at its virtual time
            return Deadlines(VIRTUAL_S, VIRTUAL_S, VIRTUAL_S, read_s * 2.5, max(60.0, read_s))
        return Deadlines(min(3.0, read_s), read_s, read_s * 1.5, read_s * 2.5, max(60.0, read_s))

    trading, data = settings.address("trading_url"), settings.address("data_url")
    return (
        Access(trading, *keys, deadlines(alpaca.order_timeout_s)),
        Access(trading, *keys, deadlines(alpaca.read_timeout_s)),
        Access(data, *keys, deadlines(alpaca.read_timeout_s)),
    )


class Feed(Protocol):
    """What a live desk drives: `catch_up` first, then `run` beside `schedule`, `decide` and `end` of each session."""

    async def catch_up(self, known: Known, *, exposed: bool = False) -> Session: ...

    async def run(self) -> None: ...

    async def schedule(self, session: Session) -> None: ...

    async def end(self, session: Session) -> None: ...

    def watch(self, symbols: tuple[str, ...]) -> None: ...

    def attend(self, symbols: frozenset[str]) -> None: ...


class AlpacaParts:
    """Clients, feed and link of one desk. `put` takes events in, `tell` logs, `journal_ns`: the newest event's time."""

    def __init__(
        self,
        settings: Settings,
        keys: Credentials,
        clock: Clock,
        put: Callable[[Event], None],
        tell: Tell,
        journal_ns: Callable[[], int],
    ) -> None:
        self._settings, self._keys, self._clock = settings, keys, clock
        self._put, self._tell = put, tell
        self._order_access, read_access, data_access = accesses(settings, keys)
        self._order_lane, read_lane = account_lanes(clock)
        data_lane, list_lane = market_lane(clock), listing_lane(clock)
        self._lanes = (self._order_lane, read_lane, list_lane, data_lane)
        self._reads = TradingReads(read_access, read_lane)
        self._listings = TradingReads(read_access, list_lane)
        self.clock_check = ClockCheck(self._reads, clock, tell, settings.alpaca.clock_skew_max_s, journal_ns)
        self._market = MarketData(data_access, data_lane)
        self._scale = settings.alpaca.backoff_max_s / USUAL_BACKOFF_S

    async def close(self) -> None:
        """End the lanes' threads."""
        for lane in self._lanes:
            await lane.close()

    def feed(self, spec: Spec, calendar: SessionCalendar, cache_dir: Path) -> LiveFeed:
        """Streams, history and chain of the strategy's symbol."""
        settings = self._settings
        options = settings.feed.options
        return LiveFeed(
            self._clock,
            calendar,
            spec,
            self._put,
            self._tell,
            history=History(self._market, cache_dir, settings.feed.name, spec.bar_interval_s, self._tell),
            chain=Chain(self._listings, self._market, spec.symbols[0], settings.contracts, options, self._tell),
            quotes=self._market,
            option_feed=options,
            stock=self._endpoint("stream_url"),
            option=self._endpoint("option_stream_url"),
            timing=self._timing(),
        )

    def daily_feed(
        self,
        strategy: DailyStrategy,
        calendar: SessionCalendar,
        state: Callable[[], State[Any]],
        settled: Callable[[], Awaitable[None]],
    ) -> DailyFeed:
        """History and quotes of a daily strategy's symbols. `settled` returns when what was put has been stepped."""
        name, symbols = self._settings.feed.name, strategy.spec.symbols

        def wanted() -> tuple[frozenset[str], frozenset[str]]:
            now = state()
            at_work = {order.symbol for order in now.orders.values()} | {work.symbol for work in now.works.values()}
            return frozenset(at_work), frozenset(now.book.positions)

        return DailyFeed(
            self._clock,
            calendar,
            DailyDesk(strategy, self._settings.basket, state, settled),
            self._put,
            self._tell,
            history=DailyHistory(self._market, name, symbols, self._tell),
            quotes=ShareQuotes(self._market, name, self._clock, calendar, self._put, self._tell, wanted),
            timing=self._timing(),
        )

    def _timing(self) -> Timing:
        settings, scale = self._settings, self._scale
        return Timing(
            silence_ns=settings.feed.silence_s * SECOND_NS,
            repair_s=settings.feed.repair_s,
            retry_first_s=0.5 * scale,
            retry_most_s=USUAL_BACKOFF_S * scale,
            stagger_s=0.5 * scale,
        )

    def link(
        self, identity: Identity, broker: Callable[[], BrokerState], claim: Callable[[str], None] | None = None
    ) -> BrokerLink:
        """The broker's side: the only holder of a client that can send. `claim` hears each report's account first."""
        settings, scale = self._settings, self._scale

        def put(event: Event) -> None:
            if claim is not None and isinstance(event, BrokerReported):
                claim(event.account)
            self._put(event)

        ours, closings = wire.is_ours(identity.epoch, identity.strategy), Closings()
        return BrokerLink(
            self._clock,
            put,
            self._tell,
            TradingOrders(self._order_access, self._order_lane),
            self._reads,
            Reporter(
                self._reads,
                self._clock,
                ours,
                self._tell,
                check=self.clock_check,
                agreed_ns=lambda: broker().agreed_ns,
                named=closings.named,
            ),
            partial(self._trade_stream),
            ours,
            Patience(
                report_every_s=settings.alpaca.report_every_s,
                missing_gap_s=scale,
                first_pause_s=0.5 * scale,
                longest_pause_s=30 * scale,
            ),
            closings,
        )

    def _endpoint(self, name: str) -> Endpoint:
        alpaca, scale = self._settings.alpaca, self._scale
        deadlines = SocketDeadlines(
            alpaca.handshake_timeout_s, alpaca.handshake_timeout_s, alpaca.ping_s, alpaca.ping_s, 2.0
        )
        back_off = BackOff(0.5 * scale, 30 * scale, 20 * scale, 60 * scale, 30 * scale)
        return Endpoint(self._settings.address(name), self._keys.key, self._keys.secret, deadlines, back_off)

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
        return TradeStream(url, self._keys.key, self._keys.secret, on_update, on_state, deadlines, self._tell)
