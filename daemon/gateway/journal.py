"""The gateway's journal: an order is durable before it leaves, and the books are rebuilt from the rows.

The file is a desk's: append-only rows in a hash chain, with snapshots. `GatewayJournal.take` steps an event at once;
`durable` returns when it is on the disk, in one commit with all other events taken meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

import daemon.gateway
from daemon.brokers.api import EventLogger
from daemon.engine.state_dir import (
    MIB,
    Rotation,
    StateDir,
    former_rows_text,
    growth_bytes,
    newest_whole,
    open_state_dir,
    rotate,
)
from daemon.gateway.books import Ledgers, digest
from daemon.gateway.events import AnyGatewayEffect, AnyGatewayEvent, PassOn, RowsLeftOut, Updated
from daemon.gateway.step import Bookkeeper
from daemon.host.latency import Buckets
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import (
    CommitBatch,
    Entry,
    HashChain,
    JournalBusy,
    JournalError,
    Snapshot,
    WriteFailed,
    base_of,
    is_whole,
)
from daemon.journal.writer import JournalWriter

SNAPSHOT_EVENTS = 1000
COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
STRATEGY = "gateway"  # stands for a strategy in the journal's identity
_encoder = msgspec.json.Encoder(order="deterministic")
_event_decoder: msgspec.json.Decoder[AnyGatewayEvent] = msgspec.json.Decoder(AnyGatewayEvent)
_books_decoder = msgspec.json.Decoder(Ledgers)
_NO_MARKET = hashlib.sha256(b"").hexdigest()


def code_digest() -> str:
    """Return 12 hex digits of a SHA-256 over the sources of this package, which step events."""
    value = hashlib.sha256()
    for root in map(Path, daemon.gateway.__path__):
        for path in sorted(root.rglob("*.py")):
            value.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return value.hexdigest()[:12]


class Different(Exception):
    """A row that does not follow from the rows before it."""


class GatewayJournal:
    """The machine with its journal. `fresh` is true before its first event."""

    def __init__(self, state: StateDir, ballast_mib: int) -> None:
        reader = state.journal.reader()
        self.code = code_digest()
        self.machine, last_id, head, self._left_out = _recover(reader)
        self.fresh = last_id == 0
        self._state, self._chain = state, HashChain(last_id + 1, head)
        self.unreserved = ""  # why no disk space is reserved, "" where it is
        self._writer = self._writer_with(ballast_mib)
        self._batch = CommitBatch()
        self._lock = asyncio.Lock()
        self._waiting = asyncio.Event()
        self.commits = Buckets(COMMIT_BOUNDS_S)
        self._row_count = self._durable = 0
        self._snapshot_seq = self.machine.books.seq

    def _writer_with(self, ballast_mib: int) -> JournalWriter:
        """Return the writer; without its disk reserve where that fails, since desks may hold something.

        Where space may be freed later, only a halted gateway starts without: it takes no new risk, and a resume needs
        it.
        """
        goes_on = self.books.is_needed and self.books.halt is not None
        try:
            return JournalWriter(self._state.journal, ballast_mib)
        except JournalError as error:
            if isinstance(error, JournalBusy) and not goes_on:
                raise
            self.unreserved = str(error)
            return JournalWriter(self._state.journal, ballast_mib, spent=True)

    @property
    def books(self) -> Ledgers:
        """The books after the newest event."""
        return self.machine.books

    def take(self, event: AnyGatewayEvent) -> list[AnyGatewayEffect]:
        """Step an event and add it to the next commit; return its effects, for when it is durable.

        An event that cannot be encoded changes nothing.
        """
        kind, payload = type(event).__name__, event_json(event)
        effects = self.machine.step(event)
        books = self.machine.books
        self._batch.entries.append(self._chain.row(books.seq, event.time_ns, kind, payload, encoded_effects(effects)))
        self._row_count += 1
        self._waiting.set()
        due = books.seq - self._snapshot_seq >= SNAPSHOT_EVENTS or isinstance(event, RowsLeftOut)
        if due or self.machine.has_divided:  # its owners know their parts: no later code may divide it anew
            self._snapshot()
        return effects

    def damage(self, now_ns: int) -> RowsLeftOut | None:
        """Return the event that reports the rows left out by this start; None without any."""
        since_ns = self.machine.whole_until_ns
        return None if since_ns is None else RowsLeftOut(now_ns, self._left_out, since_ns)

    async def durable(self) -> None:
        """Wait until all events are on the disk. Raises WriteFailed."""
        target = self._row_count
        while self._durable < target:
            async with self._lock:
                if self._durable >= target:
                    return
                batch, self._batch, row_count = self._batch, CommitBatch(), self._row_count
                began_s = time.perf_counter()
                await self._writer.write(batch)
                await self._writer.durable()
                self.commits.add(time.perf_counter() - began_s)
                self._durable = row_count

    async def commit_on(self, on_full: Callable[[], None]) -> None:
        """Commit events for which no caller waits, until cancelled. Raises WriteFailed.

        `on_full` is called when a full disk took the reserve: what is left of it is for exits.
        """
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            await self.durable()
            if self._writer.pressed:
                self._writer.pressed = False
                on_full()

    async def reserve(self) -> None:
        """Restore the disk reserve after a full disk took it. Raises JournalError without room for it."""
        await self._writer.reserve()

    async def beat(self) -> None:
        """Wait until the writer's thread has finished its earlier work. Raises WriteFailed."""
        await self._writer.beat()

    def _snapshot(self) -> None:
        """Add a snapshot to the next commit; none before a start's `RowsLeftOut`: it would hide them from the next."""
        books = self.machine.books
        if self.machine.whole_until_ns is not None:
            return
        self._batch.snapshots.append(_snapshot_of(books, self._chain.next_id - 1, self.code))
        self._snapshot_seq = books.seq

    async def close(self) -> None:
        """Write a last snapshot and end the writer. Raises WriteFailed, after closing."""
        try:
            if self.machine.books.seq > self._snapshot_seq:
                self._snapshot()
                async with self._lock:
                    batch, self._batch = self._batch, CommitBatch()
                    await self._writer.write(batch)
                    await self._writer.durable()
        finally:
            self._writer.close()
            self._state.close()


