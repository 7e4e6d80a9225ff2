"""Model names: the pointer files `current` and `candidate` of a strategy's shelf, and their history.

The pointers are the single truth, `promotions.jsonl` is their history. Invariant: a change is recorded before it is
made and made by one rename, so a reader sees the old name or the new one, and rollback knows both. A sticky shelf is
shared: others add versions there. Files of theirs with a pointer's or the history's name do not count, and a version
once named may not change: the history has its manifest's digest.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec

from daemon.host.printable import printable
from daemon.host.whole_files import sync, write_whole
from strategies.kit.manifest import MANIFEST_FILE

CURRENT = "current"
"""The pointer to the live version; given as a version, the one that it names."""
CANDIDATE = "candidate"
"""The pointer to the candidate."""
POINTERS = (CURRENT, CANDIDATE)
PROMOTIONS_FILE = "promotions.jsonl"
JUDGED = "judged version"
"""Check that a version is the one judged by its card."""
MISSING = "missing file"
"""Check that a file exists and can be read."""

NAME_BYTES_MAX = 256
PROMOTIONS_BYTES_MAX = 16 * 2**20
MANIFEST_BYTES_MAX = 2 * 2**20  # 40 times a real one; parsing 16 MiB would hold up trading for 0.8 s
LOCK_S = 5.0  # longer than any change of a pointer: a longer holder changes none
TEXT_MOST = 500  # characters of a reason or a name

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ModelError(Exception):
    """The model is refused; nothing runs with it. `check` names the failed check, `text` has the rest.

    The text names the file, the finding, the expected and the cure; quoted file content is made printable.
    """

    def __init__(self, check: str, text: str) -> None:
        self.check = check
        self.text = printable(text)
        super().__init__(f"model refused, {check}: {self.text}")


class PointerChange(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}, omit_defaults=True):
    """One line of `promotions.jsonl`: the pointer named `before` until `time_ns` (UTC) and `after` since ("": none)."""

    time_ns: int
    pointer: str
    before: str
    after: str
    who: str
    why: str
    rollback: bool = False
    digest: str = ""
    """SHA-256 (hex) of the named version's manifest, in a shared shelf."""
    canary: bool = False
    """The version trades a part of the size, by the ladder of the desk whose journal says so."""


def checked_name(version: str, origin: str) -> str:
    """Return the name if it is a version's plain name. Raises ModelError; `origin` is where it came from."""
    if _VERSION.fullmatch(version) is None or ".." in version or version in POINTERS:
        raise ModelError(
            "version name",
            f"{origin} is {version[:NAME_BYTES_MAX]!r}, expected the plain name of a version's folder (letters, "
            f"digits, '.', '_' and '-', at most 100, no path separator, no '..'): write such a name there",
        )
    return version


def is_name(version: str) -> bool:
    """Return whether a version may have this name."""
    return _VERSION.fullmatch(version) is not None and ".." not in version and version not in POINTERS


def read_plain(path: Path, root: Path, limit: int, cure: str) -> bytes:
    """Read a plain file that lies, links followed, within `root` and has at most `limit` bytes.

    Raises:
        ModelError: it is missing, no plain file, outside of the store or too large.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise ModelError(
                "file outside of the store",
                f"{path} leads to {real}, expected a file within {root}: replace the link by the file itself",
            )
        with _plain(real, os.O_RDONLY) as file:
            open_path = Path(f"/proc/self/fd/{file.fileno()}").readlink()
            if not open_path.is_relative_to(root):  # a parent folder became a link meanwhile
                raise ModelError(
                    "file outside of the store", f"{path} led to {open_path}, expected a file within {root}"
                )
            data = file.read(limit + 1)
    except _NoFile:
        raise ModelError(MISSING, f"{path} is no plain file, expected one: {cure}") from None
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL in the name
        why = getattr(error, "strerror", None) or error  # without the path, which the text names
        raise ModelError(MISSING, f"{path} cannot be read ({why}), expected a readable file: {cure}") from error
    if len(data) > limit:
        raise ModelError("file size", f"{path} has more than {limit} bytes, expected at most that many: {cure}")
    return data


def version_of_pointer(shelf: Path, pointer: str, cure: str = "rltraderctl models activate names one") -> str:
    """Return the version that the shelf's pointer names. Raises ModelError where it is missing or invalid."""
    path = shelf / pointer
    if foreign(path):
        raise ModelError(
            "owner",
            f"{path} is not of the shelf's owner, expected a pointer that nobody else could write: remove it; {cure}",
        )
    data = read_plain(path, shelf.parent.resolve(), NAME_BYTES_MAX, cure)
    return checked_name(data.decode("utf-8", errors="replace").strip(), str(path))


