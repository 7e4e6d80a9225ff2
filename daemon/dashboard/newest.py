"""Newest alarms, commands, model changes, ladder steps and starts in the journal.

`events` has no index on its kind and is never scanned whole: the first look reads the newest rows, each later one the
rows added since. The newest `KEPT` of each sort are kept.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

import msgspec

from daemon.core.draft import PROTECTION
from daemon.core.session import new_york_text
from daemon.core.state import TAPE_MODES, State
from daemon.dashboard.learning_views import StepLine
from daemon.dashboard.views import AlarmView, DecisionLine, Raised
from daemon.engine.state_dir import parts_of
from daemon.journal.outcomes import (
    ACTED,
    NO_STOP,
    BookChange,
    Ordered,
    became,
    book_changes,
    orders_of,
    reasons,
    shown_outcome,
)
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError, base_of
from daemon.journal.trades import day_begin
from daemon.reports.words import instrument
from strategies.kit.quantity import Quantity, from_json, of_column
from strategies.kit.units import SECOND_NS

FIRST_LOOK = 50_000  # rows
AT_ONCE = 20_000  # rows of one statement, to keep transactions short
KEPT = 50
STARTS_KEPT = 20
NUMBERS = re.compile(r"[0-9][0-9.,:]*")
STEPS_KEPT = 200
COMMANDS = (
    "HaltRequested",
    "ResumeRequested",
    "PauseRequested",
    "FlattenRequested",
    "CloseRequested",
    "AcceptBrokerRequested",
    "PanicNoticed",
    "PanicFailed",
    "StopRequested",
    "ReloadRequested",
    "StatusRequested",
    "CommandRefused",
)
Lines = tuple[DecisionLine, ...]
SWAPS = ("ModelPromoted", "CandidateRefused", "ModelRefused")
START = "RunStarted"
STEP = "LadderMoved"
_KINDS = (*COMMANDS, *SWAPS, START, STEP)
_SQL = (
    f"SELECT id, time_ns, kind, payload, effects FROM events WHERE id > ? AND id <= ? AND "
    f"(kind IN ({','.join('?' * len(_KINDS))}) OR effects LIKE '%\"RaiseAlarm\"%') ORDER BY id"
)


class Newest(msgspec.Struct, frozen=True):
    """Alarms, commands, model swaps and starts up to event row `last_id`; of each kind the newest first."""

    last_id: int = 0
    alarms: tuple[AlarmView, ...] = ()
    commands: tuple[AlarmView, ...] = ()
    swaps: tuple[AlarmView, ...] = ()
    starts: tuple[float, ...] = ()  # seconds since 1970 UTC
    code: str = ""  # digest of the newest start read
    steps: tuple[StepLine, ...] = ()
    raised: tuple[Raised, ...] = ()  # of each New York day, the newest first: up to `KEPT`


class _Effect(msgspec.Struct):
    """The fields of an effect that an alarm's line shows."""

    type: str
    name: str = ""
    detail: str = ""


class _Payload(msgspec.Struct):
    """The fields of an event that a line shows."""

    reason: str = ""
    detail: str = ""
    who: str = ""
    channel: str = ""
    version: str = ""
    previous: str = ""
    code: str = ""
    flatten: bool = False
    from_step: str = ""
    to_step: str = ""
    share: float = 1.0
    sessions: int = 0
    figures: dict[str, float] = {}


_effects = msgspec.json.Decoder(list[_Effect], dec_hook=from_json)
_payload = msgspec.json.Decoder(_Payload, dec_hook=from_json)


def read_on(reader: JournalReader, newest_before: Newest) -> Newest:
    """Add the journal's new rows to `newest_before`. Raises sqlite3.Error."""
    newest = reader.query("SELECT max(id) AS id FROM events")[0]["id"] or 0
    if newest < newest_before.last_id:
        newest_before = Newest()  # another journal
    after_id, base = newest_before.last_id or max(newest - FIRST_LOOK, 0), base_of(reader.meta())
    if base is not None and after_id < base.row:
        newest_before, after_id = _read_former_file(reader, newest_before, after_id, base.row), base.row
    return msgspec.structs.replace(_read(reader, newest_before, after_id, newest), last_id=newest)


def newest_decision(reader: JournalReader, state: State[Any] | None) -> dict[str, Any] | None:
    """Return the newest row of `decisions` with its outcome for display, or None. Raises sqlite3.Error."""
    outcome = shown_outcome(under_way(state))
    rows = reader.query(
        f"SELECT d.*, {outcome} AS shown FROM decisions AS d WHERE {NO_STOP} ORDER BY decision DESC LIMIT 1"
    )
    return dict(rows[0]) if rows else None


