"""A stopped desk: open it alone, and rotate its journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.rotation import rotate_recovered
from daemon.engine.segments import Rotation
from daemon.engine.state_dir import StateDir, locked_by, open_state_dir, peek
from daemon.host.own_files import StateDirError
from daemon.host.passing import retry_while_busy


@contextmanager
def stopped_desk(path: Path) -> Iterator[tuple[StateDir, Recovered]]:
    """Yield a stopped desk, locked and recovered.

    Raises StateDirError while a daemon runs or without a desk, JournalError for a damaged journal.
    """
    meta = peek(path)
    if meta is None:
        raise StateDirError(f"{path}: no journal here; is this the right --state-dir?")
    state_dir = open_state_dir(path, meta, meta["epoch"])
    try:
        reader = state_dir.journal.reader()
        yield state_dir, retry_while_busy(lambda: recovered_desk(reader))
    finally:
        state_dir.journal.close()
        state_dir.close()


def rotate_offline(path: Path) -> Rotation:
    """Rotate the journal of a stopped desk: a new file starts from the newest state.

    Raises StateDirError while a daemon runs, NotAtRest where something is under way, JournalError, WriteFailed,
    OSError.
    """
    holder = locked_by(path)
    if holder:
        raise StateDirError(
            f"{path}: the desk runs (process {holder}): stop it, rotate, start it; with journal.rotate_mib it rotates "
            f"at its own starts"
        )
    with stopped_desk(path) as (state_dir, recovered):
        return rotate_recovered(state_dir, recovered)
