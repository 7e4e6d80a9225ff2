"""A broker link at the loopback Alpaca, and the tables that its tests share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from daemon.brokers.alpaca.rest.client import Access
from daemon.brokers.alpaca.trading.activity_stream import ActivityDeadlines, ActivityStream
from daemon.brokers.alpaca.trading.link import BrokerLink, Closings, Timeouts
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.wire import is_ours
from daemon.core.effects import AnyEffect
from daemon.core.events import BrokerReported, ClockTicked, Event, OrderAccepted
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from tests.support.alpaca.rest_desk import Desk, buy, clock_check, desk, eventually

E = TypeVar("E", bound=Event)


OURS = is_ours("e1", "scalper")


QUICKLY = Timeouts(report_gap_s=0.01, missing_gap_s=0.05, first_pause_s=0.01, longest_pause_s=0.05)


BY_NAME = "/v2/orders:by_client_order_id"


WORKING = buy(limit="0.01")  # nobody sells at a cent


WHOLE = Rules(fill_sizes=(9, 9), dead_session_s=0.0)
QUICK = StreamDeadlines(
    open_s=1,
    reply_s=0.1,
    ping_s=0.1,
    pong_s=0.1,
    close_s=0.5,
    first_pause_s=0.005,
    longest_pause_s=0.02,
    throttled_s=0.05,
    unauthorized_s=0.05,
)


@dataclass(slots=True)
class Linked:
    """A link that runs, the events it put in, and its log."""

    desk: Desk
    link: BrokerLink
    events: list[Event]
    log: list[tuple[str, dict[str, Any]]]
    panicked: bool = False

    def ask(self, *effects: AnyEffect) -> None:
        """Pass on a step that asks the broker this."""
        self.link.stepped(ClockTicked(0), effects)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if type(event) is kind]

    async def until(self, kind: type[E], count: int = 1) -> E:
        """The `count`-th event of this kind, waited for."""
        await eventually(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def answered(self) -> None:
        """Return when the order is accepted and its post was answered: the stream is often the first."""
        await self.until(OrderAccepted)
        await eventually(lambda: not self.link._own_orders._posting)


@contextlib.asynccontextmanager
async def linked(
    timeouts: Timeouts = QUICKLY,
    rate: float = 1.0,
    rules: Rules = WHOLE,
    *,
    stepped: bool = True,
    activities: bool = False,
) -> AsyncIterator[Linked]:
    """A desk whose link listens and has reported once. What it puts in is `stepped` at once, or when the test says.

    With `activities` it listens to the stream of activities too.
    """
    async with desk(rate=rate, rules=rules) as it:
        events: list[Event] = []
        log: list[tuple[str, dict[str, Any]]] = []

        def tell(name: str, /, **fields: Any) -> None:
            log.append((name, fields))

        def put(event: Event) -> None:
            events.append(event)
            if stepped:
                link.stepped(event, ())

        url = it.server.trade_stream_url
        open_stream = partial(TradeStream, url, DEFAULT_KEY, DEFAULT_SECRET, deadlines=QUICK, log=tell)
        closings = Closings()
        reporter = Reporter(
            it.reads, it.clock, OURS, tell, clock_check(it.reads, it.clock, tell), under_name=closings.named
        )
        parts = (it.orders, it.reads, reporter, open_stream, OURS, timeouts, closings)
        access = Access(it.server.trading_url, DEFAULT_KEY, DEFAULT_SECRET)
        waits = ActivityDeadlines(open_s=2, idle_s=30, first_pause_s=0.01, longest_pause_s=0.05, refused_s=0.1)
        open_activities = partial(ActivityStream, access, it.clock.now_ns, waits, tell) if activities else None
        link = BrokerLink(it.clock, put, tell, *parts, open_activities, lambda: one.panicked)
        task = asyncio.create_task(link.run())
        one = Linked(it, link, events, log)
        try:
            await one.until(BrokerReported)
            if activities:
                await eventually(lambda: any(name == "activity_stream_listening" for name, _ in log))
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), "the link ended by itself"