def open_journal(folder: Path, account: str, ballast_mib: int = 0) -> GatewayJournal:
    """Open the gateway's journal in `folder`, or create it. Raises StateDirError, JournalError, WriteFailed."""
    state = _state_dir(folder, account)
    try:
        return GatewayJournal(state, ballast_mib)
    except BaseException:
        state.close()
        raise


def _state_dir(folder: Path, account: str) -> StateDir:
    return open_state_dir(folder, {"mode": "gateway", "account": account, "strategy": STRATEGY, "feed": ""}, "")


def rotate_when_due(folder: Path, account: str, mib: int, log: EventLogger) -> None:
    """Rotate a journal that grew by `mib` or more (0: never) since its file began; log the result.

    Raises StateDirError; JournalError where the journal cannot be read.
    """
    if not mib or not (folder / FILE).exists() or growth_bytes(folder / FILE) < mib * MIB:
        return
    try:
        rotation = rotate_idle(folder, account)
    except (JournalError, WriteFailed, OSError) as error:
        log("journal_not_rotated", reason=f"{error}; the next start tries again")
    else:
        old_mib, new_mib = rotation.before // MIB, rotation.after // MIB
        log("journal_rotated", row=rotation.row, old=str(rotation.old), before_mib=old_mib, mib=new_mib)


def rotate_idle(folder: Path, account: str) -> Rotation:
    """Continue in a new file from the newest state; the former file goes to the folder `rotated`.

    Raises StateDirError while a gateway runs, JournalError, WriteFailed, OSError: the journal is unchanged then.
    """
    state = _state_dir(folder, account)
    try:
        return _rotate(state)
    finally:
        state.close()


def _rotate(state: StateDir) -> Rotation:
    """Rotate from a snapshot at the last row; the journal is closed afterwards, even on an error."""
    try:
        with reading(state.journal.path):
            machine, last_id, _, left_out = _recover(state.journal.reader())
            newest = newest_whole(state.journal.reader())
        if left_out:
            raise JournalError(f"{state.journal.path}: {left_out[0]}: start the gateway first, it goes on without")
        if newest is None or newest.event_id != last_id:
            batch = CommitBatch()
            batch.snapshots.append(_snapshot_of(machine.books, last_id, code_digest()))
            state.journal.commit(batch)
    finally:
        state.journal.close()
    return rotate(state.path)


