"""Start-up is recovery, always: newest snapshot, then the journal after it, through the very step that wrote it.

Hashes are checked on the way. The result is the machine exactly as it was after the last durable event, with what was
then still to come in its queue; nothing is written here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import daemon.core
import strategies
from daemon.core.events import FEED_EVENTS, Event, RunStarted
from daemon.core.limits import Trading
from daemon.core.machine import Divergence, Machine, PaperMarket
from daemon.core.paper import PaperBroker
from daemon.core.paper_state import PaperState, SharePaperState
from daemon.core.quote_paper import QuotePaperBroker
from daemon.core.records import Row
from daemon.core.share_paper import SharePaperBroker
from daemon.core.state import Identity, State, encode_state
from daemon.core.step import Core
from daemon.shell.journal import (
    Entry,
    JournalError,
    JournalReader,
    Snapshot,
    decode_event,
    encode_effects,
    genesis,
    row_hash,
)
from strategies.contract import DailySpec, Spec, Strategy

REPLAY, DRY_RUN = "replay", "dry_run"  # the modes that have a paper broker
_market_encoder = msgspec.json.Encoder(order="deterministic")
_market_decoder = msgspec.json.Decoder(PaperState)
_share_market_decoder = msgspec.json.Decoder(SharePaperState)


class Recovered(NamedTuple):
    """The machine as the journal left it, and where the journal stands."""

    machine: Machine
    last_id: int
    head: bytes
    code: str  # of the last run, "" on a fresh journal
    raised: Entry | None  # the last event before the start-up rows, when its step raised
    anchored: bool  # the code of the last run has a snapshot of its own, or wrote the journal from its first row
    fed: int  # feed events that the source must not give again
    replayed: int  # events stepped after the snapshot


def code_digest() -> str:
    """12 hex digits over the sources of `strategies` and `daemon.core`: what decides. Equal code, equal digest."""
    found = hashlib.sha256()
    for package in (strategies, daemon.core):
        for root in package.__path__:
            for path in sorted(Path(root).glob("*.py")):
                found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def paper_market(spec: Spec, mode: str, trading: Trading) -> PaperMarket | None:
    """The paper broker that suits strategy and mode; None where a real one is outside."""
    if mode not in (REPLAY, DRY_RUN):
        return None
    if isinstance(spec, DailySpec):
        return SharePaperBroker(trading, spec.symbols, live=mode == DRY_RUN)
    return PaperBroker(trading, spec.symbols[0]) if mode == REPLAY else QuotePaperBroker(trading, spec.symbols[0])


def identity_of(meta: dict[str, str]) -> Identity:
    """Whose journal it is, from what it was made with."""
    return Identity(meta["mode"], meta["account"], meta["strategy"], meta["epoch"], meta["feed"])


def first_trading(reader: JournalReader, otherwise: Trading | None = None) -> Trading:
    """The trading rules that a journal's first run started with; `otherwise`, or the defaults, when it never ran.

    A machine that replays a journal from its first row begins with these: the paper broker's cash is among them.
    Raises JournalError for a row that is no event.
    """
    for entry in reader.entries(page=4):
        try:
            event = decode_event(entry.payload)
        except msgspec.DecodeError as error:
            where = f"event row {entry.id} ({entry.kind})"
            raise JournalError(f"{reader.path}: damaged at {where}: {error}; run rltraderctl verify") from error
        if isinstance(event, RunStarted):
            return event.trading
    return otherwise or Trading()


def fresh_machine(strategy: Strategy, identity: Identity, trading: Trading) -> Machine:
    """A machine before any event; with the paper broker that suits the mode, or none where a real one is outside."""
    core = Core(strategy)
    state = core.start(identity, trading)
    market = paper_market(strategy.spec, identity.mode, trading)
    return Machine(core, state) if market is None else Machine(core, state, market, market.start())


def restore(machine: Machine, snapshot: Snapshot) -> None:
    """Put a snapshot's state into the machine. Raises msgspec.ValidationError when this code has other states."""
    state: State[Any] = machine.core.decoder().decode(snapshot.state)
    decoder = _share_market_decoder if isinstance(machine.market, SharePaperBroker) else _market_decoder
    market_state = decoder.decode(snapshot.market) if snapshot.market else None
    machine.state, machine.market_state = state, market_state
    machine.queue.clear()
    adopt_trading(machine)


