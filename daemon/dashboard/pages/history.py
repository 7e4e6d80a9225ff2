"""Exact observation and result of any decision, by stepping the journal again: it holds only the digest.

The machine starts at the nearest earlier anchor: a snapshot of the journal, or a session's start that it passed before
(kept in memory, bounded). It runs in a separate thread; until it has finished the answer is "pending".
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from daemon.core.effects import AskPolicy
from daemon.core.state import State
from daemon.core.step import Divergence, Machine, QueueEntry, Step
from daemon.dashboard.desks import FollowedDesk
from daemon.engine.recover import adopt_trading, leave_out, machine_of, restore
from daemon.engine.state_dir import former_rows_text, part_of
from daemon.experience.experience import Experience
from daemon.experience.of_journal import Experiences
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry, JournalError, decode_event, encode_effects
from strategies.kit.contract import Observation


def describe(error: Exception) -> str:
    """Describe the error without a path of this host."""
    return str(error)[:200] if isinstance(error, Divergence) else type(error).__name__


def file_of(reader: JournalReader, decision: int) -> Path:
    """Return the file with the decision's events; after a rotation it may be a former one."""
    rows = reader.query("SELECT time_ns FROM decisions WHERE decision = ?", (decision,))
    return part_of(reader.path, rows[0]["time_ns"]) if rows else reader.path


def step_again(machine: Machine, entry: Entry) -> Step | None:
    """Step the row again; None for a row without a step. Raises Divergence if the effects differ."""
    if entry.raised:
        return None
    event = decode_event(entry.payload)
    if entry.quarantined:
        leave_out(machine, event)
        return None
    step = machine.reapply(event)
    if encode_effects(step.effects) != entry.effects:  # effects hold the observation's digest
        raise Divergence(f"other code wrote event row {entry.id} ({entry.kind}): its effects differ")
    if entry.kind == "RunStarted":
        adopt_trading(machine)
    return step


def questions(step: Step | None) -> list[AskPolicy]:
    return [effect for effect in step.effects if isinstance(effect, AskPolicy)] if step is not None else []


ANCHORS_MOST = 64
KEPT = 500  # observations
BYTES_KEPT = 64 * 2**20  # of all observations together
FAILED_S = 5.0  # time before a failure is tried again
INCOMPLETE = "what followed it is not in the journal yet"


class Lookup(msgspec.Struct, frozen=True):
    """A decision's observation, or that it is still being computed, or why there is none."""

    observation: Observation | None = None
    pending: bool = False
    missing: str = ""


class Transition(msgspec.Struct, frozen=True):
    """A decision with its result, or that it is still being computed, or why there is none."""

    experience: Experience | None = None
    pending: bool = False
    missing: str = ""


class Anchor(msgspec.Struct, frozen=True):
    """A machine after event row `event_id`, all frozen; `decision` is the newest number by then."""

    event_id: int
    decision: int
    state: State[Any]
    market_state: Any
    queue: tuple[QueueEntry, ...]


class _SnapshotPart(msgspec.Struct):
    """The part of a snapshot's state that locates it."""

    decision: int = 0


_snapshot_decoder = msgspec.json.Decoder(_SnapshotPart)