def _snapshot_of(books: Ledgers, row: int, code: str) -> Snapshot:
    state = _encoder.encode(books)
    return Snapshot(row, books.seq, code, 0, state, b"", hashlib.sha256(state).hexdigest(), _NO_MARKET)


def read_books(file: Path) -> Ledgers:
    """Return the books of a journal, on which a gateway may be running. Raises JournalError."""
    reader = JournalReader(file)
    try:
        return _recover(reader)[0].books
    finally:
        reader.close()


def kept_for(file: Path) -> str:
    """Return "paper" or "live", the kind of a journal's account. Raises JournalError."""
    with contextlib.closing(JournalReader(file)) as reader, reading(file):
        return reader.meta().get("account", "")


def event_json(event: AnyGatewayEvent) -> str:
    """Return an event as JSON."""
    return _encoder.encode(event).decode()


def encoded_effects(effects: Sequence[AnyGatewayEffect]) -> str:
    """Return effects as a JSON array; an update that is passed on, already in the row, by its receiver only."""
    return _encoder.encode([_short(effect) for effect in effects]).decode() if effects else "[]"


def _short(effect: AnyGatewayEffect) -> object:
    if isinstance(effect, PassOn):
        return {"type": "PassOn", "account": effect.account, "position_qty": effect.update.get("position_qty", "")}
    return effect


def _recover(reader: JournalReader) -> tuple[Bookkeeper, int, bytes, list[str]]:
    """Return the machine at the journal's end, its last row, the chain's head, and the rows that were left out.

    Left out are rows that are damaged, missing or no event of this version, and rows that cannot be stepped, after one
    of these or by this version: the broker's next report repeats what they had on orders, fills and lines. Raises
    JournalError.
    """
    own_code = code_digest()
    with reading(reader.path):
        needs: dict[int, str] = {}  # rows that could not be stepped
        later: dict[str, str] | None = None
        while True:
            machine, last_id, head = _from_snapshot(reader)
            machine.owners_later = later or {}
            left_out: list[str] = []
            owners: dict[str, str] = {}
            for entry in reader.entries(last_id):
                try:
                    _require(entry.id not in needs, needs.get(entry.id, ""))
                    _follow(machine, entry, head, last_id)
                    owners |= _news_owners(entry) if left_out else {}
                except Different as odd:
                    left_out.append(str(odd))
                    machine.leave_out(entry.id)
                except Exception as error:
                    if not left_out and machine.books.code == own_code:
                        raise  # this code stepped it before: a bug, not a row of other code
                    why = "cannot follow" if left_out else f"cannot be stepped by this version ({error!r:.80})"
                    needs[entry.id] = f"row {entry.id} ({entry.kind}) {why}"
                    break
                row_hash: object = entry.hash
                head, last_id = row_hash if isinstance(row_hash, bytes) else head, entry.id
            else:
                if left_out and not machine.books.number:
                    problem = f"{reader.path}: {left_out[0]}, and the books begin there: restore it from a copy"
                    raise JournalError(f"{problem}; the broker's account itself is not touched by that")
                if not left_out or later is not None:
                    return machine, last_id, head, left_out
                later, needs = {order.name: order.account for order in machine.books.orders.values()} | owners, {}


def _news_owners(entry: Entry) -> dict[str, str]:
    """Return {order id: sub-account} for an update that a row passed on; {} for none."""
    if entry.kind != Updated.__name__ or PassOn.__name__ not in entry.effects:
        return {}
    accounts = [effect["account"] for effect in msgspec.json.decode(entry.effects) if effect["type"] == PassOn.__name__]
    return {str(msgspec.json.decode(entry.payload)["update"]["order"]["id"]): accounts[0]} if accounts else {}


def _from_snapshot(reader: JournalReader) -> tuple[Bookkeeper, int, bytes]:
    """Return the machine at the newest usable snapshot, its row and the chain's head there."""
    for snapshot in reader.newest_snapshots():
        if isinstance(snapshot, Snapshot) and snapshot.whole and (books := _books(snapshot)) is not None:
            return Bookkeeper(books), snapshot.event_id, reader.chain_head(snapshot.event_id)
    if where := former_rows_text(reader):
        raise JournalError(f"{reader.path}: no snapshot can be used{where}")
    return Bookkeeper(), 0, reader.chain_head(0)


