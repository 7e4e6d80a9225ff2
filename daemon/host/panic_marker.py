"""The file that a panic leaves in a desk's folder: a daemon that runs there, or starts, reads it and stands down.

The panic needs no journal, so it puts no event there; the daemon does, and takes the file away once that is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemon.host.time.virtual_time import look_s

MARKER = "panic"
LETTERS_MOST = 200
LOOK_S = 0.25


def leave(folder: Path, who: str) -> None:
    """Write the file, for the desk's user to read. One that is there already says the same. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(folder / MARKER, flags, 0o644)
    except FileExistsError:
        return
    with os.fdopen(file, "w", encoding="utf-8", errors="replace") as marker:
        marker.write(who)
        marker.flush()
        os.fsync(marker.fileno())


def noticed(folder: Path) -> str:
    """Who ran the panic, "" where none was run. What stands in the file is shown and never believed."""
    place = folder / MARKER
    if not os.path.lexists(place):
        return ""
    try:
        file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"somebody (the file panic: {error.strerror})"
    try:
        told = os.read(file, LETTERS_MOST).decode("utf-8", "replace")
    except OSError:  # a folder
        told = ""
    finally:
        os.close(file)
    return "".join(filter(str.isprintable, told)) or "somebody"


async def obey(folder: Path, stand_down: Callable[[str], None], durable: Callable[[], Awaitable[None]]) -> None:
    """Look for the file until cancelled: stand down first, and when that is durable take the file away."""
    told = ""
    while True:
        who = noticed(folder)
        if who and who != told:
            stand_down(who)
            await durable()
            clear(folder)
        told = noticed(folder)  # what cannot be taken away is told once
        await asyncio.sleep(look_s(LOOK_S))


def clear(folder: Path) -> None:
    """Take the file away; what is no file stays, and is noticed again at the next start."""
    with contextlib.suppress(OSError):
        (folder / MARKER).unlink()
