"""Faults that prevent a start now and may pass: another process's lock, a disk that is full, failing or read-only.

Such a start ends with exit code 1, and systemd retries. Faults that need a person end with exit code 2.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LOCKED_S = 30.0  # how long a start waits for another process's lock on journal or state directory
LOOK_S = 0.1  # between two attempts
_SYSTEM = frozenset(
    (
        errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENODEV,
        errno.ENOMEM, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
    )
)  # fmt: skip
_SQLITE = frozenset(
    (
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    )
)  # fmt: skip
_OPENING = frozenset((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY))  # a lack of permission, or one of the above
T = TypeVar("T")


class MayPass(Exception):
    """The start cannot go on now; a retry may succeed. The message names file and finding."""


def busy(error: BaseException | None) -> bool:
    """Return whether the cause is another process's lock, which ends with its holder and is no fault of the disk."""
    return isinstance(error, BlockingIOError) or _code(error) == sqlite3.SQLITE_BUSY


def may_pass(error: BaseException, path: Path) -> bool:
    """Return whether the fault at `path` may pass without a person: locks and disks, not permissions."""
    if isinstance(error, OSError):
        return error.errno in _SYSTEM
    return _code(error) in _SQLITE or (_code(error) in _OPENING and _cannot_be_written_now(path))


def retry_while_busy(attempt: Callable[[], T]) -> T:
    """Return the result of `attempt`; retry while another process holds its resource, for LOCKED_S at most."""
    deadline = time.monotonic() + LOCKED_S
    while True:
        try:
            return attempt()
        except MayPass as error:
            if not busy(error.__cause__) or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


def _code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.Error) else 0


def _cannot_be_written_now(path: Path) -> bool:
    """Return whether the system refuses writes: SQLite names no cause where it cannot open a file."""
    try:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return True
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _SYSTEM
    return False
