"""Rows of the journal: events with their effects, snapshots, and the hash chain over them.

A row's hash covers sequence, time, kind, payload and effects and the chained row before it. Start-up rows and rows
whose step raised have no sequence: they hash onto the chain but the chain does not run through them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from daemon.core.effects import AnyEffect
from daemon.core.events import STARTUP_EVENTS, AnyEvent, Event
from daemon.core.records import Row
from daemon.host.passing import MayPass
from strategies.kit.contract import AnyStrategy, Observation, Spec
from strategies.kit.quantity import from_json, to_json
from strategies.registry import configured, own
from strategies.registry import strategy as strategy_named

_STARTUP_KINDS = frozenset(kind.__name__ for kind in STARTUP_EVENTS)


class JournalError(Exception):
    """The journal cannot be opened or read as it is. The message names file, finding and cure; exit code 2."""


class JournalBusy(MayPass, JournalError):
    """The journal cannot be read at the moment: locked, or its disk fails. Exit code 1: a later start may succeed."""


class WriteFailed(Exception):
    """A commit did not reach the disk (full, read-only, broken). Earlier commits are intact."""


class Entry(NamedTuple):
    """One row of `events`. `seq` None: a start-up row, an event whose step raised, or one quarantined for it.

    `time_ns` is nanoseconds UTC, `kind` the event's name, `payload` the event and `effects` the step's effects, both
    JSON; `hash` has 32 bytes.
    """

    id: int
    seq: int | None
    time_ns: int
    kind: str
    payload: str
    effects: str
    hash: bytes

    @property
    def event(self) -> Event:
        """The event. Raises `msgspec.DecodeError`, a ValueError, unless it is an event of this version."""
        return decode_event(self.payload)

    @property
    def startup(self) -> bool:
        return self.kind in _STARTUP_KINDS

    @property
    def raised(self) -> bool:
        return self.effects.startswith('{"raised"')

    @property
    def strategy_raised(self) -> bool:
        """Whether the step raised, by the strategy."""
        return self.raised and '"strategy":true' in self.effects[-20:]

    @property
    def quarantined(self) -> bool:
        return self.effects.startswith('{"quarantined"')


SNAPSHOT_TYPES = (int, int, str, int, bytes, bytes, str, str)


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
        """Return True when both parts are as they were written. A flipped bit may also change a column's type."""
        parts = ((self.state, self.digest), (self.market, self.market_digest))
        typed = tuple(map(type, self)) == SNAPSHOT_TYPES
        return typed and all(hashlib.sha256(part).hexdigest() == digest for part, digest in parts)


STRATEGY_FROM = "strategy_from"
"""Key in the table meta of an own strategy's path. It may move, so the hash chain leaves it out."""
STRATEGY_SPEC = "strategy_spec"
"""Key of its spec (`strategies.kit.own.stand_in`), for a start while it cannot be imported; not in the hash chain."""
TAPE_DATES = "tape_dates"
"""Key of the first and last date of a dry run's bars, which show its progress; not in the hash chain."""
LEFT_OUT = frozenset({"head", "base", STRATEGY_FROM, STRATEGY_SPEC, TAPE_DATES})
SCHEMA_NUMBER, WHOLE, WITH_FRACTIONS = "schema", 1, 2
"""Key of the schema's number: `WHOLE`, and from the first fraction of a share on `WITH_FRACTIONS`.

Release 0.2 takes a desk that holds fractions for a flat one; it refuses any number but 1.
"""


def genesis(meta: Mapping[str, str]) -> bytes:
    """Return the start of the hash chain: SHA-256 over the meta, which is fixed by it. Each journal begins `WHOLE`."""
    made_with = sorted((k, str(WHOLE) if k == SCHEMA_NUMBER else v) for k, v in meta.items() if k not in LEFT_OUT)
    return hashlib.sha256(msgspec.json.encode(made_with)).digest()


class Base(msgspec.Struct, frozen=True):
    """The end of the earlier file that a journal continues, from which its chain goes on."""

    row: int  # id of the last row before
    seq: int  # the last sequence before
    head: str  # hash of the last chained row before, hex
    started: str  # payload of the last RunStarted before
    model: str = ""  # payload of the last ModelVerified or ModelPromoted before
    left_out: int = 0  # feed events before that were quarantined
    size: int = 0  # bytes of the file at its begin


def base_of(meta: Mapping[str, str]) -> Base | None:
    """Return the base that the journal continues; None from a desk's first event on. Raises JournalError."""
    try:
        return msgspec.json.decode(meta["base"], type=Base) if "base" in meta else None
    except msgspec.DecodeError as error:
        raise JournalError(f"the journal's base is damaged: {error}; restore it from a copy") from error


def chain_start(meta: Mapping[str, str]) -> bytes:
    """Return the hash before the journal's first row."""
    base = base_of(meta)
    return genesis(meta) if base is None else bytes.fromhex(base.head)


