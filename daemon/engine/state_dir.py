"""The state directory: one daemon, one account, one strategy, one journal. Locked while in use.

Everything is checked before anything is created; a new journal appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from daemon.core.state import State
from daemon.engine.recover import Recovered, code_digest, left_out_count, libraries, snapshot_of
from daemon.host.own_files import (
    NotOwnError,
    StateDirError,
    become_owner,
    hold_lock,
    lives,
    open_own,
    open_own_folder,
    open_plain,
)
from daemon.host.passing import MayPass, may_pass, retry_while_busy
from daemon.host.whole_files import sync
from daemon.journal.journal import FILE, READ_MODELS, SCHEMA, Journal
from daemon.journal.reader import ROTATED, ROTATING, JournalReader, file_there, reading
from daemon.journal.rows import (
    STRATEGY_FROM,
    STRATEGY_SPEC,
    TAPE_DATES,
    Base,
    CommitBatch,
    Entry,
    JournalError,
    Snapshot,
    WriteFailed,
    base_of,
    chain_start,
)
from strategies.kit.contract import Session

_NAMED = re.compile(r"\d{12,}-\d{12,}\.sqlite")  # a rotated file, by its first and its last row
_SINCE = {"orders": "updated_ns"}  # the time column of a read model: `time_ns`, except for these


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
        times = reader.query("SELECT time_ns FROM events WHERE id >= ? ORDER BY id LIMIT 1", (first,))
    if base is not None:
        meta["base"] = msgspec.json.encode(base).decode()
    since_ns = times[0]["time_ns"] if times and begin is not None else 0
    with closing(sqlite3.connect(to.resolve().as_uri(), uri=True, isolation_level=None)) as copy:
        copy.execute("PRAGMA page_size = 8192")
        copy.execute("ATTACH ? AS old", (f"{journal.resolve().as_uri()}?mode=ro",))
        copy.execute("BEGIN")
        meta["head"] = copy.execute("SELECT value FROM old.meta WHERE key = 'head'").fetchone()[0]  # a writer may go on
        for statement in SCHEMA:
            copy.execute(statement)
        copy.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        _copy(copy, first, base.seq if base is not None else 0, since_ns)
        if begin is not None:
            copy.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", begin)
        copy.execute("COMMIT")
        copy.execute("DETACH old")
        if base is not None:
            new_base = msgspec.structs.replace(base, size=to.stat().st_size)
            copy.execute("UPDATE meta SET value = ? WHERE key = 'base'", (msgspec.json.encode(new_base).decode(),))


def _base(reader: JournalReader, meta: dict[str, str], first: int) -> Base | None:
    """Return the base of the rows from `first` on; None from the desk's first row."""
    base = base_of(meta)
    if first == 1 or (base is not None and first == base.row + 1):
        return base
    former_rows = reader.query(
        "SELECT seq, hash FROM events WHERE id < ? AND seq IS NOT NULL ORDER BY id DESC LIMIT 1", (first,)
    )
    start_rows = reader.query(
        "SELECT payload FROM events WHERE kind = 'RunStarted' AND id < ? ORDER BY id DESC LIMIT 1", (first,)
    )
    seq = former_rows[0]["seq"] if former_rows else base.seq if base is not None else 0
    head = bytes(former_rows[0]["hash"]) if former_rows else chain_start(meta)
    run = start_rows[0]["payload"] if start_rows else base.started if base is not None else ""
    model = reader.newest_of("ModelVerified", "ModelPromoted") or ""
    return Base(first - 1, seq, head.hex(), run, model, left_out_count(reader))


def _copy(copy: sqlite3.Connection, first: int, seq: int, since_ns: int) -> None:
    copy.execute("INSERT INTO events SELECT * FROM old.events WHERE id >= ?", (first,))
    copy.execute("INSERT INTO snapshots SELECT * FROM old.snapshots WHERE event_id >= ?", (first,))
    copy.execute("INSERT INTO digests SELECT * FROM old.digests WHERE seq > ?", (seq,))
    table_names = {row[0] for row in copy.execute("SELECT name FROM old.sqlite_schema WHERE type = 'table'")}
    for name in READ_MODELS:
        if name in table_names:
            copy.execute(
                f"INSERT INTO {name} SELECT * FROM old.{name} WHERE {_SINCE.get(name, 'time_ns')} >= ?", (since_ns,)
            )


def newest_whole(reader: JournalReader) -> Snapshot | None:
    """Return the newest whole snapshot; None without one."""
    whole = (snapshot for snapshot in reader.newest_snapshots() if not isinstance(snapshot, int) and snapshot.whole)
    return next(whole, None)


