"""The state directory: one daemon, one account, one strategy, one journal. Locked while in use.

Everything is checked before anything is created; a new journal appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import IO

from daemon.engine.segments import finish, standing
from daemon.host.own_files import NotOwnError, StateDirError, become_owner, open_own, open_own_folder, open_plain
from daemon.host.passing import MayPass, may_pass, retry_while_busy
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import STRATEGY_FROM, STRATEGY_SPEC
from strategies.kit.contract import Session

LOCK_FILE = "lock"
REPORTS = "reports"
PID_DIGITS = 10  # of a process id, at most
_CURES = {
    "mode": "use the mode it was made in, or another --state-dir",
    "account": "use the account it was made for, or another --state-dir",
    "strategy": "use the strategy it was made for, or another --state-dir",
    "symbols": "set desk.symbols to these, or use another --state-dir",
    "model_config": "set desk.model_config to the file it was made with, or use another --state-dir",
    "feed": "use the feed it was made for, or another --state-dir",
    "tape_sha256": "resume with the tape it was made from, or use another --state-dir",
    "option_quotes_sha256": "resume with the quotes it was made from, or use another --state-dir",
}


class StateDirBusy(MayPass, StateDirError):
    """The state directory is not usable now: another process holds it, or its disk fails. Exit code 1."""


class StateDir:
    """An open, locked state directory. `meta` is the journal's meta. `close` releases the lock."""

    def __init__(self, path: Path, lock: IO[str], journal: Journal, meta: dict[str, str], *, fresh: bool) -> None:
        self.path = path
        self.journal = journal
        self.meta = meta
        self.fresh = fresh
        self._lock = lock

    def reopen(self) -> None:
        """Open the current journal after a rotation; the lock stays. Raises JournalError."""
        finish(self.path)
        self.journal = Journal(self.path / FILE)

    def close(self) -> None:
        """Release the lock. The journal is closed by its writer."""
        self._lock.close()


def open_state_dir(path: Path, wanted: dict[str, str], epoch: str) -> StateDir:
    """Lock `path` and open its journal, or make one with `wanted` and `epoch`.

    `wanted` holds mode, account, strategy, feed and, for a replay, the tape's name and digest. Raises StateDirError
    when the directory is not writable or belongs to another identity; JournalError and WriteFailed. Passing faults are
    MayPass too; for a directory or a journal held by another process it waits a while first.
    """
    lock = retry_while_busy(lambda: _locked(path))
    try:
        return retry_while_busy(lambda: _opened(path, lock, wanted, epoch))
    except BaseException:
        lock.close()
        raise


def _locked(path: Path) -> IO[str]:
    """Return the directory's lock file; makes it, with the directory, if missing."""
    try:
        folder = open_own_folder(path, make_mode=0o750)
        try:
            lock = os.fdopen(open_own(folder, LOCK_FILE, os.O_RDWR | os.O_CREAT), "r+", errors="replace")
        finally:
            os.close(folder)
        _lock(path, lock)
    except OSError as error:
        raise (StateDirBusy if may_pass(error, path) else StateDirError)(
            f"{path}: cannot use this state directory: {error.strerror}; check owner and disk"
        ) from error
    return lock


def _opened(path: Path, lock: IO[str], wanted: dict[str, str], epoch: str) -> StateDir:
    file = path / FILE
    finish(path)
    if not file.exists():
        meta = {**wanted, "epoch": epoch}
        return StateDir(path, lock, Journal.create(file, meta), meta, fresh=True)
    journal = Journal(file)
    try:
        with reading(file):
            meta = journal.reader().meta()
        check_identity(path, meta, wanted)
        for key in (STRATEGY_FROM, STRATEGY_SPEC):
            found = wanted.get(key, "")
            if found and meta.get(key) != found:  # the strategy's file was moved or changed
                journal.note(key, found)
                meta[key] = found
    except BaseException:
        journal.close()
        raise
    return StateDir(path, lock, journal, meta, fresh=False)


def check_identity(path: Path, meta: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise StateDirError when the journal was made in another mode, account or strategy, with other symbols or from
    another tape.
    """
    for key, cure in _CURES.items():
        if meta.get(key, "") != wanted.get(key, ""):
            found, expected = meta.get(key) or "none", wanted.get(key) or "none"
            named = key.removesuffix("_sha256")
            if named != key:
                found, expected = f"{meta.get(named)} ({found[:12]})", f"{wanted.get(named)} ({expected[:12]})"
            if key == "model_config":
                found, expected = (sha256(text.encode()).hexdigest()[:12] for text in (found, expected))
            raise StateDirError(
                f"{path}: this state directory was made with {named} {found}, now {expected} is asked for: {cure}"
            )


def peek(path: Path) -> dict[str, str] | None:
    """Return the meta of the journal in `path`, None without one. Takes no lock and writes nothing."""
    file = standing(path)
    if not file.exists():
        return None
    with closing(JournalReader(file)) as reader, reading(file):
        return reader.meta()


def enter(path: Path) -> None:
    """As root by hand: switch to the owner of the state directory before anything in it is touched.

    Raises StateDirError where that is impossible.
    """
    try:
        become_owner(path)
    except OSError as error:
        raise StateDirError(f"{path}: {error.strerror}") from error


def locked_by(path: Path) -> str:
    """Return the process id of the daemon that holds the directory, "" without one. Raises StateDirError for a link."""
    with _lock_file(path) as lock:
        if lock is None:
            return ""
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _process(lock) or "unknown"
    return ""


def last_locked_by(path: Path) -> str:
    """Return the process id of the daemon that held the directory last, running or not, or "". Tries no lock.

    Raises StateDirError for a link, OSError.
    """
    with _lock_file(path) as lock:
        return "" if lock is None else _process(lock)


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[IO[bytes] | None]:
    """Open the lock's file for reading, guarded; None without one."""
    if not (path / LOCK_FILE).exists():
        yield None
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_plain(folder, LOCK_FILE, os.O_RDONLY)
    except NotOwnError as error:
        raise StateDirError(f"{path / LOCK_FILE}: {error.strerror}") from error
    finally:
        os.close(folder)
    with os.fdopen(found, "rb") as lock:
        yield lock


def _process(lock: IO[bytes]) -> str:
    """Return the process id in a lock's file, or ""."""
    text = lock.read(PID_DIGITS + 1).decode("ascii", "replace").strip()
    return text if text.isdecimal() and len(text) <= PID_DIGITS else ""


def wait_until_free(path: Path) -> None:
    """Wait until no process holds the directory. Raises StateDirBusy after a while."""
    retry_while_busy(lambda: _refuse_held(path, locked_by(path)))


def _refuse_held(path: Path, holder: str) -> None:
    if holder:
        raise StateDirBusy(
            f"{path}: another process ({holder}) uses this state directory, a daemon or rltraderctl; end it or "
            f"choose another directory"
        ) from BlockingIOError(holder)


def _lock(path: Path, lock: IO[str]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        _refuse_held(path, holder)
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()


def report_path(journal: Path, session: Session) -> Path:
    """Return the path of `reports/<date>.json` next to the journal."""
    return journal.parent / REPORTS / f"{session.date}.json"
