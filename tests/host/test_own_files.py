"""Another local user who plants links, or takes a folder first: real users, real files. Nothing of root's changes.

Each part runs in a fork of this process that has become somebody else, as a second user of the host would be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from daemon.cli import daemon as cli
from daemon.engine.state_dir import locked_by, open_state_dir
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.own_files import (
    NotOwnError,
    StateDirError,
    become_owner,
    open_own,
    open_own_folder,
    open_plain,
    user_name,
)
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import JournalError

DESK, MALLORY = 64_911, 64_912  # user ids that no host has
WANTED = {"mode": "replay", "account": "a", "strategy": "option_scalper", "feed": "sip"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def become(uid: int, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises (its text), done by a process of this user."""
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any] = {"raised": "something else"}
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            answer = {"returned": work()}
        except (OSError, ValueError, StateDirError, JournalError, SystemExit) as error:
            answer = {"raised": str(error)}
        finally:
            os.write(out, json.dumps(answer).encode())
            os._exit(0)
    os.close(out)
    with os.fdopen(into) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    return result.get("returned", result.get("raised"))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp: every user may make files in it, and take away only his own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def claim(folder: Path) -> None:
    lock = AccountLock(folder, Holder("desk", "/x", 1), "https://paper.example")
    try:
        lock.claim_key("PK1")
    finally:
        lock.close()


def opened(folder: Path) -> None:
    """Open it as a state directory, and close it."""
    state = open_state_dir(folder, WANTED, "e1")
    state.journal.close()
    state.close()


def lock_name(folder: Path) -> str:
    """The name of the lock's file."""
    claim(folder)
    (name,) = [file.name for file in folder.iterdir()]
    return name


def secret(folder: Path, text: str = "root's own") -> Path:
    file = folder / "precious"
    file.write_text(text)
    file.chmod(0o600)
    return file


# --- links --------------------------------------------------------------------------------------------------------


@as_root
def test_root_that_locks_an_account_in_a_folder_of_another_user_touches_nothing_there(
    shared: Path, tmp_path: Path
) -> None:
    precious, name = secret(shared), lock_name(tmp_path)
    folder = shared / "locks"

    def plant() -> None:
        folder.mkdir()
        (folder / name).symlink_to(precious)

    become(MALLORY, plant)
    assert f"it belongs to user {MALLORY}: run it as that user" in become(0, lambda: claim(folder))
    status = precious.stat()
    assert (precious.read_text(), status.st_uid, stat.S_IMODE(status.st_mode)) == ("root's own", 0, 0o600)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_lock_that_is_a_link_truncates_nothing(tmp_path: Path, link: str) -> None:
    (tmp_path / "a").mkdir()
    name = lock_name(tmp_path / "a")
    precious, folder = secret(tmp_path), tmp_path / "b"
    folder.mkdir()
    (folder / name).symlink_to(precious) if link == "symbolic" else (folder / name).hardlink_to(precious)
    with pytest.raises(StateDirError, match="plain file"):
        claim(folder)
    assert precious.read_text() == "root's own"


@pytest.mark.parametrize("link", ["symbolic", "hard", "fifo"])
def test_the_lock_of_a_state_directory_that_is_a_link_truncates_nothing_and_is_not_waited_for(
    tmp_path: Path, link: str
) -> None:
    precious, folder = secret(tmp_path), tmp_path / "state"
    folder.mkdir()
    place = folder / "lock"
    match link:
        case "symbolic":
            place.symlink_to(precious)
        case "hard":
            place.hardlink_to(precious)
        case _:
            os.mkfifo(place)
    with pytest.raises(StateDirError, match="plain file"):
        opened(folder)
    with pytest.raises(StateDirError, match="plain file"):
        locked_by(folder)
    assert precious.read_text() == "root's own"


@pytest.mark.parametrize("name", [FILE, FILE + "-wal", FILE + "-shm"])
def test_a_journal_that_is_a_link_is_not_opened(tmp_path: Path, name: str) -> None:
    opened(tmp_path / "state")
    place, precious = tmp_path / "state" / name, tmp_path / "precious"
    if place.exists():
        place.rename(precious)
    else:
        precious.write_text("")
    place.symlink_to(precious)
    before = precious.read_bytes()
    with pytest.raises(Exception, match="no plain file of its own"):
        Journal(tmp_path / "state" / FILE)
    assert precious.read_bytes() == before


# --- whose it is --------------------------------------------------------------------------------------------------


