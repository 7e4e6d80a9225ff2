"""The journal: one SQLite file (WAL) with the events, their effects, snapshots and read models. Append-only.

A row's hash covers sequence, time, kind, payload and effects and the chained row before it. Start-up rows and rows
whose step raised have no sequence: they hash onto the chain but the chain does not run through them. Commits happen on
one writer thread, grouped; what was handed over first is durable first, so the file always holds a prefix.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from daemon.core.effects import AnyEffect
from daemon.core.events import STARTUP_EVENTS, AnyEvent, Event
from daemon.core.records import ROW_TYPES, Row
from daemon.host.own_files import refuse_links
from daemon.host.passing import MayPass, busy, may_pass
from strategies.kit.contract import Observation

SCHEMA_VERSION = 1
FILE = "journal.sqlite"
SNAPSHOTS_KEPT = 3
SWITCH_S = 1.0  # so long a change of the form waits for readers to go
NEWEST = 2**63 - 1  # above every row
_STARTUP_KINDS = frozenset(kind.__name__ for kind in STARTUP_EVENTS)
_SQL_TYPES = {"int": "INTEGER", "str": "TEXT", "float": "REAL", "bytes": "BLOB"}


class JournalError(Exception):
    """The journal cannot be opened or read as it is. The message names file, finding and cure; exit code 2."""


class JournalBusy(MayPass, JournalError):
    """The journal cannot be read at the moment: locked, or its disk fails. Exit code 1: a later start may succeed."""


class WriteFailed(Exception):
    """A commit did not reach the disk (full, read-only, broken). What was committed before is intact."""


class Entry(NamedTuple):
    """One row of `events`. `seq` None: a start-up row, an event whose step raised, or one quarantined for it."""

    id: int
    seq: int | None
    time_ns: int
    kind: str
    payload: str
    effects: str
    hash: bytes

    @property
    def startup(self) -> bool:
        return self.kind in _STARTUP_KINDS

    @property
    def raised(self) -> bool:
        return self.effects.startswith('{"raised"')

    @property
    def quarantined(self) -> bool:
        return self.effects.startswith('{"quarantined"')


class Snapshot(NamedTuple):
    """The state after event row `event_id`. `market` is the paper broker's, empty with a real broker.

    `digest` and `market_digest` are the SHA-256 of `state` and `market`, 64 hex digits each.
    """

    event_id: int
    seq: int
    code: str
    kept: int
    state: bytes
    market: bytes
    digest: str
    market_digest: str

    @property
    def whole(self) -> bool:
        """True when both parts are what was written."""
        parts = ((self.state, self.digest), (self.market, self.market_digest))
        return all(hashlib.sha256(part).hexdigest() == digest for part, digest in parts)


def genesis(meta: Mapping[str, str]) -> bytes:
    """Where the hash chain starts: SHA-256 over what the journal was made with, so that none of it can be changed."""
    made_with = sorted((key, value) for key, value in meta.items() if key not in ("head", "base"))
    return hashlib.sha256(msgspec.json.encode(made_with)).digest()


class Base(msgspec.Struct, frozen=True):
    """Where a journal goes on that does not begin at the first event: the chain is that of the file before it."""

    row: int  # id of the last row before
    seq: int  # the last sequence before
    head: str  # hash of the last chained row before, hex
    started: str  # payload of the last RunStarted before
    model: str = ""  # payload of the last ModelVerified or ModelPromoted before
    left_out: int = 0  # feed events before that were quarantined
    size: int = 0  # bytes that the file began with


def base_of(meta: Mapping[str, str]) -> Base | None:
    """What the journal goes on from; None for one that begins at its desk's first event. Raises JournalError."""
    try:
        return msgspec.json.decode(meta["base"], type=Base) if "base" in meta else None
    except msgspec.DecodeError as error:
        raise JournalError(f"the journal's base is damaged: {error}; restore it from a copy") from error


def chain_start(meta: Mapping[str, str]) -> bytes:
    """What the journal's first row is hashed onto."""
    base = base_of(meta)
    return genesis(meta) if base is None else bytes.fromhex(base.head)


