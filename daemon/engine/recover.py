"""Every start is a recovery: the newest whole snapshot, then the journal after it, through the same step.

Hashes are checked on the way. The result is the machine after the last durable event, with its queue; nothing is
written here. Rows that do not follow, because other code or other libraries wrote them, are applied as recorded;
damaged rows are left out. The result reports both.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

import daemon.core
import strategies
from daemon.core.draft import PaperMarket
from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder, WatchContracts
from daemon.core.events import FEED_EVENTS, ClockTicked, CodeChanged, Event, HaltRequested, ResumeRequested, RunStarted
from daemon.core.limits import Trading
from daemon.core.paper.quotes import RecordedPaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import PaperState, RecordedState, SharePaperState
from daemon.core.records import Row
from daemon.core.session import new_york_text
from daemon.core.state import Identity, State, encode_state
from daemon.core.step import Core, Divergence, Machine
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import (
    MODEL_CONFIG,
    Entry,
    JournalError,
    Snapshot,
    base_of,
    chain_start,
    decode_event,
    encode_effects,
    is_whole,
    symbols_of,
)
from strategies.kit.contract import AnyStrategy
from strategies.kit.entry import IMPURE
from strategies.kit.plain import ONE_AT_A_TIME
from strategies.kit.quantity import from_json, to_json
from strategies.registry import own
from strategies.registry import strategy as strategy_named


def code_digest(strategy: str = "") -> str:
    """Return 12 hex digits over the sources of `strategies` and `daemon.core`, the deciding code.

    Files of all subfolders count, each by its path within its package, and the imported files of an own strategy.
    Raises OwnStrategyError where those cannot be imported.
    """
    digest = hashlib.sha256()
    for package in (strategies, daemon.core):
        for root in map(Path, package.__path__):
            for path in sorted(root.rglob("*.py")):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    strategy_code = own(strategy) if strategy else None
    if strategy_code is not None:
        digest.update(strategy_code.digest.encode())
    return digest.hexdigest()[:12]


@cache
def libraries() -> str:
    """Return the versions of the libraries that the deciding code computes with: others may round differently."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "TA-Lib", "msgspec"))


TOLD_BY_RUNS = ("mode", "account", "strategy", "epoch", "feed")  # parts of the identity that each start journals
REPLAY, DRY_RUN = "replay", "dry_run"  # the modes that have a paper broker
_market_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=to_json)
_market_decoder = msgspec.json.Decoder(PaperState, dec_hook=from_json)
_share_market_decoder = msgspec.json.Decoder(SharePaperState, dec_hook=from_json)
_recorded_market_decoder = msgspec.json.Decoder(RecordedState, dec_hook=from_json)


def identity_of(meta: dict[str, str]) -> Identity:
    """Return the journal's identity from its meta. Raises JournalError when a part is missing."""
    missing = [key for key in TOLD_BY_RUNS if key not in meta]
    if missing:
        raise JournalError(f"the journal's table meta is damaged, {missing[0]} is missing: restore it from a copy")
    mode, account, strategy, epoch, feed = (meta[key] for key in TOLD_BY_RUNS)
    return Identity(mode, account, strategy, epoch, feed, symbols_of(meta), meta.get(MODEL_CONFIG, ""))


def first_trading(reader: JournalReader, otherwise: Trading | None = None) -> Trading:
    """Return the trading rules of a journal's first run; `otherwise`, or the defaults, when it never ran.

    A machine that replays a journal from its first row begins with these: the paper broker's cash is among them. A
    damaged row is skipped: a snapshot after it has its own rules, and recovery reports it. Raises JournalError where
    the journal cannot be read.
    """
    with reading(reader.path):
        for entry in reader.entries(page=4):
            with contextlib.suppress(msgspec.DecodeError):  # a damaged row: recovery reports it
                event = decode_event(entry.payload)
                if isinstance(event, RunStarted):
                    return event.trading
        base = base_of(reader.meta())
    if base is not None:
        return msgspec.json.decode(base.started, type=RunStarted).trading
    return otherwise or Trading()


