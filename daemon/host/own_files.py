"""Files and folders of this user only: opened without following links, checked by descriptor, never chowned.

Root, working by hand in another user's state directory, first becomes that user (`become_owner`), with that user's
rights only. Reading many directories uses a child for each (`as_owner`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO
from weakref import WeakSet

FOLDER_MODE = 0o700
FILE_MODE = 0o640  # as by the unit's umask; locks and journals hold no secret


class NotOwnError(OSError):
    """A file or folder is a link, or another user's. The text names it and the cure."""


class StateDirError(Exception):
    """The state directory is unusable. The message names it, the finding and the cure; exit code 2."""


def open_own(folder: int, name: str, flags: int) -> int:
    """Open a plain file of this user, with one name, in the folder of this descriptor. Raises NotOwnError, OSError."""
    return _plain(folder, name, flags, os.geteuid())


def open_plain(folder: int, name: str, flags: int) -> int:
    """Open a plain file of any user, for reading only; otherwise as `open_own`."""
    return _plain(folder, name, flags, None)


def _plain(folder: int, name: str, flags: int, owner: int | None) -> int:
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not block
    try:
        descriptor = os.open(name, flags | safe, FILE_MODE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise NotOwnError(error.errno, "it is no plain file: move it away") from None
        raise
    info = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
        problem = "it is no plain file of its own, or has other names: move it away"
    elif owner is not None and info.st_uid != owner:
        problem = f"it belongs to user {user_name(info.st_uid)}: run it as that user, or move it away"
    if problem:
        os.close(descriptor)
        raise NotOwnError(errno.EPERM, problem)
    return descriptor


_locks: WeakSet[IO[str]] = WeakSet()


def lives(process: int) -> bool:
    """Return whether a process with this id runs, under any user."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def hold_lock(file: IO[str]) -> None:
    """Lock the file for this process alone, until it is closed. Raises BlockingIOError where another one has it.

    A child that the process forks, as a strategy's own code may, has no part in it: it could outlive the process.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locks.add(file)


def _let_go() -> None:
    """In a forked child: put nothing in the place of each locked file, whose lock lasts while one process has it."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for file in _locks:
        if not file.closed:
            os.dup2(nothing, file.fileno(), inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go)


def open_own_folder(path: Path, *, make_mode: int | None = None) -> int:
    """Open a folder of this user that others cannot write to; made if missing and `make_mode` is given.

    A link to it must be this user's or root's. Raises NotOwnError, OSError.
    """
    if make_mode is not None:
        path.mkdir(mode=make_mode, parents=True, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW)
    except NotADirectoryError:
        link = path.lstat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
            why = f"it is a link of user {user_name(link.st_uid)}: move it away, or name the folder itself"
            raise NotOwnError(errno.ELOOP, why) from None
        descriptor = os.open(path, flags)
    info, problem = os.fstat(descriptor), ""
    if info.st_uid != os.geteuid():
        problem = f"it belongs to user {user_name(info.st_uid)}: run it as that user"
    elif info.st_mode & stat.S_IWOTH:
        problem = f"every user may write there: chmod o-w {path}"
    if problem:
        os.close(descriptor)
        raise NotOwnError(errno.EPERM, problem)
    return descriptor


def refuse_links(path: Path) -> None:
    """Raise NotOwnError where `path`, or one of SQLite's two side files, is a link or has other names."""
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        try:
            info = name.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise NotOwnError(errno.EPERM, f"{name} is no plain file of its own, or has other names: move it away")


def become_owner(path: Path) -> None:
    """As root, become the owner of the folder `path` for good; of its parent where it does not exist yet.

    Does nothing for another user, or in a folder of root's. Raises NotOwnError where the system forbids it.
    """
    if os.geteuid() != 0:
        return
    try:
        info = next(folder for folder in (path, *path.absolute().parents) if folder.exists()).stat()
    except OSError:  # its use will report more
        return
    if info.st_uid == 0:
        return
    name, group = user_name(info.st_uid), info.st_gid
    try:
        group = pwd.getpwuid(info.st_uid).pw_gid
        os.initgroups(name, group)
    except KeyError:
        os.setgroups([])
    except OSError as error:
        raise NotOwnError(
            error.errno, f"{path} belongs to user {name}: run it as that user: {error.strerror}"
        ) from None
    os.setresgid(group, group, group)
    os.setresuid(info.st_uid, info.st_uid, info.st_uid)


def as_owner(path: Path, work: Callable[[], bytes]) -> bytes:
    """Return the result of `work`. As root, a child process runs it as the owner of the folder `path`.

    For reading the folders of several users. Raises NotOwnError where the child returned nothing.
    """
    if os.geteuid() != 0:
        return work()
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        error_code = 1
        try:
            os.close(into)
            become_owner(path)
            with os.fdopen(out, "wb") as pipe:
                pipe.write(work())
            error_code = 0
        finally:
            os._exit(error_code)  # without flushing or ending anything of the parent twice
    os.close(out)
    with os.fdopen(into, "rb") as pipe:
        data = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise NotOwnError(errno.EPERM, f"{path}: cannot be looked at as its owner: try it as that user")
    return data


def user_name(uid: int) -> str:
    """Return the user's name; the number if the host knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def person() -> str:
    """Return the name of the person: the user of sudo, else of this process."""
    return os.environ.get("SUDO_USER") or user_name(os.getuid())
