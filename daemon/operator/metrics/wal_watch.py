"""Watch the size of the journal's write-ahead log: a reader of an old view lets it grow without end.

It reads the size of one file and opens nothing, so it cannot hold a view itself. The journal's writer cuts the log back
to 64 MiB when it restarts it, so a limit below that is reported once in a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
EVERY_S = 30.0


def wal_bytes(journal: Path) -> int:
    """Return the size of a journal's write-ahead log in bytes, 0 for none."""
    try:
        return journal.with_name(f"{journal.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


class WalWatch:
    """Reports `wal_large` once when the log exceeds `limit_mib`, and again only after it was smaller.

    `log(name, **fields)` logs an event of the vocabulary and raises its alarm; it is called on the loop of `run`.
    """

    def __init__(self, journal: Path, limit_mib: int, log: Callable[..., None], every_s: float = EVERY_S) -> None:
        self._journal, self._limit_mib = journal, limit_mib
        self._log = log
        self._every_s = every_s
        self._large = False

    async def run(self) -> None:
        """Check at intervals until cancelled. Raises OSError where the folder cannot be read."""
        while True:
            self.look()
            await asyncio.sleep(self._every_s)

    def look(self) -> None:
        """Check once."""
        size = wal_bytes(self._journal)
        large = size > self._limit_mib * MIB
        if large and not self._large:
            self._log("wal_large", mib=round(size / MIB, 1), limit_mib=self._limit_mib)
        self._large = large
