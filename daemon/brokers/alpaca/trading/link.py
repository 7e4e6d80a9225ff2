"""The daemon's link to Alpaca's trading side: carries out what the step asks of the broker and puts what it reports.

It decides nothing, and no order is posted by its own will: `own_orders.py` sends what a durable step released. Here are
the stream of order updates and the regular reports, of which none hides a hole in the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.own_orders import OwnOrders, Patience
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import Malformed
from daemon.brokers.api import BrokerError, LogEvent, Put
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import BrokerLost, BrokerReported, Event
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.trade_stream import TradeStream
    from daemon.host.time.clock import Clock


class OpenStream(Protocol):
    """Makes the trade stream around the link's two callbacks, for example a `functools.partial` of TradeStream."""

    def __call__(
        self, *, on_update: Callable[[object], None], on_state: Callable[[bool, str], None]
    ) -> TradeStream: ...


class BrokerLink:
    """Alpaca's `Trading`. All of it runs on the event loop; `run` is its heart and its supervisor."""

    def __init__(
        self,
        clock: Clock,
        put: Put,
        tell: LogEvent,
        orders: TradingOrders,
        reads: TradingReads,
        reporter: Reporter,
        open_stream: OpenStream,
        is_ours: Callable[[str], bool],
        patience: Patience | None = None,
        closings: Closings | None = None,
    ) -> None:
        self._clock = clock
        self._put = put
        self._tell = tell
        self._reporter = reporter
        self._is_ours = is_ours
        self._patience = patience or Patience()
        self._closings = closings or Closings()
        self._own = OwnOrders(clock, put, tell, orders, reads, is_ours, self._patience, self._closings, self._on_update)
        self._stream = open_stream(on_update=self._on_update, on_state=self._on_state)
        self._listening = asyncio.Event()
        self._connection = 0  # counts the times that the stream was lost
        self._asked = asyncio.Event()

    # --- the engine's side ----------------------------------------------------------------------------------------

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the submissions and cancels of a durable step; returns when they are queued."""
        for effect in effects:
            match effect:
                case SubmitOrder():
                    self._own.submit(effect)
                case CancelOrder(client_order_id=name):
                    self._own.cancel_soon(name)
                case _:
                    pass

    def ask(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the questions of a step: they change nothing at the broker and wait for no disk."""
        for effect in effects:
            match effect:
                case LookUpOrder(client_order_id=name):
                    self._own.look_up_soon(name)
                case AskBroker():
                    self._asked.set()
                case _:
                    pass

    def stepped(self, event: Event) -> None:
        """The step has taken an event."""
        self._own.stepped(event)

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str] | None = None) -> None:
        """Orders of an earlier run that may be open: client order id -> the broker's id. Before `run`.

        `closings` are those that the broker's own call made, open or not.
        """
        self._own.follow(order_ids)
        self._closings.follow(closings or {})

    async def run(self) -> None:
        """Keep the stream and the reports going until cancelled. Raises (in a group) only what is a bug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stream.run(), name="trade stream")
                group.create_task(self._report_on(), name="broker reports")
                await self._own.bug()
        finally:
            await self._own.close()

    # --- the stream -----------------------------------------------------------------------------------------------

    def _on_update(self, data: object) -> None:
        """Put in what an update says; one that cannot be read is news that only a report can bring."""
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
        for event in events:
            self._put(event)

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
        """A report after each connect, each minute and when asked; only while the stream listens: none hides a hole."""
        failures, told_in = 0, -1
        while True:
            await self._until_listening()
            connection, closings = self._connection, self._closings.begun
            if told_in != connection:
                self._reporter.forget()
            self._asked.clear()
            try:
                report = await self._reporter.report()
            except BrokerError as error:
                failures += 1
                told_in = -1  # everything again
                if failures == 1:
                    self._put(BrokerLost(self._clock.now_ns(), f"report: {error}"))
                self._tell("report_failed", problem=str(error), failures=failures)
                await asyncio.sleep(self._patience.pause_s(failures))
                continue
            if connection != self._connection:
                continue  # the stream was lost meanwhile: this report would hide the hole
            if self._closings.under_way or closings != self._closings.begun:
                told_in = -1  # it may have an order of ours under the broker's name
                await asyncio.sleep(self._patience.pause_s(1))
                continue
            failures, told_in = 0, connection
            self._take_report(report)
            await self._next_report()

    async def _until_listening(self) -> None:
        """Return when the stream listens. As often as a report is due without it, each order that may be open is looked
        up: what became of it must not wait for the stream, and a look-up calls nothing reconciled.
        """
        while not self._listening.is_set():
            due = self._clock.sleep_until(self._clock.now_ns() + round(self._patience.report_every_s * SECOND_NS))
            await _first(self._listening.wait(), due)
            if not self._listening.is_set():
                self._own.look_up_all()

    def _take_report(self, report: BrokerReported) -> None:
        for order in (*report.open_orders, *report.ended_orders):
            self._own.remember(order)
        self._put(report)

    async def _next_report(self) -> None:
        """Wait until the next report is due: a minute, a question, or another state of the stream."""
        given_ns = self._clock.now_ns()
        await self._clock.sleep_until(given_ns + round(self._patience.report_gap_s * SECOND_NS))
        minute = self._clock.sleep_until(given_ns + round(self._patience.report_every_s * SECOND_NS))
        await _first(self._asked.wait(), minute)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of them does; the others are cancelled."""
    tasks = {asyncio.create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
