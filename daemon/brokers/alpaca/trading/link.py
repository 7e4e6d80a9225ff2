"""The daemon's link to Alpaca's trading side: carries out what the step asks of the broker and puts in what it says.

It decides nothing: a submission leaves once, what became of it is an event, and what is not known is told as not known.
Invariant: no order is posted by the link's own will. A name's posts and look-ups go one after another: none is called
missing by an answer from before its post, nor twice before the step has heard of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.errors import NotSent, Refused, RestError
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import ENDED, Malformed
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import (
    BrokerLost,
    BrokerOrder,
    BrokerReported,
    CancelRejected,
    Event,
    OrderAccepted,
    OrderExpired,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
)
from daemon.pacing.back_off import back_off_s
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.trade_stream import TradeStream
    from daemon.host.clock import Clock

T = TypeVar("T")
_JITTER = random.SystemRandom()


class OpenStream(Protocol):
    """Makes the trade stream around the link's two callbacks, for example a `functools.partial` of TradeStream."""

    def __call__(
        self, *, on_update: Callable[[object], None], on_state: Callable[[bool, str], None]
    ) -> TradeStream: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the link keeps at something. The two for reports follow the clock, all others are real seconds."""

    report_every_s: float = 60.0
    report_gap_s: float = 2.0  # least pause between two reports, however often they are asked for
    missing_answers: int = 3  # 404s before an order is called missing
    missing_gap_s: float = 1.0  # between two of them
    first_pause_s: float = 0.5  # after a failure; doubles up to the longest, with jitter
    longest_pause_s: float = 30.0


class BrokerLink:
    """The engine's `Outside` at Alpaca. All of it runs on the event loop; `run` is its heart and its supervisor."""

    def __init__(
        self,
        clock: Clock,
        put: Callable[[Event], None],
        tell: Callable[..., None],
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
        self._orders = orders
        self._reads = reads
        self._reporter = reporter
        self._is_ours = is_ours
        self._patience = patience or Patience()
        self._closings = closings or Closings()
        self._stream = open_stream(on_update=self._on_update, on_state=self._on_state)
        self._listening = asyncio.Event()
        self._connection = 0  # counts the times that the stream was lost
        self._asked = asyncio.Event()
        self._order_ids: dict[str, str] = {}  # client order id -> the broker's, for orders of ours that may be open
        self._posting: dict[str, asyncio.Task[Event]] = {}
        self._posted: Counter[str] = Counter()  # how often each name was handed over to be posted
        self._withdrawn: set[str] = set()  # cancelled before their post has left our queue
        self._missing: dict[str, OrderMissing] = {}  # what the step has not heard yet
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bugs: list[BaseException] = []
        self._broken = asyncio.Event()

    # --- the engine's side ----------------------------------------------------------------------------------------

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the submissions and cancels of a durable step; returns when they are queued."""
        for effect in effects:
            match effect:
                case SubmitOrder(client_order_id=name):
                    self._posted[name] += 1
                    self._posting[name] = self._spawn(self._submit(effect, self._posting.get(name)), f"submit {name}")
                case CancelOrder(client_order_id=name):
                    self._cancel_soon(name)
                case _:
                    pass

    def heed(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the questions of a step: they change nothing at the broker and wait for no disk."""
        for effect in effects:
            match effect:
                case LookUpOrder(client_order_id=name):
                    self._look_up_soon(name)
                case AskBroker():
                    self._asked.set()
                case _:
                    pass

    def stepped(self, event: Event) -> None:
        """The step has heard an event: who was called missing may be looked up again."""
        if isinstance(event, OrderMissing) and self._missing.get(event.client_order_id) is event:
            del self._missing[event.client_order_id]

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str] | None = None) -> None:
        """Orders of an earlier run that may be open: client order id -> the broker's id. Before `run`.

        `closings` are those that the broker's own call made, open or not.
        """
        self._order_ids.update(order_ids)
        self._closings.follow(closings or {})

    async def run(self) -> None:
        """Keep the stream and the reports going until cancelled. Raises (in a group) only what is a bug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stream.run(), name="trade stream")
                group.create_task(self._report_on(), name="broker reports")
                await self._broken.wait()
                raise self._bugs[0]
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bugs.append(error)
            self._broken.set()

    # --- submissions and cancels ----------------------------------------------------------------------------------

    async def _submit(self, order: SubmitOrder, earlier: asyncio.Task[Event] | None) -> Event:
        """Post once; every outcome is one event. What a post that is still under way settles is not posted again."""
        name = order.client_order_id
        if earlier is not None:
            await asyncio.wait({earlier})
        settled = earlier is not None and type(earlier.result()) is not OrderUnknown
        event = earlier.result() if earlier is not None and settled else await self._post(order)
        if self._posting.get(name) is asyncio.current_task():
            del self._posting[name]
            self._withdrawn.discard(name)
        if not settled:
            self._put(event)
        if order.closing:
            for update in self._closings.end(name):
                self._on_update(update)
        return event

    async def _post(self, order: SubmitOrder) -> Event:
        """What became of one post. One that never left our queue has lapsed, which is no doubt."""
        name = order.client_order_id
        if order.closing:
            self._closings.begin(name, order.symbol)
        try:
            return self._reply(order, await self._orders.submit(order, lambda: name in self._withdrawn))
        except NotSent as kept:
            self._tell("order_not_sent", client_order_id=name, reason=str(kept))
            return OrderExpired(self._clock.now_ns(), name)
        except Refused as refused:
            return self._refusal(name, refused)
        except (RestError, Malformed) as error:
            self._tell("order_unanswered", client_order_id=name, problem=str(error))
            return OrderUnknown(self._clock.now_ns(), name)

    def _reply(self, asked: SubmitOrder, raw: object) -> Event:
        order, name = wire.order(raw), asked.client_order_id
        if asked.closing:
            order = self._closings.answered(name, order)
            self._remember(order)
            return OrderFound(self._clock.now_ns(), order)
        if order.client_order_id != name:
            raise Malformed(f"client_order_id is {order.client_order_id[:128]!r}: expected {name}")
        self._remember(order)
        if wire.STATUS_TABLE.get(order.status) == wire.ACCEPTED and not order.filled:
            return OrderAccepted(self._clock.now_ns(), name, order.order_id)
        return OrderFound(self._clock.now_ns(), order)

    def _refusal(self, name: str, refused: Refused) -> Event:
        """A refusal is definite, except that the name is taken: then the order may be there already."""
        if refused.status in (409, 422) and ("must be unique" in refused.message or refused.status == 409):
            self._look_up_soon(name)
            return OrderUnknown(self._clock.now_ns(), name)
        return OrderRejected(self._clock.now_ns(), name, str(refused))

    def _cancel_soon(self, name: str) -> None:
        """One cancel at a time for each name: orders whose news is late never fill the lanes with cancels."""
        if name in self._posting:
            self._withdrawn.add(name)
        if name not in self._cancelling:
            self._cancelling[name] = self._spawn(self._cancel(name), f"cancel {name}")

    async def _cancel(self, name: str) -> None:
        """Ask for a cancel by the broker's id; what came of it is the stream's or a look-up's to say."""
        try:
            if (posting := self._posting.get(name)) is not None:
                await asyncio.wait({posting})
                if isinstance(posting.result(), OrderExpired | OrderRejected):
                    return  # it is not there
            order_id = await self._order_id(name)
            if order_id:
                await self._orders.cancel(order_id)
            else:
                self._look_up_soon(name)
        except Refused as refused:
            self._put(CancelRejected(self._clock.now_ns(), name, str(refused)))
            self._look_up_soon(name)
        except (RestError, Malformed) as error:
            self._tell("cancel_unanswered", client_order_id=name, problem=str(error))
            self._look_up_soon(name)
        finally:
            del self._cancelling[name]

    async def _order_id(self, name: str) -> str:
        """The broker's id of an order that may be open; `""` where the broker knows none or it has ended."""
        if name in self._order_ids:
            return self._order_ids[name]
        order = await self._read(name)
        if order is None:
            return ""
        self._remember(order)
        return "" if order.status in ENDED else order.order_id

    def _remember(self, order: BrokerOrder) -> None:
        if not self._is_ours(order.client_order_id):
            return
        if order.status in ENDED:
            self._order_ids.pop(order.client_order_id, None)
        else:
            self._order_ids[order.client_order_id] = order.order_id

    # --- look-ups -------------------------------------------------------------------------------------------------

    def _look_up_soon(self, name: str) -> None:
        """One look-up at a time for each name."""
        running = self._looking.get(name)
        if name not in self._missing and (running is None or running.done()):
            self._looking[name] = self._spawn(self._look_up(name), f"look up {name}")

    async def _look_up(self, name: str) -> None:
        """Ask until the broker answers: with the order, or several times over that it knows none."""
        missing, failures, posts = 0, 0, self._posted[name]
        while True:
            if (posting := self._posting.get(name)) is not None:
                await asyncio.wait({posting})
                if type(posting.result()) is not OrderUnknown:  # it is known what became of it: nothing to ask
                    del self._looking[name]
                    return
                continue  # another post may wait behind it
            if self._posted[name] != posts:
                missing, posts = 0, self._posted[name]  # what was missing before a post says nothing
            try:
                order = await self._read(name)
            except (RestError, Malformed) as error:
                failures += 1
                if failures == 1:
                    self._tell("look_up_unanswered", client_order_id=name, problem=str(error))
                await asyncio.sleep(self._pause_s(failures))
                continue
            if order is not None:
                self._remember(order)
                event: Event = OrderFound(self._clock.now_ns(), order)
                break
            missing += 1
            if self._posted[name] == posts and missing >= self._patience.missing_answers:
                event = self._missing[name] = OrderMissing(self._clock.now_ns(), name)
                break
            await asyncio.sleep(self._patience.missing_gap_s)
        del self._looking[name]
        self._put(event)

    async def _read(self, name: str) -> BrokerOrder | None:
        """The order of this name; None where the broker knows none."""
        if order_id := self._closings.id_of(name):
            return self._closings.named(wire.order(await self._reads.order_by_id(order_id)))
        raw = await self._reads.order_by_client_id(name)
        return None if raw is None else wire.order(raw)

    def _pause_s(self, failures: int) -> float:
        waits = self._patience
        return back_off_s(failures, waits.first_pause_s, waits.longest_pause_s, _JITTER.random())

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
            self._remember(wire.order(data["order"]))
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
            except (RestError, Malformed) as error:
                failures += 1
                told_in = -1  # everything again
                if failures == 1:
                    self._put(BrokerLost(self._clock.now_ns(), f"report: {error}"))
                self._tell("report_failed", problem=str(error), failures=failures)
                await asyncio.sleep(self._pause_s(failures))
                continue
            if connection != self._connection:
                continue  # the stream was lost meanwhile: this report would hide the hole
            if self._closings.under_way or closings != self._closings.begun:
                told_in = -1  # it may have an order of ours under the broker's name
                await asyncio.sleep(self._pause_s(1))
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
                for name in self._order_ids:
                    self._look_up_soon(name)

    def _take_report(self, report: BrokerReported) -> None:
        for order in (*report.open_orders, *report.ended_orders):
            self._remember(order)
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
