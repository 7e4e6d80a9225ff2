"""The daemon's link to Alpaca's trading side: executes the step's effects and emits the broker's news.

It decides nothing: `OwnOrders` sends only orders that a durable step released. It has the stream of order updates and
the regular reports, neither of which hides a gap in the other.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import GATEWAY, NotSent, Refused, RestError
from daemon.brokers.alpaca.trading.report import BUST, CORRECTION, Reporter, amended_execution, execution_of
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import ENDED, Malformed, text
from daemon.brokers.api import BrokerError, EventLogger, Put
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LiftFence, LookUpOrder, SubmitOrder
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
from daemon.pacing import back_off_s
from strategies.kit.quantity import Quantity, exact
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.trading.activity_stream import ActivityLine, ActivityStream
    from daemon.brokers.alpaca.trading.trade_stream import TradeStream
    from daemon.host.time.clock import Clock


T = TypeVar("T")
_JITTER = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of the link. The two for reports follow the clock, all others are real seconds."""

    report_every_s: float = 60.0
    report_gap_s: float = 2.0  # least pause between two reports, however often they are requested
    exit_gap_s: float = 0.25  # the same where an exit waits for the next one
    missing_answers: int = 3  # 404s before an order is reported as missing
    missing_gap_s: float = 1.0  # between two of them
    first_pause_s: float = 0.5  # after a failure; doubles up to the longest, with jitter
    longest_pause_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """Return the pause after the `failures`-th failure in a row (from 1)."""
        return back_off_s(failures, self.first_pause_s, self.longest_pause_s, _JITTER.random())