class DecisionHistory:
    """The observations of one desk's decisions. `find` is thread-safe and never waits."""

    def __init__(self, desk: FollowedDesk, pool: ThreadPoolExecutor) -> None:
        self._desk = desk
        self._pool = pool
        self._lock = threading.Lock()
        self._generation = -1
        self._anchors: list[Anchor] = []  # by event row
        self._lookups: OrderedDict[int, Lookup] = OrderedDict()  # most recently used last
        self._transitions: OrderedDict[int, Experience] = OrderedDict()  # same order; decisions with results
        self._retry_times: dict[int, float] = {}  # decision -> time of the next try
        self._job: Future[None] | None = None
        self._ending = False

    def find(self, decision: int) -> Lookup:
        """Return the observation of a policy's decision; `pending` while it is computed."""
        with self._lock:
            self._renew(decision)
            lookup = self._lookups.get(decision)
            if lookup is not None:
                self._lookups.move_to_end(decision)
                return lookup
            self._start_seeking(decision)
            return Lookup(pending=True)

    def followed(self, decision: int) -> Transition:
        """Return a policy's decision with its result; `pending` while it is computed.

        An incomplete one is looked up again after `FAILED_S`.
        """
        with self._lock:
            self._renew(decision)
            experience = self._transitions.get(decision)
            if experience is not None:
                self._transitions.move_to_end(decision)
                return Transition(experience)
            lookup = self._lookups.get(decision, Lookup())
            if lookup.missing or decision in self._retry_times:
                return Transition(missing=lookup.missing or INCOMPLETE)
            self._start_seeking(decision)
            return Transition(pending=True)

    def _renew(self, decision: int) -> None:
        """Drop results of another journal, and expired failures."""
        if self._generation != self._desk.picture.generation:
            self._generation = self._desk.picture.generation
            self._anchors, self._lookups, self._retry_times = [], OrderedDict(), {}
            self._transitions = OrderedDict()
        if decision in self._retry_times and self._retry_times[decision] < time.monotonic():
            del self._retry_times[decision]
            if self._lookups.get(decision, Lookup()).missing:
                del self._lookups[decision]

    def _start_seeking(self, decision: int) -> None:
        if self._job is None or self._job.done():
            self._job = self._pool.submit(self._seek, decision, self._generation)

    def close(self) -> None:
        """End the running search."""
        self._ending = True

    def _seek(self, decision: int, generation: int) -> None:
        """Step to the question and a little beyond; keep every result."""
        try:
            with self._desk.reader() as newest, closing(JournalReader(file_of(newest, decision))) as reader:
                machine, after_id = self._start(reader, decision)
                where = "" if after_id else former_rows_text(reader)
                if where:
                    self._keep(decision, Lookup(missing=f"its events are not in {reader.path.name}{where}"), generation)
                else:
                    self._step(reader, machine, after_id, decision, generation)
        except (Divergence, JournalError, sqlite3.Error, OSError, ValueError, TypeError, KeyError) as error:
            why = f"the journal cannot be stepped again to this decision: {describe(error)}"
            self._keep(decision, Lookup(missing=why), generation)
            self._fail(decision)

    def _fail(self, decision: int) -> None:
        with self._lock:
            self._retry_times[decision] = time.monotonic() + FAILED_S

    def _start(self, reader: JournalReader, decision: int) -> tuple[Machine, int]:
        """Return a machine at the nearest anchor before the question, and its event row."""
        machine = machine_of(reader)
        with self._lock:
            anchor = max((a for a in self._anchors if a.decision < decision), key=_event_id, default=None)
        best = anchor.event_id if anchor is not None else 0
        for snapshot in reversed(reader.snapshots()):
            if (
                snapshot.event_id > best
                and snapshot.whole
                and _snapshot_decoder.decode(snapshot.state).decision < decision
            ):
                try:
                    restore(machine, snapshot)
                except msgspec.ValidationError:
                    continue  # written by other code
                return machine, snapshot.event_id
        if anchor is not None:
            machine.state, machine.market_state, machine.queue = anchor.state, anchor.market_state, deque(anchor.queue)
            adopt_trading(machine)
        return machine, best

    def _step(self, reader: JournalReader, machine: Machine, after_id: int, decision: int, generation: int) -> None:
        """Step to the question and on to the session's end: the next request is usually near."""
        has_found, beyond, experiences = False, 0, self._experiences(machine)
        for entry in _entries(reader, after_id):
            if self._ending:
                return
            if entry.kind == "SessionScheduled":
                self._anchor(machine, entry.id - 1, generation)
            step = step_again(machine, entry)
            for question in questions(step):
                beyond += has_found
                has_found = has_found or question.decision == decision
                self._keep(question.decision, Lookup(question.observation), generation)
            if (
                step is not None
                and experiences is not None
                and (experience := experiences.take(entry.id, step)) is not None
            ):
                self._keep_transition(experience, generation)
            if has_found and (beyond >= KEPT // 2 or entry.kind == "SessionEnded"):
                break
            if not has_found and machine.state.decision >= decision:
                break
        if has_found and experiences is not None and decision not in self._transitions:
            self._fail(decision)
        if not has_found:
            self._keep(decision, Lookup(missing="the journal holds no question to the policy for it"), generation)

    def _experiences(self, machine: Machine) -> Experiences | None:
        """Return a collector of experience from here on; None for a desk without a trainer."""
        spec = self._desk.picture.spec
        if spec is None or not spec.by_row:
            return None
        experiences = Experiences(spec)
        experiences.begin(machine.state)
        return experiences

    def _keep_transition(self, experience: Experience, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                _add_bounded(self._transitions, experience.decision, experience, _size_of)

    def _anchor(self, machine: Machine, event_id: int, generation: int) -> None:
        """Store the machine's state as an anchor; drop every other one when there are too many."""
        state = machine.state
        anchor = Anchor(event_id, state.decision, state, machine.market_state, tuple(machine.queue))
        with self._lock:
            if generation != self._generation or any(a.event_id == event_id for a in self._anchors):
                return
            anchors = sorted((*self._anchors, anchor), key=_event_id)
            self._anchors = anchors[::2] if len(anchors) > ANCHORS_MOST else anchors

    def _keep(self, decision: int, lookup: Lookup, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                _add_bounded(self._lookups, decision, lookup, _size)


_Cached = TypeVar("_Cached")


def _add_bounded(
    cache: OrderedDict[int, _Cached], decision: int, entry: _Cached, size: Callable[[_Cached], int]
) -> None:
    """Add an entry as the newest; drop the oldest ones beyond the bounds."""
    cache[decision] = entry
    cache.move_to_end(decision)
    total = sum(size(other) for other in cache.values())
    while len(cache) > KEPT or (total > BYTES_KEPT and len(cache) > 1):
        total -= size(cache.popitem(last=False)[1])


def _size(lookup: Lookup) -> int:
    return len(lookup.observation.data) if lookup.observation is not None else 0


def _size_of(experience: Experience) -> int:
    return len(experience.state) + len(experience.next_state)


def _event_id(anchor: Anchor) -> int:
    return anchor.event_id


def _entries(reader: JournalReader, after_id: int) -> Iterator[Entry]:
    return reader.entries(after_id, page=500)
