"""The daemon's link to Alpaca's trading side: executes the step's effects and emits the broker's news.

It decides nothing: `own_orders.py` sends only orders that a durable step released. Here are the stream of order updates
and the regular reports, of which neither hides a hole in the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.ledger import BUST, CORRECTION, execution_of
from daemon.brokers.alpaca.trading.own_orders import OwnOrders, Timeouts
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import Malformed
from daemon.brokers.api import BrokerError, LogEvent, Put
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import BrokerLost, BrokerReported, Event
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.activity_stream import ActivityLine, ActivityStream
    from daemon.brokers.alpaca.trading.trade_stream import TradeStream
    from daemon.host.time.clock import Clock


class OpenStream(Protocol):
    """Makes the trade stream around the link's two callbacks, for example a `functools.partial` of TradeStream."""

    def __call__(
        self, *, on_update: Callable[[object], None], on_state: Callable[[bool, str], None]
    ) -> TradeStream: ...


class OpenActivities(Protocol):
    """Makes the stream of activities around the link's callback."""

    def __call__(self, *, on_line: Callable[[ActivityLine | None], None]) -> ActivityStream: ...


class BrokerLink:
    """Alpaca's `Trading`. Runs on the event loop; `run` is its main loop and supervisor."""

    def __init__(
        self,
        clock: Clock,
        put: Put,
        log: LogEvent,
        orders: TradingOrders,
        reads: TradingReads,
        reporter: Reporter,
        open_stream: OpenStream,
        is_ours: Callable[[str], bool],
        timeouts: Timeouts | None = None,
        closings: Closings | None = None,
        open_activities: OpenActivities | None = None,
    ) -> None:
        self._clock = clock
        self._put = put
        self._log = log
        self._reporter = reporter
        self._is_ours = is_ours
        self._timeouts = timeouts or Timeouts()
        self._closings = closings or Closings()
        self._own = OwnOrders(clock, put, log, orders, reads, is_ours, self._timeouts, self._closings, self._on_update)
        self._stream = open_stream(on_update=self._on_update, on_state=self._on_state)
        self._activities = open_activities(on_line=self._on_activity) if open_activities is not None else None
        self._listening = asyncio.Event()
        self._connection = 0  # counts losses of the stream
        self._asked = asyncio.Event()
        self._awaited = asyncio.Event()  # by an exit

    # --- the engine's side ----------------------------------------------------------------------------------------

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Execute the submissions and cancels of a durable step; returns when they are queued."""
        for effect in effects:
            match effect:
                case SubmitOrder():
                    self._own.submit(effect)
                case CancelOrder(client_order_id=name):
                    self._own.cancel_soon(name)
                case _:
                    pass

    def ask(self, effects: Sequence[AnyEffect]) -> None:
        """Execute the queries of a step: they change nothing at the broker and need no durability."""
        for effect in effects:
            match effect:
                case LookUpOrder(client_order_id=name):
                    self._own.look_up_soon(name)
                case AskBroker(at_once=at_once):
                    self._asked.set()
                    if at_once:
                        self._awaited.set()
                case _:
                    pass

    def stepped(self, event: Event) -> None:
        """Handle an event that the step has taken."""
        self._own.stepped(event)

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str] | None = None) -> None:
        """Add orders of an earlier run that may be open: client order id -> the broker's id. Before `run`.

        `closings` are those that the broker's own call made, open or not.
        """
        self._own.follow(order_ids)
        self._closings.follow(closings or {})

    async def run(self) -> None:
        """Run the stream and the reports until cancelled. Raises (in a group) only on a bug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stream.run(), name="trade stream")
                group.create_task(self._report_on(), name="broker reports")
                if self._activities is not None:
                    group.create_task(self._activities.run(), name="activity stream")
                await self._own.bug()
        finally:
            await self._own.close()

    # --- the stream -----------------------------------------------------------------------------------------------

    def _on_update(self, data: object) -> None:
        """Emit an update's events; after an unreadable one, only a report can bring the news."""
        if isinstance(data, dict):
            if self._closings.holds_back(data):
                return
            data = self._closings.renamed(data)
        try:
            events = wire.trade_update(data, self._is_ours, self._clock.now_ns())
        except Malformed:
            self._asked.set()
            raise
        if isinstance(data, dict):
            self._own.remember(wire.order(data["order"]))
            if data["event"] in (BUST, CORRECTION):
                named = data.get("previous_execution_id") or data.get("execution_id")
                self._reporter.name_amended(wire.text(data["order"].get("id")), wire.text(named))
        for event in events:
            self._put(event)

    def _on_activity(self, line: ActivityLine | None) -> None:
        """Ask the ledger at once for a line of the second source; after an unreadable one, too. It books nothing."""
        if line is not None and line.amends:
            self._reporter.name_amended(line.order_id, execution_of(line.amends))
        self._asked.set()

    def _on_state(self, listening: bool, detail: str) -> None:
        if listening:
            self._listening.set()
            return
        self._listening.clear()
        self._connection += 1
        self._asked.set()  # a report follows the next connect at once
        self._put(BrokerLost(self._clock.now_ns(), f"trade stream: {detail}"))

    # --- reports --------------------------------------------------------------------------------------------------

    async def _report_on(self) -> None:
        """Report after each connect, each minute and on request; only while the stream listens, to hide no hole."""
        failures, reported_in = 0, -1
        while True:
            await self._until_listening()
            connection, closings = self._connection, self._closings.begun
            if reported_in != connection:
                self._reporter.forget()
            self._asked.clear()
            self._awaited.clear()
            try:
                report = await self._reporter.report()
            except BrokerError as error:
                failures += 1
                reported_in = -1  # report everything again
                if failures == 1:
                    self._put(BrokerLost(self._clock.now_ns(), f"report: {error}"))
                self._log("report_failed", problem=str(error), failures=failures)
                await asyncio.sleep(self._timeouts.pause_s(failures))
                continue
            if connection != self._connection:
                continue  # the stream was lost meanwhile: this report would hide the hole
            if self._closings.under_way or closings != self._closings.begun:
                reported_in = -1  # it may have an order of ours under the broker's name
                await asyncio.sleep(self._timeouts.pause_s(1))
                continue
            failures, reported_in = 0, connection
            self._take_report(report)
            await self._next_report()

    async def _until_listening(self) -> None:
        """Wait until the stream listens; meanwhile look up orders that may be open, as often as reports are due.

        Their news must not wait for the stream, and a look-up reconciles nothing.
        """
        while not self._listening.is_set():
            due = self._clock.sleep_until(self._clock.now_ns() + round(self._timeouts.report_every_s * SECOND_NS))
            await _first(self._listening.wait(), due)
            if not self._listening.is_set():
                self._own.look_up_all()

    def _take_report(self, report: BrokerReported) -> None:
        for order in (*report.open_orders, *report.ended_orders):
            self._own.remember(order)
        self._put(report)

    async def _next_report(self) -> None:
        """Wait until the next report is due: a minute, a request, or a change of the stream's state.

        A request that no exit waits for comes `report_gap_s` after the last report at the earliest.
        """
        given_ns = self._clock.now_ns()
        least_s = min(self._timeouts.exit_gap_s, self._timeouts.report_gap_s)
        await self._clock.sleep_until(given_ns + round(least_s * SECOND_NS))
        gap = self._clock.sleep_until(given_ns + round(self._timeouts.report_gap_s * SECOND_NS))
        await _first(self._awaited.wait(), gap)
        minute = self._clock.sleep_until(given_ns + round(self._timeouts.report_every_s * SECOND_NS))
        await _first(self._asked.wait(), minute)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first to finish; cancel the others."""
    tasks = {asyncio.create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