class OwnOrders:
    """The desk's orders, by client order id. `on_update` takes updates that waited for a close call's answer."""

    def __init__(
        self,
        clock: Clock,
        put: Put,
        log: EventLogger,
        orders: TradingOrders,
        reads: TradingReads,
        is_ours: Callable[[str], bool],
        timeouts: Timeouts,
        closings: Closings,
        on_update: Callable[[object], None],
        panicked: Callable[[], bool],
    ) -> None:
        self._clock, self._put, self._log = clock, put, log
        self._orders, self._reads, self._panicked = orders, reads, panicked
        self._is_ours = is_ours
        self._timeouts = timeouts
        self._closings = closings
        self._on_update = on_update
        self._order_ids: dict[str, str] = {}  # client order id -> the broker's id, for orders of ours that may be open
        self._posting: dict[str, asyncio.Task[Event]] = {}
        self._post_counts: Counter[str] = Counter()  # how often each name was queued to be posted
        self._withdrawn: set[str] = set()  # cancelled before their post has left our queue
        self._missing: dict[str, OrderMissing] = {}  # events not stepped yet
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bugs: list[BaseException] = []
        self._break_event = asyncio.Event()

    def follow(self, order_ids: Mapping[str, str]) -> None:
        """Add orders of an earlier run that may be open: client order id -> the broker's id."""
        self._order_ids.update(order_ids)

    def taken(self, event: OrderMissing) -> None:
        """Note that the step has taken the event: the missing name may be looked up again."""
        if self._missing.get(event.client_order_id) is event:
            del self._missing[event.client_order_id]

    async def bug(self) -> None:
        """Raise the first exception of a task that is no broker failure."""
        await self._break_event.wait()
        raise self._bugs[0]

    async def close(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bugs.append(error)
            self._break_event.set()

    # --- submissions and cancels ----------------------------------------------------------------------------------

    def submit(self, order: SubmitOrder) -> None:
        """Post the order, after an earlier post of its name has ended."""
        name = order.client_order_id
        self._post_counts[name] += 1
        self._posting[name] = self._spawn(self._submit(order, self._posting.get(name)), f"submit {name}")

    async def _submit(self, order: SubmitOrder, earlier: asyncio.Task[Event] | None) -> Event:
        """Post once; every outcome is one event. An order settled by an earlier post is not posted again."""
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
        """Return the outcome of one post. An order that never left our queue has certainly lapsed."""
        name = order.client_order_id
        if order.closing:
            self._closings.begin(name, order.symbol)
        try:
            return self._reply(order, await self._orders.submit(order, partial(self._kept_back, name)))
        except NotSent as not_sent:
            self._log("order_not_sent", client_order_id=name, reason=str(not_sent))
            return OrderExpired(self._clock.now_ns(), name)
        except Refused as refusal:
            return self._refusal(name, refusal)
        except (RestError, Malformed) as error:
            self._log("order_unanswered", client_order_id=name, problem=str(error))
            return OrderUnknown(self._clock.now_ns(), name)

    def _kept_back(self, name: str) -> str:
        """Return why an order must not leave at its turn, "" where it may. In the queue's thread."""
        if self._panicked():
            return "met a panic"
        return "was cancelled" if name in self._withdrawn else ""

    def _reply(self, submission: SubmitOrder, raw: object) -> Event:
        order, name = wire.order(raw), submission.client_order_id
        if submission.closing:
            order = self._closings.answered(name, order)
            self.remember(order)
            return OrderFound(self._clock.now_ns(), order)
        if order.client_order_id != name:
            raise Malformed(f"client_order_id is {order.client_order_id[:128]!r}: expected {name}")
        self.remember(order)
        if wire.STATUS_TABLE.get(order.status) == wire.ACCEPTED and not order.filled:
            return OrderAccepted(self._clock.now_ns(), name, order.order_id)
        return OrderFound(self._clock.now_ns(), order)

    def _refusal(self, name: str, refusal: Refused) -> Event:
        """Return the event of a refusal: definite, unless the name is taken, because the order may be there already."""
        if refusal.of_name:
            self.look_up_soon(name)
            return OrderUnknown(self._clock.now_ns(), name)
        if refusal.status == 403 and refusal.message.startswith(GATEWAY):
            return OrderRejected(self._clock.now_ns(), name, refusal.message, denied=True)
        return OrderRejected(self._clock.now_ns(), name, str(refusal), existing=_existing(refusal))

    def cancel_soon(self, name: str) -> None:
        """Cancel, one at a time for each name: late news never fills the queue with cancels."""
        if name in self._posting:
            self._withdrawn.add(name)
        if name not in self._cancelling:
            self._cancelling[name] = self._spawn(self._cancel(name), f"cancel {name}")

    async def _cancel(self, name: str) -> None:
        """Request a cancel by the broker's id; the result comes from the stream or a look-up."""
        try:
            if (posting := self._posting.get(name)) is not None:
                await asyncio.wait({posting})
                if isinstance(posting.result(), OrderExpired | OrderRejected):
                    return  # the broker does not have it
            order_id = await self._order_id(name)
            if order_id:
                await self._orders.cancel(order_id)
            else:
                self.look_up_soon(name)
        except Refused as refusal:
            self._put(CancelRejected(self._clock.now_ns(), name, str(refusal)))
            self.look_up_soon(name)
        except (RestError, Malformed) as error:
            self._log("cancel_unanswered", client_order_id=name, problem=str(error))
            self.look_up_soon(name)
        finally:
            del self._cancelling[name]

    def lift_fence_soon(self, on_lifted: Callable[[], None]) -> None:
        """Let the account take new orders again, once; `on_lifted` is called after any answer."""
        self._spawn(self._lift_fence(on_lifted), "lift the fence")

    async def _lift_fence(self, on_lifted: Callable[[], None]) -> None:
        try:
            await self._orders.suspend(on=False)
        except (RestError, Malformed) as error:
            self._log("fence_not_lifted", problem=str(error))
        on_lifted()

    async def _order_id(self, name: str) -> str:
        """Return the broker's id of an order that may be open; `""` when unknown or ended."""
        if name in self._order_ids:
            return self._order_ids[name]
        order = await self._read(name)
        if order is None:
            return ""
        self.remember(order)
        return "" if order.status in ENDED else order.order_id

    def remember(self, order: BrokerOrder) -> None:
        """Note whether an order of ours may be open."""
        if not self._is_ours(order.client_order_id):
            return
        if order.status in ENDED:
            self._order_ids.pop(order.client_order_id, None)
        else:
            self._order_ids[order.client_order_id] = order.order_id

    # --- look-ups -------------------------------------------------------------------------------------------------

    def look_up_all(self) -> None:
        """Look up every order of ours that may be open."""
        for name in self._order_ids:
            self.look_up_soon(name)

    def look_up_soon(self, name: str) -> None:
        """Look up, one at a time for each name."""
        running = self._looking.get(name)
        if name not in self._missing and (running is None or running.done()):
            self._looking[name] = self._spawn(self._look_up(name), f"look up {name}")

    async def _look_up(self, name: str) -> None:
        """Look up until the broker answers: with the order, or several times that it is missing."""
        missing, failures, posts = 0, 0, self._post_counts[name]
        while True:
            if (posting := self._posting.get(name)) is not None:
                await asyncio.wait({posting})
                if type(posting.result()) is not OrderUnknown:  # its outcome is known
                    del self._looking[name]
                    return
                continue  # another post may wait after it
            if self._post_counts[name] != posts:
                missing, posts = 0, self._post_counts[name]  # an answer from before a post does not count
            try:
                order = await self._read(name)
            except (RestError, Malformed) as error:
                failures += 1
                if failures == 1:
                    self._log("look_up_unanswered", client_order_id=name, problem=str(error))
                await asyncio.sleep(self._timeouts.pause_s(failures))
                continue
            if order is not None:
                self.remember(order)
                event: Event = OrderFound(self._clock.now_ns(), order)
                break
            missing += 1
            if self._post_counts[name] == posts and missing >= self._timeouts.missing_answers:
                event = self._missing[name] = OrderMissing(self._clock.now_ns(), name)
                break
            await asyncio.sleep(self._timeouts.missing_gap_s)
        del self._looking[name]
        self._put(event)

    async def _read(self, name: str) -> BrokerOrder | None:
        """Return the order of this name; None when the broker knows none."""
        order_id = self._closings.id_of(name)
        asking = self._reads.order_by_id(order_id) if order_id else self._reads.order_by_client_id(name)
        raw = await asking
        return None if raw is None else self._closings.named(wire.order(raw))


class Closings:
    """The orders made by the broker's own close call, by the broker's id. Used on the event loop's thread."""

    def __init__(self) -> None:
        self.begun = 0  # counts the calls: a report read during one cannot tell them apart
        self._names: dict[str, str] = {}
        self._under_way: dict[str, str] = {}  # client order id -> symbol
        self._waiting: list[Mapping[str, object]] = []

    def follow(self, order_ids: Mapping[str, str]) -> None:
        """Add orders of an earlier run whose answer came or was lost: client order id -> the broker's id."""
        self._names.update({order_id: name for name, order_id in order_ids.items()})

    @property
    def under_way(self) -> bool:
        """True while a call is unanswered."""
        return bool(self._under_way)

    def begin(self, name: str, symbol: str) -> None:
        """Begin a call."""
        self.begun += 1
        self._under_way[name] = symbol

    def answered(self, name: str, order: BrokerOrder) -> BrokerOrder:
        """Return the order that a call made, under the journal's name."""
        self._names[order.order_id] = name
        return self.named(order)

    def end(self, name: str) -> list[Mapping[str, object]]:
        """End the call, answered or not; return the updates that waited for it."""
        self._under_way.pop(name, None)
        waiting, self._waiting = self._waiting, []
        return waiting

    def holds_back(self, update: Mapping[str, object]) -> bool:
        """Keep the update of an order that a running call may have made; True when it waits."""
        order = update.get("order")
        if not self._under_way or not isinstance(order, dict):
            return False
        unknown = text(order.get("id")) not in self._names and order.get("symbol") in self._under_way.values()
        if unknown:
            self._waiting.append(update)
        return unknown

    def renamed(self, update: Mapping[str, object]) -> Mapping[str, object]:
        """Return the update with the journal's name in its order."""
        order = update.get("order")
        if not isinstance(order, dict) or (name := self._names.get(text(order.get("id")))) is None:
            return update
        return {**update, "order": {**order, "client_order_id": name}}

    def named(self, order: BrokerOrder) -> BrokerOrder:
        """Return the order under the journal's name."""
        name = self._names.get(order.order_id)
        return order if name is None else replace(order, client_order_id=name)

    def id_of(self, name: str) -> str:
        """Return the broker's id of such an order; "" for others."""
        return next((order_id for order_id, other in self._names.items() if other == name), "")


class OpenStream(Protocol):
    """Makes the trade stream around the link's callbacks, for example a `functools.partial` of TradeStream."""

    def __call__(
        self,
        *,
        on_update: Callable[[object], None],
        on_state: Callable[[bool, str], None],
        on_taken: Callable[[str], None],
    ) -> TradeStream: ...


class OpenActivities(Protocol):
    """Makes the stream of activities around the link's callback."""

    def __call__(self, *, on_line: Callable[[ActivityLine | None], None]) -> ActivityStream: ...


class BrokerLink:
    """Alpaca's `OrderGateway`. Runs on the event loop; `run` is its main loop and supervisor."""

    def __init__(
        self,
        clock: Clock,
        put: Put,
        log: EventLogger,
        orders: TradingOrders,
        reads: TradingReads,
        reporter: Reporter,
        open_stream: OpenStream,
        is_ours: Callable[[str], bool],
        timeouts: Timeouts | None = None,
        closings: Closings | None = None,
        open_activities: OpenActivities | None = None,
        panicked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = clock
        self._put = put
        self._log = log
        self._reporter = reporter
        self._is_ours = is_ours
        self._timeouts = timeouts or Timeouts()
        self._closings = closings or Closings()
        self._own_orders = OwnOrders(
            clock, put, log, orders, reads, is_ours, self._timeouts, self._closings, self._on_late, panicked
        )
        self._taken = False
        self._stream = open_stream(on_update=self._on_update, on_state=self._on_state, on_taken=self._on_taken)
        self._activities = open_activities(on_line=self._on_activity) if open_activities is not None else None
        self._listening = asyncio.Event()
        self._connection = 0  # counts losses of the stream
        self._report_request = asyncio.Event()
        self._exit_request = asyncio.Event()  # requested by an exit

    # --- the engine's side ----------------------------------------------------------------------------------------

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Execute the submissions, cancels and the lifted fence of a durable step; returns when they are queued."""
        for effect in effects:
            match effect:
                case SubmitOrder():
                    self._own_orders.submit(effect)
                case CancelOrder(client_order_id=name):
                    self._own_orders.cancel_soon(name)
                case LiftFence():
                    self._own_orders.lift_fence_soon(self._report_request.set)
                case _:
                    pass

    def stepped(self, event: Event, effects: Sequence[AnyEffect]) -> None:
        """Execute the queries of a step: they change nothing at the broker and need no durability."""
        if isinstance(event, OrderMissing):
            self._own_orders.taken(event)
        for effect in effects:
            match effect:
                case LookUpOrder(client_order_id=name, order_id=order_id):
                    if not isinstance(order_id, UnsetType):
                        self._closings.follow({name: order_id})
                    self._own_orders.look_up_soon(name)
                case AskBroker(at_once=at_once):
                    self._report_request.set()
                    if at_once:
                        self._exit_request.set()
                case _:
                    pass

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str] | None = None) -> None:
        """Add orders of an earlier run that may be open: client order id -> the broker's id. Before `run`.

        `closings` are those made by the broker's own call, open or not.
        """
        self._own_orders.follow(order_ids)
        self._closings.follow(closings or {})

    async def run(self) -> None:
        """Run the stream and the reports until cancelled. Raises (in a group) only on a bug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stream.run(), name="trade stream")
                group.create_task(self._report_on(), name="broker reports")
                if self._activities is not None:
                    group.create_task(self._activities.run(), name="activity stream")
                await self._own_orders.bug()
        finally:
            await self._own_orders.close()

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
            self._report_request.set()
            raise
        if isinstance(data, dict):
            self._own_orders.remember(wire.order(data["order"]))
            if data["event"] in (BUST, CORRECTION):
                self._reporter.name_amended(wire.text(data["order"].get("id")), amended_execution(data))
        for event in events:
            self._put(event)

    def _on_late(self, data: object) -> None:
        """Take an update that waited; one that cannot be read is logged, as the stream logs it."""
        try:
            self._on_update(data)
        except Malformed as odd:
            self._log("trade_update_malformed", problem=str(odd))

    def _on_activity(self, line: ActivityLine | None) -> None:
        """Request a report for a line of the second source, or an unreadable one. It books nothing."""
        if line is not None and line.amends:
            self._reporter.name_amended(line.order_id, execution_of(line.amends))
        self._report_request.set()

    def _on_state(self, listening: bool, detail: str) -> None:
        self._taken = False
        if listening:
            self._listening.set()
            return
        self._listening.clear()
        self._connection += 1
        self._report_request.set()  # a report follows at the next connect
        self._put(BrokerLost(self._clock.now_ns(), f"trade stream: {detail}"))

    def _on_taken(self, detail: str) -> None:
        """Emit once, until the stream listens again, that another connection has the account's news."""
        if not self._taken:
            self._taken = True
            self._put(BrokerLost(self._clock.now_ns(), f"trade stream: {detail}", taken=True))

    # --- reports --------------------------------------------------------------------------------------------------

    async def _report_on(self) -> None:
        """Report after each connect, each minute and on request; only while the stream listens, to hide no gap."""
        failures, reported_in = 0, -1
        while True:
            await self._until_listening()
            connection, closings = self._connection, self._closings.begun
            if reported_in != connection:
                self._reporter.forget()
            self._report_request.clear()
            self._exit_request.clear()
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
                continue  # the stream was lost meanwhile: this report would hide the gap
            if self._closings.under_way or closings != self._closings.begun:
                reported_in = -1  # it may list an order of ours under the broker's name
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
                self._own_orders.look_up_all()

    def _take_report(self, report: BrokerReported) -> None:
        for order in (*report.open_orders, *report.ended_orders):
            self._own_orders.remember(order)
        self._put(report)

    async def _next_report(self) -> None:
        """Wait until the next report is due: a minute, a request, or a change of the stream's state.

        A request that no exit waits for comes `report_gap_s` after the last report at the earliest.
        """
        given_ns = self._clock.now_ns()
        least_s = min(self._timeouts.exit_gap_s, self._timeouts.report_gap_s)
        await self._clock.sleep_until(given_ns + round(least_s * SECOND_NS))
        gap = self._clock.sleep_until(given_ns + round(self._timeouts.report_gap_s * SECOND_NS))
        await _first(self._exit_request.wait(), gap)
        minute = self._clock.sleep_until(given_ns + round(self._timeouts.report_every_s * SECOND_NS))
        await _first(self._report_request.wait(), minute)


def _existing(refusal: Refused) -> Quantity | UnsetType:
    """Return the quantity of the symbol in the account, where the refusal of a sale names it."""
    try:
        existing = wire.optional_quantity(refusal.extra, "existing_qty")
    except Malformed:
        return UNSET
    return UNSET if existing is None else exact(existing)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first to finish; cancel the others."""
    tasks = {asyncio.create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