@as_root
def test_root_by_hand_commands_and_starts_a_desk_as_the_user_whose_directory_it_is(shared: Path) -> None:
    precious, state = secret(shared), shared / "state"

    def plant() -> None:
        state.mkdir()
        (state / "lock").symlink_to(precious)

    become(MALLORY, plant)

    def halt() -> list[int]:
        code = ctl.main(["halt", "--state-dir", str(state), "--reason", "x"])
        return [code, os.geteuid(), os.getgid()]

    code, uid, _ = become(0, halt)
    assert (code, uid) == (2, MALLORY)

    def start() -> int:
        with contextlib.suppress(Exception):  # that user cannot read this Python, wherever it goes on
            cli.main(["--dry-run", "--state-dir", str(state), "--check"])
        return os.geteuid()

    assert become(0, start) == MALLORY
    status = precious.stat()
    assert (precious.read_text(), status.st_uid, stat.S_IMODE(status.st_mode)) == ("root's own", 0, 0o600)


@as_root
def test_what_root_makes_in_a_desk_s_folder_belongs_to_the_desk_s_user(shared: Path) -> None:
    home = shared / "home"
    home.mkdir()
    os.chown(home, DESK, DESK)

    def make() -> list[int]:
        become_owner(home / "state" / "new")
        opened(home / "state")
        return [os.getuid(), os.getgid(), *os.getgroups()]

    assert become(0, make) == [DESK, DESK]
    assert {path.stat().st_uid for path in home.rglob("*")} == {DESK}


@as_root
def test_another_user_s_state_directory_is_refused_with_the_cure(shared: Path) -> None:
    state = shared / "state"
    become(DESK, state.mkdir)
    message = become(MALLORY, lambda: opened(state))
    assert "check owner" in message or f"it belongs to user {DESK}: run it as that user" in message
    state.chmod(0o777)
    assert f"it belongs to user {DESK}" in become(MALLORY, lambda: opened(state))
    assert "every user may write there: chmod o-w" in become(DESK, lambda: opened(state))


@as_root
def test_a_link_of_another_user_to_one_s_own_folder_is_not_followed(shared: Path) -> None:
    folder = Path(tempfile.mkdtemp())  # root's, with a file that a desk would write over
    (folder / "lock").write_text("precious")
    become(MALLORY, lambda: (shared / "state").symlink_to(folder))
    try:
        assert f"it is a link of user {MALLORY}" in become(0, lambda: opened(shared / "state"))
        assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("lock", "precious")]
        (shared / "mine").symlink_to(folder)  # as an administrator moves a desk to another disk
        assert become(0, lambda: opened(shared / "mine")) is None
    finally:
        shutil.rmtree(folder)


@as_root
def test_a_file_of_another_user_in_one_s_own_folder_is_refused(shared: Path) -> None:
    folder = shared / "own"
    folder.mkdir()
    os.chown(folder, DESK, DESK)
    (folder / "lock").write_text("")  # root's
    (folder / "lock").chmod(0o666)

    def look() -> None:
        directory = open_own_folder(folder)
        open_plain(directory, "lock", os.O_RDONLY)  # to look is allowed
        open_own(directory, "lock", os.O_RDWR)

    assert become(DESK, look) == "[Errno 1] it belongs to user root: run it as that user, or move it away"


@as_root
def test_the_folder_of_the_locks_cannot_be_taken_by_another_user_first(shared: Path) -> None:
    folder = Path(become(DESK, lambda: str(lock_folder({}, shared / "none"))))
    assert not str(folder).startswith(tempfile.gettempdir())
    assert lock_folder({}, shared / "none") == Path("/root/.local/state/rltrader")
    # where a person names a folder that somebody else has taken, it says so
    taken = shared / "taken"
    become(MALLORY, lambda: taken.mkdir(mode=0o777))
    taken.chmod(0o777)
    message = become(DESK, lambda: claim(taken))
    assert f"it belongs to user {MALLORY}" in message
    assert "RUNTIME_DIRECTORY" in message


def test_a_user_without_rights_of_root_stays_who_he_is(tmp_path: Path) -> None:
    become_owner(tmp_path)
    become_owner(Path("\0"[:0]) / "none")
    assert tmp_path.stat().st_uid == os.geteuid()


def test_a_user_whom_the_host_does_not_know_is_named_by_number() -> None:
    assert (user_name(0), user_name(DESK)) == ("root", str(DESK))
    assert issubclass(NotOwnError, OSError)
