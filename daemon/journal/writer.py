"""The journal's writer thread: commits batches in order, off the event loop, a bounded number in flight.

`durable()` returns once all earlier batches are on the disk: effects that leave the process wait for it. A ballast file
is released at the first full disk, so that cancel, flatten and halt can still be journaled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from daemon.host.passing import LOCKED_S, busy, may_pass
from daemon.host.time.virtual_time import one_thread, time_waits_for
from daemon.journal.journal import Journal
from daemon.journal.rows import CommitBatch, JournalBusy, JournalError, WriteFailed

BALLAST_FILE = "ballast"
IN_FLIGHT = 3  # batches handed over and not yet durable; more wait


class JournalWriter:
    """Commits on a thread of its own. `pressed` turns true when a full disk took the ballast: halt now.

    With `spent` it starts without its ballast, which `reserve` restores.
    """

    def __init__(self, journal: Journal, ballast_mib: int = 0, *, spent: bool = False) -> None:
        self.journal = journal
        self.pressed = False
        self._failure: WriteFailed | None = None
        self._ballast_mib = ballast_mib
        self._ballast = journal.path.with_name(BALLAST_FILE)
        self._pool = one_thread("journal-writer")
        self._pending: deque[Future[None]] = deque()
        if spent:
            journal.append_only()
        elif ballast_mib:
            _make_ballast(self._ballast, ballast_mib)

    async def write(self, batch: CommitBatch) -> None:
        """Queue a batch; waits while too many are in flight. Raises WriteFailed of an earlier one."""
        pending = self._pending
        while pending and (pending[0].done() or len(pending) >= IN_FLIGHT):
            if not pending[0].done():
                await _wait_for(pending[0])
            pending.popleft().result()
        pending.append(self._pool.submit(self._commit, batch))
        time_waits_for(self._pool)

    async def durable(self) -> None:
        """Wait until all queued batches are on the disk. Raises WriteFailed."""
        while self._pending:
            await _wait_for(self._pending.popleft())

    async def beat(self) -> None:
        """Wait until the thread has done its earlier work: a liveness check. Raises WriteFailed when it broke."""
        beaten = asyncio.wrap_future(self._pool.submit(int))
        time_waits_for(self._pool)
        await beaten
        if self._failure is not None:
            raise self._failure

    async def reserve(self) -> None:
        """Restore the ballast after a full disk took it, before new risk. Raises JournalError without room for it."""
        if self._ballast_mib and not self._ballast.exists():
            future = self._pool.submit(self._reserve)
            time_waits_for(self._pool)
            await _wait_for(future)

    def _reserve(self) -> None:
        _make_ballast(self._ballast, self._ballast_mib)
        self.journal.append_only(on=False)

    def close(self) -> None:
        """End the thread and close the file. Failures were raised before."""
        self._pool.shutdown(wait=True)
        self.journal.close()

    def _commit(self, batch: CommitBatch) -> None:
        if self._failure is not None:  # no row may follow a missing one
            raise self._failure
        try:
            self._commit_under_pressure(batch)
        except WriteFailed as error:
            self._failure = error
            raise
        except Exception as error:  # not SQLite's error, but rows are missing too
            self._failure = WriteFailed(f"{self.journal.path}: {type(error).__name__}: {error}")
            raise self._failure from error

    def _commit_under_pressure(self, batch: CommitBatch) -> None:
        try:
            self._commit_with_retries(batch)
        except WriteFailed as error:
            if busy(error.__cause__) or not self._ballast.exists():
                raise
            self._ballast.unlink()
            self.journal.append_only()
            self.pressed = True
            self.journal.commit(batch)

    def _commit_with_retries(self, batch: CommitBatch) -> None:
        """Commit, retrying while another process may hold the file: a lock is no full disk."""
        deadline = time.monotonic() + LOCKED_S
        while True:
            try:
                return self.journal.commit(batch)
            except WriteFailed as error:
                if not busy(error.__cause__) or time.monotonic() > deadline:
                    raise


async def _wait_for(future: Future[None]) -> None:
    """Wait for a batch. A cancelled wait must not cancel the batch: those queued after it would follow a gap."""
    await asyncio.shield(asyncio.wrap_future(future))


def _frees(file: os.stat_result) -> int:
    """Return how many bytes removing a file frees: a copy may be sparse, or have another link."""
    return min(file.st_size, file.st_blocks * 512) if file.st_nlink == 1 else 0


def _make_ballast(path: Path, mib: int) -> None:
    """Reserve `mib` MiB next to the journal. Raises JournalError without it: a halt could not be journaled.

    It is a JournalBusy where room, or the disk, may come back. An existing entry that is not a plain file stays.
    """
    size = mib * 1024 * 1024
    try:
        present = path.lstat() if os.path.lexists(path) else None
        if present is not None and not stat.S_ISREG(present.st_mode):
            raise JournalError(
                f"{path}: not a plain file, and the daemon keeps its reserve for the day the disk is full there: "
                f"move it away, then start again"
            )
        if present is not None and _frees(present) == size == present.st_size:
            return
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        free = shutil.disk_usage(path.parent).free >> 20
        raise (JournalBusy if may_pass(error, path) else JournalError)(
            f"{path}: cannot reserve {mib} MiB for the day the disk is full ({error.strerror}, {free} MiB are free): "
            f"make room, or set journal.ballast_mib lower (a gateway: gateway.ballast_mib)"
        ) from error
