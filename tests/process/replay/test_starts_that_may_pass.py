"""What stops a start and may be gone a minute later ends with exit code 1, or with no stop at all; real processes."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.cli import daemon as cli
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import open_state_dir, peek
from daemon.host import passing
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass, busy, may_pass, retry_while_busy
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalBusy, JournalError
from tests.support.desks.desk_run import log_of, rltraderd, summary_of, table, tape_rows, verified, write_tape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(3, 75))


@pytest.fixture
def state(tape: Path, tmp_path: Path) -> Path:
    """A state directory whose desk ran to its tape's end and stopped."""
    path = tmp_path / "state"
    assert start(tape, path).returncode == 0
    return path


def start(tape: Path, state: Path) -> subprocess.CompletedProcess[str]:
    return rltraderd("--dry-run", "--bars", tape, "--state-dir", state, cwd=tape.parent)


@contextmanager
def mounted(*commands: list[str], folder: Path) -> Iterator[None]:
    """What these commands mount at `folder`: root is not refused by permissions."""
    if subprocess.run(commands[0], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        for command in commands[1:]:
            subprocess.run(command, check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_flipped_bit_in_the_newest_snapshot_is_logged_and_stops_nothing(tape: Path, state: Path) -> None:
    newest = table(state, "snapshots")[-1]
    raw = bytearray((state / FILE).read_bytes())
    raw[raw.rindex(newest[4][:200]) + 30] ^= 1
    (state / FILE).write_bytes(raw)
    run = start(tape, state)
    assert run.returncode == 0, run.stderr
    (entry,) = [line for line in log_of(run.stderr) if line["event"] == "snapshot_passed_over"]
    assert entry["snapshot"] == f"event {newest[1]}: it is damaged"


def test_a_start_waits_for_a_process_that_holds_the_journal_for_a_while(tape: Path, state: Path) -> None:
    holder = sqlite3.connect(state / FILE, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    ending = threading.Timer(14, holder.rollback)
    ending.start()
    try:
        run = start(tape, state)
    finally:
        ending.join()
        holder.close()
    assert run.returncode == 0, run.stderr
    assert verified(state).difference == ""


def test_a_journal_that_stays_locked_may_pass(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "LOCKED_S", 0.1)
    holder = sqlite3.connect(state / FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(JournalBusy, match=r"cannot be read at the moment: database is locked; end what holds it"):
            open_state_dir(state, {}, "e")
    finally:
        holder.close()


def test_a_lock_that_comes_while_rows_are_read_is_waited_for_and_may_pass(state: Path) -> None:
    reader = JournalReader(state / FILE)
    reader.query("PRAGMA busy_timeout = 10")
    holder = sqlite3.connect(state / FILE, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalBusy, match=r"cannot be read at the moment: database is locked; end what holds it"):
        recovered_desk(reader)
    ending = threading.Timer(0.5, holder.rollback)
    ending.start()
    try:
        assert retry_while_busy(lambda: recovered_desk(reader)).handover is None
    finally:
        ending.join()
        holder.close()
        reader.close()


def test_a_directory_that_stays_held_is_exit_code_1_and_names_the_holder(
    tape: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(passing, "LOCKED_S", 0.3)
    meta = peek(state)
    assert meta is not None
    holder = open_state_dir(state, meta, meta["epoch"])  # as rltraderctl does for a stopped desk
    try:
        assert cli.main(["--dry-run", "--bars", str(tape), "--state-dir", str(state)]) == 1
    finally:
        holder.journal.close()
        holder.close()
    logged = log_of(capsys.readouterr().err)
    (waits,) = [line for line in logged if line["event"] == "state_dir_held"]
    assert (waits["process"], waits["state_dir"]) == (str(os.getpid()), str(state))
    (entry,) = [line for line in logged if line["event"] == "start_failed"]
    assert f"another process ({os.getpid()}) uses this state directory" in entry["problem"]


def test_a_read_only_remount_is_exit_code_1_and_the_next_start_goes_on(tape: Path, state: Path) -> None:
    bound, again = ["mount", "--bind", str(state), str(state)], ["mount", "-o", "remount,ro,bind", str(state)]
    with mounted(bound, again, folder=state):
        refused = start(tape, state)
    assert refused.returncode == 1, refused.stderr
    (entry,) = [line for line in log_of(refused.stderr) if line["event"] == "start_failed"]
    assert "Read-only file system" in entry["problem"]
    assert start(tape, state).returncode == 0


def test_a_disk_without_room_for_the_reserve_is_exit_code_1(tape: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    with mounted(["mount", "-t", "tmpfs", "-o", "size=4M,mode=750", "tmpfs", str(folder)], folder=folder):
        (folder / "filler").write_bytes(bytes(3_500_000))
        refused = start(tape, folder)
    assert refused.returncode == 1, refused.stderr
    (entry,) = [line for line in log_of(refused.stderr) if line["event"] == "start_failed"]
    assert "cannot reserve 1 MiB" in entry["problem"]


def test_another_desk_s_journal_stays_the_operator_s_error(tape: Path, state: Path) -> None:
    other = write_tape(tape.parent / "other.csv", tape_rows(2, 75))
    refused = start(other, state)
    assert refused.returncode == 2
    assert "resume with the tape it was made from" in refused.stderr
    assert summary_of(start(tape, state))["bars"] > 0


def test_a_file_that_is_no_journal_stays_the_operator_s_error(tape: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database" * 100)
    refused = start(tape, tmp_path)
    assert refused.returncode == 2
    assert "not a journal or damaged" in refused.stderr


@pytest.mark.parametrize(
    ("number", "passes"),
    [(errno.EIO, True), (errno.ENOSPC, True), (errno.EROFS, True), (errno.EMFILE, True)]
    + [(errno.EACCES, False), (errno.ENOTDIR, False), (errno.ENOENT, False), (errno.EPERM, False)],
)
def test_what_may_pass_is_what_the_system_says(number: int, passes: bool, tmp_path: Path) -> None:
    assert may_pass(OSError(number, os.strerror(number)), tmp_path) is passes


@pytest.mark.parametrize(
    ("code", "passes"),
    [("SQLITE_BUSY", True), ("SQLITE_IOERR", True), ("SQLITE_IOERR_READ", True), ("SQLITE_FULL", True)]
    + [("SQLITE_CORRUPT", False), ("SQLITE_NOTADB", False), ("SQLITE_CANTOPEN", False), ("SQLITE_READONLY", False)],
)
def test_what_may_pass_is_what_sqlite_says(code: str, passes: bool, tmp_path: Path) -> None:
    error = sqlite3.OperationalError(code)
    error.sqlite_errorcode = getattr(sqlite3, code)
    (tmp_path / FILE).touch()
    assert may_pass(error, tmp_path / FILE) is passes
    assert busy(error) is (code == "SQLITE_BUSY")


def test_a_file_that_is_gone_does_not_pass(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    assert not may_pass(error, tmp_path / "none" / FILE)


def test_only_a_lock_is_waited_for() -> None:
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise JournalBusy("x") from OSError(errno.EIO, "x")

    with pytest.raises(MayPass):
        retry_while_busy(fail)
    assert attempts == [1]
    assert issubclass(JournalBusy, JournalError)
    assert not issubclass(MayPass, StateDirError)
