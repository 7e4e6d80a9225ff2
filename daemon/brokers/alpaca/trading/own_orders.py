"""The desk's own orders at Alpaca: submissions, cancels and look-ups, each a task that ends in one event.

It decides nothing: a submission leaves once, and an unknown result is emitted as unknown. Invariant: posts and look-ups
of a name run one after another, so an answer from before a post never reports it as missing, nor twice before the step
has taken it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.errors import NotSent, Refused, RestError
from daemon.brokers.alpaca.trading.closing import Closings
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.alpaca.wire import ENDED, Malformed
from daemon.brokers.api import LogEvent, Put
from daemon.core.effects import SubmitOrder
from daemon.core.events import (
    BrokerOrder,
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

if TYPE_CHECKING:
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
    """The desk's orders, by client order id. `on_update` takes updates that waited for a closing's answer."""

    def __init__(
        self,
        clock: Clock,
        put: Put,
        log: LogEvent,
        orders: TradingOrders,
        reads: TradingReads,
        is_ours: Callable[[str], bool],
        timeouts: Timeouts,
        closings: Closings,
        on_update: Callable[[object], None],
    ) -> None:
        self._clock, self._put, self._log = clock, put, log
        self._orders, self._reads = orders, reads
        self._is_ours = is_ours
        self._timeouts = timeouts
        self._closings = closings
        self._on_update = on_update
        self._order_ids: dict[str, str] = {}  # client order id -> the broker's id, for orders of ours that may be open
        self._posting: dict[str, asyncio.Task[Event]] = {}
        self._posted: Counter[str] = Counter()  # how often each name was queued to be posted
        self._withdrawn: set[str] = set()  # cancelled before their post has left our queue
        self._missing: dict[str, OrderMissing] = {}  # events that the step has not taken yet
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bugs: list[BaseException] = []
        self._broken = asyncio.Event()

    def follow(self, order_ids: Mapping[str, str]) -> None:
        """Add orders of an earlier run that may be open: client order id -> the broker's id."""
        self._order_ids.update(order_ids)

    def stepped(self, event: Event) -> None:
        """Handle an event that the step has taken: a missing name may be looked up again."""
        if isinstance(event, OrderMissing) and self._missing.get(event.client_order_id) is event:
            del self._missing[event.client_order_id]

    async def bug(self) -> None:
        """Raise the first exception of a task that is no broker failure."""
        await self._broken.wait()
        raise self._bugs[0]

    async def close(self) -> None:
        """Cancel all tasks."""
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

    def submit(self, order: SubmitOrder) -> None:
        """Post the order, after an earlier post of its name has ended."""
        name = order.client_order_id
        self._posted[name] += 1
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
        """Return the outcome of one post. An order that never left our queue has lapsed, without doubt."""
        name = order.client_order_id
        if order.closing:
            self._closings.begin(name, order.symbol)
        try:
            return self._reply(order, await self._orders.submit(order, lambda: name in self._withdrawn))
        except NotSent as kept:
            self._log("order_not_sent", client_order_id=name, reason=str(kept))
            return OrderExpired(self._clock.now_ns(), name)
        except Refused as refused:
            return self._refusal(name, refused)
        except (RestError, Malformed) as error:
            self._log("order_unanswered", client_order_id=name, problem=str(error))
            return OrderUnknown(self._clock.now_ns(), name)

    def _reply(self, asked: SubmitOrder, raw: object) -> Event:
        order, name = wire.order(raw), asked.client_order_id
        if asked.closing:
            order = self._closings.answered(name, order)
            self.remember(order)
            return OrderFound(self._clock.now_ns(), order)
        if order.client_order_id != name:
            raise Malformed(f"client_order_id is {order.client_order_id[:128]!r}: expected {name}")
        self.remember(order)
        if wire.STATUS_TABLE.get(order.status) == wire.ACCEPTED and not order.filled:
            return OrderAccepted(self._clock.now_ns(), name, order.order_id)
        return OrderFound(self._clock.now_ns(), order)

    def _refusal(self, name: str, refused: Refused) -> Event:
        """Return the event of a refusal: definite, unless the name is taken, because the order may be there already."""
        if refused.status in (409, 422) and ("must be unique" in refused.message or refused.status == 409):
            self.look_up_soon(name)
            return OrderUnknown(self._clock.now_ns(), name)
        return OrderRejected(self._clock.now_ns(), name, str(refused))

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
                    return  # it is not there
            order_id = await self._order_id(name)
            if order_id:
                await self._orders.cancel(order_id)
            else:
                self.look_up_soon(name)
        except Refused as refused:
            self._put(CancelRejected(self._clock.now_ns(), name, str(refused)))
            self.look_up_soon(name)
        except (RestError, Malformed) as error:
            self._log("cancel_unanswered", client_order_id=name, problem=str(error))
            self.look_up_soon(name)
        finally:
            del self._cancelling[name]

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
        missing, failures, posts = 0, 0, self._posted[name]
        while True:
            if (posting := self._posting.get(name)) is not None:
                await asyncio.wait({posting})
                if type(posting.result()) is not OrderUnknown:  # its outcome is known
                    del self._looking[name]
                    return
                continue  # another post may wait after it
            if self._posted[name] != posts:
                missing, posts = 0, self._posted[name]  # an answer from before a post does not count
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
            if self._posted[name] == posts and missing >= self._timeouts.missing_answers:
                event = self._missing[name] = OrderMissing(self._clock.now_ns(), name)
                break
            await asyncio.sleep(self._timeouts.missing_gap_s)
        del self._looking[name]
        self._put(event)

    async def _read(self, name: str) -> BrokerOrder | None:
        """Return the order of this name; None when the broker knows none."""
        if order_id := self._closings.id_of(name):
            return self._closings.named(wire.order(await self._reads.order_by_id(order_id)))
        raw = await self._reads.order_by_client_id(name)
        return None if raw is None else wire.order(raw)
