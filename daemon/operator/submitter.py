"""Submit events to a running desk and wait until each one is stepped and durable.

For the event loop's thread only, unless a method says otherwise. Invariant: only events pass, so every operator's
action is journaled before it is acted on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any, NamedTuple

from daemon.core.events import ClockReset, CommandRefused, Event, ResumeRequested
from daemon.core.state import State
from daemon.core.step import Machine, Step
from daemon.engine.engine import Engine
from daemon.journal.rows import JournalError
from daemon.operator.commands import CommandError

DEADLINE_S = 10.0  # for a command to wait for the engine
REFUSAL_EVERY_S = 10.0  # between two refused commands in the journal, so that a flood does not fill it

EventAt = Callable[[int], Event]
"""Makes an event of this time, in nanoseconds UTC."""


class DurableEvent(NamedTuple):
    """A durable event: its sequence in the journal, and its step."""

    seq: int
    step: Step


class Submitter:
    """`put` adds an event to the engine's source; `now_ns` is the desk's time. `observe` must see every step.

    `clock_fault` returns why that time is not verified, "" when it is.
    """

    def __init__(
        self,
        engine: Engine,
        put: Callable[[Event], None],
        now_ns: Callable[[], int],
        clock_fault: Callable[[], str] = lambda: "",
    ) -> None:
        self._engine = engine
        self._put = put
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[tuple[int, Step]]] = {}  # by `id` of their events
        self._clock_fault = clock_fault
        self.now_ns = now_ns

    @property
    def machine(self) -> Machine:
        """Return the desk's machine, for observers that copy it: only the engine steps it."""
        return self._engine.machine

    @property
    def state(self) -> State[Any]:
        """Return the desk after the last step: frozen, so any thread may read it."""
        return self._engine.machine.state

    def put(self, event_at: EventAt) -> None:
        """Submit the event that `event_at(now_ns)` makes, without waiting for its step."""
        self._put(event_at(self.now_ns()))

    async def submit(self, event_at: EventAt, deadline_s: float | None = DEADLINE_S) -> DurableEvent:
        """Submit the event that `event_at(now_ns)` makes; return once it is stepped and durable.

        Raises TimeoutError at the deadline: the event may still be carried out. With `deadline_s` None it waits
        without limit. Raises CommandError for a reset to a time that is not verified, and for a resume while a full
        disk has no room for the journal's reserve.
        """
        event = event_at(self.now_ns())
        if isinstance(event, ClockReset) and (fault := self._clock_fault()):
            raise CommandError(f"the desk's time is not verified: {fault}")
        step_future: asyncio.Future[tuple[int, Step]] = self._loop.create_future()
        self._waiting[id(event)] = step_future
        try:
            async with asyncio.timeout(deadline_s):
                if isinstance(event, ResumeRequested):
                    await self._reserve()
                self._put(event)
                row, step = await step_future
                await self._engine.wait_until_durable(row)
        finally:
            del self._waiting[id(event)]
        return DurableEvent(step.state.seq, step)

    async def _reserve(self) -> None:
        try:
            await self._engine.reserve()
        except JournalError as error:
            raise CommandError(str(error)) from None

    def submit_from_thread(self, event_at: EventAt) -> Future[DurableEvent]:
        """`submit` from another thread; the future raises RuntimeError once the loop has ended."""
        step_future = self.submit(event_at)
        try:
            return asyncio.run_coroutine_threadsafe(step_future, self._loop)
        except RuntimeError as error:
            step_future.close()
            durable: Future[DurableEvent] = Future()
            durable.set_exception(error)
            return durable

    def observe(self, event: Event, step: Step) -> None:
        """Observe every step: resolve the future of a `submit` that waits for this event."""
        if self._waiting and (waiting := self._waiting.get(id(event))) is not None and not waiting.done():
            waiting.set_result((self._engine.last_row, step))


class Refusals:
    """Journals refused commands through `submit`: at most one in ten seconds of the running loop, with a count.

    The newest of those in between is journaled when its time has come. Used on the loop's thread alone.
    """

    def __init__(self, submit: Callable[[EventAt], object], channel: str) -> None:
        self._submit, self._channel = submit, channel
        self._newest, self._other_count = "", 0
        self._next_s = -inf
        self._timer: asyncio.TimerHandle | None = None

    def note(self, reason: str) -> None:
        """Count a refused command, and journal it now or when it is due."""
        if self._timer is not None:
            self._other_count += 1
        self._newest = reason
        loop = asyncio.get_running_loop()
        if self._timer is None and loop.time() < self._next_s:
            self._timer = loop.call_at(self._next_s, self._report)
        elif self._timer is None:
            self._report()

    def _report(self) -> None:
        text = f"{self._newest} (and {self._other_count} others)" if self._other_count else self._newest
        self._timer, self._other_count = None, 0
        self._next_s = asyncio.get_running_loop().time() + REFUSAL_EVERY_S
        self._submit(lambda at_ns: CommandRefused(at_ns, self._channel, text))