def pointer_text(shelf: Path, pointer: str) -> str:
    """Return the pointer's text, "" without one; for display and for the history.

    Only files within the store: a privileged user must not copy other files into the history.
    """
    if foreign(shelf / pointer):
        return ""
    try:
        data = read_plain(shelf / pointer, shelf.parent.resolve(), NAME_BYTES_MAX, "")
    except ModelError:
        return ""
    return printable(data.decode("utf-8", errors="replace").strip())


def foreign(path: Path) -> bool:
    """Return whether a file of a shared (sticky) shelf belongs to neither its owner nor root.

    False where there is none, or it cannot be read: a read then reports that.
    """
    try:
        shelf = path.parent.stat()
        return bool(shelf.st_mode & stat.S_ISVTX) and path.lstat().st_uid not in (0, shelf.st_uid)
    except OSError:
        return False


def last_digest(shelf: Path, version: str) -> str:
    """Return the manifest's digest when a pointer last named the version; "" if unknown."""
    if not shelf.stat().st_mode & stat.S_ISVTX:
        return ""
    return next((change.digest for change in reversed(_read_history(shelf)) if change.after == version), "")


def check_judged(manifest: Path, digest: str, judged_digest: str) -> None:
    """Raise ModelError unless a manifest's digest is `judged_digest` ("": any)."""
    if judged_digest and digest != judged_digest:
        raise ModelError(
            JUDGED,
            f"{manifest} is not the one that was judged: it was changed since, so look at who writes to the store, and "
            f"publish it under another name",
        )


class _NoFile(OSError):
    """Not a plain file."""


def _plain(path: Path, flags: int) -> BinaryIO:
    """Open a plain file without blocking; the opened file itself is checked, not its name."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _NoFile(f"{path} is no plain file")
    return os.fdopen(descriptor, "ab" if flags & os.O_APPEND else "rb")


def _history(path: Path) -> BinaryIO:
    """Open the history for appending; never through a link, whose maker may have fewer rights than this user.

    A history that root began with the first change is rewritten by the shelf's owner: the ladder's rollbacks need it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        try:
            return _plain(path, flags)
        except PermissionError:
            if path.is_symlink() or path.parent.stat().st_uid != os.geteuid():
                raise
            data = read_plain(path, path.parent.parent.resolve(), PROMOTIONS_BYTES_MAX, "move it aside")
            write_whole(path, data, exact=True)
            return _plain(path, flags)
    except OSError as error:
        if not os.path.lexists(path) or (path.is_file() and not path.is_symlink()):
            raise  # a full or read-only disk, or a lack of rights
        raise OSError(f"{path} cannot be written ({error}), expected a plain file: move it aside") from error


def _is_torn(file: BinaryIO) -> bool:
    """Return whether the history's last line was cut off, by a full disk or a crash: the next one needs a new line."""
    size = os.fstat(file.fileno()).st_size
    return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"


def point(
    shelf: Path,
    pointer: str,
    version: str,
    *,
    author: str,
    why: str,
    now_ns: int,
    rollback: bool = False,
    judged_digest: str = "",
    canary: bool = False,
) -> PointerChange:
    """Set the pointer to `version` ("" removes the pointer) and record who did it, when and why.

    `judged_digest` is the digest that the version's manifest must have, "" for any.

    Raises:
        ModelError: the version is no plain name, has no folder, or is not the judged one.
        OSError: the store cannot be written; the pointer is unchanged.
    """
    if version and not (shelf / checked_name(version, "the version")).is_dir():
        raise ModelError("missing version", f"{shelf / version} is no folder: choose one of the shelf's versions")
    with alone(shelf):
        put_aside(shelf / PROMOTIONS_FILE)
        put_aside(shelf / pointer, folders=True)
        change = PointerChange(
            now_ns,
            pointer,
            pointer_text(shelf, pointer),
            version,
            author[:TEXT_MOST],
            why[:TEXT_MOST],
            rollback,
            _digest_of(shelf, version, rollback, judged_digest),
            canary,
        )
        _record(shelf / PROMOTIONS_FILE, change)
        if version:
            write_whole(shelf / pointer, f"{version}\n".encode(), exact=True)
        else:
            (shelf / pointer).unlink(missing_ok=True)
            sync(shelf)
    return change


