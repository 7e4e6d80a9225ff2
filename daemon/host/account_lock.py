"""One desk for one account on this host: locks that all desks share, held until the process ends.

An account is locked by its key before any request, and by its number once the broker has reported it, so that two key
pairs of one account conflict too. File names are digests; the text in a file names the holder, no secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from daemon.host.own_files import (
    FOLDER_MODE,
    StateDirError,
    hold_lock,
    lives,
    open_own,
    open_own_folder,
    open_plain,
)
from daemon.host.passing import MayPass, may_pass

SHARED = Path("/run/rltrader")  # the units' RuntimeDirectory, the same for every desk of a host
DIGITS = 32  # hex digits of a digest


class Holder(msgspec.Struct, frozen=True):
    """The holder of an account: its desk's name, state directory and process."""

    desk: str
    state_dir: str
    pid: int
    streams: bool = True  # whether it takes the account's market streams


class AccountTakenError(StateDirError):
    """Another desk of this host trades the account. The message names both and the cure; exit code 2."""


class LockFailedError(MayPass, StateDirError):
    """The lock cannot be made now: its disk is full, failing or read-only. Exit code 1."""


def lock_folder(environment: Mapping[str, str] = os.environ, shared_folder: Path = SHARED) -> Path:
    """Return the folder of the locks: systemd's $RUNTIME_DIRECTORY, `shared_folder` if it exists, else in $HOME.

    No other user can create any of them beforehand, and a user's desks find the same one from any login.
    """
    folder = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if folder:
        return Path(folder)
    return shared_folder if shared_folder.is_dir() else _home() / ".local" / "state" / "rltrader"


def _home() -> Path:
    """Return this user's home from the host's user database; without one the root folder, which only root can use."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/")


@dataclass(frozen=True, slots=True)
class _Claim:
    what: str  # for display
    name: str  # of the file


class AccountLock:
    """The locks of one desk. `claim_*` takes one, `close` or the end of the process releases all."""

    def __init__(self, folder: Path, holder: Holder, service: str) -> None:
        """`service` is the trading service's address: the same key elsewhere is another account."""
        self._folder = folder
        self._holder = holder
        self._service = service
        self._lock_files: dict[str, IO[str]] = {}

    def claim_key(self, key: str) -> None:
        """Lock the account of this key. Raises AccountTakenError, StateDirError where no lock can be made."""
        self._claim(_Claim(f"the account of these keys at {self._service}", self._digest("key", key)))

    def claim_number(self, number: str) -> None:
        """Lock the account of this number; does nothing if held already. Raises as `claim_key`."""
        self._claim(_Claim(f"account {number} at {self._service}", self._digest("number", number)))

    def taken(self, key: str) -> str:
        """Return another holder of this key's account, as a refusal names it; "" for none. Writes nothing."""
        name = f"{self._digest('key', key)}.account"
        path = self._folder / name
        if not path.exists():
            return ""
        try:
            with _in_folder(self._folder) as folder:
                descriptor = open_plain(folder, name, os.O_RDONLY)
            with os.fdopen(descriptor, errors="replace") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _refusal(f"the account of these keys at {self._service}", lock.read())
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror}: run it as the user of the host's desks"
        return ""

    def streams_taken(self, key: str) -> str:
        """Return who has the market streams of this key's account, as a refusal names it; "" for no other.

        Writes nothing. The lock is tried only if the named process lives: a trial holds it for a moment, and a desk
        starting then would be refused.
        """
        try:
            with _in_folder(self._folder) as folder:
                descriptor = open_plain(folder, f"{self._digest('key', key)}.account", os.O_RDONLY)
            with os.fdopen(descriptor, errors="replace") as lock:
                text = lock.read()
                holder = msgspec.json.decode(text, type=Holder)
                if not holder.streams or not lives(holder.pid):
                    return ""
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return (
                        f"the market streams of these keys at {self._service} are those of another desk or a gateway "
                        f"of this host ({_describe(text)}): a broker has one place for each, and a dry run by the bar "
                        f"would keep it when that one has to connect anew: stop that one, or give the dry run keys of "
                        f"another account"
                    )
        except (OSError, msgspec.DecodeError):
            return ""
        return ""

    def close(self) -> None:
        """Release all locks. The files stay: a lock on a removed file would lock nothing."""
        for lock in self._lock_files.values():
            lock.close()
        self._lock_files.clear()

    def _digest(self, kind: str, secret: str) -> str:
        text = f"rltrader|{self._service}|{kind}|{secret}"
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def _claim(self, claim: _Claim) -> None:
        if claim.name in self._lock_files:
            return
        name = f"{claim.name}.account"
        try:
            folder = open_own_folder(self._folder, make_mode=FOLDER_MODE)
            try:
                lock = os.fdopen(open_own(folder, name, os.O_RDWR | os.O_CREAT), "r+", errors="replace")
            finally:
                os.close(folder)
        except OSError as error:
            raise (LockFailedError if may_pass(error, self._folder) else StateDirError)(
                f"{self._folder / name}: the account cannot be locked for this desk: {error.strerror}: run it as the "
                f"user of the host's other desks, mend owner and mode of {self._folder}, or name a folder of this "
                f"user's own in RUNTIME_DIRECTORY"
            ) from error
        try:
            hold_lock(lock)
        except BlockingIOError:
            lock.seek(0)
            text = lock.read()
            lock.close()
            raise AccountTakenError(_refusal(claim.what, text)) from None
        lock.seek(0)
        lock.truncate()
        lock.write(msgspec.json.encode(self._holder).decode())
        lock.flush()
        self._lock_files[claim.name] = lock


@contextlib.contextmanager
def _in_folder(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _refusal(problem: str, text: str) -> str:
    return (
        f"{problem} is traded by another desk or a gateway of this host ({_describe(text)}): one account has one desk: "
        f"stop that one, give this one an account and keys of its own, or let a gateway share the account "
        f"(`rltrader-gateway desk` prints a desk's configuration)"
    )


def _describe(text: str) -> str:
    try:
        holder = msgspec.json.decode(text, type=Holder)
    except msgspec.DecodeError:
        return "which did not say its name"
    return f"{holder.desk}, state directory {holder.state_dir}, process {holder.pid}"
