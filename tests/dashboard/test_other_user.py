"""A real second user, who may only read, sees the whole desk: beside the daemon, after its stop, and after its death.

The other user is a fork of this process that gave up its rights: it has imported all that it needs already.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from daemon.dashboard.desks import FollowedDesk
from daemon.journal import journal as journal_module
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from tests.support.dashboards import Played
from tests.support.outside.other_user import GROUP, STRANGER, as_stranger, looked
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def state_dir(replay: Played) -> Iterator[Path]:
    """The played desk's directory as the unit makes it: 0750, files 0640, another group, below a folder for all."""
    former = os.umask(0o027)
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o750)
        shutil.copyfile(replay.path / FILE, folder / FILE)
        (folder / "lock").write_text("")
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, group=GROUP)
        yield folder
    finally:
        os.umask(former)
        shutil.rmtree(folder)


def expected(replay: Played) -> dict[str, Any]:
    """The same, seen by ourselves in the journal that nobody touched."""
    return {**looked(replay.path)(), "uid": STRANGER}


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {"lock"}


def note(journal: Journal) -> None:
    """One commit that changes nothing that is followed."""
    batch = CommitBatch()
    batch.snapshots = journal.reader().snapshots()[-1:]
    journal.commit(batch)


def test_beside_a_running_daemon_and_after_its_stop(state_dir: Path, replay: Played) -> None:
    journal = Journal(state_dir / FILE)
    note(journal)
    assert names(state_dir) == {FILE, f"{FILE}-wal", f"{FILE}-shm"}
    for name in names(state_dir):
        assert stat.S_IMODE((state_dir / name).stat().st_mode) == 0o640, name
        shutil.chown(state_dir / name, group=GROUP)
    assert as_stranger(looked(state_dir)) == expected(replay)
    journal.close()
    assert names(state_dir) == {FILE}
    assert as_stranger(looked(state_dir)) == expected(replay)
    assert names(state_dir) == {FILE}


def test_after_the_daemon_was_killed(state_dir: Path, replay: Played) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from daemon.journal.journal import Journal; from daemon.journal.rows import CommitBatch\n"
        "journal = Journal(Path(sys.argv[1])); batch = CommitBatch()\n"
        "batch.snapshots = journal.reader().snapshots()[-1:]\n"
        "journal.commit(batch); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(state_dir / FILE)], cwd=REPOSITORY, check=False)
    assert process.returncode == -signal.SIGKILL
    for name in names(state_dir):
        shutil.chown(state_dir / name, group=GROUP)
    assert (state_dir / f"{FILE}-wal").stat().st_size > 0
    assert as_stranger(looked(state_dir)) == expected(replay)


def test_after_a_stop_that_a_reader_outlasted(state_dir: Path, replay: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SWITCH_S", 0.05)
    journal = Journal(state_dir / FILE)
    note(journal)
    for name in names(state_dir):
        shutil.chown(state_dir / name, group=GROUP)
    reader = JournalReader(state_dir / FILE)
    reader.meta()
    journal.close()
    assert f"{FILE}-shm" in names(state_dir)
    assert as_stranger(looked(state_dir)) == expected(replay)
    reader.close()
    assert as_stranger(looked(state_dir)) == expected(replay)


def test_nobody_can_write_by_a_readers_connection(state_dir: Path) -> None:
    def write() -> str:
        with closing(sqlite3.connect(state_dir / FILE)) as db:
            try:
                db.execute("DELETE FROM decisions")
            except sqlite3.OperationalError as error:
                return str(error)
        return ""

    assert as_stranger(write) == "attempt to write a readonly database"
    reader = JournalReader(state_dir / FILE)  # as root, who may
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.query("DELETE FROM decisions")
    reader.close()


def test_who_is_not_in_the_group_sees_nothing(state_dir: Path) -> None:
    state_dir.chmod(0o700)
    problem = as_stranger(lambda: FollowedDesk("desk", state_dir).look().problem)
    assert "ermission" in problem
