"""Atomic file writes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

AT_CWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
LEFT_S = 60.0  # age of a part from which on, if nobody holds its lock, its writer counts as killed


def write_whole(path: Path, data: bytes, mode: int = 0o644, *, exact: bool = False) -> None:
    """Put `data` at `path` by one rename, durable; on an error the old file stays and no part is left.

    What a killed writer left of `path` is removed. `exact`: the file has this mode whatever the umask, because another
    user reads it.

    Raises:
        OSError: the disk is full or not writable; `filename` is `path`.
    """
    _remove_left(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)  # of a process that ended in the middle
    except OSError:  # a folder, or another user's
        part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            with suppress(OSError):  # a file system without locks: there nothing is removed
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if exact:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # a disk that is read-only
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write error has no file name
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _remove_left(path: Path) -> None:
    """Remove parts of `path` whose writer was killed: old ones that have no living writer's lock."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # another user's, a living writer's, or removed meanwhile
            info = part.lstat()
            if stat.S_ISREG(info.st_mode) and time.time() - info.st_mtime > LEFT_S:
                descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
                finally:
                    os.close(descriptor)


def whole_text(path: Path, text: str) -> None:
    """Write the file whole or not at all, for owner and group alone. Raises OSError."""
    with whole(path) as part:
        part.write_text(text)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a file to write to; it becomes `path` at the end, durably; a failure removes it.

    Raises:
        OSError: the disk is full or not writable; `filename` is never the part's.
    """
    part = path.with_suffix(".part" if path.suffix in (".json", ".sqlite") else f"{path.suffix}.part")
    _remove(part)  # of a process that was killed
    try:
        part.touch(mode=0o640)
        yield part
        sync(part)
        part.replace(path)
    except BaseException as error:
        _remove(part)
        if isinstance(error, OSError) and error.filename in (part, str(part)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _remove(part: Path) -> None:
    """Remove it and the files that SQLite adds to it."""
    for leftover in part.parent.glob(f"{glob.escape(part.name)}*"):
        leftover.unlink()


def exchange(one: Path, other: Path) -> bool:
    """Let two names of one file system change places at once; False where the system or the file system cannot.

    Raises:
        OSError: they cannot change places, as one of them is missing; both are as they were.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Python has no name for it
    if rename is None:
        return False
    if rename(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(error, os.strerror(error), str(other))


def sync(*paths: Path) -> None:
    """Make the bytes of files, and the renames within folders, durable, in this order."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_problem(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"


def toml_problem(error: ValueError) -> str:
    """Return why a file is no TOML, with the cure; a name without quotes is the most frequent mistake."""
    quotes = " (text stands in quotes)" if str(error).startswith("Invalid value") else ""
    return f"is not valid TOML: {error}: correct that line{quotes}"
