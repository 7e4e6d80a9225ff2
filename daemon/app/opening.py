"""Open a checked desk: lock its folder, recover its journal, wire the engine. A live desk and a replay share this."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from daemon.app.desk import AssembledDesk, Start, assemble
from daemon.config.limits_shown import origins_of
from daemon.config.load import Settings
from daemon.config.tables import AUTO, STOCK_FEEDS
from daemon.core.effects import AskPolicy
from daemon.core.events import Event
from daemon.core.step import Step
from daemon.core.strategy_rules import other_rules
from daemon.engine.code import code_digest
from daemon.engine.engine import Outside, Source
from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.recovery import identity_of
from daemon.engine.rotation import rotate_when_due
from daemon.engine.state_dir import StateDir, open_state_dir
from daemon.host.passing import retry_while_busy
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.universe import made_with
from daemon.journal.writer import JournalWriter
from daemon.models.answering import Models
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, other_symbols
from daemon.operator.log import Log
from strategies.kit.contract import Strategy

RECORDED = STOCK_FEEDS[0]
"""The feed of a replay, whose bars are on file; a live desk's `auto` was replaced by a name before."""


@dataclass(slots=True)
class CheckedDesk:
    """A desk that passed every check. Nothing is written yet."""

    settings: Settings
    strategy: Strategy
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy

    def identity(self, mode: str, account: str) -> dict[str, str]:
        """The journal's meta rows that every kind of desk has, without the epoch."""
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
        source: Source,
        observe: Callable[[Event, Step], None],
        outside: Outside | None = None,
        account_number: str = "",
        serve: Callable[[AskPolicy], None] | None = None,
    ) -> AssembledDesk:
        """Wire the engine. `account_number` is the expected one, "" for any; see `assemble` for `serve`."""
        settings, model = self.checked.settings, self.checked.model
        identity, origins = identity_of(self.state_dir.meta), origins_of(settings)
        start = Start(identity, settings.trading(), model, self.code, account_number, origins)
        return assemble(
            start,
            self.recovered,
            self.writer,
            source,
            self.models,
            group_events=settings.journal.group_events,
            snapshot_events=settings.journal.snapshot_events,
            observe=observe,
            outside=outside,
            shadow=self.models,
            serve=serve,
        )

    def close(self) -> None:
        """Close the journal and release the folder."""
        self.writer.close()
        self.state_dir.close()


def open_desk(checked: CheckedDesk, meta: dict[str, str], epoch: str, log: Log, *, rotate_mib: int = 0) -> OpenDesk:
    """Lock the folder and recover the desk. A journal that grew by `rotate_mib` or more (0: never) is rotated first.

    Raises StateDirError, JournalError, MayPass; then nothing stays open.
    """
    settings, code = checked.settings, code_digest(checked.strategy.spec.name)
    state_dir = open_state_dir(settings.paths.state_dir, meta, epoch)
    try:
        recovered = _recovered(settings, state_dir)
        if rotate_when_due(state_dir, recovered, rotate_mib, log):
            recovered = _recovered(settings, state_dir)
        writer = JournalWriter(state_dir.journal, settings.journal.ballast_mib)
    except BaseException:
        state_dir.journal.close()
        state_dir.close()
        raise
    return OpenDesk(checked, state_dir, recovered, writer, Models(checked.policy, checked.model), code)


def _recovered(settings: Settings, state_dir: StateDir) -> Recovered:
    reader = state_dir.journal.reader()
    return retry_while_busy(lambda: recovered_desk(reader, settings.trading()))


def announce(desk: OpenDesk, log: Log) -> None:
    """Log what starts: desk and journal, model, changed rules, what was recovered."""
    checked, recovered, meta = desk.checked, desk.recovered, desk.state_dir.meta
    settings, model, machine = checked.settings, checked.model, recovered.machine
    log(
        "run_started",
        desk=settings.desk.name,
        mode=meta["mode"],
        account=meta["account"],
        strategy=checked.strategy.spec.name,
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        state_dir=str(desk.state_dir.path),
        epoch=meta["epoch"],
        code=desk.code,
        resumed_at_event=machine.state.seq,
    )
    manifest = model.manifest
    log(
        "model_verified",
        version=model.version,
        promoted=manifest.promoted,
        feed=manifest.training.feed,
        provider=checked.policy.provider,
    )
    if not manifest.promoted:
        log("model_warning", version=model.version, reason="it is not promoted")
    if manifest.training.feed != meta["feed"]:
        reason = f"it was trained on feed {manifest.training.feed}, this desk uses {meta['feed']}"
        log("model_warning", version=model.version, reason=reason)
    if other := other_symbols(manifest, checked.strategy.spec):
        log("model_warning", version=model.version, reason=other)
    trading, before = settings.trading(), machine.state.trading
    if other := other_rules(manifest.rules, trading):
        log("model_warning", version=model.version, reason=other)
    if trading != before:
        names = [field.name for field in dataclasses.fields(trading)]
        log("rules_changed", tables=[name for name in names if getattr(trading, name) != getattr(before, name)])
    if desk.state_dir.fresh is False:
        log("recovered", events_replayed=recovered.replayed, under_way=len(machine.queue))
