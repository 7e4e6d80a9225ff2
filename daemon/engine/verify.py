"""Verify a journal against its events: hashes, effects, digests, snapshots and read models; no weights.

Every row is hashed again; every event is stepped again with its own code version; the first difference is named.
Segments of other code are checked by their hashes only, and reported as such.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from daemon.core.events import CodeChanged, RunStarted
from daemon.core.limits import Trading
from daemon.core.orders import TERMINAL
from daemon.core.state import Identity, digest
from daemon.core.step import Divergence, Machine
from daemon.engine.engine import DIGEST_EVERY
from daemon.engine.recover import TOLD_BY_RUNS, fresh_machine, identity_of, libraries, reapply, restore, snapshot_of
from daemon.journal.journal import READ_MODELS, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import (
    Base,
    CommitBatch,
    Entry,
    JournalError,
    Snapshot,
    base_of,
    chain_start,
    decode_event,
    is_whole,
)
from strategies.kit.contract import AnyStrategy
from strategies.kit.entry import IMPURE
from strategies.registry import own

Registry = Callable[[str, tuple[str, ...], str], AnyStrategy]
"""Function from name, symbols (() for its own) and model configuration ("" for its own) to a strategy."""
ATTEMPTS = 3  # when a daemon starts to write to a stopped desk's file


class Verified(msgspec.Struct):
    """The report. `difference` is empty when everything agrees."""

    events: int = 0
    stepped: int = 0
    digests: int = 0
    snapshots: int = 0
    read_model_rows: int = 0
    before: int = 0  # rows in earlier files
    other_code: dict[str, int] = {}  # code version -> rows checked by hash alone
    other_libraries: dict[str, int] = {}  # other versions -> rows checked by hash alone for that reason
    difference: str = ""


class _Different(Exception):
    """The first difference."""


def verify(
    path: Path,
    code: str,
    registry: Registry,
    tick: Callable[[int], None] | None = None,
) -> Verified:
    """Check the journal file at `path` against this code. `tick` is called with the number of rows done.

    Raises JournalError when the file is no journal. A difference is reported, not raised. If a daemon starts on a
    stopped desk's file meanwhile, the check begins again on the file as it is then.
    """
    for _ in range(ATTEMPTS):
        report, has_moved = _attempt(path, code, registry, tick or _quiet)
        if not has_moved:
            return report
    raise JournalError(f"{path}: others write it again and again: let one daemon run on it, then verify")


def _attempt(path: Path, code: str, registry: Registry, tick: Callable[[int], None]) -> tuple[Verified, bool]:
    """Return the report, and whether another process wrote meanwhile, which voids it."""
    reader = JournalReader(path)
    report, has_moved = Verified(), False
    try:
        with tempfile.TemporaryDirectory(prefix="rltrader-verify-") as folder:
            rebuilt = Journal.create(Path(folder) / "rebuilt.sqlite", {})
            try:
                reader.hold(rebuilt.path)
                try:
                    _Verification(reader, code, registry, report, rebuilt, tick).run()
                except _Different as difference:
                    report.difference = str(difference)
                has_moved = reader.moved()
            finally:
                reader.close()  # first: while it reads, the other's log cannot be folded
                rebuilt.close()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        report.difference = f"the file cannot be read: {error}"
    finally:
        reader.close()
    return report, has_moved


class _Verification:
    def __init__(
        self,
        reader: JournalReader,
        code: str,
        registry: Registry,
        report: Verified,
        rebuilt: Journal,
        tick: Callable[[int], None],
    ) -> None:
        self._reader = reader
        self._code = code
        self._registry = registry
        self._report = report
        self._rebuilt = rebuilt
        self._tick = tick
        self._batch = CommitBatch()
        self._machine: Machine | None = None
        self._based = False  # this file continues another one at its first snapshot, at the first row
        self._own = False  # the machine is at this row, stepped by its own code
        self._whole = True  # no row was left unstepped
        self._resumed_ns = 0  # when stepping resumed after unstepped rows: earlier trades are incomplete
        self._handovers: list[int] = []  # rows at which other code took over, which may overwrite pending items
        self._run_code = self._run_libraries = ""
        self._unlike = False  # the loaded libraries gave other results than this run's
        self._turned = False  # other code took over without a snapshot yet: its first one is kept
        self._again = False  # a later run without a snapshot yet: kept too, if it skipped a damaged kept one
        self._digests = reader.digests()
        self._snapshots = {s.event_id: s for s in reader.snapshots()}

    def run(self) -> None:
        meta = self._reader.meta()
        base = base_of(meta)
        previous, last = chain_start(meta), None
        first_id, last_seq = 1, 0
        if base is not None:
            first_id, last_seq = base.row + 1, base.seq
            self._go_on_from(base, identity_of(meta))
        for entry in self._reader.entries():
            expected_id = last.id + 1 if last else first_id
            if entry.id != expected_id:
                raise _Different(f"event row {expected_id} is missing, row {entry.id} follows")
            self._check_row(entry, previous, last_seq)
            if entry.seq is not None:
                previous, last_seq = entry.hash, entry.seq
                self._report.events += 1
            self._step(entry)
            self._check_snapshot(entry)
            last = entry
            if entry.id % 2000 == 0:
                self._flush()
                self._tick(entry.id)
        self._flush()
        self._check_head(last)
        if self._snapshots:
            raise _Different(f"the snapshot at event {next(iter(self._snapshots.values())).seq} stands at no event row")
        if self._digests and self._whole:
            raise _Different(f"a state digest stands at event {min(self._digests)}, which has none")
        self._check_read_models()

    def _go_on_from(self, base: Base, identity: Identity) -> None:
        """Begin at the first snapshot unchecked: its rows are verified with the earlier file."""
        start_event = msgspec.json.decode(base.started, type=RunStarted)
        self._report.before = base.row
        self._run_code, self._run_libraries = start_event.code, start_event.libraries
        self._machine = fresh_machine(
            self._registry(identity.strategy, identity.symbols, identity.config), identity, start_event.trading
        )
        self._whole, self._based = False, True

    def _fresh(self, identity: Identity, trading: Trading) -> Machine:
        strategy = self._registry(identity.strategy, identity.symbols, identity.config)
        return fresh_machine(strategy, identity, trading)

    def _check_row(self, entry: Entry, previous: bytes, last_seq: int) -> None:
        where = _place(entry)
        if not is_whole(entry, previous):
            cause = "the order of rows" if entry.id > 1 else "what the journal was made with (its table meta)"
            raise _Different(f"{where}: the hash does not match: this row, or {cause}, was changed")
        if entry.seq is not None and entry.seq != last_seq + 1:
            raise _Different(f"{where}: sequence {last_seq + 1} was expected")
        try:
            event = decode_event(entry.payload)
        except msgspec.DecodeError as error:
            raise _Different(f"{where}: the payload is no event of this version: {error}") from error
        if type(event).__name__ != entry.kind or event.time_ns != entry.time_ns:
            raise _Different(f"{where}: kind and time do not agree with the payload")
        if isinstance(event, RunStarted):
            self._begin_run(event, self._identity(event, where))
        elif isinstance(event, CodeChanged):
            self._turned = True

    def _begin_run(self, event: RunStarted, identity: Identity) -> None:
        """Begin a run: its code and libraries wrote the rows from here on."""
        made_with = (event.code, event.libraries)
        turned = self._run_code != "" and made_with != (self._run_code, self._run_libraries)
        self._turned |= turned
        self._again = self._run_code != ""
        self._run_code, self._run_libraries = made_with
        if self._machine is None:
            self._machine = fresh_machine(
                self._registry(identity.strategy, identity.symbols, identity.config), identity, event.trading
            )
            self._own = event.code == self._code
        elif turned:
            self._unlike = False
            self._leave()

    def _leave(self) -> None:
        """Stop stepping rows until a snapshot of this code."""
        if self._own and self._machine is not None:
            self._handovers.append(self._machine.state.now_ns)
        self._own = False

    def _identity(self, event: RunStarted, where: str) -> Identity:
        """Check that the meta and each run name the same identity."""
        meta = self._reader.meta()
        for key in TOLD_BY_RUNS:
            if meta.get(key) != getattr(event, key):
                raise _Different(f"meta {key} is {meta.get(key, 'missing')}, {where} says {getattr(event, key)}")
        return identity_of(meta)

    def _step(self, entry: Entry) -> None:
        machine = self._machine
        if machine is None:
            raise _Different(f"row {entry.id} ({entry.kind}) precedes the first RunStarted")
        if not self._own:
            self._count_foreign_row()
            return
        try:
            self._repeat_step(entry, machine)
        except _Different:
            if self._run_libraries in ("", libraries()):
                raise
            self._unlike = True
            self._leave()
            self._count_foreign_row()

    def _count_foreign_row(self) -> None:
        self._whole = False
        if self._based:  # the former file has this row too
            return
        made_with, key = self._report.other_code, self._run_code
        if self._unlike:
            made_with, key = self._report.other_libraries, self._run_libraries
        made_with[key] = made_with.get(key, 0) + 1

    def _repeat_step(self, entry: Entry, machine: Machine) -> None:
        where = _place(entry)
        try:
            effects = reapply(machine, entry, self._batch.rows)
        except Divergence as error:
            raise _Different(f"{where}: {error}{_cause(machine)}") from error
        except Exception as error:  # any error of a strategy that did not raise in the desk
            raise _Different(f"{where}: {type(error).__name__}: {error}{_cause(machine)}") from error
        if effects != entry.effects:
            differ = f"journal {entry.effects[:300]}, replay {effects[:300]}"
            raise _Different(f"{where}: effects differ: {differ}{_cause(machine)}")
        if entry.seq is None:
            return
        self._report.stepped += 1
        if entry.seq % DIGEST_EVERY == 0:
            if self._digests.pop(entry.seq, None) != digest(machine.state):
                raise _Different(f"{where}: the state digest differs{_cause(machine)}")
            self._report.digests += 1

    def _check_snapshot(self, entry: Entry) -> None:
        snapshot = self._snapshots.pop(entry.id, None)
        if snapshot is None and self._based:
            raise _Different(f"the snapshot at row {entry.id}, with which this file begins, is missing")
        if snapshot is None or self._machine is None:
            return
        if self._based:
            self._based = False
            self._turned |= bool(snapshot.kept)
            if snapshot.whole and snapshot.code == self._code == self._run_code:
                self._turned = False
                self._resume(self._machine, snapshot)
                return
        must_keep = self._turned or (self._again and bool(snapshot.kept))
        if not snapshot.whole or (snapshot.code, bool(snapshot.kept)) != (self._run_code, must_keep):
            raise _Different(f"the snapshot at event {snapshot.seq}: its digest, code or mark was changed")
        self._turned = self._again = False
        if not self._own:
            if snapshot.code == self._code and snapshot.kept and not self._unlike:
                self._resume(self._machine, snapshot)
            return
        if self._machine.queue:
            raise _Different(f"the snapshot at event {snapshot.seq} stands at event row {entry.id}, in mid-bar")
        new_snapshot = snapshot_of(self._machine, entry.id, snapshot.code, kept=bool(snapshot.kept))
        if new_snapshot != Snapshot._make(snapshot):
            raise _Different(f"the snapshot at event {snapshot.seq} differs from the state there")
        self._report.snapshots += 1

    def _resume(self, machine: Machine, snapshot: Snapshot) -> None:
        """Step on from a snapshot of this code."""
        restore(machine, snapshot)
        self._own, self._resumed_ns = True, machine.state.now_ns

    def _check_head(self, last: Entry | None) -> None:
        head = self._reader.meta().get("head", "")
        newest = f"{last.id}:{last.hash.hex()}" if last else ""
        if head != newest:
            raise _Different(
                f"the journal's end is row {head.partition(':')[0] or 'none'}, found {last.id if last else 0}"
            )

    def _flush(self) -> None:
        self._rebuilt.commit(self._batch)
        self._batch = CommitBatch()

    def _check_read_models(self) -> None:
        tables = {row["name"] for row in self._reader.query("SELECT name FROM main.sqlite_schema WHERE type = 'table'")}
        for name, table in READ_MODELS.items():
            if name not in tables:  # older than this table, and not written since
                continue
            ways = [("other", "main", "is missing or differs", self._rows_condition(name))]
            if self._whole:
                ways.append(("main", "other", "does not follow from the events", "1"))
            for schema, other, problem, where in ways:
                rows = self._reader.query(
                    f"SELECT * FROM {schema}.{name} WHERE {where} EXCEPT SELECT * FROM {other}.{name} LIMIT 1"
                )
                if rows:
                    raise _Different(f"read model {name}: the row with {table.columns[0]} {rows[0][0]} {problem}")
            self._report.read_model_rows += self._reader.query(f"SELECT count(*) FROM other.{name}")[0][0]

    def _rows_condition(self, name: str) -> str:
        """Return, as SQL, which rebuilt rows the journal must have: all but those that other code continued.

        An order that had ended may go on, too: its fill may come late, or be busted. A trade that was open when the
        stepping began is not whole.
        """
        if name == "round_trips":
            trade_sql = " AND entered + left_again = 0" if self._handovers else ""
            return f"opened_ns > {self._resumed_ns}{trade_sql}"
        if not self._handovers:
            return "1"
        final_statuses = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
        times = ", ".join(map(str, self._handovers))
        handover_sql = " OR ".join(f"{at} BETWEEN orders.updated_ns AND newer.updated_ns" for at in self._handovers)
        newer_sql = (
            "SELECT 1 FROM main.orders AS newer WHERE newer.client_order_id = orders.client_order_id "
            f"AND newer.updated_ns > orders.updated_ns AND ({handover_sql})"
        )
        rows = {
            "orders": f"status IN ({final_statuses}) AND NOT EXISTS ({newer_sql})",
            "equity": f"time_ns NOT IN ({times})",
        }
        return rows.get(name, "1")


def _cause(machine: Machine) -> str:
    """Return what may be why a step comes to something else, "" with the code of a shipped strategy."""
    strategy = own(machine.state.identity.strategy)
    if strategy is None:
        return ""
    return f"; unless a row was changed, it is {strategy.name} ({strategy.file}): {IMPURE}"


def _place(entry: Entry) -> str:
    """Return where an event is: its row, as a start names it, and its sequence if it has one."""
    sequence = "" if entry.seq is None else f", sequence {entry.seq}"
    return f"event row {entry.id}{sequence} ({entry.kind})"


def _quiet(_: int) -> None:
    """Do nothing."""
