"""What stops a start now and may be gone a minute later: another's lock, a disk that is full, failing or read-only.

Such a start ends with exit code 1, and systemd tries again. What only a person can mend stays exit code 2.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LOCKED_S = 30.0  # so long another process may hold journal or state directory before that ends a start
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
_OPENING = frozenset((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY))  # a permission, or one of the above
T = TypeVar("T")


class MayPass(Exception):
    """The start cannot go on now; the same start may succeed in a minute. The message names file and finding."""


def busy(error: BaseException | None) -> bool:
    """Whether what was refused is another's lock: it ends with its holder, and says nothing about the disk."""
    return isinstance(error, BlockingIOError) or _code(error) == sqlite3.SQLITE_BUSY


def may_pass(error: BaseException, path: Path) -> bool:
    """Whether what befell the file or folder `path` may be gone without a person: locks, disks, no permissions."""
    if isinstance(error, OSError):
        return error.errno in _SYSTEM
    return _code(error) in _SQLITE or (_code(error) in _OPENING and _cannot_be_written_now(path))


def patiently(attempt: Callable[[], T]) -> T:
    """What `attempt` returns; tried again while another process holds what it needs, for LOCKED_S at most."""
    until = time.monotonic() + LOCKED_S
    while True:
        try:
            return attempt()
        except MayPass as error:
            if not busy(error.__cause__) or time.monotonic() > until:
                raise
            time.sleep(LOOK_S)


def _code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.Error) else 0


def _cannot_be_written_now(path: Path) -> bool:
    """SQLite names no cause where it cannot open a file: the system does."""
    try:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return True
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _SYSTEM
    return False
