"""A desk that runs while a test commands it: the real engine on a replay's tape, its intake, the submitter, the socket.

The tape stops where the test says, then the desk waits for more events as a live one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.app.desk import AssembledDesk, Start
from daemon.core.events import Event
from daemon.core.step import Step
from daemon.engine.engine import Engine, Intake, Outside
from daemon.engine.recover import code_digest, fresh_machine, identity_of, recover
from daemon.journal.writer import JournalWriter
from daemon.operator.control.control import ControlServer, SignedServer
from daemon.operator.remote_commands import Judge
from daemon.operator.submitter import Submitter
from strategies.registry import strategy as strategy_named
from tests.support.desks.desk_run import Desk


async def until(reached: Callable[[], bool]) -> None:
    """Return when it is so."""
    while True:
        if reached():
            return
        await asyncio.sleep(0.001)


@dataclass(slots=True)
class AtWork:
    """The running parts, and the log's lines."""

    engine: Engine
    intake: Intake
    submitter: Submitter
    log: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stepped: list[Event] = field(default_factory=list)

    async def quiet(self) -> None:
        """Return when all that was put in has been stepped and is durable."""
        row = -1
        while len(self.intake) or row != self.engine.last_row:
            row = self.engine.last_row
            await self.engine.wait_until_durable(row)

    def entries(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.log if event == name]


@contextlib.asynccontextmanager
async def at_work(
    desk: Desk, path: Path, events: int = 0, outside: Outside | None = None, *, ballast_mib: int = 0
) -> AsyncIterator[AtWork]:
    """Run the desk over the first `events` of its tape, then let it wait. Ends it cleanly."""
    replay, code = desk.replay, code_digest()
    trading = replay.settings.trading()
    state_dir = desk.fresh_state(path)
    identity = identity_of(state_dir.meta)
    recovered = recover(
        state_dir.journal.reader(),
        fresh_machine(strategy_named(identity.strategy, identity.symbols, identity.config), identity, trading),
        code,
    )
    writer = JournalWriter(state_dir.journal, ballast_mib)
    intake = Intake()
    submitters: list[Submitter] = []
    stepped: list[Event] = []

    def observe(event: Event, step: Step) -> None:
        stepped.append(event)
        submitters[0].observe(event, step)

    assembled = AssembledDesk(
        Engine(
            recovered,
            writer,
            replay.policy,
            intake,
            code=code,
            group_events=64,
            snapshot_events=100_000,
            observe=observe,
            outside=outside,
        ),
        Start(identity, trading, replay.model, code),
    )
    engine = assembled.engine
    submitters.append(Submitter(engine, intake.put, lambda: engine.machine.state.now_ns))
    for event in islice(iter(replay.source(recovered.fed)), events):
        intake.put(event)
    running = asyncio.create_task(assembled.run())
    try:
        await engine.started.wait()
        work = AtWork(engine, intake, submitters[0], stepped=stepped)
        await work.quiet()
        yield work
        intake.end()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        writer.close()
        state_dir.close()


@contextlib.asynccontextmanager
async def listening(work: AtWork, path: Path, **kwargs: Any) -> AsyncIterator[ControlServer]:
    """Serve the control socket in `path`."""
    ready = asyncio.Event()

    def log(name: str, /, **fields: object) -> None:
        work.log.append((name, fields))
        ready.set()

    server = ControlServer(path, work.submitter, "desk-1", log, **kwargs)
    serving = asyncio.create_task(server.run())
    try:
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            waiting.cancel()
            serving.result()
        yield server
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def signed_for(work: AtWork, path: Path, judge: Judge) -> AsyncIterator[None]:
    """Serve the socket for signed commands in `path`."""
    ready = asyncio.Event()

    def log(name: str, /, **fields: object) -> None:
        work.log.append((name, fields))
        ready.set()

    serving = asyncio.create_task(SignedServer(path, work.submitter, "desk-1", judge, log).run())
    try:
        await ready.wait()
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@contextlib.contextmanager
def in_background(
    desk: Desk, path: Path, events: int = 0, *, socket: bool = True, judge: Judge | None = None, **kwargs: Any
) -> Iterator[AtWork]:
    """The same on a thread with a loop of its own, for tests that call the blocking client."""
    ready = threading.Event()
    works: list[AtWork] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        ended = asyncio.Event()
        async with at_work(desk, path, events) as work, contextlib.AsyncExitStack() as stack:
            if socket:
                await stack.enter_async_context(listening(work, path, **kwargs))
            if judge is not None:
                await stack.enter_async_context(signed_for(work, path, judge))
            works.append(work)
            loops.append((asyncio.get_running_loop(), ended))
            ready.set()
            await ended.wait()

    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(asyncio.run, main())
        running.add_done_callback(lambda _: ready.set())
        ready.wait()
        try:
            if works:
                yield works[0]
        finally:
            for loop, ended in loops:
                loop.call_soon_threadsafe(ended.set)
            running.result()
