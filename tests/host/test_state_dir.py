"""A state directory has one daemon, one identity and one tape; a refusal names both sides and leaves all as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.engine.state_dir import (
    LOCK_FILE,
    StateDir,
    StateDirBusy,
    check_identity,
    locked_by,
    open_state_dir,
    peek,
    wait_until_free,
)
from daemon.host import passing
from daemon.host.own_files import StateDirError
from daemon.journal.journal import FILE
from daemon.journal.reader import ROTATING
from daemon.journal.rows import JournalError
from tests.support.paths import REPOSITORY

WANTED = {
    "mode": "replay",
    "account": "paper",
    "strategy": "option_scalper",
    "feed": "sip",
    "tape": "a.csv",
    "tape_sha256": "aa" * 32,
}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[StateDir]:
    state_dir = open_state_dir(tmp_path / "deep" / "state", WANTED, "e90c4")
    yield state_dir
    state_dir.journal.close()
    state_dir.close()


def close(state_dir: StateDir) -> None:
    state_dir.journal.close()
    state_dir.close()


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_fresh_directory_is_made_with_a_journal_that_says_what_it_was_made_with(opened: StateDir) -> None:
    assert opened.fresh
    assert opened.journal.reader().meta() == {**WANTED, "epoch": "e90c4", "schema": "1"}
    assert opened.path.stat().st_mode & 0o777 == 0o750 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_directory_is_found_again_with_its_first_epoch(tmp_path: Path) -> None:
    close(open_state_dir(tmp_path, WANTED, "first"))
    again = open_state_dir(tmp_path, WANTED, "other")
    assert (again.fresh, again.meta["epoch"]) == (False, "first")
    close(again)


def test_the_lock_names_the_process_and_goes_with_it(opened: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "LOCKED_S", 0.3)
    assert locked_by(opened.path) == str(os.getpid())
    for held in (lambda: open_state_dir(opened.path, WANTED, "e90c4"), lambda: wait_until_free(opened.path)):
        with pytest.raises(StateDirBusy, match=rf"another process \({os.getpid()}\) uses this state directory"):
            held()
    assert locked_by(opened.path) == str(os.getpid())


def test_a_start_waits_for_a_process_that_holds_the_directory_for_a_moment(opened: StateDir) -> None:
    ending = threading.Timer(0.5, close, (opened,))
    ending.start()
    wait_until_free(opened.path)
    close(open_state_dir(opened.path, WANTED, "e90c4"))
    ending.join()


def test_a_closed_or_missing_directory_is_locked_by_nobody(tmp_path: Path) -> None:
    close(open_state_dir(tmp_path, WANTED, "e90c4"))
    assert locked_by(tmp_path) == ""
    assert locked_by(tmp_path / "missing") == ""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from daemon.engine.state_dir import open_state_dir\n"
        f"held = open_state_dir(Path({str(tmp_path)!r}), {WANTED!r}, 'e90c4')\n"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert locked_by(tmp_path) == str(holder.pid)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert locked_by(tmp_path) == ""
    close(open_state_dir(tmp_path, WANTED, "e90c4"))


def test_a_child_that_a_strategy_forked_and_that_outlives_the_daemon_holds_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from daemon.engine.state_dir import open_state_dir\n"
        f"held = open_state_dir(Path({str(tmp_path)!r}), {WANTED!r}, 'e90c4')\n"
        "if os.fork() == 0:\n"
        "    print('forked', flush=True); os.read(0, 1); print('there', flush=True); os._exit(0)\n"
        "signal.pause()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "forked\n"
    assert locked_by(tmp_path) == str(holder.pid)
    holder.kill()
    holder.wait()
    assert locked_by(tmp_path) == ""
    assert holder.communicate("x")[0] == "there\n"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mode", "live", "made with mode replay, now live is asked for: use the mode it was made in"),
        ("account", "live", "made with account paper, now live is asked for: use the account it was made for"),
        ("strategy", "other", "made with strategy option_scalper, now other is asked for: use the strategy"),
        ("tape_sha256", "bb" * 32, r"made with tape a\.csv \(aaaaaaaaaaaa\), now a\.csv \(bbbbbbbbbbbb\)"),
    ],
)
def test_a_directory_of_another_identity_is_refused_and_stays_as_it_was(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    close(open_state_dir(tmp_path, WANTED, "e90c4"))
    before = content(tmp_path)
    with pytest.raises(StateDirError, match=message):
        open_state_dir(tmp_path, {**WANTED, key: value}, "e90c4")
    assert {**content(tmp_path), LOCK_FILE: b""} == {**before, LOCK_FILE: b""}
    assert locked_by(tmp_path) == ""


def test_a_directory_without_a_tape_does_not_take_one(tmp_path: Path) -> None:
    live = {key: value for key, value in WANTED.items() if not key.startswith("tape")}
    with pytest.raises(StateDirError, match=r"now a\.csv \(aaaaaaaaaaaa\) is asked for"):
        check_identity(tmp_path, live, WANTED)


def test_peek_reads_and_writes_nothing(tmp_path: Path) -> None:
    assert peek(tmp_path / "missing") is None
    assert list(tmp_path.iterdir()) == []
    close(open_state_dir(tmp_path, WANTED, "e90c4"))
    assert peek(tmp_path) == {**WANTED, "epoch": "e90c4", "schema": "1"}
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match="not a journal or damaged"):
        peek(tmp_path)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateDirError, match="cannot use this state directory: File exists; check owner and disk"):
        open_state_dir(tmp_path / "state", WANTED, "e90c4")
    assert (tmp_path / "state").read_text() == "a file"


def test_a_disk_that_fails_within_a_start_may_pass_and_lets_the_lock_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    close(open_state_dir(tmp_path, WANTED, "e90c4"))
    (tmp_path / FILE).with_suffix(ROTATING).touch()  # of a rotation that was killed
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StateDirBusy, match="cannot use this state directory: Input/output error"):
            open_state_dir(tmp_path, WANTED, "e90c4")
    close(open_state_dir(tmp_path, WANTED, "e90c4"))


@pytest.mark.parametrize("name", [LOCK_FILE, "journal.rotating"])
def test_a_folder_in_a_file_s_place_is_named(tmp_path: Path, name: str) -> None:
    close(open_state_dir(tmp_path, WANTED, "e90c4"))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(StateDirError, match=f"{tmp_path / name}: cannot use this state directory: "):
        open_state_dir(tmp_path, WANTED, "e90c4")


def test_a_damaged_journal_lets_the_lock_go(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError):
        open_state_dir(tmp_path, WANTED, "e90c4")
    assert locked_by(tmp_path) == ""
