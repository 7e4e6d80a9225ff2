"""Rotate a journal: by command while its desk is stopped, or by the daemon at a start, before it trades.

Both hold the directory's lock and have recovered the desk. A start that cannot rotate keeps the journal as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemon.core.state import State
from daemon.engine.code import code_digest, libraries
from daemon.engine.recover import Recovered
from daemon.engine.recovery import snapshot_of
from daemon.engine.segments import Rotation, grown, newest_whole, rotate
from daemon.engine.state_dir import StateDir, report_path
from daemon.journal.journal import FILE
from daemon.journal.reader import reading
from daemon.journal.rows import Batch, JournalError, WriteFailed

MIB = 2**20


class NotAtRest(JournalError):
    """The journal does not end where another file could begin."""


def rotate_recovered(state_dir: StateDir, recovered: Recovered) -> Rotation:
    """Rotate; the journal is closed afterwards, even on an error.

    Raises NotAtRest, JournalError, WriteFailed, OSError: the journal is unchanged.
    """
    machine, journal = recovered.machine, state_dir.journal
    code = code_digest(machine.state.identity.strategy)
    try:
        if not recovered.own(code, libraries()) or machine.queue or recovered.raised is not None:
            raise NotAtRest(
                f"{journal.path}: it did not stop cleanly, or another release wrote it last: start it, stop it, then "
                f"rotate"
            )
        with reading(journal.path):
            newest = newest_whole(journal.reader())
        if newest is None or newest.event_id != recovered.last_id:
            batch = Batch()
            kept = not recovered.anchored
            batch.snapshots.append(snapshot_of(machine, recovered.last_id, code, kept=kept))
            journal.commit(batch)
    finally:
        journal.close()
    return rotate(state_dir.path)


def rotate_when_due(state_dir: StateDir, recovered: Recovered, mib: int, log: Callable[..., None]) -> bool:
    """Rotate a journal that grew by `mib` or more (0: never) since its file began; log the result.

    Returns True when the journal was opened anew: the caller recovers again. A session's beginning and end stay in one
    file, so it waits for the last session's report. Raises JournalError where the journal cannot be opened.
    """
    journal = state_dir.path / FILE
    if not mib or grown(journal) < mib * MIB:
        return False
    if _under_way(state_dir, recovered.machine.state):
        log("journal_not_rotated", reason="a session is under way, or has no report yet: the next start looks again")
        return False
    try:
        made = rotate_recovered(state_dir, recovered)
    except (JournalError, WriteFailed, OSError) as error:
        log("journal_not_rotated", reason=f"{error}; the next start tries again")
    else:
        log("journal_rotated", row=made.row, old=str(made.old), before_mib=made.before // MIB, mib=made.after // MIB)
    state_dir.reopen()
    return True


def _under_way(state_dir: StateDir, state: State[Any]) -> bool:
    session = state.session.session
    if session is None:
        return False
    return not (state.session.ended and report_path(state_dir.path / FILE, session).exists())
