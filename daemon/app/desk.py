"""Assemble a desk; live, dry run, replay, tests and benchmarks pass different parts."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, HaltRequested, ModelRefused, ModelVerified, RunStarted
from daemon.core.limits import Trading
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.engine.code import libraries
from daemon.engine.engine import Engine, Outside, Policy, Shadow, Source
from daemon.engine.recover import Recovered
from daemon.journal.writer import JournalWriter
from daemon.models.store import LoadedModel

SWITCH_S = 0.0005  # the journal's thread gives the interpreter back this soon: ten times sooner than the default
GC_THRESHOLD = 1_000_000  # allocations between two searches for cycles: the step makes none


@dataclass(frozen=True, slots=True)
class Start:
    """What a start journals first: the desk's identity, rules and model."""

    identity: Identity
    trading: Trading
    model: LoadedModel
    code: str  # digest of the deciding code
    account_number: str = ""  # the expected one, "" for any
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # limit -> where it was set
    refused: str = ""  # why there is no model
    hung: str = ""  # where the strategy or its model hung in the last run
    mistakes: str = ""  # of the configuration, and what takes its place

    def events(self, now_ns: int) -> tuple[RunStarted | ModelVerified | ModelRefused | HaltRequested, ...]:
        """Return the start-up events, at `now_ns` UTC."""
        events = self._of_the_model(now_ns)
        if not self.mistakes or not self.model.digest:
            return events
        return (*events, HaltRequested(now_ns, "configuration", self.mistakes, "rltraderd"))

    def _of_the_model(self, now_ns: int) -> tuple[RunStarted | ModelVerified | ModelRefused | HaltRequested, ...]:
        desk, model = self.identity, self.model
        started = RunStarted(
            now_ns,
            desk.mode,
            desk.account,
            desk.strategy,
            desk.epoch,
            self.code,
            desk.feed,
            self.trading,
            self.account_number,
            dict(self.origins),
            libraries(),
        )
        if not model.digest:
            halt = HaltRequested(now_ns, "no_model", self.refused, "rltraderd", strategy=True)
            if self.mistakes:  # named first
                halt = HaltRequested(now_ns, "configuration", self.mistakes, "rltraderd", strategy=True)
            return started, ModelRefused(now_ns, self.refused), halt
        manifest = model.manifest
        verified = ModelVerified(now_ns, model.version, model.digest, manifest.promoted, manifest.training.feed)
        if self.hung:
            detail = f"the strategy or its model did not return in the last run: {self.hung}"
            return started, verified, HaltRequested(now_ns, "quarantine", detail, "rltraderd", strategy=True)
        return started, verified


@dataclass(slots=True)
class AssembledDesk:
    """An engine that is ready to run, and what it begins with."""

    engine: Engine
    start: Start

    async def run(self, now_ns: int | None = None) -> None:
        """Run until the source ends or a part fails. `now_ns` is UTC; None: the recovered desk's time."""
        at_ns = self.engine.machine.state.now_ns if now_ns is None else now_ns
        await self.engine.run(self.start.events(at_ns))


def _unobserved(_event: Event, _step: Step) -> None:
    """Observe nothing."""


def assemble(
    start: Start,
    recovered: Recovered,
    writer: JournalWriter,
    source: Source,
    policy: Policy,
    *,
    group_events: int,
    snapshot_events: int,
    observe: Callable[[Event, Step], None] = _unobserved,
    outside: Outside | None = None,
    shadow: Shadow | None = None,
    boundary: Callable[[str], None] | None = None,
    serve: Callable[[AskPolicy], None] | None = None,
) -> AssembledDesk:
    """Wire one engine. The caller owns `writer` and closes it.

    `outside` is a real broker (None: a paper broker, or none), `shadow` a candidate model, `boundary` a hook of
    crash tests, `serve` takes the questions that another process answers.
    """
    engine = Engine(
        recovered,
        writer,
        policy,
        source,
        code=start.code,
        group_events=group_events,
        snapshot_events=snapshot_events,
        observe=observe,
        outside=outside,
        shadow=shadow,
        boundary=boundary,
        serve=serve,
    )
    return AssembledDesk(engine, start)


def prepare_interpreter() -> None:
    """Set the garbage collector and thread switching for a running desk."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(SWITCH_S)
