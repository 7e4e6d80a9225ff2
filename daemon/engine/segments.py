"""Cut a journal in two: the rows from a snapshot on become a file of their own on the same chain.

An archive is such a file with the rows since the last one; a rotation puts one in the journal's place. Invariant: the
journal's own file is only read, and its replacement is durable and whole first.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.engine.recover import left_out
from daemon.host.whole_files import sync
from daemon.journal.journal import FILE, READ_MODELS, SCHEMA
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import Base, Entry, JournalError, Snapshot, base_of, chain_start

ROTATED, ROTATING = "rotated", ".rotating"
_SINCE = {"orders": "updated_ns"}  # the column that dates a read model's rows: time_ns, but for these


class Rotation(NamedTuple):
    """Result of a rotation: the former file, the row that both share, and the chain head there."""

    old: Path
    row: int
    head: str
    before: int  # bytes
    after: int


def cut(journal: Path, to: Path, first: int, begin: Snapshot | None = None) -> None:
    """Write the journal's rows from id `first` on to the new file `to`, with all that it needs to go on.

    `first` is 1, or a row with a snapshot. With `begin`, the snapshot at that row (the journal may no longer have it),
    the read models start at its time; else they are whole. Raises JournalError, sqlite3.Error.
    """
    with closing(JournalReader(journal)) as reader, reading(journal):
        meta = reader.meta()
        base = _base(reader, meta, first)
        since = reader.query("SELECT time_ns FROM events WHERE id >= ? ORDER BY id LIMIT 1", (first,))
    if base is not None:
        meta["base"] = msgspec.json.encode(base).decode()
    since_ns = since[0]["time_ns"] if since and begin is not None else 0
    with closing(sqlite3.connect(to.resolve().as_uri(), uri=True, isolation_level=None)) as made:
        made.execute("PRAGMA page_size = 8192")
        made.execute("ATTACH ? AS old", (f"{journal.resolve().as_uri()}?mode=ro",))
        made.execute("BEGIN")
        meta["head"] = made.execute("SELECT value FROM old.meta WHERE key = 'head'").fetchone()[0]  # a writer may go on
        for statement in SCHEMA:
            made.execute(statement)
        made.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        _copy(made, first, base.seq if base is not None else 0, since_ns)
        if begin is not None:
            made.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", begin)
        made.execute("COMMIT")
        made.execute("DETACH old")
        if base is not None:
            sized = msgspec.structs.replace(base, size=to.stat().st_size)
            made.execute("UPDATE meta SET value = ? WHERE key = 'base'", (msgspec.json.encode(sized).decode(),))


def _base(reader: JournalReader, meta: dict[str, str], first: int) -> Base | None:
    """Return the base of the rows from `first` on; None from the desk's first row."""
    known = base_of(meta)
    if first == 1 or (known is not None and first == known.row + 1):
        return known
    before = reader.query(
        "SELECT seq, hash FROM events WHERE id < ? AND seq IS NOT NULL ORDER BY id DESC LIMIT 1", (first,)
    )
    started = reader.query(
        "SELECT payload FROM events WHERE kind = 'RunStarted' AND id < ? ORDER BY id DESC LIMIT 1", (first,)
    )
    seq = before[0]["seq"] if before else known.seq if known is not None else 0
    head = bytes(before[0]["hash"]) if before else chain_start(meta)
    run = started[0]["payload"] if started else known.started if known is not None else ""
    model = reader.newest_of("ModelVerified", "ModelPromoted") or ""
    return Base(first - 1, seq, head.hex(), run, model, left_out(reader))


def _copy(made: sqlite3.Connection, first: int, seq: int, since_ns: int) -> None:
    made.execute("INSERT INTO events SELECT * FROM old.events WHERE id >= ?", (first,))
    made.execute("INSERT INTO snapshots SELECT * FROM old.snapshots WHERE event_id >= ?", (first,))
    made.execute("INSERT INTO digests SELECT * FROM old.digests WHERE seq > ?", (seq,))
    there = {row[0] for row in made.execute("SELECT name FROM old.sqlite_schema WHERE type = 'table'")}
    for name in READ_MODELS:
        if name in there:
            made.execute(
                f"INSERT INTO {name} SELECT * FROM old.{name} WHERE {_SINCE.get(name, 'time_ns')} >= ?", (since_ns,)
            )


def newest_whole(reader: JournalReader) -> Snapshot | None:
    """Return the newest whole snapshot; None without one."""
    found = (snapshot for snapshot in reader.newest_snapshots() if not isinstance(snapshot, int) and snapshot.whole)
    return next(found, None)