def rotate(state_dir: Path) -> Rotation:
    """Replace a stopped desk's journal by a new file with its end; the former file goes to `rotated`, unchanged.

    The caller holds the directory's lock, and the newest snapshot is at the last row. Raises JournalError, OSError.
    """
    journal = state_dir / FILE
    log = journal.with_name(f"{journal.name}-wal")
    if log.exists():  # even an empty one: closing it last would put later rows into the old file
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
    journal_stat = journal.stat()
    try:
        cut(journal, part, row)
        part.chmod(journal_stat.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(part, journal_stat.st_uid, journal_stat.st_gid)
            os.chown(folder, journal_stat.st_uid, journal_stat.st_gid)
        check_follows(journal, part)
        sync(part, state_dir)
    except BaseException as error:
        _remove(part)
        if isinstance(error, sqlite3.Error):
            raise JournalError(f"{journal}: cannot be rotated: {error}; it is as it was") from error
        raise
    old = folder / f"{first:012}-{row:012}.sqlite"
    journal.rename(old)
    try:
        sync(folder, state_dir)  # the old file's new name is durable before another takes its place
        finish(state_dir)  # if this process ends here, a start does it
    except OSError as error:
        raise JournalError(f"{journal}: its rotation is not complete: {error}; the next start completes it") from error
    return Rotation(old, row, head.hex(), journal_stat.st_size, journal.stat().st_size)


def standing(state_dir: Path) -> Path:
    """Return the journal's file; after a killed rotation, the one that will replace it."""
    return file_there(state_dir / FILE)


def finish(state_dir: Path) -> None:
    """Complete or undo a killed rotation.

    Between its last two steps the new file is put in place, before them it is removed. Called with the directory's lock
    held. Raises JournalError where the new file follows none of the rotated ones.
    """
    journal = state_dir / FILE
    part = journal.with_suffix(ROTATING)
    if journal.exists():
        _remove(part)
    elif part.exists():
        old_parts = parts_of(journal)[:-1]
        if not old_parts:
            raise JournalError(f"{part}: the file that it goes on from is not in {ROTATED}: put that file back")
        check_follows(old_parts[-1], part)
        part.rename(journal)
        sync(state_dir)


def parts_of(journal: Path) -> list[Path]:
    """Return the existing files of a journal, oldest first, its own file last. Other names are ignored."""
    old_files = (journal.parent / ROTATED).glob("*.sqlite")
    return [*sorted(file for file in old_files if _NAMED.fullmatch(file.name)), journal]


def part_of(journal: Path, time_ns: int) -> Path:
    """Return the file with the events of this time: the newest that begins before, or else the oldest."""
    parts = parts_of(journal)
    for path in reversed(parts[1:]):
        with closing(JournalReader(path)) as reader, reading(path):
            first = reader.query("SELECT time_ns FROM events ORDER BY id LIMIT 1")
        if first and first[0]["time_ns"] <= time_ns:
            return path
    return parts[0]


def growth_bytes(journal: Path) -> int:
    """Return the bytes by which the file grew since it began, without what a rotation copied."""
    with closing(JournalReader(journal)) as reader, reading(journal):
        base = base_of(reader.meta())
    return journal.stat().st_size - (base.size if base is not None else 0)


def former_rows_text(reader: JournalReader) -> str:
    """Return, as the end of a message, which file has the earlier rows; "" without one."""
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
    rows = [Entry._make(tuple(rows_at_end[0])) for rows_at_end in ends if rows_at_end]
    if len(rows) != 2 or rows[0] != rows[1]:
        raise JournalError(
            f"{new}: does not go on where {old} ends: the file between them is gone, or these are not of one journal"
        )


LOCK_FILE = "lock"
REPORTS = "reports"
PID_DIGITS = 10  # most digits of a process id
_CURES = {
    "mode": "use the mode it was made in, or another --state-dir",
    "account": "use the account it was made for, or another --state-dir",
    "strategy": "use the strategy it was made for, or another --state-dir",
    "symbols": "set desk.symbols to the former ([] for the strategy's own), or use another --state-dir",
    "model_config": "set desk.model_config or desk.parameters as it was made with, or use another --state-dir",
    "feed": "use the feed it was made for, or another --state-dir",
    "tape_sha256": "resume with the tape it was made from, or use another --state-dir",
    "option_quotes_sha256": "resume with the quotes it was made from, or use another --state-dir",
}


class StateDirBusy(MayPass, StateDirError):
    """The state directory is not usable now: another process holds it, or its disk fails. Exit code 1."""


class StateDir:
    """An open, locked state directory. `meta` is the journal's meta. `close` releases the lock."""

    def __init__(self, path: Path, lock: IO[str], journal: Journal, meta: dict[str, str], *, fresh: bool) -> None:
        self.path = path
        self.journal = journal
        self.meta = meta
        self.fresh = fresh
        self._lock = lock

    def reopen(self) -> None:
        """Open the current journal after a rotation; the lock stays. Raises StateDirError, JournalError."""
        with _usable(self.path):
            finish(self.path)
        self.journal = Journal(self.path / FILE)

    def close(self) -> None:
        """Release the lock. The journal is closed by its writer."""
        self._lock.close()


def open_state_dir(path: Path, identity: dict[str, str], epoch: str) -> StateDir:
    """Lock `path` and open its journal, or make one with `identity` and `epoch`.

    `identity` holds mode, account, strategy, feed and, for a replay, the tape's name and digest. Raises StateDirError
    when the directory is not writable or belongs to another identity; JournalError and WriteFailed. Passing faults are
    MayPass too; for a directory or a journal held by another process it waits a while first.
    """
    with _usable(path):
        lock = retry_while_busy(lambda: _take_lock_file(path))
        try:
            return retry_while_busy(lambda: _open_state(path, lock, identity, epoch))
        except BaseException:
            lock.close()
            raise


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn the system's errors with the directory into StateDirError, or StateDirBusy where they may pass."""
    try:
        yield
    except OSError as error:
        file = Path(error.filename).name if isinstance(error.filename, str) else ""
        where = path / file if file and os.path.lexists(path / file) else path
        raise (StateDirBusy if may_pass(error, path) else StateDirError)(
            f"{where}: cannot use this state directory: {error.strerror}; check owner and disk"
        ) from error


def _take_lock_file(path: Path) -> IO[str]:
    """Return the directory's lock file; makes it, with the directory, if missing."""
    folder = open_own_folder(path, make_mode=0o750)
    try:
        lock = os.fdopen(open_own(folder, LOCK_FILE, os.O_RDWR | os.O_CREAT), "r+", errors="replace")
    except NotOwnError as error:
        raise NotOwnError(error.errno, error.strerror, LOCK_FILE) from None
    finally:
        os.close(folder)
    _lock(path, lock)
    return lock


def _open_state(path: Path, lock: IO[str], identity: dict[str, str], epoch: str) -> StateDir:
    file = path / FILE
    finish(path)
    if not file.exists():
        meta = {**identity, "epoch": epoch}
        return StateDir(path, lock, Journal.create(file, meta), meta, fresh=True)
    journal = Journal(file)
    try:
        with reading(file):
            meta = journal.reader().meta()
        check_identity(path, meta, identity)
        for key in (STRATEGY_FROM, STRATEGY_SPEC, TAPE_DATES):
            value = identity.get(key, "")
            if value and meta.get(key) != value:  # the strategy's file moved, or older code wrote the journal
                journal.note(key, value)
                meta[key] = value
    except BaseException:
        journal.close()
        raise
    return StateDir(path, lock, journal, meta, fresh=False)


def check_identity(path: Path, meta: dict[str, str], identity: dict[str, str]) -> None:
    """Raise StateDirError when the journal was made in another mode, account or strategy, with other symbols or from
    another tape.
    """
    for key, cure in _CURES.items():
        if meta.get(key, "") != identity.get(key, ""):
            none = "of the strategy itself" if key == "symbols" else "none"
            actual, expected = meta.get(key) or none, identity.get(key) or none
            name = key.removesuffix("_sha256")
            if name != key:
                actual, expected = f"{meta.get(name)} ({actual[:12]})", f"{identity.get(name)} ({expected[:12]})"
            if key == "model_config":
                actual, expected = (sha256(text.encode()).hexdigest()[:12] for text in (actual, expected))
            raise StateDirError(
                f"{path}: this state directory was made with {name} {actual}, now {expected} is asked for: {cure}"
            )


def peek(path: Path) -> dict[str, str] | None:
    """Return the meta of the journal in `path`, None without one. Takes no lock and writes nothing."""
    file = standing(path)
    if not file.exists():
        return None
    with closing(JournalReader(file)) as reader, reading(file):
        return reader.meta()


def enter(path: Path) -> None:
    """As root by hand: switch to the owner of the state directory before anything in it is touched.

    Raises StateDirError where that is impossible.
    """
    try:
        become_owner(path)
    except OSError as error:
        raise StateDirError(f"{path}: {error.strerror}") from error


def locked_by(path: Path) -> str:
    """Return the process id of the daemon that holds the directory, "" without one. Raises StateDirError for a link."""
    with _lock_file(path) as lock:
        if lock is None:
            return ""
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _process(lock) or "unknown"
    return ""


def last_locked_by(path: Path) -> str:
    """Return the process id of the daemon that last held the directory, running or not, or "". Tries no lock.

    Raises StateDirError for a link, OSError.
    """
    with _lock_file(path) as lock:
        return "" if lock is None else _process(lock)


def process_of(path: Path) -> str:
    """Return the process id of the daemon that runs on a state directory, "" for none.

    The lock is tried only if the named process lives (perhaps another one with that number): a trial holds the lock for
    a moment, and a daemon starting then would be refused.
    """
    try:
        holder = last_locked_by(path)
        return locked_by(path) if holder and lives(int(holder)) else ""
    except (OSError, StateDirError):
        return ""


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[IO[bytes] | None]:
    """Open the lock's file for reading, guarded; None without one."""
    if not (path / LOCK_FILE).exists():
        yield None
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_plain(folder, LOCK_FILE, os.O_RDONLY)
    except NotOwnError as error:
        raise StateDirError(f"{path / LOCK_FILE}: {error.strerror}") from error
    finally:
        os.close(folder)
    with os.fdopen(descriptor, "rb") as lock:
        yield lock


def _process(lock: IO[bytes]) -> str:
    """Return the process id in a lock's file, or ""."""
    text = lock.read(PID_DIGITS + 1).decode("ascii", "replace").strip()
    return text if text.isdecimal() and len(text) <= PID_DIGITS else ""


def wait_until_free(path: Path) -> None:
    """Wait until no process holds the directory. Raises StateDirBusy after a while."""
    retry_while_busy(lambda: _refuse_holder(path, locked_by(path)))


def _refuse_holder(path: Path, holder: str) -> None:
    if holder:
        raise StateDirBusy(
            f"{path}: another process ({holder}) uses this state directory, a daemon or rltraderctl; end it or "
            f"choose another directory"
        ) from BlockingIOError(holder)


def _lock(path: Path, lock: IO[str]) -> None:
    try:
        hold_lock(lock)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        _refuse_holder(path, holder)
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()


def report_path(journal: Path, session: Session) -> Path:
    """Return the path of `reports/<date>.json` next to the journal."""
    return journal.parent / REPORTS / f"{session.date}.json"


MIB = 2**20


class NotAtRest(JournalError):
    """The journal's end is no point where the next file can begin."""


def rotate_after_recovery(state_dir: StateDir, recovery: Recovered) -> Rotation:
    """Rotate the journal of a recovered desk; it is closed afterwards, even on an error.

    Raises NotAtRest, JournalError, WriteFailed, OSError: the journal is unchanged.
    """
    machine, journal = recovery.machine, state_dir.journal
    code = code_digest(machine.state.identity.strategy)
    try:
        if not recovery.own(code, libraries()) or machine.queue or recovery.raised is not None:
            raise NotAtRest(
                f"{journal.path}: it did not stop cleanly, or another release wrote it last: start it, stop it, then "
                f"rotate"
            )
        with reading(journal.path):
            newest = newest_whole(journal.reader())
        if newest is None or newest.event_id != recovery.last_id:
            batch = CommitBatch()
            kept = not recovery.anchored
            batch.snapshots.append(snapshot_of(machine, recovery.last_id, code, kept=kept))
            journal.commit(batch)
    finally:
        journal.close()
    return rotate(state_dir.path)


def rotate_when_due(state_dir: StateDir, recovery: Recovered, mib: int, log: Callable[..., None]) -> bool:
    """Rotate a journal that grew by `mib` or more (0: never) since its file began; log the result.

    Returns True when the journal was opened anew: the caller recovers again. A session's beginning and end stay in one
    file, so it waits for the last session's report. Raises JournalError where the journal cannot be opened.
    """
    journal = state_dir.path / FILE
    if not mib or growth_bytes(journal) < mib * MIB:
        return False
    if _under_way(state_dir, recovery.machine.state):
        log("journal_not_rotated", reason="a session is under way, or has no report yet: the next start looks again")
        return False
    try:
        rotation = rotate_after_recovery(state_dir, recovery)
    except (JournalError, WriteFailed, OSError) as error:
        log("journal_not_rotated", reason=f"{error}; the next start tries again")
    else:
        log(
            "journal_rotated",
            row=rotation.row,
            old=str(rotation.old),
            before_mib=rotation.before // MIB,
            mib=rotation.after // MIB,
        )
    state_dir.reopen()
    return True


def _under_way(state_dir: StateDir, state: State[Any]) -> bool:
    session = state.session.session
    if session is None:
        return False
    return not (state.session.ended and report_path(state_dir.path / FILE, session).exists())