class Batch:
    """What one commit writes: rows gathered since the last one."""

    __slots__ = ("digests", "entries", "rows", "snapshots")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.rows: list[Row] = []
        self.digests: list[tuple[int, str]] = []
        self.snapshots: list[Snapshot] = []

    def __bool__(self) -> bool:
        return bool(self.entries or self.snapshots)


def _observation_digest(value: Any) -> Any:
    if isinstance(value, Observation):
        return hashlib.sha256(value.data + value.hidden).hexdigest()[:16]
    raise TypeError(f"{type(value).__name__} cannot be journaled")


_STARTUP = frozenset(STARTUP_EVENTS)
_event_encoder = msgspec.json.Encoder()
_effect_encoder = msgspec.json.Encoder(enc_hook=_observation_digest)
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(AnyEvent)


def encode_event(event: Event) -> str:
    """The event as JSON with its kind as `type`."""
    return _event_encoder.encode(event).decode()


def decode_event(payload: str) -> Event:
    """Read an event back. Raises `msgspec.DecodeError` for what is no event of this version."""
    try:
        return _event_decoder.decode(payload)
    except UnicodeEncodeError:  # a damaged row's bytes, see `_damaged_too`
        raise msgspec.DecodeError("it is no text") from None


def encode_effects(effects: Sequence[AnyEffect]) -> str:
    """The effects as a JSON array; an observation stands as 16 hex digits of its SHA-256."""
    return _effect_encoder.encode(effects).decode() if effects else "[]"


def row_hash(previous: bytes, row: int, seq: int | None, time_ns: int, kind: str, payload: str, effects: str) -> bytes:
    """SHA-256 over the chained row before this one and all of this one's columns.

    A chained row has its sequence as its place, so that restarts leave the chain as it is; others have their `row` id.
    """
    place = f"row {row}" if seq is None else str(seq)
    told = f"{place}|{time_ns}|{kind}|{payload}|{effects}"
    return hashlib.sha256(previous + told.encode(errors="surrogateescape")).digest()


class Chain:
    """Turns events into entries: numbers them and carries the hash on."""

    __slots__ = ("head", "next_id")

    def __init__(self, next_id: int = 1, head: bytes = b"") -> None:
        self.next_id = next_id
        self.head = head

    def entry(self, seq: int | None, event: Event, effects: str) -> Entry:
        """The next row. A start-up event or a raised one gets no sequence and leaves the chain where it was."""
        if type(event) in _STARTUP:
            seq = None
        kind = type(event).__name__
        payload = encode_event(event)
        digest = row_hash(self.head, self.next_id, seq, event.time_ns, kind, payload, effects)
        row = Entry(self.next_id, seq, event.time_ns, kind, payload, effects, digest)
        self.next_id += 1
        if seq is not None:
            self.head = digest
        return row


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    create: str

    def insert(self, rows: int) -> str:
        """One statement for many rows: the interpreter lock is let go once, not once a row."""
        one = f"({','.join('?' * len(self.columns))})"
        verb = "INSERT" if self is _EVENTS else "INSERT OR REPLACE"  # what happened is never written over
        return f"{verb} INTO {self.name} VALUES {','.join([one] * rows)}"


