"""Files and folders that are nobody else's: opened without following links, judged by descriptor, never chowned.

Root that works in another user's state directory by hand goes on as that user first (`become_owner`): what it touches
then is what that user could have touched. One look at many directories has a child for each (`as_owner`).
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o640  # as the unit's umask makes all others; locks and journals hold no secret


class NotOwnError(OSError):
    """A file or folder is a link, or somebody else's. The text names it and the cure."""


class StateDirError(Exception):
    """The state directory cannot be used as asked. The message names it, the finding and the cure; exit code 2."""


def open_own(folder: int, name: str, flags: int) -> int:
    """Open a plain file of this user, with one name, in the folder of this descriptor. Raises NotOwnError, OSError."""
    return _plain(folder, name, flags, os.geteuid())


def open_plain(folder: int, name: str, flags: int) -> int:
    """As `open_own`, for a file of whichever user, that one only wants to look at."""
    return _plain(folder, name, flags, None)


def _plain(folder: int, name: str, flags: int, owner: int | None) -> int:
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not hold us up
    try:
        found = os.open(name, flags | safe, FILE_MODE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise NotOwnError(error.errno, "it is no plain file: move it away") from None
        raise
    told = os.fstat(found)
    problem = ""
    if not stat.S_ISREG(told.st_mode) or told.st_nlink != 1:
        problem = "it is no plain file of its own, or has other names: move it away"
    elif owner is not None and told.st_uid != owner:
        problem = f"it belongs to user {user_name(told.st_uid)}: run it as that user, or move it away"
    if problem:
        os.close(found)
        raise NotOwnError(errno.EPERM, problem)
    return found


def open_own_folder(path: Path, *, make_mode: int | None = None) -> int:
    """A descriptor of a folder of this user that others cannot write to, made where it is missing and may be.

    A link to it must be this user's or root's. Raises NotOwnError, OSError.
    """
    if make_mode is not None:
        path.mkdir(mode=make_mode, parents=True, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        found = os.open(path, flags | os.O_NOFOLLOW)
    except NotADirectoryError:
        link = path.lstat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
            why = f"it is a link of user {user_name(link.st_uid)}: move it away, or name the folder itself"
            raise NotOwnError(errno.ELOOP, why) from None
        found = os.open(path, flags)
    told, problem = os.fstat(found), ""
    if told.st_uid != os.geteuid():
        problem = f"it belongs to user {user_name(told.st_uid)}: run it as that user"
    elif told.st_mode & stat.S_IWOTH:
        problem = f"every user may write there: chmod o-w {path}"
    if problem:
        os.close(found)
        raise NotOwnError(errno.EPERM, problem)
    return found


def refuse_links(path: Path) -> None:
    """Raise NotOwnError where `path`, or SQLite's two files beside it, is a link or has other names."""
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        try:
            told = name.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(told.st_mode) or told.st_nlink != 1:
            raise NotOwnError(errno.EPERM, f"{name} is no plain file of its own, or has other names: move it away")


def become_owner(path: Path) -> None:
    """As root: go on as the user who owns the folder `path`, for good; of one that is not there yet, its parent's.

    Does nothing for another user, or in a folder of root's. Raises NotOwnError where the system forbids it.
    """
    if os.geteuid() != 0:
        return
    try:
        told = next(folder for folder in (path, *path.absolute().parents) if folder.exists()).stat()
    except OSError:  # what it is used for says more
        return
    if told.st_uid == 0:
        return
    name, group = user_name(told.st_uid), told.st_gid
    try:
        group = pwd.getpwuid(told.st_uid).pw_gid
        os.initgroups(name, group)
    except KeyError:
        os.setgroups([])
    except OSError as error:
        raise NotOwnError(
            error.errno, f"{path} belongs to user {name}: run it as that user: {error.strerror}"
        ) from None
    os.setresgid(group, group, group)
    os.setresuid(told.st_uid, told.st_uid, told.st_uid)


def as_owner(path: Path, work: Callable[[], bytes]) -> bytes:
    """What `work` gives. As root, a child process does it, as the user who owns the folder `path`.

    For one who looks into the folders of several users. Raises NotOwnError where the child gave nothing.
    """
    if os.geteuid() != 0:
        return work()
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        done = 1
        try:
            os.close(into)
            become_owner(path)
            with os.fdopen(out, "wb") as pipe:
                pipe.write(work())
            done = 0
        finally:
            os._exit(done)  # nothing of the parent's is flushed or ended twice
    os.close(out)
    with os.fdopen(into, "rb") as pipe:
        given = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise NotOwnError(errno.EPERM, f"{path}: cannot be looked at as its owner: try it as that user")
    return given


def user_name(uid: int) -> str:
    """The user's name; the number where the host knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
