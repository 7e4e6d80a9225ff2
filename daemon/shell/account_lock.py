"""One desk for one account on this host: locks that all desks share, held for as long as the process lives.

An account is locked by the key that opens it before anything is sent, and by its number when the broker has told it, so
that two key pairs of one account meet too. File names are digests; the text in a file says who holds it, no secret.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from daemon.shell.state_dir import StateDirError

SHARED = Path("/run/rltrader")  # the units' RuntimeDirectory, the same for every desk of a host
DIGITS = 32  # of a digest


class Holder(msgspec.Struct, frozen=True):
    """Who holds an account: its desk's name, state directory and process."""

    desk: str
    state_dir: str
    pid: int


class AccountTakenError(StateDirError):
    """Another desk of this host trades the account. The message names both and the cure; exit code 2."""


def lock_folder(environment: Mapping[str, str] = os.environ, shared: Path = SHARED) -> Path:
    """Where the locks are: systemd's $RUNTIME_DIRECTORY, `shared` where it is, else a folder of this user's own."""
    given = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    return shared if shared.is_dir() else Path(tempfile.gettempdir()) / f"rltrader-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class _Claim:
    what: str  # as a person reads it
    name: str  # of the file


class AccountLock:
    """The locks of one desk. `claim` takes one, `close` lets all go; the end of the process does too."""

    def __init__(self, folder: Path, holder: Holder, service: str) -> None:
        """`service` is the trading service's address: the same key elsewhere is another account."""
        self._folder = folder
        self._holder = holder
        self._service = service
        self._held: dict[str, IO[str]] = {}

    def claim_key(self, key: str) -> None:
        """Lock the account that this key opens. Raises AccountTakenError, StateDirError where no lock can be made."""
        self._claim(_Claim(f"the account of these keys at {self._service}", self._digest("key", key)))

    def claim_number(self, number: str) -> None:
        """Lock the account of this number; does nothing when it is held already. Raises as `claim_key`."""
        self._claim(_Claim(f"account {number} at {self._service}", self._digest("number", number)))

    def taken(self, key: str) -> str:
        """Who else holds the account that this key opens, as a refusal would say it; "" for nobody. Writes nothing."""
        path = self._folder / f"{self._digest('key', key)}.account"
        if not path.exists():
            return ""
        try:
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _refusal(f"the account of these keys at {self._service}", path.read_text())
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror}: run it as the user of the host's desks"
        return ""

    def close(self) -> None:
        """Let all locks go. The files stay: who locks a file that is gone locks nothing."""
        for lock in self._held.values():
            lock.close()
        self._held.clear()

    def _digest(self, kind: str, secret: str) -> str:
        told = f"rltrader|{self._service}|{kind}|{secret}"
        return hashlib.sha256(told.encode()).hexdigest()[:DIGITS]

    def _claim(self, claim: _Claim) -> None:
        if claim.name in self._held:
            return
        path = self._folder / f"{claim.name}.account"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = path.open("a+")
            if os.geteuid() == 0:  # tried by hand as root: the desks' own user must be able to lock it afterwards
                owner = self._folder.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise StateDirError(
                f"{path}: the account cannot be locked for this desk: {error.strerror}: run it as the user of the "
                f"host's other desks, or mend owner and mode of {self._folder}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            text = lock.read()
            lock.close()
            raise AccountTakenError(_refusal(claim.what, text)) from None
        lock.seek(0)
        lock.truncate()
        lock.write(msgspec.json.encode(self._holder).decode())
        lock.flush()
        self._held[claim.name] = lock


def _refusal(what: str, text: str) -> str:
    return (
        f"{what} is traded by another desk of this host ({_told(text)}): one account has one desk: stop that one, or "
        f"give this one an account and keys of its own"
    )


def _told(text: str) -> str:
    try:
        holder = msgspec.json.decode(text, type=Holder)
    except msgspec.DecodeError:
        return "which did not say its name"
    return f"{holder.desk}, state directory {holder.state_dir}, process {holder.pid}"