def fresh_machine(strategy: AnyStrategy, identity: Identity, trading: Trading) -> Machine:
    """Return a machine before any event; with the mode's paper broker, or none with a real broker."""
    core = Core(strategy)
    state = core.start(identity, trading)
    market = core.desk.paper(trading, identity.mode)
    return Machine(core, state) if market is None else Machine(core, state, market, market.start())


def machine_of(reader: JournalReader, otherwise: Trading | None = None) -> Machine:
    """Return the machine of a journal before its first event; `otherwise` are its rules if it never ran.

    Raises JournalError where its rules are unknown.
    """
    with reading(reader.path):
        identity = identity_of(reader.meta())
    try:
        strategy = strategy_named(identity.strategy, identity.symbols, identity.config)
    except ValueError as error:
        raise JournalError(f"{reader.path}: {error}; or restore the journal from a copy") from error
    return fresh_machine(strategy, identity, first_trading(reader, otherwise))


def restore(machine: Machine, snapshot: Snapshot) -> None:
    """Put a snapshot's state into the machine. Raises msgspec.ValidationError when this code's state differs."""
    with ONE_AT_A_TIME:
        decoder = machine.core.decoder()
    state: State[Any] = decoder.decode(snapshot.state)
    market_state = _decoder_of(machine.market).decode(snapshot.market) if snapshot.market else None
    machine.state, machine.market_state = state, market_state
    machine.queue.clear()
    adopt_trading(machine)


def _decoder_of(market: PaperMarket | None) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a paper broker's state."""
    if isinstance(market, SharePaperBroker):
        return _share_market_decoder
    return _recorded_market_decoder if isinstance(market, RecordedPaperBroker) else _market_decoder


def snapshot_of(machine: Machine, event_id: int, code: str, *, kept: bool = False) -> Snapshot:
    """Return the machine as a snapshot. Its queue must be empty: it is not part of a state."""
    if machine.queue:
        raise ValueError(f"{len(machine.queue)} caused events are still to come; a snapshot waits for them")
    state = encode_state(machine.state)
    market = b"" if machine.market_state is None else _market_encoder.encode(machine.market_state)
    digests = [hashlib.sha256(part).hexdigest() for part in (state, market)]
    return Snapshot(event_id, machine.state.seq, code, int(kept), state, market, *digests)


def reapply(machine: Machine, entry: Entry, rows: list[Row]) -> str:
    """Step a journaled row again and gather its read-model rows; return the effects' JSON.

    Rows that raised or were quarantined are skipped and no longer expected. Raises Divergence when the row does not
    follow from those before it.
    """
    if entry.raised:
        return entry.effects
    if entry.quarantined:
        leave_out(machine, decode_event(entry.payload))
        return entry.effects
    step = machine.reapply(decode_event(entry.payload))
    rows.extend(step.rows)
    effects = encode_effects(step.effects)
    if entry.kind == "RunStarted":
        adopt_trading(machine)
    return effects


def leave_out(machine: Machine, event: Event) -> None:
    """Drop an expected event or answer; it must come first."""
    if isinstance(event, machine.caused_events) and machine.queue:
        machine.queue.popleft()


def adopt_trading(machine: Machine) -> None:
    """Give the paper broker the state's trading rules."""
    if machine.market is not None:
        machine.market = machine.core.desk.paper(machine.state.trading, machine.state.identity.mode)


_RAISED: tuple[type[Exception], ...] = (Exception,)  # any error of a strategy that did not raise before
_BEFORE_A_RETRY = frozenset((CodeChanged.__name__, HaltRequested.__name__))
_LEFT = (SubmitOrder, CancelOrder, WatchContracts)  # journaled effects that matter outside
_LEFT_NAMES = frozenset(kind.__name__ for kind in _LEFT)
_left_decoder: msgspec.json.Decoder[SubmitOrder | CancelOrder | WatchContracts] = msgspec.json.Decoder(
    SubmitOrder | CancelOrder | WatchContracts, dec_hook=from_json
)
_parts_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class _Kind(msgspec.Struct):
    """The part of an effect that names its kind."""

    type: str
    decision: int = 0


_kind_decoder = msgspec.json.Decoder(_Kind)


