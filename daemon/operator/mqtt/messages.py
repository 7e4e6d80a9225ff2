"""Telemetry messages: one structure for each topic, as JSON with its version and schema's name.

Pure, for the side thread: the trading loop's rows, events and states in, messages out. `rltraderctl reference` prints
the JSON Schemas. Money is USD as text, times nanoseconds UTC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from daemon.core.events import BarClosed, CandidateRefused, LadderMoved, ModelPromoted, ModelRefused, ModelVerified
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow
from daemon.core.state import State
from daemon.operator.heartbeat import GuardBeat, Heartbeat
from daemon.operator.mqtt.outbox import Counts
from daemon.operator.status import DeskStatus, status_of
from strategies.kit.quantity import Quantity


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a structure (JSON Schema 2020-12)."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **msgspec.json.schema(kind, schema_hook=_of_quantity)}


def _of_quantity(kind: Any) -> dict[str, Any]:
    """Return the schema of a quantity: an integer, or a fraction as plain text."""
    if kind is not Quantity:
        raise NotImplementedError(kind)
    return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^-?\d+\.\d{1,9}$"}]}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=2) + "\n"


class _Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    v: Literal[1] = 1
    desk: str


class StatusMessage(_Message, frozen=True, kw_only=True):
    """`status`: what the desk is. `online` is false, without a status, once it is gone (by its last will)."""

    schema: Literal["status"] = "status"
    online: bool
    status: DeskStatus | None = None


class BarMessage(_Message, frozen=True, kw_only=True):
    """`bars`: a bar was known, `lag_ms` after its end (meaningless for a daily desk's bars)."""

    schema: Literal["bar"] = "bar"
    symbol: str
    start_ns: int
    known_ns: int
    lag_ms: float


class DecisionMessage(_Message, frozen=True, kw_only=True):
    """`decisions`: what the policy chose (`kind` "policy") or a rule did ("rule"), and what came of it."""

    schema: Literal["decision"] = "decision"
    decision: int
    kind: str
    bar_ns: int
    time_ns: int
    action: str | None
    resolved: str | None
    confidence: float | None
    probabilities: tuple[float, ...] | None
    outcome: str
    work: str | None
    model: str | None


class OrderMessage(_Message, frozen=True, kw_only=True):
    """`orders`: an order as it is now. `cost` is the sum of price x quantity, `limit_price` null for a market order."""

    schema: Literal["order"] = "order"
    client_order_id: str
    work: str
    purpose: str
    reason: str
    symbol: str
    side: int
    quantity: Quantity
    limit_price: str | None
    status: str
    filled: Quantity
    cost: str
    fees_usd: str
    submitted_ns: int
    updated_ns: int


class FillMessage(_Message, frozen=True, kw_only=True):
    """`fills`: one execution. The same (order, correction, cumulative) is the same fill, sent again."""

    schema: Literal["fill"] = "fill"
    client_order_id: str
    correction: int
    cumulative: Quantity
    symbol: str
    side: int
    quantity: Quantity
    price: str
    fees_usd: str
    filled_ns: int
    time_ns: int


class DeniedBy(msgspec.Struct, frozen=True):
    """A gate that denied, and why."""

    gate: str
    reason: str


class DenialMessage(_Message, frozen=True, kw_only=True):
    """`denials`: a decision that the gates let not pass."""

    schema: Literal["denial"] = "denial"
    decision: int
    time_ns: int
    denials: tuple[DeniedBy, ...]


class EquityMessage(_Message, frozen=True, kw_only=True):
    """`equity`: at a bar's close while something is held, and at each session's first bar and end."""

    schema: Literal["equity"] = "equity"
    time_ns: int
    equity_usd: str
    cash_usd: str
    realized_usd: str
    max_drawdown: float


class AlarmMessage(_Message, frozen=True, kw_only=True):
    """`alarms`: the name is a heading of docs/OPERATIONS.md."""

    schema: Literal["alarm"] = "alarm"
    alarm: str
    detail: str
    seq: int
    time_ns: int
    halted: bool


class ModelMessage(_Message, frozen=True, kw_only=True):
    """`models`: a version was "verified" at a start, "promoted" while the desk runs, or "refused"."""

    schema: Literal["model"] = "model"
    what: Literal["verified", "promoted", "refused"]
    time_ns: int
    version: str
    previous: str = ""
    promoted: bool = False
    reason: str = ""


class LadderMessage(_Message, frozen=True, kw_only=True):
    """`ladder`: a challenger took a step, or ended a session on its step (`from_step` is `to_step`)."""

    schema: Literal["ladder"] = "ladder"
    time_ns: int
    version: str
    from_step: str
    to_step: str
    champion: str
    share: float
    sessions: int
    reason: str
    detail: str
    figures: dict[str, float]


class TelemetryMessage(_Message, frozen=True, kw_only=True):
    """`telemetry`: what became of the messages since the daemon's start."""

    schema: Literal["telemetry"] = "telemetry"
    offered: int
    published: int
    dropped: int
    conflated: int
    refused: int
    queued: int
    reconnects: int


class ChainMessage(_Message, frozen=True, kw_only=True):
    """`chain`: the journal's chain at an event row, for `rltraderctl verify --against`: keep each one that comes."""

    schema: Literal["chain"] = "chain"
    row: int
    head: str


class ResponseMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a signed command. `seq` is its event in the journal, 0 where it was not journaled.

    `refused` is why the desk does nothing for it, "" where it does something.
    """

    v: Literal[1] = 1
    schema: Literal["response"] = "response"
    ok: bool
    seq: int = 0
    error: str = ""
    status: DeskStatus | None = None
    refused: str = ""


class ChainHead(msgspec.Struct, frozen=True, gc=False):
    """Hash of the journal's last chained row at event row `row`, hex."""

    row: int
    head: str


class KnownBar(msgspec.Struct, frozen=True, gc=False):
    """A bar that closed, and its end, nanoseconds UTC."""

    event: BarClosed
    end_ns: int


class Alarm(msgspec.Struct, frozen=True, gc=False):
    """An alarm, as the trading loop queues it."""

    alarm: str
    detail: str
    seq: int
    time_ns: int
    halted: bool


Message = (
    StatusMessage
    | BarMessage
    | DecisionMessage
    | OrderMessage
    | FillMessage
    | DenialMessage
    | EquityMessage
    | AlarmMessage
    | ModelMessage
    | LadderMessage
    | TelemetryMessage
    | ChainMessage
    | Heartbeat
)
TOPICS: dict[str, type[Message]] = {
    "status": StatusMessage,
    "bars": BarMessage,
    "decisions": DecisionMessage,
    "orders": OrderMessage,
    "fills": FillMessage,
    "denials": DenialMessage,
    "equity": EquityMessage,
    "alarms": AlarmMessage,
    "models": ModelMessage,
    "ladder": LadderMessage,
    "telemetry": TelemetryMessage,
    "chain": ChainMessage,
    "heartbeat": Heartbeat,
}
"""Topic below `<prefix>/<desk>/` -> type of its messages."""


def message_of(topic: str, thing: Any, desk: str) -> Message:
    """Return an item of a topic as its message. Raises KeyError for an unknown pair of topic and type."""
    return _MAKE[topic, type(thing)](thing, desk)


def telemetry_of(counts: Counts, reconnects: int, desk: str) -> TelemetryMessage:
    """Return the outbox's counts as a message."""
    return TelemetryMessage(
        desk=desk,
        offered=counts.offered,
        published=counts.published,
        dropped=counts.dropped,
        conflated=counts.conflated,
        refused=counts.refused,
        queued=counts.waiting,
        reconnects=reconnects,
    )


def _bar(known_bar: KnownBar, desk: str) -> BarMessage:
    event, lag_ms = known_bar.event, max(known_bar.event.time_ns - known_bar.end_ns, 0) / 1e6
    bar = event.bar
    return BarMessage(desk=desk, symbol=bar.symbol, start_ns=bar.start_ns, known_ns=event.time_ns, lag_ms=lag_ms)


def _decision(row: DecisionRow, desk: str) -> DecisionMessage:
    probabilities = None if row.probabilities is None else _FLOATS.decode(row.probabilities)
    return DecisionMessage(desk=desk, **_common_fields(DecisionMessage, row) | {"probabilities": probabilities})


def _denial(row: DecisionRow, desk: str) -> DenialMessage:
    gates = _GATES.decode(row.gates or "{}")
    denials = tuple(DeniedBy(gate, reason) for gate, reason in gates.items() if reason)
    return DenialMessage(desk=desk, decision=row.decision, time_ns=row.time_ns, denials=denials)


def _common_fields(kind: type[Message], thing: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that a message shares with its item."""
    return {name: getattr(thing, name) for name in kind.__struct_fields__ if name in thing.__struct_fields__}


def _whole(kind: type[Message]) -> Callable[[Any, str], Message]:
    """Return the maker of a message that has all fields of its item."""
    return lambda thing, desk: kind(desk=desk, **_common_fields(kind, thing))


def _model(outcome: Literal["verified", "promoted", "refused"]) -> Callable[[Any, str], ModelMessage]:
    """Return the maker of a model's message; a version refused before it was read has no name."""
    return lambda event, desk: ModelMessage(
        desk=desk, what=outcome, **{"version": ""} | _common_fields(ModelMessage, event)
    )


_FLOATS = msgspec.json.Decoder(tuple[float, ...])
_GATES = msgspec.json.Decoder(dict[str, str | None])
_MAKE: dict[tuple[str, type], Callable[[Any, str], Message]] = {
    ("status", State): lambda state, desk: StatusMessage(desk=desk, online=True, status=status_of(state, desk)),
    ("chain", ChainHead): _whole(ChainMessage),
    ("heartbeat", Heartbeat): lambda beat, _: beat,
    ("bars", KnownBar): _bar,
    ("decisions", DecisionRow): _decision,
    ("denials", DecisionRow): _denial,
    ("orders", OrderRow): _whole(OrderMessage),
    ("fills", FillRow): _whole(FillMessage),
    ("equity", EquityRow): _whole(EquityMessage),
    ("ladder", LadderMoved): _whole(LadderMessage),
    ("alarms", Alarm): _whole(AlarmMessage),
    ("models", ModelVerified): _model("verified"),
    ("models", ModelPromoted): _model("promoted"),
    ("models", CandidateRefused): _model("refused"),
    ("models", ModelRefused): _model("refused"),
}


def schemas() -> dict[str, str]:
    """Return {file name: text} of each schema (JSON Schema 2020-12), including those of commands and answers."""
    from daemon.operator.signing import SignedCommand

    kinds: dict[str, Any] = {**TOPICS, "response": ResponseMessage, "command": SignedCommand, "guard": GuardBeat}
    files: dict[str, str] = {}
    for topic, kind in kinds.items():
        fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
        name = str(fields.get("schema", topic))
        schema = schema_of(kind)
        body = schema["$defs"][kind.__name__]
        body["required"] = [name for name in body["properties"] if name in ("v", "schema") or name in body["required"]]
        files[f"{name}.v1.json"] = schema_text(schema)
    return files