def _record(path: Path, change: PointerChange) -> None:
    """Append the change to the history, durably. Raises OSError, whose `filename` is `path` or a part of it."""
    try:
        with _history(path) as file:
            if not os.fstat(file.fileno()).st_size:
                with suppress(PermissionError):  # another user made it
                    os.fchmod(file.fileno(), 0o644)  # for the desk's user, despite the umask
            file.write(b"\n" * _is_torn(file) + msgspec.json.encode(change) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write error has no file name


def _digest_of(shelf: Path, version: str, rollback: bool, judged_digest: str) -> str:
    """Return the digest to record in a shared shelf. Raises ModelError for a version that changed since."""
    path, shared = shelf / version / MANIFEST_FILE, bool(shelf.stat().st_mode & stat.S_ISVTX)
    if not version or (not judged_digest and (not shared or not path.exists())):
        return ""
    data = read_plain(path, shelf.parent.resolve(), MANIFEST_BYTES_MAX, "export it again")
    digest = sha256(data).hexdigest()
    check_judged(path, digest, judged_digest)
    if not shared:
        return ""
    before_then = last_digest(shelf, version)
    if rollback and before_then not in ("", digest):
        raise ModelError("promoted version", f"{path} is not the one that was current: activate another version")
    return digest


def put_aside(path: Path, *, folders: bool = False) -> None:
    """Remove another user's file of this name, and with `folders` any folder; the shelf's owner may."""
    if foreign(path) or (folders and path.is_dir() and not path.is_symlink()):
        path.rename(path.with_name(f".{path.name}.refused-{secrets.token_hex(8)}"))


def changes(shelf: Path) -> tuple[PointerChange, ...]:
    """Return the changes of the shelf's pointers, oldest first.

    Changes recorded but not made, or undone by hand, are left out: on a full disk a pointer stays.
    """
    history = _read_history(shelf)
    current = {change.pointer: pointer_text(shelf, change.pointer) for change in history}
    new_changes: list[PointerChange] = []
    for change in reversed(history):
        if change.after == current[change.pointer] or change.before != current[change.pointer]:
            new_changes.append(change)
            current[change.pointer] = change.before
    return tuple(reversed(new_changes))


def _read_history(shelf: Path) -> tuple[PointerChange, ...]:
    """Return the recorded changes, oldest first. Unreadable (torn) lines are skipped."""
    if not (shelf / PROMOTIONS_FILE).exists() or foreign(shelf / PROMOTIONS_FILE):
        return ()
    data = read_plain(shelf / PROMOTIONS_FILE, shelf.parent.resolve(), PROMOTIONS_BYTES_MAX, "move it aside")
    return tuple(_lines(data))


def canary_of(shelf: Path) -> PointerChange | None:
    """Return the change by which a ladder made a canary current; None without one, or once it is the champion."""
    newest = next((change for change in reversed(changes(shelf)) if change.pointer == CURRENT), None)
    return newest if newest is not None and newest.canary and newest.before else None


def former_version(shelf: Path) -> str:
    """Return the version to roll back to: the former `current`. A second rollback goes one further back.

    Raises:
        ModelError: the history is incomplete, or `current` was written by hand since.
    """
    stack = _led_to_current(changes(shelf))
    now, path = pointer_text(shelf, CURRENT), shelf / PROMOTIONS_FILE
    if len(stack) < 2 or stack[-1] != now:
        if not now:
            raise ModelError("rollback", f"{shelf / CURRENT} names no version: activate the one you want by its name")
        reason = f"nothing that leads to {now!r}" if not stack or stack[-1] != now else f"no version before {now!r}"
        raise ModelError(
            "rollback", f"{path} tells {reason}, expected the version before it: activate the one you want by its name"
        )
    return checked_name(stack[-2], str(path))


def _led_to_current(history: tuple[PointerChange, ...]) -> list[str]:
    """Return the successive versions of `current`, without those rolled back from.

    A canary replaced by another version, by anyone, is left out.
    """
    stack: list[str] = []
    canary = ""
    for change in history:
        if change.pointer != CURRENT:
            continue
        dropped_version = canary if change.after != canary else ""
        if change.rollback and stack[-2:-1] == [change.after]:
            dropped_version = change.before
        if dropped_version:
            stack.pop()
        for version in (change.before, change.after):
            if version not in ("", dropped_version) and version not in stack[-1:]:
                stack.append(version)
        canary = change.after if change.canary else ""
    return stack


def _lines(data: bytes) -> Iterator[PointerChange]:
    for line in data.splitlines():
        try:
            yield msgspec.json.decode(line, type=PointerChange)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


@contextmanager
def alone(shelf: Path) -> Iterator[None]:
    """Lock the shelf's pointers and holds against other processes.

    A hanging process holds its lock for ever, and so can any reader of a shared shelf: a rollback goes on without it.
    """
    descriptor = os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock_for(descriptor, LOCK_S)
        yield
    finally:
        os.close(descriptor)


def _lock_for(descriptor: int, most_s: float) -> None:
    """Take the lock, or go on without it after `most_s`."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
