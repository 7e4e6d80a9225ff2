"""Follow a journal from outside: step its new rows again to the exact newest state, writing nothing.

The first look restores the newest snapshot; each later one steps the new rows, in one short read. `problem` reports a
journal that cannot be followed (other code wrote it, damaged, locked, gone); the last state stays.
"""

from __future__ import annotations

import sqlite3
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.state import State
from daemon.core.step import Machine, Step
from daemon.engine.recover import adopt_trading, code_digest, leave_out, machine_of, restore
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, file_there
from daemon.journal.rows import Entry, JournalError, base_of, chain_start, decode_event, encode_effects, is_whole

ROWS_AT_ONCE = 2000
BUSY_MS = 500  # how long a look waits for a locked journal

RowStep = tuple[Entry, Step | None]


class _Astray(Exception):
    """A row that this code cannot step with the same result."""


class Follower:
    """Follows the journal in `path` (a state directory, or a file of its journal). Used by one thread at a time.

    With `after_row`, the first look begins at that row or before it: rows up to it may be stepped again.

    `problem` is "" while all is well; else why the state may be old. `state` is None before a first look succeeded.
    `caught_up`: the last look ended at the journal's newest row. `generation` counts the journals in this place: when
    it changes, earlier results of `advance` belong to another journal.
    """

    def __init__(self, path: Path, after_row: int | None = None) -> None:
        self.path = path if path.suffix == Path(FILE).suffix else path / FILE
        self._after_row = after_row
        self.meta: dict[str, str] = {}
        self.last_id = 0
        self.problem = "not looked at yet"
        self.caught_up = False
        self.generation = 0
        self._machine: Machine | None = None
        self._reader: JournalReader | None = None
        self._file: tuple[str, int, int] | None = None  # name, device, inode of the open journal
        self._row: bytes | None = None  # hash of row `last_id`; None: not read yet
        self._head = b""  # hash of the last chained row
        self._code = ""  # digest of this code, for the journal's strategy
        self._run_code = ""
        self._astray = ""  # why only a newer snapshot of this code can continue after `last_id`; "": no obstacle

    @property
    def machine(self) -> Machine | None:
        """The machine after the event of row `last_id`, None before a first look succeeded."""
        return self._machine

    @property
    def state(self) -> State[Any] | None:
        """The desk after the event of row `last_id`: frozen, so any thread may read it."""
        return self._machine.state if self._machine is not None else None

    def advance(self, limit_rows: int = ROWS_AT_ONCE) -> list[RowStep]:
        """Step up to `limit_rows` new rows; return each with its step (None for a row that was not stepped).

        Journal faults never raise: `problem` names them, and the next look tries again.
        """
        self.caught_up = False
        try:
            reader = self._current_reader()
            if self._astray and not self._restored(reader):
                self.problem = self._astray
                return []
            steps = self._step_rows(reader, limit_rows)
            if self._astray and self._restored(reader):
                self.problem = ""  # the next look goes on from there
        except sqlite3.OperationalError as error:
            self._close()
            self.problem = f"{self.path}: cannot be read at the moment: {error}"
        except (JournalError, sqlite3.Error, OSError, ValueError, KeyError) as error:
            self._close()
            text = str(error) if isinstance(error, JournalError) else f"{self.path}: {type(error).__name__}: {error}"
            self.problem = text
        else:
            return steps
        return []

    def close(self) -> None:
        """Close the journal. The state stays."""
        self._close()
        self.problem = "closed"

    # --- which journal --------------------------------------------------------------------------------------------

    def _current_reader(self) -> JournalReader:
        """Return the reader of the current journal; a new one when another file took its place."""
        try:
            path = file_there(self.path)
            stat = path.stat()
        except FileNotFoundError:
            raise JournalError(f"{self.path}: no journal here; is this the right state directory?") from None
        file = (path.name, stat.st_dev, stat.st_ino)  # SQLite finds a log by the name with which the file was opened
        if self._reader is not None and file == self._file:
            return self._reader
        self._close()
        reader = JournalReader(self.path)
        try:
            reader.query(f"PRAGMA busy_timeout = {BUSY_MS}")
            meta = reader.meta()
            made_with = {key: value for key, value in meta.items() if key != "head"}
            former_meta = {key: value for key, value in self.meta.items() if key != "head"}
            if self._machine is None or file != self._file or made_with != former_meta:
                self._begin(reader, meta)
        except BaseException:
            reader.close()
            raise
        self._reader, self._file, self.meta = reader, file, meta
        return reader

    def _begin(self, reader: JournalReader, meta: dict[str, str]) -> None:
        """Start afresh with the current journal: at its newest snapshot, or before its first row."""
        machine = machine_of(reader)
        self.meta, self._machine, self._astray = meta, machine, ""
        self._code = code_digest(machine.state.identity.strategy)
        self.last_id, self._row, self._head, self._run_code = 0, None, chain_start(meta), ""
        self.generation += 1
        base = base_of(meta)
        first = 0 if base is None else base.row + 1  # a rotated file's first row has a snapshot, and no rows before it
        self._restored(reader, None if self._after_row is None else max(self._after_row, first))

    def _restored(self, reader: JournalReader, upto: int | None = None) -> bool:
        """Restore a readable snapshot beyond `last_id`, and not beyond `upto`; False when there is none.

        It is the newest; with `after_row` before the first look, the one that skips the fewest rows.
        """
        machine = self._machine
        newest = reader.query("SELECT max(event_id) AS id FROM snapshots")[0]["id"] or 0
        if machine is None or newest <= self.last_id:
            return False
        snapshots = reader.snapshots()
        for snapshot in snapshots if self._after_row is not None and upto is None else reversed(snapshots):
            foreign = bool(self._astray) and snapshot.code != self._code
            beyond = upto is not None and snapshot.event_id > upto
            if snapshot.event_id <= self.last_id or beyond or not snapshot.whole or foreign:
                continue  # an older one, or the first row, leads to the same state
            try:
                restore(machine, snapshot)
            except msgspec.ValidationError:
                continue
            self.last_id, self._run_code, self._astray = snapshot.event_id, snapshot.code, ""
            self._row, self._head = None, reader.chain_head(snapshot.event_id)
            return True
        return False

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # --- its rows -------------------------------------------------------------------------------------------------

    def _step_rows(self, reader: JournalReader, limit_rows: int) -> list[RowStep]:
        """Read the newest known row again and those after it, to detect a journal that was overwritten."""
        from_row = max(self.last_id - 1, 0)
        rows = list(islice(reader.entries(from_row, page=limit_rows + 1), limit_rows + 1))
        if self.last_id:
            first = rows[0] if rows and rows[0].id == self.last_id else None
            if first is None or (self._row is not None and first.hash != self._row):
                self._file = None  # not the journal that was followed
                self._close()
                self.problem = f"{self.path}: the journal was replaced"
                return []
            self._row = first.hash
            rows = rows[1:]
        steps: list[RowStep] = []
        try:
            for entry in rows[:limit_rows]:
                step = self._step(entry)
                steps.append((entry, step))
        except _Astray as error:
            self._astray = self.problem = str(error)
            return steps
        self.caught_up = len(rows) < limit_rows
        self.problem = ""
        return steps

    def _step(self, entry: Entry) -> Step | None:
        """Step one row again. Raises _Astray, changing nothing, when it does not follow."""
        machine = self._machine
        if machine is None:
            raise _Astray(self.problem)
        if entry.id != self.last_id + 1 or not is_whole(entry, self._head):
            raise _Astray(f"{self.path}: damaged at event row {entry.id} ({entry.kind}); run rltraderctl verify")
        if entry.kind == "CodeChanged" and '"damaged":true' in entry.payload:
            # a row stepped here may have been damaged since, and left out
            raise _Astray(self._other_code(entry, "the desk went on from a state of its own, its snapshot is awaited"))
        step: Step | None = None
        follows = True
        try:
            if entry.quarantined:
                leave_out(machine, decode_event(entry.payload))
            elif not entry.raised:
                former_state = machine.state
                step = machine.reapply(decode_event(entry.payload))
                follows = encode_effects(step.effects) == entry.effects
                if not follows:
                    machine.state = former_state
                elif entry.kind == "RunStarted":
                    adopt_trading(machine)
                    self._run_code = msgspec.json.decode(entry.payload)["code"]
        except Exception as error:  # any error of a strategy that did not raise in the desk
            raise _Astray(self._other_code(entry, str(error))) from error
        if not follows:
            raise _Astray(self._other_code(entry, "its effects differ"))
        if entry.seq is not None:
            self._head = entry.hash
        self.last_id, self._row = entry.id, entry.hash
        return step

    def _other_code(self, entry: Entry, detail: str) -> str:
        """Return why this row cannot be stepped again, and the cure."""
        at = f"{self.path}: cannot be followed beyond event row {entry.id} ({entry.kind}): {detail[:300]}"
        if self._run_code and self._run_code != self._code:
            return f"{at}; other code ({self._run_code}) wrote it, this is {self._code}: use the daemon's version"
        return f"{at}; run rltraderctl verify"