def newest_lines(
    reader: JournalReader, state: State[Any] | None, newest: dict[str, Any] | None, former: Lines
) -> Lines:
    """Return the newest decision, and the newest one with orders, as lines: the same one twice, or none.

    A line of `former` is reused if nothing in it can have changed. Raises sqlite3.Error.
    """
    if newest is None:
        return ()
    coming = under_way(state)
    orders = reader.query(
        "SELECT work FROM orders WHERE work GLOB '[0-9]*' AND purpose <> ? ORDER BY submitted_ns DESC LIMIT 1",
        (PROTECTION,),
    )
    numbers = [newest["decision"], *(int(row["work"].partition(".")[0]) for row in orders)]
    lines = []
    for number in numbers:
        earlier = next((line for line in former if line.decision == number and _over(line, coming)), None)
        if number == newest["decision"] and earlier is not None and earlier.outcome != newest["shown"]:
            earlier = None
        lines.append(earlier or _line_at(reader, number, coming))
    return tuple(line for line in lines if line is not None)


def _over(line: DecisionLine, coming: frozenset[int]) -> bool:
    """Return whether the orders of a decision are final."""
    return line.decision not in coming and line.became not in ("working", *ACTED)


def _line_at(reader: JournalReader, number: int, coming: frozenset[int]) -> DecisionLine | None:
    every = f"SELECT d.*, {shown_outcome(coming)} AS shown FROM decisions AS d"
    rows = reader.query(f"{every} WHERE decision = ?", (number,))
    return decision_lines(reader, rows, coming)[0] if rows else None


def decision_lines(reader: JournalReader, rows: Sequence[sqlite3.Row], coming: frozenset[int]) -> Lines:
    """Return rows of `decisions` with their `shown` outcomes as lines. `coming`: may still send orders."""
    did = book_changes(reader, [row["decision"] for row in rows if row["work"]])
    return tuple(_line(reader, row, did.get(row["decision"]), coming) for row in rows)


def _line(reader: JournalReader, row: sqlite3.Row, did: BookChange | None, coming: frozenset[int]) -> DecisionLine:
    gates: dict[str, str | None] = json.loads(row["gates"] or "{}")
    orders = orders_of(reader, row["decision"]) if row["work"] else ()
    return DecisionLine(
        decision=row["decision"],
        time=row["time_ns"] / 1e9,
        bar=row["bar_ns"] / 1e9,
        kind=row["kind"],
        action=row["action"] or "",
        resolved=row["resolved"] or "",
        confidence=row["confidence"] or 0.0,
        outcome=row["shown"],
        became=became(row["shown"], orders, did, coming=row["decision"] in coming),
        denied_by=tuple(name for name, reason in gates.items() if reason),
        model=row["model"] or "",
        why=reasons(reader, row, row["shown"]),
        traded=_trade_words(orders),
        realised_usd=did.realised_usd if did is not None else None,
        closed_usd=did.left_usd if did is not None and did.left else None,
    )


def _trade_words(orders: Sequence[Ordered]) -> str:
    """Return purchases and sales as a text, "" without an order."""
    if len(orders) == 1:
        (order,) = orders
        return f"{'buy' if order.side > 0 else 'sell'} {order.filled or order.wanted:,} {instrument(order.symbol)}"
    many = [(verb, sum(order.side == side for order in orders)) for verb, side in (("sell", -1), ("buy", 1))]
    return ", ".join(f"{verb} {count} symbol{'s' * (count != 1)}" for verb, count in many if count)


def entered_of(reader: JournalReader, state: State[Any] | None) -> dict[str, Quantity]:
    """Return the total quantity entered of each position, by symbol; {} without one, or in a journal without trades."""
    opened_ns = [position.opened_ns for position in state.book.positions.values()] if state is not None else []
    if not opened_ns or not reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'round_trips'"):
        return {}
    rows = reader.query(
        "SELECT symbol, entered FROM round_trips WHERE opened_ns >= ? AND entered + left_again <> 0",
        (min(opened_ns),),
    )
    return {row["symbol"]: abs(of_column(row["entered"])) for row in rows}


def raised_of(newest: Newest, state: State[Any] | None, mode: str) -> tuple[tuple[Raised, ...], tuple[Raised, ...]]:
    """Return the present alarms, newest first, and the earlier ones; all pages use this.

    For recorded data the first are those of the whole run, else those of the newest New York day; both are empty before
    the first event.
    """
    if mode in TAPE_MODES:
        return _merge(newest.raised), ()
    of_day = raised_on(newest, state)
    return of_day, _merge(newest.raised[len(of_day) :])


def raised_on(newest: Newest, state: State[Any] | None) -> tuple[Raised, ...]:
    """Return the alarms of the newest New York day, newest first; () before the first event."""
    if state is None or not state.seq:
        return ()
    since_s = day_begin(new_york_text(state.now_ns)[:10]) / SECOND_NS
    return tuple(alarm for alarm in newest.raised if alarm.time >= since_s)


