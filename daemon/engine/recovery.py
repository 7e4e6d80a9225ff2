"""Shared parts of recovery and verify: a journal's machine, its snapshots, stepping a row again."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import Any

import msgspec

from daemon.core.draft import PaperMarket
from daemon.core.events import Event, RunStarted
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.recorded import RecordedPaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import PaperState, RecordedState, SharePaperState
from daemon.core.records import Row
from daemon.core.state import Identity, State, encode_state
from daemon.core.step import Core
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import Entry, JournalError, Snapshot, base_of, decode_event, encode_effects
from daemon.journal.universe import MODEL_CONFIG, symbols_of
from strategies.kit.contract import AnyStrategy
from strategies.registry import strategy as strategy_named

TOLD_BY_RUNS = ("mode", "account", "strategy", "epoch", "feed")  # parts of the identity that each start journals
REPLAY, DRY_RUN = "replay", "dry_run"  # the modes that have a paper broker
_market_encoder = msgspec.json.Encoder(order="deterministic")
_market_decoder = msgspec.json.Decoder(PaperState)
_share_market_decoder = msgspec.json.Decoder(SharePaperState)
_recorded_market_decoder = msgspec.json.Decoder(RecordedState)
_one_at_a_time = threading.Lock()  # msgspec takes in a type in steps, which no other thread may meet


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
    with _one_at_a_time:
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
    if isinstance(event, machine.caused) and machine.queue:
        machine.queue.popleft()


def adopt_trading(machine: Machine) -> None:
    """Give the paper broker the state's trading rules."""
    if machine.market is not None:
        machine.market = machine.core.desk.paper(machine.state.trading, machine.state.identity.mode)