class Recovered(NamedTuple):
    """The machine as the journal left it, and the journal's position."""

    machine: Machine
    last_id: int
    head: bytes
    code: str  # code of the last run, "" on a fresh journal
    raised: Entry | None  # the last event before the start-up rows, when its step raised
    anchored: bool  # the last run's code has its own snapshot, or wrote the journal from the first row
    fed: int  # feed events that the source must skip
    replayed: int  # events stepped after the snapshot
    passed_over: tuple[str, ...] = ()  # snapshots that could not be used, newest first, and why
    libraries: str = ""  # libraries of the last run, "" if not recorded
    raised_before: bool = False  # the strategy raised in `raised`, and earlier in that session, since a resume
    handover: CodeChanged | None = None  # to be journaled first by the next run, at the time of the last event

    def own(self, code: str, versions: str) -> bool:
        """Return True when the last run used this very code and these libraries, and all of its rows follow again."""
        return (self.code, self.libraries) == (code, versions) and self.handover is None


def recover(reader: JournalReader, machine: Machine, code: str, versions: str | None = None) -> Recovered:
    """Bring the machine to the journal's end.

    `code` and `versions` are this code's digest and its libraries (None: those that are loaded). Raises JournalError
    for an unreadable file, and for damaged rows of a replay; JournalBusy for a passing fault.
    """
    with reading(reader.path):
        recovery = _Recovery(reader, machine, code, libraries() if versions is None else versions)
        recovery.restore()
        for entry in reader.entries(recovery.last_id):
            recovery.go_on(entry)
        return recovery.result()


def recovered_desk(reader: JournalReader, otherwise: Trading | None = None) -> Recovered:
    """Recover a journal's own desk by this code; `otherwise` are its rules if it never ran. Raises as `recover`."""
    machine = machine_of(reader, otherwise)
    return recover(reader, machine, code_digest(machine.state.identity.strategy))