def rotate(state_dir: Path) -> Rotation:
    """Put the end of a stopped desk's journal in its place; the former file goes to `rotated`, unchanged.

    The caller holds the directory's lock, and the newest snapshot stands at the last row. Raises JournalError, OSError.
    """
    journal = state_dir / FILE
    log = journal.with_name(f"{journal.name}-wal")
    if log.exists():  # even an empty one: the last to close would put later rows into the old file
        raise JournalError(
            f"{log}: another process still has the journal open (status --watch, a sqlite3 shell?): end it, then rotate"
        )
    with closing(JournalReader(journal)) as reader:
        last, base = reader.last_entry(), base_of(reader.meta())
        newest = newest_whole(reader)
        head = reader.chain_head()
    first = base.row + 1 if base is not None else 1
    if last is None or newest is None or newest.event_id != last.id or last.id == first:
        raise JournalError(f"{journal}: nothing to rotate: it holds no more than where it begins")
    row = last.id
    folder, part = state_dir / ROTATED, journal.with_suffix(ROTATING)
    folder.mkdir(mode=0o750, exist_ok=True)
    _remove(part)
    before = journal.stat()
    try:
        cut(journal, part, row)
        part.chmod(before.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(part, before.st_uid, before.st_gid)
            os.chown(folder, before.st_uid, before.st_gid)
        check_follows(journal, part)
        sync(part, state_dir)
    except BaseException as error:
        _remove(part)
        if isinstance(error, sqlite3.Error):
            raise JournalError(f"{journal}: cannot be rotated: {error}; it is as it was") from error
        raise
    old = folder / f"{first:012}-{row:012}.sqlite"
    journal.rename(old)
    sync(folder, state_dir)  # the old file's new name is durable before another takes its place
    finish(state_dir)  # a start does it if this process ends here
    return Rotation(old, row, head.hex(), before.st_size, journal.stat().st_size)


def standing(state_dir: Path) -> Path:
    """Return the journal's file; after a killed rotation, the one that will take its place."""
    journal = state_dir / FILE
    part = journal.with_suffix(ROTATING)
    return part if part.exists() and not journal.exists() else journal


def finish(state_dir: Path) -> None:
    """Complete or undo a killed rotation.

    Between its last two steps the new file takes its place, before them it is removed. Called with the directory's lock
    held. Raises JournalError where the new file follows none of the rotated ones.
    """
    journal = state_dir / FILE
    part = journal.with_suffix(ROTATING)
    if journal.exists():
        _remove(part)
    elif part.exists():
        rotated = parts_of(journal)[:-1]
        if not rotated:
            raise JournalError(f"{part}: the file that it goes on from is not in {ROTATED}: put that file back")
        check_follows(rotated[-1], part)
        part.rename(journal)
        sync(state_dir)


def parts_of(journal: Path) -> list[Path]:
    """Return the existing files of a journal, oldest first; its own is the last."""
    return [*sorted((journal.parent / ROTATED).glob("*.sqlite")), journal]


def part_of(journal: Path, time_ns: int) -> Path:
    """Return the file with the events of this time: the newest that begins before, or else the oldest."""
    parts = parts_of(journal)
    for path in reversed(parts[1:]):
        with closing(JournalReader(path)) as reader, reading(path):
            first = reader.query("SELECT time_ns FROM events ORDER BY id LIMIT 1")
        if first and first[0]["time_ns"] <= time_ns:
            return path
    return parts[0]


def grown(journal: Path) -> int:
    """Return the bytes by which the file grew since it began, without what a rotation copied."""
    with closing(JournalReader(journal)) as reader, reading(journal):
        base = base_of(reader.meta())
    return journal.stat().st_size - (base.size if base is not None else 0)


def where_before(reader: JournalReader) -> str:
    """Return the place of the rows before this file's first, as the end of a message; "" without any."""
    base = base_of(reader.meta())
    if base is None:
        return ""
    return (
        f"; rows up to {base.row:,} are in the file before this one: where {ROTATED} has it no more, put it into a "
        f"folder of its own as {FILE} and name that folder"
    )


def _remove(part: Path) -> None:
    """Remove an unfinished file with SQLite's side files."""
    for leftover in (part, part.with_name(f"{part.name}-journal"), part.with_name(f"{part.name}-wal")):
        leftover.unlink(missing_ok=True)


def check_follows(old: Path, new: Path) -> None:
    """Check that the last row of `old` is the first of `new`, by id and hash. Raises JournalError."""
    ends = []
    for path, order in ((old, "DESC"), (new, "ASC")):
        with closing(JournalReader(path)) as reader, reading(path):
            ends.append(reader.query(f"SELECT * FROM events ORDER BY id {order} LIMIT 1"))
    rows = [Entry._make(tuple(found[0])) for found in ends if found]
    if len(rows) != 2 or rows[0] != rows[1]:
        raise JournalError(f"{new}: does not go on where {old} ends: these are not two parts of one journal")
