"""The file that a panic leaves in a desk's folder: a daemon that runs or starts there stands down.

The panic needs no journal and writes no event; the daemon does, and removes the file once that is durable.
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
    """Write the file, readable by the desk's user; an existing one is enough. Raises OSError."""
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
    """Return who ran the panic, "" for none. The file's content is shown, never trusted."""
    place = folder / MARKER
    if not os.path.lexists(place):
        return ""
    try:
        file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"somebody (the file panic: {error.strerror})"
    try:
        text = os.read(file, LETTERS_MOST).decode("utf-8", "replace")
    except OSError:  # a folder
        text = ""
    finally:
        os.close(file)
    return "".join(filter(str.isprintable, text)) or "somebody"


async def obey(folder: Path, stand_down: Callable[[str], None], durable: Callable[[], Awaitable[None]]) -> None:
    """Poll for the file until cancelled: stand down first, and remove the file when that is durable."""
    handled = ""
    while True:
        who = noticed(folder)
        if who and who != handled:
            stand_down(who)
            await durable()
            clear(folder)
        handled = noticed(folder)  # a file that cannot be removed is reported once
        await asyncio.sleep(look_s(LOOK_S))


def clear(folder: Path) -> None:
    """Remove the file; a folder stays, and is noticed again at the next start."""
    with contextlib.suppress(OSError):
        (folder / MARKER).unlink()
