"""Walk a journal's rows from any row on: through the rotated files, then along the running one.

Each row is stepped again, so its observation is available. Rows that cannot be stepped (other code, damage) are skipped
if a later snapshot follows, and `gaps` counts such places.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.follow import Follower
from daemon.engine.state_dir import parts_of
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError

ROWS_AT_ONCE = 500


class OtherJournal(Exception):
    """A journal of another epoch, or an older copy, replaced the one being walked."""


class Walked(NamedTuple):
    """One row with its step, None if not stepped. `begins`: the desk before it, if rows are missing."""

    row: int
    hash: bytes  # of the row: it covers the whole past up to it
    step: Step | None
    begins: State[Any] | None


class JournalWalk:
    """The rows of the journal in `state_dir` from row `after_id` on; the first ones may be a little older.

    `problem` is "" while all is well. `caught_up`: the last look ended at the newest row, `last_id`.
    """

    def __init__(self, state_dir: Path, epoch: str, after_id: int = 0) -> None:
        self._journal = state_dir / FILE
        self._epoch = epoch
        self.last_id = after_id
        self.problem = ""
        self.caught_up = False
        self.gaps = 0
        self._first = True
        self._hash = b""  # of row `last_id`, empty before it was walked
        self._follower: Follower | None = None
        self._generation = 0

    def look(self) -> list[Walked]:
        """Return the next rows, at most `ROWS_AT_ONCE`. Raises OtherJournal; other faults are in `problem`."""
        self.caught_up = False
        try:
            follower = self._current()
        except (JournalError, sqlite3.Error, OSError) as error:
            self.problem = str(error)
            return []
        follower.advance(0)
        state_before = follower.state
        rows_done = follower.advance(ROWS_AT_ONCE)
        if self._generation not in {0, follower.generation}:
            self.close()  # another file replaced the journal: the next look examines its rows
            return []
        self._generation, self.problem = follower.generation, follower.problem
        if follower.meta.get("epoch", self._epoch) != self._epoch:
            raise OtherJournal(f"{self._journal}: the journal of epoch {self._epoch} is gone")
        rows = []
        for entry, step in rows_done:
            if entry.id <= self.last_id and not self._first:
                continue
            missing = entry.id > self.last_id + 1
            rows.append(Walked(entry.id, entry.hash, step, state_before if self._first or missing else None))
            self.gaps += missing
            self._first, self.last_id, self._hash = False, entry.id, entry.hash
        if follower.caught_up:
            self._turn(follower)
        return rows

    def close(self) -> None:
        """Close the file. Later looks open it again."""
        if self._follower is not None:
            self._follower.close()
        self._follower, self._generation = None, 0

    def _current(self) -> Follower:
        """Return the follower of the file with the row after `last_id`; of the oldest file if none goes back so far."""
        if self._follower is None:
            parts = parts_of(self._journal)
            path = next((part for part in reversed(parts[1:]) if _first_row(part) <= self.last_id), parts[0])
            self._check_past(path)
            self._follower = Follower(path, self.last_id)
        return self._follower

    def _check_past(self, part: Path) -> None:
        """Raise OtherJournal if the file has another row, or none yet, in place of the last walked one.

        The walked rows and the following ones would belong to two pasts: no decision may span both.
        """
        with closing(JournalReader(part)) as reader, reading(part):
            ours = reader.meta().get("epoch", self._epoch) == self._epoch
            rows = reader.query("SELECT id, hash FROM events WHERE id >= ? ORDER BY id LIMIT 1", (self.last_id,))
        row_there = (rows[0]["id"], rows[0]["hash"]) if rows else (self.last_id, None)
        if ours and self._hash and row_there[0] == self.last_id and row_there[1] != self._hash:
            raise OtherJournal(f"{part}: row {self.last_id} is not the one that was read: it is an older copy")

    def _turn(self, follower: Follower) -> None:
        """Turn to the file after this one; the running one stays open."""
        if follower.path == self._journal:
            self.caught_up = True
        else:
            self.close()


def hash_of(state_dir: Path, row: int) -> bytes | None:
    """Return the hash of a row of the journal, None where no file has it. Raises JournalError, sqlite3.Error."""
    for part in reversed(parts_of(state_dir / FILE)):
        with closing(JournalReader(part)) as reader, reading(part):
            if rows := reader.query("SELECT hash FROM events WHERE id = ?", (row,)):
                return bytes(rows[0]["hash"])
    return None


def _first_row(part: Path) -> int:
    with closing(JournalReader(part)) as reader, reading(part):
        rows = reader.query("SELECT min(id) AS id FROM events")
    return int(rows[0]["id"] or 0)