def _merge(alarms: tuple[Raised, ...]) -> tuple[Raised, ...]:
    """Merge similar alarms of several days."""
    alike: dict[tuple[str, str], Raised] = {}
    for alarm in alarms:
        later = alike.get(key := _kind(alarm.name, alarm.detail))
        alike[key] = alarm if later is None else _join(alarm, later)
    return tuple(alike.values())


def _join(earlier: Raised, later: Raised) -> Raised:
    return Raised(later.name, later.detail, earlier.count + later.count, earlier.first, later.time)


def _kind(name: str, detail: str) -> tuple[str, str]:
    """Return the common part of alarms that differ only in their numbers."""
    return name, NUMBERS.sub("#", detail)


def _raise(alarms: tuple[Raised, ...], alarm: AlarmView) -> tuple[Raised, ...]:
    """Add an alarm to those of its New York day."""
    one, day = Raised(alarm.name, alarm.detail, 1, alarm.time, alarm.time), _day(alarm.time)
    for place, other in enumerate(alarms):
        if _day(other.time) != day:
            break
        if _kind(other.name, other.detail) == _kind(alarm.name, alarm.detail):
            return (_join(other, one), *alarms[:place], *alarms[place + 1 :])
    return (one, *alarms)[:KEPT]


def _day(time: float) -> str:
    return new_york_text(int(time * SECOND_NS))[:10]


def under_way(state: State[Any] | None) -> frozenset[int]:
    """Return the decisions that may still send orders."""
    return frozenset(work.decision for work in state.works.values()) if state is not None else frozenset()


def _read_former_file(reader: JournalReader, newest: Newest, after_id: int, last: int) -> Newest:
    """Add the rows up to `last` of the previous file to `newest`, if that file still exists."""
    parts = parts_of(reader.path)
    with suppress(JournalError, OSError), closing(JournalReader(parts[max(len(parts) - 2, 0)])) as former:
        return _read(former, newest, after_id, last)
    return newest


def _read(reader: JournalReader, newest: Newest, after_id: int, last: int) -> Newest:
    while after_id < last:
        upto = min(after_id + AT_ONCE, last)
        for row in reader.query(_SQL, (after_id, upto, *_KINDS)):
            newest = _with(newest, row["time_ns"] / 1e9, row["kind"], row["payload"], row["effects"])
        after_id = upto
    return newest


def _with(newest: Newest, time: float, kind: str, payload: str, effects: str) -> Newest:
    """Add this row to `newest`."""
    alarms, commands, swaps, starts, code = newest.alarms, newest.commands, newest.swaps, newest.starts, newest.code
    new_alarms = newest.raised
    try:
        for effect in _effects.decode(effects) if effects.startswith("[") else ():
            if effect.type == "RaiseAlarm":
                alarms = (AlarmView(time, effect.name, effect.detail), *alarms)[:KEPT]
                new_alarms = _raise(new_alarms, alarms[0])
        fields = _payload.decode(payload)
    except (msgspec.DecodeError, UnicodeError):
        return newest  # a damaged row: the follower reports it
    if kind in COMMANDS:
        commands = (AlarmView(time, *_command(kind, fields)), *commands)[:KEPT]
    elif kind in SWAPS:
        swaps = (AlarmView(time, *_swap(kind, fields)), *swaps)[:KEPT]
    elif kind == START:
        starts, code = (time, *starts)[:STARTS_KEPT], fields.code
    steps = _steps(newest.steps, _step(time, fields)) if kind == STEP else newest.steps
    return Newest(newest.last_id, alarms, commands, swaps, starts, code, steps, new_alarms)


def _steps(lines: tuple[StepLine, ...], new: StepLine) -> tuple[StepLine, ...]:
    """Add a step of the ladder. A canary's new peak gain replaces a peak right before it."""
    former = lines[0] if lines else None
    peaks = former is not None and (former.version, former.reason) == (new.version, new.reason) == (new.version, "peak")
    return (new, *(lines[1:] if peaks else lines))[:STEPS_KEPT]


def _step(time: float, fields: _Payload) -> StepLine:
    return StepLine(
        time,
        fields.version,
        fields.from_step,
        fields.to_step,
        fields.share,
        fields.sessions,
        fields.reason,
        fields.detail,
        fields.figures,
    )


def _command(kind: str, fields: _Payload) -> tuple[str, str]:
    """Return name and text of an operator's command."""
    name = {"CommandRefused": "refused", "StopRequested": "stop"}.get(kind, kind.removesuffix("Requested").lower())
    why = f"{fields.reason}: {fields.detail}" if fields.detail else fields.reason
    by = fields.who or fields.channel
    return name, f"{why} (by {by})" if by else why


def _swap(kind: str, fields: _Payload) -> tuple[str, str]:
    """Return name and text of a model change."""
    if kind == "ModelPromoted":
        return "activated", f"{fields.version} in place of {fields.previous or 'none'}"
    return "refused", f"{fields.version}: {fields.reason}" if fields.version else fields.reason