def snapshot_of(machine: Machine, event_id: int, code: str, *, kept: bool = False) -> Snapshot:
    """The machine as a snapshot. Its queue must be empty: what is under way is not part of a state."""
    if machine.queue:
        raise ValueError(f"{len(machine.queue)} caused events are still to come; a snapshot waits for them")
    state = encode_state(machine.state)
    market = b"" if machine.market_state is None else _market_encoder.encode(machine.market_state)
    digests = [hashlib.sha256(part).hexdigest() for part in (state, market)]
    return Snapshot(event_id, machine.state.seq, code, int(kept), state, market, *digests)


def reapply(machine: Machine, entry: Entry, rows: list[Row]) -> str:
    """Step a journaled row again and gather its read-model rows; returns the effects' JSON.

    A row whose step raised is passed over, a quarantined one too: it is no longer waited for. Raises Divergence when
    the row does not follow from those before it.
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
    """Wait no longer for an event that was caused, or for the answer to the open question: it comes first."""
    if isinstance(event, machine.caused) and machine.queue:
        machine.queue.popleft()


def adopt_trading(machine: Machine) -> None:
    """The paper broker lives by the same trading rules as the state."""
    if machine.market is not None:
        machine.market = paper_market(machine.core.strategy.spec, machine.state.identity.mode, machine.state.trading)


def recover(reader: JournalReader, machine: Machine, code: str) -> Recovered:
    """Bring the machine to the journal's end. Raises JournalError for a damaged journal or one of other code."""
    snapshots = reader.snapshots()
    previous, last_id, run_code, first_code, replayed = genesis(reader.meta()), 0, "", "", 0
    if snapshots:
        newest = snapshots[-1]
        if not newest.whole or not _row_exists(reader, newest.event_id):
            raise JournalError(
                f"{reader.path}: the snapshot at event {newest.seq} is damaged; run rltraderctl verify, restore a copy"
            )
        try:
            restore(machine, newest)
        except msgspec.ValidationError as error:
            raise JournalError(
                f"{reader.path}: the snapshot at event {newest.seq} was written by other code ({newest.code}) whose "
                f"state this one ({code}) cannot read: {error}; use a fresh --state-dir or that code"
            ) from error
        last_id, run_code, first_code = newest.event_id, newest.code, newest.code
        previous = reader.chain_head(last_id)
    raised: Entry | None = None
    for entry in reader.entries(last_id):
        if entry.id != last_id + 1 or row_hash(previous, *entry[:6]) != entry.hash:
            raise JournalError(f"{reader.path}: damaged at event row {entry.id} ({entry.kind}); run rltraderctl verify")
        try:
            effects = reapply(machine, entry, [])
        except (Divergence, ValueError, msgspec.DecodeError) as error:
            raise _other_code(reader, entry, run_code, code, str(error)) from error
        if effects != entry.effects:
            raise _other_code(reader, entry, run_code, code, "its effects differ")
        if entry.kind == "RunStarted":
            run_code = msgspec.json.decode(entry.payload)["code"]
            first_code = first_code or run_code
        if not entry.startup:
            raised = entry if entry.raised else None
        if entry.seq is not None:
            previous = entry.hash
            replayed += 1
        last_id = entry.id
    fed = machine.state.fed + _left_out(reader)
    if raised is not None and isinstance(decode_event(raised.payload), FEED_EVENTS):
        fed += 1  # the engine tries it again by itself
    return Recovered(machine, last_id, previous, run_code, raised, run_code == first_code, fed, replayed)


def _left_out(reader: JournalReader) -> int:
    """Feed events that were quarantined: the source gave them, the state never counted them."""
    kinds = [kind.__name__ for kind in FEED_EVENTS]
    sql = f"SELECT count(*) AS n FROM events WHERE seq IS NULL AND kind IN ({','.join('?' * len(kinds))})"
    return int(reader.query(f"{sql} AND effects LIKE '{{\"quarantined\"%'", kinds)[0]["n"])


def _row_exists(reader: JournalReader, event_id: int) -> bool:
    return bool(reader.query("SELECT 1 FROM events WHERE id = ?", (event_id,)))


def _other_code(reader: JournalReader, entry: Entry, theirs: str, ours: str, detail: str) -> JournalError:
    """Replay went another way than the journal: other code wrote it, or there is a bug."""
    if theirs and theirs != ours:
        cure = f"it was written by other code ({theirs}); stop that version cleanly first, or use a fresh --state-dir"
    else:
        cure = "the same code wrote it: run rltraderctl verify and report a bug"
    return JournalError(f"{reader.path}: replay differs at event row {entry.id} ({entry.kind}): {detail}; {cure}")
