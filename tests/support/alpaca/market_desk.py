"""The live feed beside a loopback Alpaca in one loop, on one simulated clock: what its tests share.

The market is a made-up tape of 2024 around the half day of July 3; REST and sockets are the daemon's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from daemon.brokers.alpaca.market.chain import ChainReader
from daemon.brokers.alpaca.market.feed import LiveFeed, Options
from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, SocketDeadlines
from daemon.brokers.alpaca.rest.client import Access, market_queue
from daemon.brokers.alpaca.rest.client import Deadlines as RestDeadlines
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.brokers.api import Known
from daemon.core.events import BarClosed, Event
from daemon.core.limits import Contracts
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.contract import Bar, Session, Spec
from strategies.option_scalper import SPEC
from tests.support.log import LogRecorder
from tests.support.simulator.lone_loop import clock_of_loop

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
PATIENCE_S = 40.0  # of the loop
REST_PATIENCE = RestDeadlines(connect_s=60.0, read_s=60.0, whole_s=60.0)  # of the host
DEADLINES = SocketDeadlines(open_s=5.0, reply_s=2.0, ping_every_s=0.3, pong_s=0.5, close_s=0.3)
BACK_OFF = BackOff(first_s=0.05, most_s=0.3, busy_s=0.2, auth_s=0.2, steady_s=5.0)
TIMING = Timing(repair_s=5.0, retry_first_s=0.05, retry_most_s=0.3, stagger_s=0.0, breath_s=0.05)
DATE = "2024-07-02"
CALL, PUT = "SPY240703C00545000", "SPY240703P00545000"


@cache
def calendar() -> SessionCalendar:
    """The real sessions of summer 2024: July 3 is a half day, July 4 a holiday."""
    return SessionCalendar.load("2024-06-24", "2024-07-12")


def session(date: str) -> Session:
    return calendar().around(date)[0]


def minutes(day: Session) -> int:
    return (day.close_ns - day.open_ns) // MINUTE


def bar(day: Session, minute: int, symbol: str = "SPY") -> Bar:
    """A minute of the made-up tape: a slow saw-tooth around 545."""
    price = 545 + (minute % 20) / 100
    start_ns = day.open_ns + minute * MINUTE
    return Bar(symbol, start_ns, price, round(price + 0.05, 2), round(price - 0.05, 2), round(price + 0.01, 2), 1000.0)


@cache
def tape() -> Market:
    days = [day for day in calendar().sessions if "2024-06-24" <= day.date <= "2024-07-12"]
    bars = [bar(day, minute) for day in days for minute in range(minutes(day))]
    return Market.from_bars(bars, sessions=calendar().sessions)


class MarketDesk:
    """A feed, the server it hears, and everything it put."""

    def __init__(
        self,
        server: AlpacaServer,
        clock: Clock,
        folder: Path,
        timing: Timing = TIMING,
        spec: Spec = SPEC,
        days: SessionCalendar | None = None,
        keys: tuple[str, str] = (DEFAULT_KEY, DEFAULT_SECRET),
    ) -> None:
        self.server = server
        self.clock = clock
        self.events: list[Event] = []
        self.is_closed = False  # the broker's market, within a session of the calendar
        self.log = LogRecorder()
        access = Access(server.data_url, *keys, REST_PATIENCE)
        self.lane = market_queue(clock)
        self.market = MarketData(access, self.lane)
        self.reads = TradingReads(access, self.lane)
        self.history = BarHistory(self.market, folder, "sip", 60, self.log)
        self.chain = ChainReader(self.reads, self.market, "SPY", Contracts(), "indicative", self.log)
        chained = Options(self.chain, Endpoint(server.option_stream_url, *keys, DEADLINES, BACK_OFF))
        of_options = partial(self.market.latest_option_quotes, feed="indicative")
        of_shares = partial(self.market.latest_quotes, feed="sip")
        self.feed = LiveFeed(
            clock,
            days or calendar(),
            spec,
            self.events.append,
            self.log,
            history=self.history,
            read_quotes=of_options if spec.holds == "option" else of_shares,
            stock=Endpoint(server.stream_url, *keys, DEADLINES, BACK_OFF),
            options=chained if spec.holds == "option" else None,
            timing=timing,
            as_traded=lambda session: session,
            is_closed=lambda: self.is_closed,
            days=self.reads.calendar,
        )

    def bars(self) -> list[Bar]:
        """The bars given, in order."""
        return [event.bar for event in self.events if isinstance(event, BarClosed)]

    def minutes_of(self, day: Session) -> list[int]:
        """The given bars' minutes of a session, in order."""
        starts = [bar.start_ns for bar in self.bars() if day.open_ns <= bar.start_ns < day.close_ns]
        return [(start - day.open_ns) // MINUTE for start in starts]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def fetches(self) -> int:
        """How often history was asked for."""
        return sum(request.path.startswith("/v2/stocks/bars") for request in self.server.requests)

    async def until(self, met: Callable[[], object]) -> None:
        """Wait for a condition, patiently."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if met():
                    return
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The feed's own tasks, until the end of the block."""
        task = asyncio.create_task(self.feed.run())
        try:
            yield
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def desk(
    folder: Path,
    date: str,
    start_s: float,
    *,
    rate: float = 200.0,
    timing: Timing = TIMING,
    market: Market | None = None,
    spec: Spec = SPEC,
) -> AsyncIterator[MarketDesk]:
    """A desk whose clock shows `start_s` seconds after the open of `date` now, at `rate` seconds a second."""
    sim = clock_of_loop(session(date).open_ns + int(start_s * SECOND), rate)
    async with AlpacaServer(market or tape(), sim) as server:
        clock = Clock.simulated(sim.anchor_unix_s, sim.sim_start_ns, rate, sim.real_ns)
        made = MarketDesk(server, clock, folder, timing, spec)
        try:
            yield made
        finally:
            await made.lane.close()


def kinds(events: list[Event]) -> list[str]:
    """The events' kinds, repeats of (bar, quotes) counted: `["SessionScheduled", "390 bars", "SessionEnded"]`."""
    names: list[str] = []
    count = 0
    for event in events:
        name = type(event).__name__
        if name == "BarClosed":
            count += 1
        elif name != "QuotesReceived":
            names += [f"{count} bars"] if count else []
            count = 0
            names.append(f"{name} {_date(event)}")
    return names + ([f"{count} bars"] if count else [])


def _date(event: Event) -> str:
    whole = msgspec.to_builtins(event)
    return str(whole.get("date") or whole.get("session_date") or whole["session"]["date"])


DAY, BEFORE = session(DATE), session("2024-07-01")
ENDED = Known(BEFORE.date, True, BEFORE.open_ns + 389 * MINUTE)


@asynccontextmanager
async def live(folder: Path, start_s: float = -20.0, **settings: Any) -> AsyncIterator[MarketDesk]:
    """A feed that runs since shortly before the open (or later), with what came before caught up."""
    async with desk(folder, DATE, start_s, **settings) as it:
        await it.feed.catch_up(ENDED)
        async with it.running():
            await it.until(lambda: "stream_up" in it.log.names())
            yield it
