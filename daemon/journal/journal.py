"""The journal: one SQLite file (WAL) with the events, their effects, snapshots and read models. Append-only.

A row's hash covers sequence, time, kind, payload and effects and the chained row before it. Start-up rows and rows
whose step raised have no sequence: they hash onto the chain but the chain does not run through them. Commits happen on
one writer thread, grouped and in order, so the file always holds a prefix.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from daemon.core.records import ROW_TYPES, RoundTripRow, Row
from daemon.host.passing import busy
from daemon.journal.moves_of_fills import has_moves, moves_of_fills
from daemon.journal.reader import JournalReader, connect
from daemon.journal.rows import SCHEMA_NUMBER, WHOLE, WITH_FRACTIONS, CommitBatch, Entry, WriteFailed
from daemon.journal.trade import NAME, VIEW, renew_view
from strategies.kit.quantity import Part, Quantity

FILE = "journal.sqlite"
SNAPSHOTS_KEPT = 3
PAGES_FOLDED = 1000  # pages of the log at which it is folded into the file: SQLite's default
SWITCH_S = 1.0  # how long a change of the journal mode waits for readers
_SQL_TYPES = {int: " INTEGER", str: " TEXT", float: " REAL", bytes: " BLOB", Quantity: ""}
"""A quantity has no type: SQLite would turn the text of a fraction into a REAL where it expects a number."""


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    create: str
    counts: tuple[int, ...] = ()  # places of its columns with quantities
    merge: str = ""  # what to do with a row whose key exists; "": replace it

    def insert(self, rows: int) -> str:
        """Return one statement for many rows: it releases the interpreter lock once, not once a row."""
        one = f"({','.join('?' * len(self.columns))})"
        verb = "INSERT" if self is _EVENTS or self.merge else "INSERT OR REPLACE"  # events are never overwritten
        return f"{verb} INTO {self.name} VALUES {','.join([one] * rows)}{self.merge}"


def _row_table(row_type: type[Row]) -> _Table:
    columns, lines = [], []
    for field in msgspec.structs.fields(row_type):
        column_type = field.type if isinstance(field.type, type) else field.type.__args__[0]
        optional = "" if not isinstance(field.type, type) else " NOT NULL"
        columns.append(field.name)
        lines.append(f"{field.name}{_SQL_TYPES[column_type]}{optional}")
    key = ", ".join(columns[: row_type.KEY])
    rowid = "" if row_type.KEY == 1 and " INTEGER " in lines[0] else " WITHOUT ROWID"
    create = f"CREATE TABLE {row_type.TABLE} ({', '.join(lines)}, PRIMARY KEY ({key})){rowid}"
    merge_text = ", ".join(f"{column} = {how}" for column, how in getattr(row_type, "MERGED", {}).items())
    merge = f" ON CONFLICT ({key}) DO UPDATE SET {merge_text}" if merge_text else ""
    fields = msgspec.structs.fields(row_type)
    counts = tuple([place for place, field in enumerate(fields) if field.type is Quantity])
    return _Table(row_type.TABLE, tuple(columns), create, counts, merge)


_EVENTS = _Table(
    "events",
    Entry._fields,
    "CREATE TABLE events (id INTEGER PRIMARY KEY, seq INTEGER, time_ns INTEGER NOT NULL, kind TEXT NOT NULL, "
    "payload TEXT NOT NULL, effects TEXT NOT NULL, hash BLOB NOT NULL)",
)
READ_MODELS: dict[str, _Table] = {row_type.TABLE: _row_table(row_type) for row_type in ROW_TYPES}
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    _EVENTS.create,
    "CREATE TABLE digests (seq INTEGER PRIMARY KEY, digest TEXT NOT NULL)",
    (
        "CREATE TABLE snapshots (event_id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, code TEXT NOT NULL, "
        "kept INTEGER NOT NULL, state BLOB NOT NULL, market BLOB NOT NULL, digest TEXT NOT NULL, "
        "market_digest TEXT NOT NULL)"
    ),
    *(table.create for table in READ_MODELS.values()),
    "CREATE INDEX decisions_by_bar ON decisions (bar_ns)",
)
INDEXED = ("RunStarted", "ModelVerified", "ModelPromoted", "SessionEnded")  # kinds that are queried by name
_INDEXES = (  # older journals get them with their first commit
    f"CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind) WHERE {' OR '.join(f'kind = {k!r}' for k in INDEXED)}",
    "CREATE INDEX IF NOT EXISTS events_unchained ON events (kind) WHERE seq IS NULL",
    "CREATE INDEX IF NOT EXISTS decisions_by_time ON decisions (time_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_work ON orders (work)",
    "CREATE INDEX IF NOT EXISTS orders_by_time ON orders (submitted_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_change ON orders (updated_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_symbol ON orders (symbol)",
    "CREATE INDEX IF NOT EXISTS fills_by_time ON fills (time_ns)",
    "CREATE INDEX IF NOT EXISTS moves_by_time ON moves (time_ns)",
    "CREATE INDEX IF NOT EXISTS shadows_by_time ON shadows (time_ns)",
    "CREATE INDEX IF NOT EXISTS round_trips_by_end ON round_trips (left_ns)",
)
SCHEMA = (*_SCHEMA, *_INDEXES, VIEW)
_OLD_SNAPSHOTS = (  # a rotated file keeps its first one: verify starts there
    "DELETE FROM snapshots WHERE kept = 0 "
    "AND event_id NOT IN (SELECT event_id FROM snapshots ORDER BY event_id DESC LIMIT ?) "
    "AND NOT (event_id = (SELECT min(id) FROM events) AND EXISTS (SELECT 1 FROM meta WHERE key = 'base'))"
)
_CHUNKS = (1024, 256, 64, 16, 4, 1)
sqlite3.register_adapter(Part, str)
sqlite3.register_adapter(bytes, bytes)  # these two give the value itself: the search for no adapter takes longer
sqlite3.register_adapter(type(None), lambda value: value)


class Journal:
    """The file. Used by one thread at a time; `JournalWriter` runs it in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = connect(path, read_only=False)
        self._is_begun = False
        self._has_fractions = False

    @classmethod
    def create(cls, path: Path, meta: dict[str, str]) -> Journal:
        """Create a new journal whole or not at all: it is written under another name and renamed."""
        fresh = path.with_suffix(".new")
        for leftover in (fresh, fresh.with_name(fresh.name + "-wal"), fresh.with_name(fresh.name + "-shm")):
            leftover.unlink(missing_ok=True)
        try:
            db = sqlite3.connect(fresh, isolation_level=None)
            db.execute("PRAGMA page_size = 8192")  # rows of about 1 KB: 15 % less work than with 4096
            db.execute("BEGIN")
            for statement in SCHEMA:
                db.execute(statement)
            rows = {**meta, SCHEMA_NUMBER: str(WHOLE)}
            db.executemany("INSERT INTO meta VALUES (?, ?)", sorted(rows.items()))
            db.execute("COMMIT")
            db.close()
            fresh.rename(path)
        except (sqlite3.Error, OSError) as error:
            raise WriteFailed(f"{path}: cannot create the journal: {error}") from error
        return cls(path)

    def note(self, key: str, value: str) -> None:
        """Replace a value in the table meta that is not part of the hash chain. Raises WriteFailed."""
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        except sqlite3.Error as error:
            raise WriteFailed(f"{self.path}: cannot be written: {error}") from error

    def commit(self, batch: CommitBatch) -> None:
        """Write the batch in one transaction, durable when this returns; on an exception nothing is written.

        Raises WriteFailed for SQLite's errors.
        """
        db = self._db
        try:
            if not self._is_begun:
                self._begin()
            db.execute("BEGIN IMMEDIATE")
            self._insert(_EVENTS, batch.entries)
            tables = group_rows(batch.rows)
            for table, rows in tables.items():
                self._insert(READ_MODELS[table], rows)
            fractions = not self._has_fractions and _has_fraction(tables)
            if fractions:
                self.note(SCHEMA_NUMBER, str(WITH_FRACTIONS))
            if batch.digests:
                db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", batch.digests)
            for snapshot in batch.snapshots:
                db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", snapshot)
                db.execute(_OLD_SNAPSHOTS, (SNAPSHOTS_KEPT,))
            if batch.entries:
                last = batch.entries[-1]
                db.execute("INSERT OR REPLACE INTO meta VALUES ('head', ?)", (f"{last.id}:{last.hash.hex()}",))
            db.execute("COMMIT")
            self._has_fractions |= fractions
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if busy(error):
                cure = "another process holds the file: end it (a sqlite3 shell, or what reads without an end)"
                raise WriteFailed(f"{self.path}: {error}: {cure}") from error
            if isinstance(error, sqlite3.Error):
                raise WriteFailed(f"{self.path}: {error}") from error
            raise

    def _begin(self) -> None:
        """Start the write-ahead log and add missing read models, with the first commit.

        Until then the file is unchanged. While another process reads the plain file the log cannot start: this commit
        goes without it, and the next tries again.
        """
        fills_alone = not has_moves(self._db)
        for table in READ_MODELS.values():
            self._db.execute(table.create.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
        self._renew_tables()
        if fills_alone:
            for name, rows in group_rows(moves_of_fills(self.reader())).items():
                self._insert(READ_MODELS[name], rows)
        renew_view(self._db)
        for index in _INDEXES:
            self._db.execute(index)
        number = self._db.execute("SELECT value FROM meta WHERE key = ?", (SCHEMA_NUMBER,)).fetchone()
        self._has_fractions = number == (str(WITH_FRACTIONS),)
        self._is_begun = self._switch("WAL")

    def _renew_tables(self) -> None:
        """Remove the type of quantity columns that a former release declared as whole numbers."""
        tables_made = dict(self._db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
        former = [table for table in READ_MODELS.values() if table.counts and tables_made[table.name] != table.create]
        if not former:
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(f"DROP VIEW IF EXISTS {NAME}")
        for table in former:
            columns = ", ".join(table.columns)
            self._db.execute(table.create.replace(table.name, f"new_{table.name}", 1))
            self._db.execute(f"INSERT INTO new_{table.name} ({columns}) SELECT {columns} FROM {table.name}")
            self._db.execute(f"DROP TABLE {table.name}")
            self._db.execute(f"ALTER TABLE new_{table.name} RENAME TO {table.name}")
        self._db.execute("COMMIT")

    def _switch(self, mode: str) -> bool:
        """Change the journal mode, which needs exclusive access; False after SWITCH_S."""
        deadline = time.monotonic() + SWITCH_S
        while True:
            try:
                self._db.execute(f"PRAGMA journal_mode = {mode}")
            except sqlite3.OperationalError as error:
                if not busy(error) or time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
            else:
                return True

    def _insert(self, table: _Table, rows: Sequence[tuple[Any, ...]]) -> None:
        at = 0
        for size in _CHUNKS:
            while len(rows) - at >= size:
                flat = list(itertools.chain.from_iterable(rows[at : at + size]))
                try:
                    self._db.execute(table.insert(size), flat)
                except OverflowError:  # a time out of range from a broker; the event keeps it
                    self._db.execute(table.insert(size), list(map(_in_64_bits, flat)))
                at += size

    def append_only(self, *, on: bool = True) -> None:
        """From now on only append to the log: on a full disk, folding it would use up the remaining room."""
        self._db.execute(f"PRAGMA wal_autocheckpoint = {0 if on else PAGES_FOLDED}")

    def fold(self) -> None:
        """Fold the write-ahead log into the file. The rest stays in the log, nothing is lost."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Fold and close, leaving one plain file: a read-only user cannot open a file with a log.

        If another reader stays longer than SWITCH_S, log and index remain next to the file: still readable, and the
        next opening continues from there.
        """
        self.fold()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA busy_timeout = 0")
            self._switch("DELETE")
        self._db.close()

    def reader(self) -> JournalReader:
        """Return a reader on this very connection, for recovery before the writer starts."""
        return JournalReader(self.path, self._db)


def _in_64_bits(value: Any) -> Any:
    """Clamp an integer to SQLite's range; return other values unchanged."""
    return min(max(value, -(2**63)), 2**63 - 1) if isinstance(value, int) else value


def _has_fraction(tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> bool:
    """Return whether a row has a fraction of a share."""
    return any(
        type(row[place]) is Part for name, rows in tables.items() for place in READ_MODELS[name].counts for row in rows
    )


def group_rows(rows: Sequence[Row]) -> dict[str, list[tuple[Any, ...]]]:
    """Group rows by table, keeping the last of each key: a batch writes an order once, as it ended.

    Rows that SQLite merges are all kept.
    """
    tables: dict[str, dict[Any, tuple[Any, ...]]] = {}
    for number, row in enumerate(rows):
        values = msgspec.structs.astuple(row)
        key = number if type(row) is RoundTripRow else values[: row.KEY]
        tables.setdefault(row.TABLE, {})[key] = values
    return {name: list(rows_by_key.values()) for name, rows_by_key in tables.items()}
