"""A desk over an intake whose model versions are published, damaged and swapped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.app.desk import AssembledDesk, Start
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    Event,
    PolicyAnswered,
    PolicyFailed,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.records import DecisionRow
from daemon.core.step import Step
from daemon.engine.engine import Engine, Intake
from daemon.engine.recover import fresh_machine, identity_of, recover
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event
from daemon.journal.writer import JournalWriter
from daemon.models.lifecycle import Lifecycle
from daemon.models.pointer import CURRENT, point
from daemon.models.runtime import Models
from daemon.operator.submitter import Submitter
from strategies.golden import golden_observations
from strategies.kit.manifest import POLICY_FILE
from strategies.registry import strategy as registered
from tests.support.desks.desk_run import Desk, own_code, tape_rows, write_tape
from tests.support.models.malicious_models import MALICIOUS
from tests.support.models.tiny_models import forward, manifest_of, mlp, put, weights

KIND, MODEL = DecisionRow.__struct_fields__.index("kind"), DecisionRow.__struct_fields__.index("model")


SCALPER = registered("option_scalper")


def publish(store: Path, version: str, seed: int, *, promoted: bool = False) -> Path:
    """A random policy for the scalper as a version of the store, whole and right; no pointer names it."""
    layers = weights(seed=seed)
    golden = tuple(tuple(forward(layers, seen.array())) for seen in golden_observations(SCALPER))
    data = mlp(layers)
    return put(store, manifest_of(SCALPER, data, golden, version=version, promoted=promoted), data, current=False)


def publish_malicious(store: Path, version: str, name: str) -> Path:
    """A version whose digests are right and whose graph harms."""
    data, _ = MALICIOUS[name]
    golden = tuple((0.0,) * 6 for _ in golden_observations(SCALPER))
    return put(store, manifest_of(SCALPER, data, golden, version=version), data, current=False)


def damage(folder: Path) -> None:
    """Turn one bit of the policy."""
    data = bytearray((folder / POLICY_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / POLICY_FILE).write_bytes(data)


def name(store: Path, version: str, pointer: str = CURRENT, strategy: str = "option_scalper") -> None:
    """Let a pointer of the store name the version."""
    point(store / strategy, pointer, version, author="test", why="test", now_ns=0)


@dataclass(slots=True)
class Asked:
    """The engine's policy, with what it was asked: decision and memory."""

    models: Models
    memories: dict[int, bytes] = field(default_factory=dict)

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        self.memories[question.decision] = question.observation.hidden
        return self.models.answer(question, now_ns)


@dataclass(slots=True)
class Running:
    """A desk whose tape the test feeds by parts."""

    engine: Engine
    intake: Intake
    submitter: Submitter
    models: Models
    lifecycle: Lifecycle
    asked: Asked
    path: Path
    tape: list[Event]
    observers: list[Callable[[Event, Step], None]]
    fed: int = 0
    log: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def feed(self, count: int | None = None) -> None:
        """Let the next `count` events of the tape in (all that are left), and return when they were stepped."""
        upto = len(self.tape) if count is None else min(self.fed + count, len(self.tape))
        for event in self.tape[self.fed : upto]:
            self.intake.put(event)
        self.fed = upto
        await self.quiet()

    async def feed_to_last_session(self, more: int = 0) -> None:
        """Let all in up to the last session's first event, and `more`."""
        last = max(place for place, event in enumerate(self.tape) if isinstance(event, SessionScheduled))
        await self.feed(last + more - self.fed)

    async def feed_session(self) -> None:
        """Let all in up to the end of the running or next session."""
        ends = (place for place in range(self.fed, len(self.tape)) if isinstance(self.tape[place], SessionEnded))
        await self.feed(next(ends) + 1 - self.fed)

    async def settle(self, *looks: Callable[[], Awaitable[None]]) -> None:
        """Take these looks in turn until nothing moves."""
        row = -1
        while row != self.engine.last_row:
            row = self.engine.last_row
            await self.quiet()
            for look in looks:
                await look()

    async def quiet(self) -> None:
        """Return when all that was let in has been stepped and is durable."""
        row = -1
        while len(self.intake) or row != self.engine.last_row:
            row = self.engine.last_row
            await self.engine.wait_until_durable(row)


@contextlib.asynccontextmanager
async def running(
    desk: Desk,
    path: Path,
    *,
    shadow: str = "",
    public_key: str = "",
    serve: Callable[[AskPolicy], None] | None = None,
    refused: str = "",
) -> AsyncIterator[Running]:
    """The desk over an intake, with its models and their lifecycle; ended cleanly. `serve` takes served questions.

    `refused` is what its start has reported of its model.
    """
    replay, code = desk.replay, own_code()
    settings = replay.settings
    trading, strategy = settings.trading(), replay.strategy
    state_dir = desk.fresh_state(path)
    identity = identity_of(state_dir.meta)
    machine = fresh_machine(registered(identity.strategy, identity.symbols, identity.config), identity, trading)
    recovered = recover(state_dir.journal.reader(), machine, code)
    writer = JournalWriter(state_dir.journal)
    intake, models = Intake(), Models(replay.policy, replay.model)
    recorder = Asked(models)
    observers: list[Callable[[Event, Step], None]] = []

    def observe(event: Event, step: Step) -> None:
        for observer in observers:
            observer(event, step)

    assembled = AssembledDesk(
        Engine(
            recovered,
            writer,
            recorder,
            intake,
            code=code,
            group_events=64,
            snapshot_events=2_000,
            observe=observe,
            shadow=models,
            serve=serve,
        ),
        Start(identity, trading, replay.model, code),
    )
    engine = assembled.engine
    submitter = Submitter(engine, intake.put, lambda: engine.machine.state.now_ns)
    log: list[tuple[str, dict[str, Any]]] = []
    lifecycle = Lifecycle(
        settings.paths.models_dir,
        strategy,
        settings.policy.version,
        shadow,
        poll_s=0,
        public_key=public_key,
        provider="cpu",
        threads=1,
        trading=trading,
        submitter=submitter,
        models=models,
        log=lambda event, /, **fields: log.append((event, fields)),
        refused=refused,
    )
    observers += [models.observe, submitter.observe, lifecycle.observe]
    tape = list(replay.source(recovered.fed))
    task = asyncio.create_task(assembled.run())
    try:
        await engine.started.wait()
        yield Running(engine, intake, submitter, models, lifecycle, recorder, path, tape, observers, log=log)
        intake.end()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        state_dir.close()


def events(path: Path, *kinds: str) -> list[Any]:
    """The journal's events of these kinds, in order."""
    reader = JournalReader(path / FILE)
    try:
        return [decode_event(entry.payload) for entry in reader.entries() if entry.kind in kinds]
    finally:
        reader.close()


def alarms(path: Path) -> list[str]:
    """The names of the alarms that the journal raised, in order."""
    reader = JournalReader(path / FILE)
    try:
        effects = [effect for entry in reader.entries() for effect in json.loads(entry.effects or "[]")]
        return [effect["name"] for effect in effects if effect.get("type") == "RaiseAlarm"]
    finally:
        reader.close()


def scalper_desk(tmp_path: Path, store: Path, bars: int = 200) -> Desk:
    """A desk of the minute strategy that follows the store's `current` over one session."""
    tape = write_tape(tmp_path / "tape.csv", tape_rows(1, bars))
    return Desk(tape, paths__models_dir=store, policy__version=CURRENT)