def _books(snapshot: Snapshot) -> Ledgers | None:
    """Return the books of a snapshot; None where this code cannot read them."""
    try:
        return _books_decoder.decode(snapshot.state)
    except msgspec.DecodeError:
        return None


def _follow(machine: Bookkeeper, entry: Entry, head: bytes, last_id: int) -> list[AnyGatewayEffect]:
    """Step one row. Raises Different for a row that is missing, damaged, or no event of this version."""
    _is_next(entry, head, last_id)
    try:
        return machine.step(_event_decoder.decode(entry.payload))
    except msgspec.DecodeError as error:
        raise Different(f"row {entry.id} ({entry.kind}) is no event of this version: {error}") from None


def _is_next(entry: Entry, head: bytes, last_id: int) -> None:
    _require(entry.id == last_id + 1, f"row {last_id + 1} is missing")
    _require(is_whole(entry, head), f"row {entry.id} ({entry.kind}) is damaged")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise Different(problem)


class GatewayVerified(msgspec.Struct):
    """Result of `verify`: rows, those stepped by their own code, and the first difference, "" without one."""

    rows: int = 0
    stepped: int = 0
    snapshots: int = 0
    difference: str = ""


class _Verification:
    """Steps the events again and compares.

    Rows are only hashed while the books are unknown: in a continued file up to its first snapshot, from a difference to
    where a start left it out, and where this code cannot step another code's rows. From another code's snapshot on the
    books are that code's, as for the start after it.
    """

    def __init__(self, reader: JournalReader) -> None:
        base = base_of(reader.meta())
        self.report, self._own_code = GatewayVerified(), code_digest()
        self._snapshots = {snapshot.event_id: snapshot for snapshot in reader.snapshots()}
        self._machine = Bookkeeper() if base is None else None
        self._head, self._last_id = reader.chain_head(0), 0 if base is None else base.row
        self._begins = self._last_id + 1

    def row(self, entry: Entry) -> None:
        """Check the next row."""
        self.report.rows += 1
        snapshot = self._snapshots.get(entry.id)
        try:
            if self._machine is None:
                _is_next(entry, self._head, self._last_id)
            else:
                self._compare(self._machine, entry, snapshot)
        except Different as odd:
            self.report.difference = self.report.difference or str(odd)
            self._machine = None
        self._head, self._last_id = entry.hash, entry.id
        if snapshot is not None and snapshot.whole and self._begins_anew(entry, snapshot):
            books = _books(snapshot)
            self._machine = self._machine if books is None else Bookkeeper(books)

    def _begins_anew(self, entry: Entry, snapshot: Snapshot) -> bool:
        """Return whether the rows after a snapshot follow from it, rather than from the books stepped by this code."""
        begins = entry.kind == RowsLeftOut.__name__ or entry.id == self._begins
        return snapshot.code != self._own_code or (self._machine is None and begins)

    def _compare(self, machine: Bookkeeper, entry: Entry, snapshot: Snapshot | None) -> None:
        report, own_code = self.report, self._own_code
        try:
            effects = _follow(machine, entry, self._head, self._last_id)
        except Exception:
            _is_next(entry, self._head, self._last_id)
            if machine.books.code in ("", own_code):
                raise
            self._machine = None
            return
        code = machine.books.code or own_code
        if code == own_code:
            _require(encoded_effects(effects) == entry.effects, f"row {entry.id}: its effects differ")
        report.stepped += code == own_code
        if snapshot is not None:
            same = snapshot.code != own_code or code != own_code or digest(machine.books) == snapshot.digest
            _require(snapshot.whole and same, f"row {entry.id}: its snapshot differs")
            report.snapshots += 1


def verify(file: Path) -> GatewayVerified:
    """Hash every row again, and step every event again from the first; compare effects and snapshots.

    Rows of other code are only checked by their hashes, and stepped to continue. After rows that a start left out,
    stepping continues from its snapshot. Raises JournalError.
    """
    reader = JournalReader(file)
    try:
        with reading(file):
            verification = _Verification(reader)
            for entry in reader.entries():
                verification.row(entry)
            return verification.report
    finally:
        reader.close()
