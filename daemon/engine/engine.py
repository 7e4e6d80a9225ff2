"""The engine: steps events, journals them, then executes their effects. It decides nothing.

One loop for live, dry run and replay. Events caused inside the process (paper broker, policy) queue behind their cause;
an effect that leaves the process waits until the journal is durable. When a step raises, the event is committed alone,
marked, and the engine ends; if the same event raises again after the restart, it is quarantined.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from daemon.core.desks.guarded import blame
from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, LiftFence, SubmitOrder
from daemon.core.events import (
    STARTUP_EVENTS,
    ClockTicked,
    Event,
    HaltRequested,
    ModelRefused,
    ModelVerified,
    PolicyAnswered,
    PolicyFailed,
    QuotesReceived,
    RunStarted,
    SessionEnded,
    ShadowAnswered,
    ShadowFailed,
)
from daemon.core.paper.state import broker_snapshot
from daemon.core.state import State, digest
from daemon.core.step import ANSWERS, Machine, Step
from daemon.engine.recover import Recovered, adopt_trading, leave_out, snapshot_of
from daemon.host.latency import Latency
from daemon.journal.rows import CommitBatch, Entry, HashChain, decode_event, encode_effects
from daemon.journal.writer import JournalWriter

DIGEST_EVERY = 1000  # chained events
YIELD_EVERY = 16  # events between two turns of the event loop
SEAL_EVERY = 64  # events turned into rows at once
GC_YOUNG = 10_000  # allocations between two young collections
RELEASE_MOST_S = 60.0  # orders are queued at once: a release that takes longer hangs
SNAPSHOT_DELAY = 2  # times `snapshot_events`: when a busy session gets a snapshot; a quiet moment gets one sooner


class Policy(Protocol):
    """Answers a question at once; a failure is an event too, never an exception."""

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed: ...


class CandidateAnswers(Protocol):
    """Answers as a candidate, for the record only; without one `shadow` and the answer are None. Never raises."""

    @property
    def shadow(self) -> object | None: ...

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed | None: ...


class EventSource(Protocol):
    """Source of events from outside, one at a time."""

    def poll(self) -> Event | None:
        """Return the next event if it is there already, else None."""

    async def next(self) -> Event | None:
        """Wait for the next event; None at the end."""


class Outside(Protocol):
    """The broker: executes effects that leave the process. Called only when they are durable."""

    async def release(self, effects: Sequence[AnyEffect]) -> None: ...


class StepFailed(Exception):
    """A step raised: a bug. The event is journaled, marked; the process ends and recovers at its next start."""


class ReleaseFailed(Exception):
    """Effects could not be handed over in time: the process ends and recovers at its next start."""


class Engine:
    """Drives one machine. `observe` is called after every step with the event and its result.

    `serve` passes a question on to another process; its answer comes from the source.
    """

    def __init__(
        self,
        recovery: Recovered,
        writer: JournalWriter,
        policy: Policy,
        source: EventSource,
        *,
        code: str,
        group_events: int,
        snapshot_events: int,
        observe: Callable[[Event, Step], None],
        outside: Outside | None = None,
        shadow: CandidateAnswers | None = None,
        boundary: Callable[[str], None] | None = None,
        serve: Callable[[AskPolicy], None] | None = None,
    ) -> None:
        self.machine: Machine = recovery.machine
        self.latency = Latency()
        self.stopping = False
        self.stopped_by: str = ""
        self._recovery = recovery
        self._writer = writer
        self._policy = policy
        self._source = source
        self._outside = outside
        self._observe = observe
        self._shadow = shadow
        self._boundary = boundary
        self._serve = serve
        self._question: AskPolicy | None = None  # passed on and not answered yet
        self._failure: tuple[Event, Exception] | None = None
        self._leaving: tuple[Event, Step] | None = None
        self._code = code
        self._group_events = group_events
        self._snapshot_events = snapshot_events
        self._chain = HashChain(recovery.last_id + 1, recovery.head)
        self._batch = CommitBatch()
        self._steps: list[tuple[int, Event, Sequence[AnyEffect]]] = []  # not turned into rows yet
        self._snapshot_seq = self.machine.state.seq - recovery.replayed
        self._snapshot_row = -1
        self._snapshot_head = ""
        self._snapshot_signal = asyncio.Event()
        self._session_over = False
        self._bar_clock = 0
        self._turn = 0
        self._writer_row = 0  # the newest row that the writer received
        self._handed_over = asyncio.Event()
        self._ending = ""
        self.started = asyncio.Event()
        self.stepping_ns = 0  # when the step or answer under way began, by the monotonic clock; 0 between two

    async def run(self, startup: Sequence[RunStarted | ModelVerified | ModelRefused | HaltRequested]) -> None:
        """Finish the last run's work, reconcile, then step the source until it ends or `stop`.

        Raises StepFailed for a bug and WriteFailed when the journal cannot be written any more.
        """
        live = self._outside is not None or not self.machine.state.identity.by_tape
        same_code = self._recovery.own(self._code, _libraries_of(startup))
        if same_code and not live:  # before any rule of the new start checks the time, as without a restart
            await self._finish()
        for start_event in startup:
            await self._step(start_event)
            adopt_trading(self.machine)
        if self._recovery.handover is not None:  # first: all later requests find a halted desk
            await self._step(replace(self._recovery.handover, time_ns=self.machine.state.now_ns))
        if not same_code or live:  # this code continues, and time has passed outside: journal that first
            await self._finish()
        if self._recovery.code and not (same_code and self._recovery.anchored):
            self._snapshot(kept=True)  # `verify` with this code starts here
        if self.machine.market_state is not None:
            await self._step(broker_snapshot(self.machine.market_state, self.machine.state.now_ns))
            await self._drain()
        self.started.set()
        while not self.stopping:
            event = self._source.poll()
            if event is None:
                self._snapshot_when_due(1)
                await self._commit()  # idle: make the batch durable meanwhile
                event = await self._source.next()
            if event is None:
                break
            self._bar_clock = time.perf_counter_ns()
            if isinstance(event, ANSWERS):
                await self._step_live_answer(event)
            elif self._take(event):
                await self._settle()
            await self._drain()
            if self._ending and not (self.machine.state.book.positions or self.machine.state.orders):
                self.stop(self._ending)
            self._session_over |= type(event) is SessionEnded
            self._turn += 1
            if self._turn >= YIELD_EVERY or self._session_over or self._writer.pressed:
                await self._rest()
        self._snapshot()
        await self._commit()
        await self._writer.durable()

    def stop(self, reason: str) -> None:
        """End after the current event."""
        self.stopping = True
        self.stopped_by = reason

    async def reserve(self) -> None:
        """Restore the disk reserve after a full disk took it, and go on. Raises JournalError without room for it."""
        await self._writer.reserve()
        self._ending = ""

    def snapshot_soon(self) -> None:
        """Write a snapshot before the next event from outside."""
        self._session_over, self._snapshot_seq = True, -self._snapshot_events

    @property
    def last_row(self) -> int:
        """The journal's row of the last stepped event."""
        return self._chain.next_id + len(self._steps) - 1

    @property
    def chain_head(self) -> str:
        """Hash of the last chained row, hex: it covers everything before it."""
        self._seal()
        return self._chain.head.hex()

    async def wait_until_durable(self, row: int) -> None:
        """Wait until this row is on the disk. Raises WriteFailed."""
        while self._writer_row < row:
            self._handed_over.clear()
            await self._handed_over.wait()
        await self._writer.beat()

    async def wait_for_snapshot(self, after_row: int) -> tuple[int, str]:
        """Wait for a snapshot above `after_row`; return its row and chain head. It may not be durable yet."""
        while self._snapshot_row <= after_row:
            self._snapshot_signal.clear()
            await self._snapshot_signal.wait()
        return self._snapshot_row, self._snapshot_head

    def state_digest(self) -> str:
        """SHA-256 of the state."""
        return digest(self.machine.state)

    # --- one event ------------------------------------------------------------------------------------------------

    async def _step(self, event: Event) -> None:
        if self._take(event):
            await self._settle()

    def _take(self, event: Event) -> bool:
        """Step one event into the batch; True when `_settle` is due. No await: most events need none."""
        if self._boundary is not None:
            self._boundary("before step")
        self.stepping_ns = time.perf_counter_ns()
        try:
            step = self.machine.apply(event)
        except Exception as error:
            self._failure = (event, error)
            return True
        finally:
            self.stepping_ns = 0
        return self._gather(event, step)

    def _gather(self, event: Event, step: Step) -> bool:
        """Put a step into the batch; True when the group is full or an effect leaves the process."""
        state, batch, effects = step.state, self._batch, step.effects
        steps = self._steps
        steps.append((state.seq, event, effects))
        if step.rows:
            batch.rows.extend(step.rows)
        if state.seq % DIGEST_EVERY == 0 and type(event) not in STARTUP_EVENTS:
            batch.digests.append((state.seq, digest(state)))
        if self._boundary is not None:
            self._boundary("after step")
        if effects:
            if self._serve is not None:
                self._pass_on(effects)
            if self._outside is not None and any(type(effect) in _LEAVING for effect in effects):
                self._leaving = (event, step)
                return True
        self._observe(event, step)
        if len(steps) >= SEAL_EVERY:
            self._seal()
        return len(batch.entries) + len(steps) >= self._group_events

    async def _settle(self) -> None:
        """Commit; then execute effects that leave the process. Raises StepFailed for what `_take` caught."""
        if self._failure is not None:
            event, error = self._failure
            await self._mark_failure(event, error)
            raise StepFailed(f"{type(event).__name__} at {event.time_ns}: {blame(error)[0]}") from error
        await self._commit()
        if self._leaving is None or self._outside is None:
            return
        (event, step), self._leaving = self._leaving, None
        await self._writer.durable()
        if self._boundary is not None:
            self._boundary("before release")
        await _released(self._outside, step.effects)
        self._observe(event, step)

    async def _finish(self) -> None:
        """Step the last run's queue, and repeat the event that ended it."""
        if self._recovery.raised is not None:
            await self._retry(self._recovery.raised)
        await self._drain()

    async def _drain(self) -> None:
        """Step the queue of caused events in their order."""
        queue, take = self.machine.queue, self._take
        while queue:
            item = queue.popleft()
            if isinstance(item, AskPolicy):
                self.stepping_ns = time.perf_counter_ns()
                answer = self._policy.answer(item, self.machine.state.now_ns)
                self.stepping_ns = 0
                await self._step_answers(item, answer)
            elif take(item):
                await self._settle()

    async def _step_answers(self, question: AskPolicy, answer: PolicyAnswered | PolicyFailed) -> None:
        """Step the live answer, then the candidate's."""
        due = self._take(answer)
        if self._bar_clock:
            self.latency.add(time.perf_counter_ns() - self._bar_clock)
        if self._shadow is not None and self._shadow.shadow is not None:
            if self._leaving is not None or self._failure is not None:
                await self._settle()  # effects of the answer leave first
                due = False  # else both answers share a commit: a crash loses both or none
            shadow_answer = self._shadow.shadow_answer(question, self.machine.state)
            due |= shadow_answer is not None and self._take(shadow_answer)
        if due:
            await self._settle()

    def _pass_on(self, effects: Sequence[AnyEffect]) -> None:
        """Pass a question on to the process that serves the answers."""
        for effect in effects:
            if self._serve is not None and type(effect) is AskPolicy and effect.served:
                self._question = effect
                self._serve(effect)

    async def _step_live_answer(self, answer: PolicyAnswered | PolicyFailed) -> None:
        """Step a served answer to the open question; a late one is dropped, and so not journaled."""
        question, ask = self._question, self.machine.state.ask
        if question is not None and ask is not None and ask.decision == question.decision == answer.decision:
            self._question = None
            await self._step_answers(question, answer)

    async def _rest(self) -> None:
        """Write due snapshots and yield to other tasks, between two events from outside."""
        self._snapshot_when_due(1 if self._session_over else SNAPSHOT_DELAY)
        if self._session_over and gc.get_count()[0] > GC_YOUNG:
            gc.collect(1)  # the step makes no cycles; collect those of others between sessions
        self._session_over = False
        if self._writer.pressed:
            await self._disk_full()
        if self._turn >= YIELD_EVERY:
            self._turn = 0
            await asyncio.sleep(0)

    async def _disk_full(self) -> None:
        """Halt when the ballast is spent: leave every position as far as the reserve lasts, then end."""
        self._writer.pressed = False
        now = self.machine.state.now_ns
        await self._step(HaltRequested(now, "disk_full", "the journal's disk is full", "engine"))
        await self._drain()
        if self._outside is None:
            self.stop("disk_full")
        self._ending = "disk_full"  # with a real broker the exits need their answers: go on until flat

    # --- the journal ----------------------------------------------------------------------------------------------

    def _seal(self) -> None:
        """Turn stepped events into rows of the batch, many at once: code and bytes stay in the processor's cache."""
        entries, entry = self._batch.entries, self._chain.entry
        for seq, event, effects in self._steps:
            entries.append(entry(seq, event, encode_effects(effects)))
        self._steps.clear()

    async def _commit(self) -> None:
        self._seal()
        batch = self._batch
        if not (batch.entries or batch.snapshots):
            return
        self._batch = CommitBatch()
        if self._boundary is not None:
            self._boundary("before commit")
        await self._writer.write(batch)
        if batch.entries:
            self._writer_row = batch.entries[-1].id
            self._handed_over.set()
        if self._boundary is not None:
            self._boundary("after commit")

    def _snapshot_when_due(self, times: int) -> None:
        """Write a snapshot when `times` the configured number of events came since the last one; the queue is empty."""
        if self.machine.state.seq - self._snapshot_seq >= times * self._snapshot_events:
            self._snapshot()

    def _snapshot(self, *, kept: bool = False) -> None:
        """Write a snapshot of the present state after the events of the batch."""
        row = self.last_row
        if row == self._snapshot_row:  # no event since
            return
        self._batch.snapshots.append(snapshot_of(self.machine, row, self._code, kept=kept))
        self._snapshot_row, self._snapshot_head = row, self.chain_head
        self._snapshot_signal.set()
        self._snapshot_seq = self.machine.state.seq

    async def _mark_failure(self, event: Event, error: Exception) -> None:
        """Commit earlier events, then the event alone, marked with the error."""
        await self._commit()
        reason, by_strategy = blame(error)
        mark = msgspec.json.encode({"raised": reason} | ({"strategy": True} if by_strategy else {})).decode()
        self._batch.entries.append(self._chain.entry(None, event, mark))
        await self._commit()
        await self._writer.durable()

    async def _retry(self, entry: Entry) -> None:
        """Step the event that crashed the last run once more; if it raises again, halt and quarantine it.

        A strategy that raised before in that session is switched off first, so the event passes without it. The halt
        is journaled first: a crash between the two leads here again.
        """
        event = decode_event(entry.payload)
        leave_out(self.machine, event)
        if self._recovery.raised_before and not self.machine.state.risk.strategy_off:
            reason = msgspec.json.decode(entry.effects)["raised"]
            detail = (
                f"the strategy raised on 2 events of one session, the last is row {entry.id} ({entry.kind}): {reason}"
            )
            now_ns = self.machine.state.now_ns
            await self._step(HaltRequested(now_ns, "quarantine", detail, "engine", strategy=True))
        try:
            step = self.machine.apply(event)
        except Exception as error:
            reason, by_strategy = blame(error)
            detail = f"event row {entry.id} ({entry.kind}) raised twice: {reason}"
            now_ns = self.machine.state.now_ns
            await self._step(HaltRequested(now_ns, "quarantine", detail, "engine", strategy=by_strategy))
            mark = msgspec.json.encode({"quarantined": reason}).decode()
            self._seal()
            self._batch.entries.append(self._chain.entry(None, event, mark))
            return
        if self._gather(event, step):
            await self._settle()


