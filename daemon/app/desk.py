"""One desk from its checks to its engine: open its folder, recover its journal, wire the engine, log the start.

Live, dry run, replay, tests and benchmarks pass different parts.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config.limits_shown import origins_of
from daemon.config.load import DeskSettings
from daemon.config.tables import STOCK_FEEDS
from daemon.core.effects import AskPolicy
from daemon.core.events import Event, HaltRequested, ModelRefused, ModelVerified, RunStarted
from daemon.core.limits import AUTO, Trading
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.core.strategy_rules import not_promoted_words, promoted_under, unkept
from daemon.engine.engine import Engine, EventSource, Outside
from daemon.engine.recover import Recovered, code_digest, identity_of, libraries, recovered_desk
from daemon.engine.state_dir import StateDir, open_state_dir, process_of, rotate_when_due
from daemon.host.hang import crash_of, last_hang, shown_stack
from daemon.host.passing import LOCKED_S, retry_while_busy
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.rows import JournalBusy, JournalError, made_with
from daemon.journal.writer import JournalWriter
from daemon.models.runtime import Models, NoPolicy, OnnxPolicy
from daemon.models.store import LoadedModel, proof_words, stated_claim, warnings
from daemon.operator.log import Log
from strategies.kit.contract import AnyStrategy
from strategies.registry import configured

CALLERS = ("desks/guarded.py", "models/runtime.py")  # files whose frames call a strategy or its model
SWITCH_S = 0.0005  # the journal's thread releases the interpreter after this: a tenth of the default
GC_THRESHOLD = 1_000_000  # allocations between two collections of cycles: the step makes no cycles


@dataclass(frozen=True, slots=True)
class Start:
    """What a start journals first: the desk's identity, rules and model."""

    identity: Identity
    trading: Trading
    model: LoadedModel
    code: str  # digest of the deciding code
    account_number: str = ""  # the expected one, "" for any
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # source -> limits set there
    refused: str = ""  # why there is no model
    hung: str = ""  # how and where the strategy or its model hung or crashed in the last run
    mistakes: str = ""  # mistakes in the configuration, and what replaces it

    def events(self, now_ns: int) -> tuple[RunStarted | ModelVerified | ModelRefused | HaltRequested, ...]:
        """Return the start-up events, at `now_ns` UTC."""
        events = self._of_the_model(now_ns)
        if not self.mistakes or not self.model.digest:
            return events
        return (*events, HaltRequested(now_ns, "configuration", self.mistakes, "rltraderd"))

    def _of_the_model(self, now_ns: int) -> tuple[RunStarted | ModelVerified | ModelRefused | HaltRequested, ...]:
        desk, model = self.identity, self.model
        run_started = RunStarted(
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
            return run_started, ModelRefused(now_ns, self.refused), halt
        manifest = model.manifest
        claim, _ = stated_claim(manifest, self.trading, desk.symbols)
        is_promoted = promoted_under(manifest, self.trading, desk.symbols)
        model_verified = ModelVerified(now_ns, model.version, model.digest, is_promoted, manifest.training.feed, claim)
        if self.hung:
            detail = f"the strategy or its model {self.hung}"
            return run_started, model_verified, HaltRequested(now_ns, "quarantine", detail, "rltraderd", strategy=True)
        return run_started, model_verified


@dataclass(slots=True)
class AssembledDesk:
    """An engine that is ready to run, and its start-up events."""

    engine: Engine
    start: Start

    def run(self, now_ns: int | None = None) -> Coroutine[Any, Any, None]:
        """Return the run, until the source ends or a part fails. `now_ns` is UTC; None: the recovered desk's time."""
        at_ns = self.engine.machine.state.now_ns if now_ns is None else now_ns
        return self.engine.run(self.start.events(at_ns))


def prepare_interpreter() -> None:
    """Set the garbage collector and thread switching for a running desk."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(SWITCH_S)


RECORDED = STOCK_FEEDS[0]
"""The feed of a replay, whose bars are on file; a live desk's `auto` is replaced by a name before."""


@dataclass(slots=True)
class CheckedDesk:
    """A desk that passed every check. Nothing is written yet."""

    settings: DeskSettings
    strategy: AnyStrategy
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy | NoPolicy
    refused: str = field(default="", kw_only=True)
    """Why the configured version was refused, so that another one or none answers; "" if it was not."""

    def identity(self, mode: str, account: str) -> dict[str, str]:
        """Return the meta rows that every kind of desk's journal has, except the epoch."""
        desk = self.settings.desk
        return {
            "mode": mode,
            "account": account,
            "strategy": self.strategy.spec.name,
            "feed": RECORDED if self.settings.feed.name == AUTO else self.settings.feed.name,
            "desk": desk.name,
            **made_with(self.strategy.spec),
        }


@dataclass(slots=True)
class OpenDesk:
    """A recovered desk that holds its folder and can write its journal. The caller closes it."""

    checked: CheckedDesk
    state_dir: StateDir
    recovered: Recovered
    writer: JournalWriter
    models: Models
    code: str  # digest of the deciding code

    def assemble(
        self,
        source: EventSource,
        observe: Callable[[Event, Step], None],
        outside: Outside | None = None,
        account_number: str = "",
        serve: Callable[[AskPolicy], None] | None = None,
        ended_in: str = "",
    ) -> AssembledDesk:
        """Wire the engine. `outside` is a real broker (None: a paper broker, or none).

        `account_number` is the expected one, "" for any; `serve` gets the questions that another process answers;
        `ended_in` names the strategy's call in which runs ended repeatedly.
        """
        settings, model = self.checked.settings, self.checked.model
        identity, origins = identity_of(self.state_dir.meta), origins_of(settings)
        stack = last_hang(self.state_dir.path)
        hung = shown_stack(stack, *CALLERS)
        if hung:
            crash = crash_of(stack)
            hung = f"{f'ended the last run ({crash})' if crash else 'did not return in the last run'}: {hung}"
        hung = hung or ended_in
        refusal = self.checked.refused
        start = Start(
            identity, settings.trading(), model, self.code, account_number, origins, refusal, hung, settings.mistakes
        )
        engine = Engine(
            self.recovered,
            self.writer,
            self.models,
            source,
            code=self.code,
            group_events=settings.journal.group_events,
            snapshot_events=settings.journal.snapshot_events,
            observe=observe,
            outside=outside,
            shadow=self.models,
            serve=serve,
        )
        return AssembledDesk(engine, start)

    def close(self) -> None:
        """Close the journal and release the folder."""
        self.writer.close()
        self.state_dir.close()


def open_desk(
    checked_desk: CheckedDesk, meta: dict[str, str], epoch: str, log: Log, *, rotate_mib: int = 0
) -> OpenDesk:
    """Lock the folder and recover the desk. A journal that grew by `rotate_mib` or more (0: never) is rotated first.

    Raises StateDirError, JournalError, MayPass; then nothing stays open.
    """
    settings, code = checked_desk.settings, code_digest(checked_desk.strategy.spec.name)
    state_dir = open_state_dir(settings.paths.state_dir, meta, epoch)
    try:
        recovery = _recover(settings, state_dir)
        if rotate_when_due(state_dir, recovery, rotate_mib, log):
            recovery = _recover(settings, state_dir)
        writer = _writer(settings, state_dir, recovery, log)
    except BaseException:
        state_dir.journal.close()
        state_dir.close()
        raise
    return OpenDesk(checked_desk, state_dir, recovery, writer, Models(checked_desk.policy, checked_desk.model), code)


def say_held(path: Path, log: Log) -> None:
    """Log which process holds the state directory, since a start waits for it silently."""
    if holder := process_of(path):
        log("state_dir_held", state_dir=str(path), process=holder, wait_s=LOCKED_S)


def _writer(settings: DeskSettings, state_dir: StateDir, recovery: Recovered, log: Log) -> JournalWriter:
    """Return the writer. A desk that holds something starts without a disk reserve if that fails.

    Where room may be freed later, only a halted desk does so: it takes no new risk, and a resume needs the reserve.
    """
    state, mib = recovery.machine.state, settings.journal.ballast_mib
    try:
        return JournalWriter(state_dir.journal, mib)
    except JournalError as error:
        if not state.exposed or (isinstance(error, JournalBusy) and state.risk.halt is None):
            raise
        log("no_ballast", problem=str(error))
        return JournalWriter(state_dir.journal, mib, spent=True)


def _recover(settings: DeskSettings, state_dir: StateDir) -> Recovered:
    reader = state_dir.journal.reader()
    return retry_while_busy(lambda: recovered_desk(reader, settings.trading()))


def announce(desk: OpenDesk, log: Log) -> None:
    """Log the start: desk and journal, model, changed rules, result of the recovery."""
    checked_desk, recovery, meta = desk.checked, desk.recovered, desk.state_dir.meta
    settings, model, machine = checked_desk.settings, checked_desk.model, recovery.machine
    log(
        "run_started",
        desk=settings.desk.name,
        mode=meta["mode"],
        account=meta["account"],
        strategy=checked_desk.strategy.spec.name,
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        state_dir=str(desk.state_dir.path),
        epoch=meta["epoch"],
        code=desk.code,
        resumed_at_event=machine.state.seq,
    )
    if model.digest:
        _announce_model(checked_desk, meta["feed"], log)
    else:
        log("model_warning", version=model.version, reason=f"exits by rules alone: {checked_desk.refused}")
    trading, trading_before = settings.trading(), machine.state.trading
    if trading != trading_before:
        names = [field.name for field in dataclasses.fields(trading)]
        log("rules_changed", tables=[name for name in names if getattr(trading, name) != getattr(trading_before, name)])
    if desk.state_dir.fresh is False:
        log("recovered", events_replayed=recovery.replayed, under_way=len(machine.queue))


def _announce_model(checked_desk: CheckedDesk, feed: str, log: Log) -> None:
    """Log the model, and what a person should know about it."""
    model, manifest, trading = checked_desk.model, checked_desk.model.manifest, checked_desk.settings.trading()
    symbols = configured(checked_desk.strategy.spec)
    denial = not_promoted_words(manifest, trading, symbols)
    log(
        "model_verified",
        version=model.version,
        promoted=not denial,
        feed=manifest.training.feed,
        provider=checked_desk.policy.provider,
    )
    if denial:
        unproven = proof_words(manifest)
        log("model_warning", version=model.version, reason=f"{denial}{': ' + unproven if unproven else ''}")
    if manifest.training.feed != feed:
        reason = f"it was trained on feed {manifest.training.feed}, this desk uses {feed}"
        log("model_warning", version=model.version, reason=reason)
    for other in (*warnings(manifest, checked_desk.strategy.spec, trading), unkept(manifest, trading, symbols)):
        if other:
            log("model_warning", version=model.version, reason=other)
