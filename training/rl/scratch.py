"""A folder for as long as a process lives: what one that was killed left is removed by the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFT_S = 60.0  # age from which on a folder without a lock is that of a killed process


@contextmanager
def scratch(where: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `where`, locked by this process and removed at the end.

    Older ones whose name begins with `prefix`, and that no living process has locked, are removed first.
    """
    for leftover in where.glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, a living process's, or removed meanwhile
            if time.time() - leftover.stat().st_mtime > LEFT_S:
                with _locked(leftover):
                    shutil.rmtree(leftover)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=where, ignore_cleanup_errors=True) as folder,
        _locked(Path(folder)),
    ):
        yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process. Raises OSError where another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
