"""The file that a panic leaves in a desk's folder: a daemon that runs or starts there stands down.

The panic needs no journal and writes no event; the daemon does, and sets the file aside once that is durable. The panic
holds a lock on it while it lives, and its last line is its result. When the lock is free and the result is not that the
account is flat, the panic failed. On a full disk the file stays empty, and its mode says that the account is flat.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemon.host.time.virtual_time import look_s

MARKER = "panic"
ASIDE = "panic.noted"  # the same file, once the daemon's journal has the panic
FLAT = "flat"  # the result of a panic that left nothing
LETTERS_MOST = 200
LOOK_S = 0.25
MODE = 0o644
FLAT_BIT = stat.S_IXUSR  # set in the file's mode for a flat account: this needs no disk space
UNLOCKED_S = 300.0  # longest life of a panic whose file has no lock (an older version's, or a foreign file)


class Marker:
    """The file, as held by the running panic; without one (`file` None) it does nothing."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def end(self, result: str) -> None:
        """Write the result, `FLAT` or what is left, and unlock the file. A repeated call does nothing."""
        file, self._file = self._file, None
        if file is None:
            return
        if result == FLAT:
            with contextlib.suppress(OSError):
                os.fchmod(file, MODE | FLAT_BIT)
        _write(file, result)
        os.close(file)


def leave(folder: Path, asker_name: str) -> Marker:
    """Write the file, readable by the desk's user, and lock it. A file of another running panic is enough.

    Raises OSError where no file can be made.
    """
    try:
        file = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, MODE)
    except OSError:
        if os.path.lexists(folder / MARKER):
            return Marker(None)  # the desk stands down for any file
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(file, MODE)
        os.ftruncate(file, 0)
    except OSError:  # another panic has the lock, or locks do not work here: the file exists
        os.close(file)
        return Marker(None)
    _write(file, asker_name)
    return Marker(file)


def _write(file: int, line: str) -> None:
    """Write a line; on a full disk nothing, where the lock and the mode suffice."""
    with contextlib.suppress(OSError):
        os.write(file, f"{line}\n".encode(errors="replace"))
        os.fsync(file)


def panic_asker(folder: Path) -> str:
    """Return who ran the panic, "" for none. The file's content is shown, never trusted."""
    place = folder / MARKER
    if not os.path.lexists(place):
        return ""
    try:
        text = _text(place)
    except OSError as error:  # a link, a folder, another user's file
        return f"somebody (the file panic: {error.strerror})"
    return "".join(filter(str.isprintable, text.partition("\n")[0])) or "somebody"


def outcome(folder: Path) -> str | None:
    """Return the result of the panic that was set aside: `FLAT`, or why it failed; None without one, or while it runs.

    A file without this version's lock counts as failed once no panic runs that long, or where its time is further
    ahead, because the host's clock was set back.
    """
    place = folder / ASIDE
    if not os.path.lexists(place):
        return None
    try:
        asker_line, line_end, result = _text(place, unlocked=True).partition("\n")
    except BlockingIOError:
        return None
    except OSError:
        asker_line, line_end, result = "somebody", "", ""
    mode = os.lstat(place).st_mode
    if stat.S_ISREG(mode) and mode & FLAT_BIT:
        return FLAT
    if not line_end and abs(time.time() - os.lstat(place).st_mtime) < UNLOCKED_S:
        return None
    asker, end_text = ("".join(filter(str.isprintable, text)) for text in (asker_line, result))
    return end_text if end_text == FLAT else f"{asker or 'somebody'}: {end_text or 'ended without a result'}"


def set_aside(folder: Path) -> bool:
    """Move the noticed file, into which its panic goes on writing, out of the next panic's way; False if it stays."""
    with contextlib.suppress(FileNotFoundError):
        try:
            (folder / MARKER).rename(folder / ASIDE)
        except OSError:
            return not os.path.lexists(folder / MARKER)
    return True


class Notice:
    """The panic file as a running desk sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stays = False  # the desk noticed a file that it cannot move

    def is_new(self) -> bool:
        """Return whether there is a file that the desk has not set aside: no order may leave. On any thread.

        A desk whose loop, strategy or disk hung has stepped orders that it would send before it comes to the panic.
        """
        return not self._stays and os.path.lexists(self.folder / MARKER)

    def set_aside(self) -> bool:
        """Move the noticed file away; False, and no longer new, if it stays."""
        self._stays = not set_aside(self.folder)
        return not self._stays

    def gone(self) -> None:
        """Note that no file is there."""
        self._stays = False


async def obey(
    notice: Notice,
    stand_down: Callable[[str], None],
    on_failure: Callable[[str], None],
    durable: Callable[[], Awaitable[None]],
) -> None:
    """Poll for the file until cancelled: stand down first, and set the file aside when that is durable.

    When its panic has ended, call `on_failure` with the reason if it failed, and remove the file.
    """
    folder, immovable, ended = notice.folder, "", False
    while True:
        asker_now = panic_asker(folder)
        if asker_now and asker_now != immovable:
            stand_down(asker_now)
            await durable()
            immovable = "" if notice.set_aside() else asker_now  # reported once
            ended = False
        elif not asker_now:
            notice.gone()
            immovable = ""
        result = outcome(folder)
        if result is not None and not ended:
            if result != FLAT:
                on_failure(result)
                await durable()
            with contextlib.suppress(OSError):
                (folder / ASIDE).unlink()
        ended = result is not None  # an irremovable file is reported once
        await asyncio.sleep(look_s(LOOK_S))


def _text(place: Path, *, unlocked: bool = False) -> str:
    """Return the beginning of the file. Raises BlockingIOError where it is locked but must not be, and OSError."""
    file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if unlocked:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.read(file, LETTERS_MOST).decode("utf-8", "replace")
    finally:
        os.close(file)