def _row_table(row_type: type[Row]) -> _Table:
    columns, lines = [], []
    for field in msgspec.structs.fields(row_type):
        declared = str(field.type if isinstance(field.type, type) else field.type.__args__[0])
        name = declared.removeprefix("<class '").removesuffix("'>")
        optional = "" if not isinstance(field.type, type) else " NOT NULL"
        columns.append(field.name)
        lines.append(f"{field.name} {_SQL_TYPES[name]}{optional}")
    key = ", ".join(columns[: row_type.KEY])
    rowid = "" if row_type.KEY == 1 and " INTEGER " in lines[0] else " WITHOUT ROWID"
    create = f"CREATE TABLE {row_type.TABLE} ({', '.join(lines)}, PRIMARY KEY ({key})){rowid}"
    return _Table(row_type.TABLE, tuple(columns), create)


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
    "CREATE INDEX orders_by_work ON orders (work)",
)
INDEXED = ("RunStarted", "ModelVerified", "ModelPromoted", "SessionEnded")  # kinds that are asked for by name
_INDEXES = (  # journals that were made before get them with their first commit
    f"CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind) WHERE {' OR '.join(f'kind = {k!r}' for k in INDEXED)}",
    "CREATE INDEX IF NOT EXISTS events_unchained ON events (kind) WHERE seq IS NULL",
    "CREATE INDEX IF NOT EXISTS decisions_by_time ON decisions (time_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_time ON orders (submitted_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_change ON orders (updated_ns)",
    "CREATE INDEX IF NOT EXISTS orders_by_symbol ON orders (symbol)",
    "CREATE INDEX IF NOT EXISTS fills_by_time ON fills (time_ns)",
    "CREATE INDEX IF NOT EXISTS shadows_by_time ON shadows (time_ns)",
)
SCHEMA = (*_SCHEMA, *_INDEXES)
_OLD_SNAPSHOTS = (  # the one that a rotated file begins with stays: the file is proven from there
    "DELETE FROM snapshots WHERE kept = 0 "
    "AND event_id NOT IN (SELECT event_id FROM snapshots ORDER BY event_id DESC LIMIT ?) "
    "AND NOT (event_id = (SELECT min(id) FROM events) AND EXISTS (SELECT 1 FROM meta WHERE key = 'base'))"
)
_CHUNKS = (1024, 256, 64, 16, 4, 1)