class _Recovery:
    """One recovery from a snapshot to the journal's end."""

    def __init__(self, reader: JournalReader, machine: Machine, code: str, versions: str) -> None:
        self.last_id = 0
        self._reader, self._machine = reader, machine
        self._code, self._versions = code, versions
        meta = reader.meta()
        self._base = base_of(meta)
        self._head = chain_start(meta)
        self._run_code = self._run_libraries = ""
        self._first = ("", "")  # code and libraries of the first run since the snapshot
        self._passed_over: list[str] = []
        self._failed_entry: Entry | None = None
        self._replay_count = 0
        self._foreign_events = 0  # events of other code since the snapshot, or since this code took over
        self._differences = 0
        self._difference = ""  # the first difference
        self._former = ""  # code that wrote those events
        self._damaged = False  # a row was damaged

    def restore(self) -> None:
        """Restore the newest snapshot that is whole and readable; without one, start at the first row."""
        for snapshot in self._reader.newest_snapshots():
            if isinstance(snapshot, int):
                self._passed_over.append(f"row {snapshot}: it cannot be read")
                continue
            why = self._unusable(snapshot)
            if not why:
                self.last_id = snapshot.event_id
                self._run_code, self._run_libraries = snapshot.code, self._noted_libraries()
                self._first = (self._run_code, self._run_libraries)
                self._head = self._reader.chain_head(self.last_id)
                return
            self._passed_over.append(f"event {snapshot.seq}: {why}")
        if self._base is not None:
            raise JournalError(
                f"{self._reader.path}: no snapshot can be used ({'; '.join(self._passed_over) or 'there is none'}), "
                f"and the rows up to {self._base.row} are in the file before this one: use a copy, or the code it needs"
            )

    def _unusable(self, snapshot: Snapshot) -> str:
        if not snapshot.whole:
            return "it is damaged"
        if not self._reader.query("SELECT 1 FROM events WHERE id = ?", (snapshot.event_id,)):
            return "it stands at no event"
        try:
            restore(self._machine, snapshot)
        except ValueError as error:
            return f"other code ({snapshot.code}) wrote it, and this one ({self._code}) cannot read it: {error}"
        return ""

    def _noted_libraries(self) -> str:
        rows = self._reader.query(
            "SELECT payload FROM events WHERE kind = 'RunStarted' AND id <= ? ORDER BY id DESC LIMIT 1", (self.last_id,)
        )
        start_payload = rows[0]["payload"] if rows else self._base.started if self._base is not None else ""
        with contextlib.suppress(msgspec.DecodeError):  # a damaged row before the snapshot is not needed
            event = decode_event(start_payload)
            return event.libraries if isinstance(event, RunStarted) else ""
        return ""

    def go_on(self, entry: Entry) -> None:
        """Check one row's hash and step it; leave it out on a mismatch. Raises JournalError in a replay."""
        gap = entry.id - self.last_id - 1
        if gap or not is_whole(entry, self._head):
            self._leave_out(entry, gap)
        else:
            if entry.seq is not None:
                self._count(entry.seq - 1)  # after rows that are missing
            self._step(entry)
            if entry.seq is not None:
                self._count(entry.seq)  # after a row that was left out
            if entry.raised:
                self._failed_entry = entry if _is_event(entry) else None  # an unreadable one is not retried
            elif self._failed_entry is not None and not self._precedes(self._failed_entry, entry):
                self._failed_entry = None
        if entry.seq is not None:
            self._head = entry.hash
            self._replay_count += 1
        self.last_id = entry.id

    def _precedes(self, failed_entry: Entry, entry: Entry) -> bool:
        """Return whether a start journals this before it repeats the event that raised."""
        return entry.startup or (entry.kind in _BEFORE_A_RETRY and entry.payload != failed_entry.payload)

    def _raised_before(self) -> bool:
        """Return whether the strategy had raised earlier in that session, on any event, since a resume."""
        if self._failed_entry is None or not self._failed_entry.strategy_raised:
            return False
        sql = """SELECT * FROM events WHERE id < ? AND typeof(effects) = 'text' AND typeof(time_ns) = 'integer'
            AND (kind = 'ResumeRequested' OR effects LIKE '{"raised"%') ORDER BY id DESC"""
        date = new_york_text(self._failed_entry.time_ns)[:10]
        for row in self._reader.query(sql, (self._failed_entry.id,)):
            entry = Entry(*row)
            if entry.kind == ResumeRequested.__name__ and not entry.raised:
                if "resume_refused" in entry.effects:
                    continue
                return False
            if new_york_text(entry.time_ns)[:10] != date:
                return False
            if entry.strategy_raised:
                return True
        return False

    def _leave_out(self, entry: Entry, gap: int) -> None:
        """Go on after a damaged row. A replay raises: its tape would go on from the wrong place."""
        where = f"row {self.last_id + 1}"
        if self._machine.state.identity.by_tape:
            raise JournalError(f"{self._reader.path}: damaged at event {_row_label(entry)}; run rltraderctl verify")
        missing = f", {gap} rows are missing" if gap else ""
        self._damaged = True
        self._note(where, f"damaged, left out{missing}")
        # recorded effects left the process, for any cause
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if sent_effects := left_of(entry.effects):
                self._machine.take(ClockTicked(self._machine.state.now_ns), sent_effects)
                self._count(self._machine.state.seq - 1)
        if entry.seq is not None:
            self._count(self._machine.state.seq + 1)

    def _count(self, seq: int) -> None:
        """Number the next event after `seq`."""
        if self._machine.state.seq != seq:
            self._machine.state = replace(self._machine.state, seq=seq)

    def _step(self, entry: Entry) -> None:
        try:
            event = decode_event(entry.payload)
        except msgspec.DecodeError as error:
            self._note(_row_label(entry), f"it is no event of this version: {error}")
            return
        if isinstance(event, RunStarted):
            self._run_code, self._run_libraries = event.code, event.libraries
            if not self._first[0]:
                self._first = (event.code, event.libraries)
        elif isinstance(event, CodeChanged) and self._run_code == self._code:
            self._foreign_events = self._differences = 0  # this code had taken over here before
        if entry.seq is not None and self._run_code != self._code:
            self._foreign_events, self._former = self._foreign_events + 1, self._run_code
        if self._differences and isinstance(event, FEED_EVENTS):
            self._machine.queue.clear()
        why = self._repeat_step(entry)
        if why:
            self._note(_row_label(entry), why)
            self._take(entry, event)
        if isinstance(event, RunStarted):
            adopt_trading(self._machine)

    def _repeat_step(self, entry: Entry) -> str:
        """Step the row as if this code had written it; return why it does not follow, or ""."""
        machine = self._machine
        former = machine.state, machine.market_state, tuple(machine.queue)
        try:
            if reapply(machine, entry, []) == entry.effects:
                return ""
            why = "its effects differ"
        except Divergence as error:
            why = str(error)
        except _RAISED as error:
            why = f"{type(error).__name__}: {error}"
        machine.state, machine.market_state = former[:2]
        machine.queue.clear()
        machine.queue.extend(former[2])
        return why

    def _take(self, entry: Entry, event: Event) -> None:
        """Apply the row as recorded. If this code cannot, leave it out: the broker's report decides."""
        try:
            self._machine.take(event, left_of(entry.effects))
        except _RAISED as error:
            self._note(_row_label(entry), f"left out: {error}")

    def _note(self, where: str, why: str) -> None:
        self._former = self._former or self._run_code
        self._difference = self._difference or f"{where}: {why[:200]}"
        self._differences += 1

    def result(self) -> Recovered:
        """Return the result of the recovery."""
        machine = self._machine
        fed_count = machine.state.fed + left_out_count(self._reader)
        if self._failed_entry is not None and isinstance(decode_event(self._failed_entry.payload), FEED_EVENTS):
            fed_count += 1  # the engine retries it itself
        return Recovered(
            machine,
            self.last_id,
            self._head,
            self._run_code,
            self._failed_entry,
            (self._run_code, self._run_libraries) == self._first,
            fed_count,
            self._replay_count,
            tuple(self._passed_over),
            self._run_libraries,
            raised_before=self._raised_before(),
            handover=self._handover(),
        )

    def _handover(self) -> CodeChanged | None:
        """Return what could not be reproduced: events of other code, or differences; None when all rows follow."""
        if not self._foreign_events and not self._differences:
            return None
        if self._damaged:
            words = "the journal is damaged"
        elif self._former != self._code:
            words = f"code {self._former} wrote the last {self._foreign_events} events, {self._code} goes on"
        elif self._run_libraries != self._versions:
            was = self._run_libraries or "others"
            words = f"the libraries changed: {was} wrote the last events, {self._versions} go on"
        elif own_strategy := own(self._machine.state.identity.strategy):
            words = f"{own_strategy.name} ({own_strategy.file}) comes to something else on the same events: {IMPURE}"
        else:
            words = f"the same code ({self._code}) comes to something else: report it, it is a bug or failing memory"
        if self._differences:
            words += f"; {self._differences} differ, first {self._difference}"
        highest = self._reader.query("SELECT max(decision) AS n FROM decisions")[0]["n"] or 0
        now_ns = self._machine.state.now_ns
        return CodeChanged(now_ns, self._former, self._foreign_events, self._differences, words, highest, self._damaged)


def _row_label(entry: Entry) -> str:
    return f"row {entry.id} ({entry.kind})"


def _is_event(entry: Entry) -> bool:
    """Return whether the row's payload is an event of this version."""
    try:
        decode_event(entry.payload)
    except msgspec.DecodeError:
        return False
    return True


def left_of(effects: str) -> tuple[AnyEffect, ...]:
    """Return the journaled effects that matter outside of the desk."""
    if not effects.startswith("[{"):
        return ()
    return tuple(
        _left_decoder.decode(part)
        for part in _parts_decoder.decode(effects)
        if _kind_decoder.decode(part).type in _LEFT_NAMES
    )


def left_out_count(reader: JournalReader) -> int:
    """Count quarantined feed events: the source emitted them, the state never counted them."""
    base = base_of(reader.meta())
    kinds = [kind.__name__ for kind in FEED_EVENTS]
    sql = f"SELECT count(*) AS n FROM events WHERE seq IS NULL AND kind IN ({','.join('?' * len(kinds))})"
    former_count = base.left_out if base is not None else 0
    return former_count + int(reader.query(f"{sql} AND effects LIKE '{{\"quarantined\"%'", kinds)[0]["n"])