async def _released(outside: Outside, effects: Sequence[AnyEffect]) -> None:
    """Hand effects over. Raises ReleaseFailed when that does not return: no event is stepped meanwhile."""
    try:
        async with asyncio.timeout(RELEASE_MOST_S) as limit:
            await outside.release(effects)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ReleaseFailed(
            f"the broker's release did not return within {RELEASE_MOST_S:g} s (daemon/brokers/api.py); "
            f"the next start looks up what became of the order"
        ) from error


def _libraries_of(startup: Sequence[RunStarted | ModelVerified | ModelRefused | HaltRequested]) -> str:
    return next((event.libraries for event in startup if isinstance(event, RunStarted)), "")


_LEAVING = frozenset((SubmitOrder, CancelOrder, LiftFence))


CAPACITY = 10_000


class IntakeFull(Exception):
    """The engine did not keep up: more events wait than the intake holds."""


class Intake:
    """An `EventSource` of the engine, for the event loop's thread only. `dropped` counts dropped ticks and quotes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._arrival = asyncio.Event()
        self._ended = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Event) -> None:
        """Queue an event; a full intake drops the oldest droppable one. Raises IntakeFull; TypeError for no event.

        After `end` events are ignored: the next start's broker report covers them.
        """
        if self._ended:
            return
        if not isinstance(event, Event):  # None would end the run as if it had been stopped
            raise TypeError(f"{str(event)[:80]!r} is no event: expected one of daemon/core/events.py")
        if len(self._waiting) >= self._capacity:
            self._make_room(event)
        self._waiting.append(event)
        self._arrival.set()

    def _make_room(self, event: Event) -> None:
        for place, waiting in enumerate(self._waiting):
            if _replaceable(waiting):
                del self._waiting[place]
                self.dropped += 1
                return
        raise IntakeFull(
            f"{len(self._waiting)} events wait and {type(event).__name__} came: the engine does not keep up; "
            f"the daemon ends and recovers from its journal"
        )

    def end(self) -> None:
        """Accept no more events; the engine takes the rest and then ends."""
        self._ended = True
        self._arrival.set()

    def poll(self) -> Event | None:
        """Return the next event if one waits."""
        return self._waiting.popleft() if self._waiting else None

    async def next(self) -> Event | None:
        """Wait for the next event; None after `end` when the queue is empty."""
        while not self._waiting:
            if self._ended:
                return None
            self._arrival.clear()
            await self._arrival.wait()
        return self._waiting.popleft()


def _replaceable(event: Event) -> bool:
    return isinstance(event, ClockTicked) or (isinstance(event, QuotesReceived) and not event.closes_bar_ns)