class Journal:
    """The file. Used by one thread at a time; `JournalWriter` gives it a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _connect(path, read_only=False)
        self._begun = False

    @classmethod
    def create(cls, path: Path, meta: dict[str, str]) -> Journal:
        """Make a new journal whole or not at all: it is written beside its place and renamed into it."""
        fresh = path.with_suffix(".new")
        for leftover in (fresh, fresh.with_name(fresh.name + "-wal"), fresh.with_name(fresh.name + "-shm")):
            leftover.unlink(missing_ok=True)
        try:
            db = sqlite3.connect(fresh, isolation_level=None)
            db.execute("PRAGMA page_size = 8192")  # rows of about 1 KB: 15 % less work than with 4096
            db.execute("BEGIN")
            for statement in SCHEMA:
                db.execute(statement)
            rows = {**meta, "schema": str(SCHEMA_VERSION)}
            db.executemany("INSERT INTO meta VALUES (?, ?)", sorted(rows.items()))
            db.execute("COMMIT")
            db.close()
            fresh.rename(path)
        except (sqlite3.Error, OSError) as error:
            raise WriteFailed(f"{path}: cannot create the journal: {error}") from error
        return cls(path)

    def commit(self, batch: Batch) -> None:
        """Write the batch in one transaction, durable when this returns. Whatever it raises, it wrote nothing.

        Raises WriteFailed for what SQLite refuses.
        """
        db = self._db
        try:
            if not self._begun:
                self._begin()
            db.execute("BEGIN IMMEDIATE")
            self._insert(_EVENTS, batch.entries)
            for table, rows in _by_table(batch.rows).items():
                self._insert(READ_MODELS[table], rows)
            if batch.digests:
                db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", batch.digests)
            for snapshot in batch.snapshots:
                db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", snapshot)
                db.execute(_OLD_SNAPSHOTS, (SNAPSHOTS_KEPT,))
            if batch.entries:
                last = batch.entries[-1]
                db.execute("INSERT OR REPLACE INTO meta VALUES ('head', ?)", (f"{last.id}:{last.hash.hex()}",))
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if busy(error):
                told = "another process holds the file: end it (a sqlite3 shell, or what reads without an end)"
                raise WriteFailed(f"{self.path}: {error}: {told}") from error
            if isinstance(error, sqlite3.Error):
                raise WriteFailed(f"{self.path}: {error}") from error
            raise

    def _begin(self) -> None:
        """With the first commit begins the write-ahead log, and read models that came after this journal was made.

        Until then the file stays as it was found. While somebody reads the plain file the log cannot begin: then this
        commit goes without one, and the next tries again.
        """
        for table in READ_MODELS.values():
            self._db.execute(table.create.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
        for index in _INDEXES:
            self._db.execute(index)
        self._begun = self._switch("WAL")

    def _switch(self, mode: str) -> bool:
        """Change the journal mode, which takes that nobody else uses the file this moment; False after SWITCH_S."""
        until = time.monotonic() + SWITCH_S
        while True:
            try:
                self._db.execute(f"PRAGMA journal_mode = {mode}")
            except sqlite3.OperationalError as error:
                if not busy(error) or time.monotonic() > until:
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
                except OverflowError:  # a time of another age, as a broker may give it; the event has it as it came
                    self._db.execute(table.insert(size), list(map(_in_64_bits, flat)))
                at += size

    def append_only(self) -> None:
        """From now on commits only lengthen the log: on a full disk, folding it would take the room that is left."""
        self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def fold(self) -> None:
        """Fold the write-ahead log into the file. What cannot be folded now stays in the log, nothing is lost."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Fold and close, and leave one plain file: whoever may only read cannot open a log's form without the log.

        Where another reader stays longer than SWITCH_S log and index are left beside the file: readable as well, and
        the next opening goes on from there. Nothing is lost wherever this ends.
        """
        self.fold()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA busy_timeout = 0")
            self._switch("DELETE")
        self._db.close()

    def reader(self) -> JournalReader:
        """A reader on this very connection, for recovery before the writer starts."""
        return JournalReader(self.path, self._db)


class JournalReader:
    """Read-only access in short transactions. Rows come in the order in which they were written."""

    def __init__(self, path: Path, db: sqlite3.Connection | None = None) -> None:
        self.path = path
        self._db = db if db is not None else _connect(path, read_only=True)
        self._version = 0  # of the data at `hold`

    def meta(self) -> dict[str, str]:
        """What the journal was made with, and its head. Raises JournalError where that is no text."""
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        try:
            msgspec.json.encode(found)
        except (UnicodeEncodeError, TypeError):
            raise JournalError(f"{self.path}: damaged in its table meta: restore it from a copy") from None
        return found

    def entries(self, after_id: int = 0, page: int = 2000) -> Iterator[Entry]:
        """Rows with an id above `after_id`; each page is a transaction of its own."""
        while True:
            rows = self._db.execute(
                "SELECT id, seq, time_ns, kind, payload, effects, hash FROM events WHERE id > ? ORDER BY id LIMIT ?",
                (after_id, page),
            ).fetchall()
            if not rows:
                return
            yield from map(Entry._make, rows)
            after_id = rows[-1][0]

    def last_entry(self) -> Entry | None:
        row = self._db.execute(
            "SELECT id, seq, time_ns, kind, payload, effects, hash FROM events ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return Entry._make(row) if row else None

    def chain_head(self, row_id: int | None = None) -> bytes:
        """Hash of the last chained row (up to event row `row_id`), the chain's start before the first one."""
        upto = NEWEST if row_id is None else row_id
        row = self._db.execute(
            "SELECT hash FROM events WHERE seq IS NOT NULL AND id <= ? ORDER BY id DESC LIMIT 1", (upto,)
        ).fetchone()
        return bytes(row[0]) if row else chain_start(self.meta())

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        columns = ", ".join(Snapshot._fields)
        return [Snapshot._make(row) for row in self._db.execute(f"SELECT {columns} FROM snapshots ORDER BY event_id")]

    def newest_snapshots(self) -> Iterator[Snapshot | int]:
        """The snapshots, newest first; of one that cannot be read at all its event row's id."""
        for (event_id,) in self._db.execute("SELECT event_id FROM snapshots ORDER BY event_id DESC").fetchall():
            columns = ", ".join(Snapshot._fields)
            try:
                row = self._db.execute(f"SELECT {columns} FROM snapshots WHERE event_id = ?", (event_id,)).fetchone()
            except sqlite3.DatabaseError as error:
                if may_pass(error, self.path):
                    raise
                row = None
            yield int(event_id) if row is None else Snapshot._make(row)

    def digests(self) -> dict[int, str]:
        return dict(self._db.execute("SELECT seq, digest FROM digests"))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of any SELECT, addressable by column name."""
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(sql, parameters).fetchall()

    def newest_of(self, *kinds: str) -> str | None:
        """Payload of the newest event among these kinds of `INDEXED`, also one from before a rotation."""
        found = [
            row
            for kind in kinds
            for row in self._db.execute(
                f"SELECT id, payload FROM events WHERE kind = '{kind}' ORDER BY id DESC LIMIT 1"
            )
        ]
        if found:
            return str(max(found)[1])
        base = base_of(self.meta())
        before = None if base is None else base.started if kinds == ("RunStarted",) else base.model
        return before or None

    def hold(self, other: Path) -> None:
        """See the journal as it is now until `close`, whoever writes; the file `other` stands beside it as `other`.

        The one long read: while it lasts the write-ahead log only grows. The plain file of a stopped desk is not held,
        for no daemon could begin to write it: `moved` tells whether one did.
        """
        self._db.execute("ATTACH ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
        self._version = self._data_version()
        if self._db.execute("PRAGMA main.journal_mode").fetchone()[0] == "wal":
            self._db.execute("BEGIN")
            self.meta()
            self._version = self._data_version()

    def moved(self) -> bool:
        """Whether somebody wrote since `hold`; never where that holds."""
        return self._data_version() != self._version

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA main.data_version").fetchone()[0])

    def count(self) -> int:
        """Chained events."""
        return int(self._db.execute("SELECT count(*) FROM events WHERE seq IS NOT NULL").fetchone()[0])

    def close(self) -> None:
        self._db.close()


def unreadable(path: Path, error: Exception) -> JournalError:
    """What a refusal to read the journal means: something that may pass, a permission, or damage.

    Where SQLite's own message quotes damaged bytes the refusal is a UnicodeDecodeError.
    """
    if may_pass(error, path):
        cure = "end what holds it" if busy(error) else "look at its disk"
        return JournalBusy(f"{path}: cannot be read at the moment: {error}; {cure}")
    if isinstance(error, sqlite3.OperationalError):
        return JournalError(f"{path}: cannot open the journal: {error}; check its permissions and the disk")
    cure = "restore it or use a fresh --state-dir (OPERATIONS.md: A journal that cannot be read)"
    return JournalError(f"{path}: not a journal or damaged: {error}; {cure}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What SQLite refuses while the journal is read is a JournalError, a JournalBusy where it may pass."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def _damaged_too(text: bytes) -> str:
    """Any bytes as text: a damaged row is to be named, not to end the reading."""
    return text.decode(errors="surrogateescape")


def _in_64_bits(value: Any) -> Any:
    """An integer as near as SQLite can hold it; all else as it is."""
    return min(max(value, -(2**63)), 2**63 - 1) if isinstance(value, int) else value


def _by_table(rows: Sequence[Row]) -> dict[str, list[tuple[Any, ...]]]:
    """Rows by table, of each key only the last: a batch writes an order once, as it ended."""
    tables: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}
    for row in rows:
        values = msgspec.structs.astuple(row)
        tables.setdefault(row.TABLE, {})[values[: row.KEY]] = values
    return {name: list(keyed.values()) for name, keyed in tables.items()}


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open an existing journal. Raises JournalError for a file that is none, broken, or of a newer version."""
    if not path.exists():
        raise JournalError(f"{path}: no journal here; is this the right --state-dir?")
    try:
        refuse_links(path)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    try:
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64)
        db.text_factory = _damaged_too
        db.execute("PRAGMA busy_timeout = 5000")
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_size_limit = 67108864")
        found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    version = int(found[0]) if found and found[0].isdecimal() else 0
    if version != SCHEMA_VERSION:
        db.close()
        newer = "a newer" if version > SCHEMA_VERSION else "an older"
        raise JournalError(
            f"{path}: written by {newer} version (schema {version}, this one reads {SCHEMA_VERSION}); "
            f"use that version, or a fresh --state-dir"
        )
    return db
