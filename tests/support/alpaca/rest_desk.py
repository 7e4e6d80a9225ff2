"""A desk at the loopback Alpaca over REST alone: its queues, orders and waits, its reports, and its clock check."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from daemon.brokers.alpaca.assemble import AlpacaAdmin
from daemon.brokers.alpaca.rest.client import Access, Deadlines, RequestQueue
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import is_ours
from daemon.brokers.api import EventLogger
from daemon.brokers.clock_check import ClockCheck
from daemon.config.tables import DeskSettings
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar, Session
from tests.support.log import LogRecorder
from tests.support.simulator.lone_loop import clock_of_loop

SECOND_NS = 1_000_000_000


MINUTE_NS = 60 * SECOND_NS


OPEN_NS = 1_719_927_000 * SECOND_NS  # 2024-07-02 13:30 UTC


SESSIONS = [
    Session("2024-07-02", OPEN_NS, OPEN_NS + 390 * MINUTE_NS),
    Session("2024-07-03", OPEN_NS + 1440 * MINUTE_NS, OPEN_NS + 1650 * MINUTE_NS),
]


CALL = "SPY240703C00545000"


PATIENT = Deadlines(connect_s=60.0, read_s=60.0, whole_s=60.0, call_s=6.0, pages_s=6.0)  # calls in virtual seconds


SHORT = Deadlines(connect_s=60.0, read_s=0.3, whole_s=60.0, call_s=60.0, pages_s=60.0)  # in host time


NAME = "e1-scalper-1-0-1"
UNANSWERED: list[tuple[str, dict[str, Any]]] = [
    *(
        ("http_error", {"status": status, "body": body, "moment": moment})
        for status in (500, 503, 504)
        for body in ("json", "html", "empty")
        for moment in ("before", "after")
    ),
    ("http_hang", {}),
    ("http_hang", {"moment": "before"}),
    ("http_reset", {}),
    ("http_reset", {"moment": "before"}),
    ("http_empty_body", {}),
    ("http_html", {"moment": "after"}),
    ("malformed_json", {"moment": "after"}),
]
OURS = is_ours("e1", "scalper")
LIMIT_S = 2.0


def market() -> Market:
    """Sixty minutes of SPY at 545.00."""
    bars = [Bar("SPY", OPEN_NS + m * MINUTE_NS, 545.0, 545.0, 545.0, 545.0, 1000.0) for m in range(60)]
    return Market.from_bars(bars, sessions=SESSIONS)


@dataclass(slots=True)
class Desk:
    """A server two minutes after the open and the daemon's doors to it."""

    server: AlpacaServer
    clock: Clock
    orders: TradingOrders
    reads: TradingReads
    data: MarketData
    lanes: tuple[RequestQueue, ...]

    def posts(self) -> int:
        """How many submissions reached the server."""
        return self.count("POST", "/v2/orders")

    def count(self, method: str, path: str) -> int:
        return sum(r.method == method and r.path.split("?")[0] == path for r in self.server.requests)


@contextlib.asynccontextmanager
async def desk(*, rate: float = 1.0, rules: Rules | None = None, deadlines: Deadlines = PATIENT) -> AsyncIterator[Desk]:
    """The loopback Alpaca and the doors, with lanes that wait for nothing."""
    sim = clock_of_loop(OPEN_NS + 2 * MINUTE_NS, rate)
    async with AlpacaServer(market(), sim, rules=rules) as server:
        clock = Clock.simulated(sim.anchor_unix_s, sim.sim_start_ns, rate, sim.real_ns)
        lanes = tuple(
            RequestQueue(name, TokenBucket(clock.now_ns, 6000, 1000), clock) for name in ("orders", "reads", "market")
        )
        access = Access(server.trading_url, DEFAULT_KEY, DEFAULT_SECRET, deadlines)
        orders, reads = TradingOrders(access, lanes[0]), TradingReads(access, lanes[1])
        try:
            yield Desk(server, clock, orders, reads, MarketData(access, lanes[2]), lanes)
        finally:
            for lane in lanes:
                await lane.close()


def buy(name: str = NAME, quantity: int = 1, limit: str | None = "20", valid_s: float = 3600) -> SubmitOrder:
    """An opening order for the call at the money, marketable by default."""
    price = None if limit is None else Decimal(limit)
    return SubmitOrder(name, CALL, 1, quantity, price, "buy_to_open", OPEN_NS + round(valid_s * SECOND_NS))


async def eventually(reached: Callable[[], bool]) -> None:
    """Return when it is so; fails when it is not within twenty seconds."""
    for _ in range(2000):
        if reached():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


def reporter(it: Desk, recorder: LogRecorder | None = None) -> Reporter:
    """A reporter whose host's clock is right."""
    return reporter_at(it, it.clock, recorder)


def reporter_at(
    it: Desk, clock: Clock, recorder: LogRecorder | None = None, agreed_ns: Callable[[], int] = lambda: 0
) -> Reporter:
    """A reporter whose host shows this time."""
    log = recorder or LogRecorder()
    return Reporter(it.reads, clock, OURS, log, clock_check(it.reads, clock, log), agreed_ns=agreed_ns)


async def filled(it: Desk, order: SubmitOrder) -> None:
    """Submit, and wait until the server has filled it whole."""
    await it.orders.submit(order)
    await eventually(lambda: not it.server.account.by_client_id[order.client_order_id].open)


def admin_of(reads: TradingReads, orders: TradingOrders | None = None, market: MarketData | None = None) -> AlpacaAdmin:
    """The admin side; what is left out is not to be used."""

    def given_orders() -> TradingOrders:
        assert orders is not None
        return orders

    def given_market() -> MarketData:
        assert market is not None
        return market

    return AlpacaAdmin(reads, given_market, given_orders, DeskSettings())


def clock_check(
    reads: TradingReads, clock: Clock, log: EventLogger, journal_ns: Callable[[], int] = lambda: 0
) -> ClockCheck:
    """Compares this clock with the server's."""
    return ClockCheck(admin_of(reads).clock, clock, log, LIMIT_S, journal_ns)
