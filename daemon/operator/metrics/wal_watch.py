"""The length of the journal's write-ahead log: a reader that holds on to an old view lets it grow without end.

It looks at the size of one file and tells; it opens nothing, so that it can hold nothing itself. The journal's writer
cuts the log back to 64 MiB when it begins it anew, so a limit below that would be told once in a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
EVERY_S = 30.0


def wal_bytes(journal: Path) -> int:
    """Size of a journal's write-ahead log in bytes; 0 where there is none."""
    try:
        return journal.with_name(f"{journal.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


class WalWatch:
    """Tells `wal_large` once when the log is longer than `limit_mib`, again only after it was not.

    `tell(name, **fields)` logs an event of the vocabulary and raises its alarm; it is called on the loop of `run`.
    """

    def __init__(self, journal: Path, limit_mib: int, tell: Callable[..., None], every_s: float = EVERY_S) -> None:
        self._journal, self._limit_mib = journal, limit_mib
        self._tell = tell
        self._every_s = every_s
        self._large = False

    async def run(self) -> None:
        """Look until cancelled. Raises OSError where the folder cannot be looked at."""
        while True:
            self.look()
            await asyncio.sleep(self._every_s)

    def look(self) -> None:
        """One look."""
        size = wal_bytes(self._journal)
        large = size > self._limit_mib * MIB
        if large and not self._large:
            self._tell("wal_large", mib=round(size / MIB, 1), limit_mib=self._limit_mib)
        self._large = large
