"""Reading a journal, even while a daemon runs, in short transactions."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.own_files import refuse_links
from daemon.host.passing import busy, may_pass
from daemon.journal.rows import (
    SCHEMA_NUMBER,
    STRATEGY_FROM,
    WHOLE,
    WITH_FRACTIONS,
    Entry,
    JournalBusy,
    JournalError,
    Snapshot,
    base_of,
    chain_start,
)
from strategies.kit.quantity import Quantity, of_column, to_column
from strategies.registry import remember

NEWEST = 2**63 - 1  # above every row
ROTATED = "rotated"  # the folder of the files before this one
ROTATING = ".rotating"  # suffix of the file that replaces the journal in a rotation's last step


class JournalReader:
    """Read-only access in short transactions. Rows come in the order in which they were written."""

    def __init__(self, path: Path, db: sqlite3.Connection | None = None) -> None:
        self.path = path
        self._db = db if db is not None else connect(path, read_only=True)
        self._version = 0  # data version at `hold`

    def meta(self) -> dict[str, str]:
        """Return the journal's meta and its head. Raises JournalError when it is no text.

        Notes the path of an own strategy in the registry, which imports it on first use.
        """
        values = dict(self._db.execute("SELECT key, value FROM meta"))
        try:
            msgspec.json.encode(values)
        except (UnicodeEncodeError, TypeError):
            raise JournalError(f"{self.path}: damaged in its table meta: restore it from a copy") from None
        remember(values.get("strategy", ""), values.get(STRATEGY_FROM, ""))
        return values

    def entries(self, after_id: int = 0, page: int = 2000) -> Iterator[Entry]:
        """Yield rows with an id above `after_id`; each page is a transaction of its own.

        Where damage changed an id, the row gets the id after the former row's.
        """
        query = "SELECT id, seq, time_ns, kind, payload, effects, hash FROM events WHERE id > ? ORDER BY id LIMIT ?"
        while rows := _in_place(self._db.execute(query, (after_id, page)).fetchall(), after_id):
            yield from map(Entry._make, rows)
            after_id = rows[-1][0]

    def last_entry(self) -> Entry | None:
        row = self._db.execute(
            "SELECT id, seq, time_ns, kind, payload, effects, hash FROM events ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return Entry._make(row) if row else None

    def chain_head(self, row_id: int | None = None) -> bytes:
        """Return the hash of the last chained row (up to event row `row_id`); before the first, the chain's start."""
        upto = NEWEST if row_id is None else row_id
        row = self._db.execute(
            "SELECT hash FROM events WHERE seq IS NOT NULL AND id <= ? ORDER BY id DESC LIMIT 1", (upto,)
        ).fetchone()
        if row is None:
            return chain_start(self.meta())
        return row[0] if isinstance(row[0], bytes) else b""  # damage may change a column's type

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        columns = ", ".join(Snapshot._fields)
        return [Snapshot._make(row) for row in self._db.execute(f"SELECT {columns} FROM snapshots ORDER BY event_id")]

    def newest_snapshots(self) -> Iterator[Snapshot | int]:
        """Yield the snapshots, newest first; for an unreadable one its event row's id.

        The last is that of the file before this one, if it exists: a rotation began this file with it.
        """
        for (event_id,) in self._db.execute("SELECT event_id FROM snapshots ORDER BY event_id DESC").fetchall():
            try:
                snapshot = self.snapshot_at(event_id)
            except sqlite3.DatabaseError as error:
                if may_pass(error, self.path):
                    raise
                snapshot = None
            yield int(event_id) if snapshot is None else snapshot
        base = base_of(self.meta())
        former = None if base is None else self._former_snapshot(base.row + 1)
        if former is not None:
            yield former

    def snapshot_at(self, event_id: int) -> Snapshot | None:
        """Return the snapshot at an event's row; None without one."""
        columns = ", ".join(Snapshot._fields)
        row = self._db.execute(f"SELECT {columns} FROM snapshots WHERE event_id = ?", (event_id,)).fetchone()
        return None if row is None else Snapshot._make(row)

    def _former_snapshot(self, first: int) -> Snapshot | None:
        """Return the snapshot at this file's first row, from the former file that ends with it; None without one."""
        for path in (self.path.parent / ROTATED).glob(f"*-{first:012}.sqlite"):
            try:
                with contextlib.closing(JournalReader(path)) as former, reading(path):
                    if former.last_entry() == next(self.entries(first - 1, page=1), None):
                        return former.snapshot_at(first)
            except JournalBusy:
                raise
            except JournalError:  # damaged as well, or no journal
                continue
        return None

    def digests(self) -> dict[int, str]:
        return dict(self._db.execute("SELECT seq, digest FROM digests"))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of any SELECT, addressable by column name."""
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(sql, parameters).fetchall()

    def payloads(self, *kinds: str, page: int = 5000) -> Iterator[str]:
        """Yield the payloads of all events of these kinds, oldest first; each page is a transaction of its own."""
        last, kinds_text = 0, ", ".join(f"'{kind}'" for kind in kinds)
        sql = f"SELECT id, payload FROM events WHERE id > ? AND kind IN ({kinds_text}) ORDER BY id LIMIT ?"
        while rows := _in_place(self._db.execute(sql, (last, page)).fetchall(), last):
            last = rows[-1][0]
            yield from (payload for _, payload in rows)

    def newest_of(self, *kinds: str) -> str | None:
        """Return the newest event's payload among these kinds of `INDEXED`, even from before a rotation."""
        newest = [
            row
            for kind in kinds
            for row in self._db.execute(
                f"SELECT id, payload FROM events WHERE kind = '{kind}' ORDER BY id DESC LIMIT 1"
            )
        ]
        if newest:
            return str(max(newest)[1])
        base = base_of(self.meta())
        payload_before = None if base is None else base.started if kinds == ("RunStarted",) else base.model
        return payload_before or None

    def hold(self, other: Path) -> None:
        """Read the journal's present content until `close`, despite writers; attach the file `other` as `other`.

        This is the one long read: meanwhile the write-ahead log only grows. A stopped desk's plain file is not locked,
        which would keep a daemon from writing it: `moved` reports whether one did.
        """
        self._db.execute("ATTACH ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
        self._version = self._data_version()
        if self._db.execute("PRAGMA main.journal_mode").fetchone()[0] == "wal":
            self._db.execute("BEGIN")
            self.meta()
            self._version = self._data_version()

    def moved(self) -> bool:
        """Return whether another process has written since `hold`; never True while the hold locks."""
        return self._data_version() != self._version

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA main.data_version").fetchone()[0])

    def count(self) -> int:
        """Count the chained events."""
        return int(self._db.execute("SELECT count(*) FROM events WHERE seq IS NOT NULL").fetchone()[0])

    def close(self) -> None:
        self._db.close()


def _in_place(rows: list[tuple[Any, ...]], after_id: int) -> list[tuple[Any, ...]]:
    """Return rows in the order of the file with ascending ids above `after_id`, so that reading ends.

    An id that is not above the former row's, or is beyond the next one's, is damaged. A first row not above `after_id`
    was read before: SQLite seeks by ids.
    """
    rows = list(dropwhile(lambda row: row[0] <= after_id, rows))
    next_ids = [*(row[0] for row in rows[1:]), NEWEST]
    if all(row[0] < next_id for row, next_id in zip(rows, next_ids, strict=False)):
        return rows
    for place, (row, next_id) in enumerate(zip(rows, next_ids, strict=False)):
        is_damaged = row[0] <= after_id or after_id < next_id < row[0]
        after_id = after_id + 1 if is_damaged else row[0]
        rows[place] = (after_id, *row[1:])
    return rows


def unreadable(path: Path, error: Exception) -> JournalError:
    """Return the error for a refused read: a passing fault, a permission, or damage.

    Where SQLite's own message quotes damaged bytes the refusal is a UnicodeDecodeError.
    """
    if may_pass(error, path):
        cure = "end what holds it" if busy(error) else "look at its disk"
        return JournalBusy(f"{path}: cannot be read at the moment: {error}; {cure}")
    if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such table"):
        return JournalError(f"{path}: cannot open the journal: {error}; check its permissions and the disk")
    cure = "restore it or use a fresh --state-dir (OPERATIONS.md: A journal that cannot be read)"
    if (log := path.with_name(f"{path.name}-wal")).exists():
        again = f"move it and {path.name}-shm away, and put the copy there again"
        cure = f"if a copy was put in its place, {log.name} is not of that copy: {again}; else {cure}"
    return JournalError(f"{path}: not a journal or damaged: {error}; {cure}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn SQLite's errors while reading into JournalError, or JournalBusy where they may pass."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def _damaged_too(text: bytes) -> str:
    """Decode any bytes as text, so that a damaged row is reported without ending the reading."""
    return text.decode(errors="surrogateescape")


class _ExactSum:
    """The sum of a column of quantities, each times an integer where one is given: `exact_sum(quantity, side)`."""

    def __init__(self) -> None:
        self._sum: Quantity = 0

    def step(self, quantity: Any, times: int = 1) -> None:
        self._sum += of_column(quantity) * times

    def finalize(self) -> Any:
        return to_column(self._sum)


def with_quantities(db: sqlite3.Connection) -> sqlite3.Connection:
    """Let SQL add quantities: `exact_plus` of two, `exact_sum` of a column. SQLite's own sum of texts is a REAL."""
    db.create_function(
        "exact_plus", 2, lambda one, other: to_column(of_column(one) + of_column(other)), deterministic=True
    )
    db.create_aggregate("exact_sum", -1, _ExactSum)
    return db


def _schema_row(db: sqlite3.Connection, path: Path) -> Any:
    """Return the row with the schema's number. Only a connection that may write rolls back a killed writer's rest.

    SQLite does that with its first read.
    """
    query = f"SELECT value FROM meta WHERE key = '{SCHEMA_NUMBER}'"
    try:
        return db.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as writer:
            writer.execute(query)
        return db.execute(query).fetchone()


def file_there(journal: Path) -> Path:
    """Return the journal's file; after a rotation killed before its last step, the file that is to replace it."""
    part = journal.with_suffix(ROTATING)
    return journal if journal.exists() or not part.exists() else part


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open an existing journal. Raises JournalError for a file that is not one, broken, or of a newer version."""
    if read_only:
        path = file_there(path)
    if not path.exists():
        raise JournalError(f"{path}: no journal here; is this the right --state-dir?")
    try:
        refuse_links(path)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    try:
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64)
        with_quantities(db)
        db.text_factory = _damaged_too
        db.execute("PRAGMA busy_timeout = 5000")
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_size_limit = 67108864")
        row = _schema_row(db, path)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    version = int(row[0]) if row and row[0].isdecimal() else 0
    if not WHOLE <= version <= WITH_FRACTIONS:
        db.close()
        newer = "a newer" if version > WITH_FRACTIONS else "an older"
        raise JournalError(
            f"{path}: written by {newer} version (schema {version}, this one reads {WHOLE} and {WITH_FRACTIONS}); "
            f"use that version, or a fresh --state-dir"
        )
    return db
