"""Open a checked desk: lock its folder, recover its journal, wire the engine. A live desk and a replay share this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from daemon.app.checked import CheckedDesk
from daemon.app.desk import AssembledDesk, Start, assemble
from daemon.config.limits_shown import origins_of
from daemon.config.load import Settings
from daemon.core.effects import AskPolicy
from daemon.core.events import Event
from daemon.core.step import Step
from daemon.engine.code import code_digest
from daemon.engine.engine import Outside, Source
from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.recovery import identity_of
from daemon.engine.rotation import rotate_when_due
from daemon.engine.state_dir import StateDir, open_state_dir
from daemon.host.hang import last_hang, shown_stack
from daemon.host.passing import retry_while_busy
from daemon.journal.rows import JournalBusy, JournalError
from daemon.journal.writer import JournalWriter
from daemon.models.runtime import Models
from daemon.operator.log import Log


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
        hung = shown_stack(last_hang(self.state_dir.path), "desks/guarded.py", "models/runtime.py")
        refused = self.checked.refused
        start = Start(
            identity, settings.trading(), model, self.code, account_number, origins, refused, hung, settings.mistakes
        )
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
        writer = _writer(settings, state_dir, recovered, log)
    except BaseException:
        state_dir.journal.close()
        state_dir.close()
        raise
    return OpenDesk(checked, state_dir, recovered, writer, Models(checked.policy, checked.model), code)


def _writer(settings: Settings, state_dir: StateDir, recovered: Recovered, log: Log) -> JournalWriter:
    """Return the writer. A desk that holds something goes on without its reserve for a full disk."""
    try:
        return JournalWriter(state_dir.journal, settings.journal.ballast_mib)
    except JournalBusy:
        raise
    except JournalError as error:
        if not recovered.machine.state.exposed:
            raise
        log("no_ballast", problem=str(error))
        return JournalWriter(state_dir.journal)


def _recovered(settings: Settings, state_dir: StateDir) -> Recovered:
    reader = state_dir.journal.reader()
    return retry_while_busy(lambda: recovered_desk(reader, settings.trading()))