class CommitBatch:
    """The rows of one commit, collected since the last."""

    __slots__ = ("digests", "entries", "rows", "snapshots")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.rows: list[Row] = []
        self.digests: list[tuple[int, str]] = []
        self.snapshots: list[Snapshot] = []


def _observation_digest(value: Any) -> Any:
    if isinstance(value, Observation):
        return hashlib.sha256(value.data + value.hidden).hexdigest()[:16]
    return to_json(value)


_STARTUP = frozenset(STARTUP_EVENTS)
_event_encoder = msgspec.json.Encoder(enc_hook=to_json)
_effect_encoder = msgspec.json.Encoder(enc_hook=_observation_digest)
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(AnyEvent, dec_hook=from_json)


def encode_event(event: Event) -> str:
    """Return the event as JSON with its kind as `type`."""
    return _event_encoder.encode(event).decode()


def as_journaled(event: Event) -> Event:
    """Return an event from outside as the journal gives it back: itself, or with its fields in the journal's types.

    Raises TypeError, naming the field, for a value that the journal could not give back.
    """
    try:
        payload = _event_encoder.encode(event)
        journaled_event = _event_decoder.decode(payload)
    except (TypeError, msgspec.DecodeError) as error:
        raise TypeError(f"{type(event).__name__}: {error}: expected the types of daemon/core/events.py") from error
    same = journaled_event == event and _event_encoder.encode(journaled_event) == payload
    return event if same else journaled_event


def decode_event(payload: str) -> Event:
    """Decode an event. Raises `msgspec.DecodeError` unless it is an event of this version."""
    try:
        return _event_decoder.decode(payload)
    except UnicodeEncodeError:  # a damaged row's bytes, see `_damaged_too`
        raise msgspec.DecodeError("it is no text") from None


def encode_effects(effects: Sequence[AnyEffect]) -> str:
    """Return the effects as a JSON array; an observation stands as 16 hex digits of its SHA-256."""
    return _effect_encoder.encode(effects).decode() if effects else "[]"


def row_hash(previous: bytes, row: int, seq: int | None, time_ns: int, kind: str, payload: str, effects: str) -> bytes:
    """Return the SHA-256 over the chained row before this one and all of this one's columns.

    A chained row has its sequence as its place, so that restarts do not change the chain; others have their `row` id.
    """
    place = f"row {row}" if seq is None else str(seq)
    text = f"{place}|{time_ns}|{kind}|{payload}|{effects}"
    return hashlib.sha256(previous + text.encode(errors="surrogateescape")).digest()


def is_whole(entry: Entry, previous: bytes) -> bool:
    """Return whether the row is as it was written, after the chained row with this hash."""
    try:
        return row_hash(previous, *entry[:6]) == entry.hash
    except (AttributeError, TypeError):  # a column of another type
        return False


class HashChain:
    """Turns events into entries: numbers and hashes them."""

    __slots__ = ("head", "next_id")

    def __init__(self, next_id: int = 1, head: bytes = b"") -> None:
        self.next_id = next_id
        self.head = head

    def entry(self, seq: int | None, event: Event, effects: str) -> Entry:
        """Return the next row. A start-up event or a raised one gets no sequence and does not move the chain."""
        if type(event) in _STARTUP:
            seq = None
        payload = _event_encoder.encode(event).decode()
        return self.row(seq, event.time_ns, type(event).__name__, payload, effects)

    def row(self, seq: int | None, time_ns: int, kind: str, payload: str, effects: str) -> Entry:
        """Return the next row of an event that is JSON already."""
        digest = row_hash(self.head, self.next_id, seq, time_ns, kind, payload, effects)
        row = Entry(self.next_id, seq, time_ns, kind, payload, effects, digest)
        self.next_id += 1
        if seq is not None:
            self.head = digest
        return row


SYMBOLS = "symbols"  # the key in the journal's table meta; absent where the symbols are the strategy's own
MODEL_CONFIG = "model_config"  # key of its model configuration's text; absent where the strategy has none


def made_with(spec: Spec) -> dict[str, str]:
    """Return entries of a journal's table meta: symbols, model configuration, and an own strategy's file."""
    symbols = configured(spec)
    meta_symbols = {SYMBOLS: ",".join(symbols)} if symbols else {}
    own_strategy = own(spec.name)
    place = {}
    if own_strategy is not None:
        from strategies.kit.own.stand_in import spec_text

        place = {STRATEGY_FROM: own_strategy.place, STRATEGY_SPEC: spec_text(spec)}
    return meta_symbols | place | ({MODEL_CONFIG: spec.config} if spec.config else {})


def symbols_of(meta: Mapping[str, str]) -> tuple[str, ...]:
    """Return the symbols in the table meta; () where they are the strategy's own."""
    symbols = meta.get(SYMBOLS, "")
    return tuple(symbols.split(",")) if symbols else ()


def strategy_of(meta: Mapping[str, str]) -> AnyStrategy:
    """Return the strategy of a journal, as it was made. Raises KeyError without a name, ValueError as the registry."""
    return strategy_named(meta["strategy"], symbols_of(meta), meta.get(MODEL_CONFIG, ""))
