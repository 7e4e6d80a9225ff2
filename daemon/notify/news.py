"""Turn new journal rows into short messages: alarms, fills, model changes, ended sessions.

Reads only. Everything that rows hold is data from outside, so it is made printable.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from daemon.core.session import new_york_text
from daemon.host.printable import printable
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import Entry
from daemon.reports.gather import read_day
from daemon.reports.record import find_session
from daemon.reports.words import first_sentence, further_sentences

ALARMS, FILLS, DAYS, MODELS = "alarms", "fills", "days", "models"
KINDS = {
    ALARMS: "every alarm, and every halt, which is one too",
    FILLS: "every fill",
    DAYS: "the report of each session that ended",
    MODELS: "a model that was activated or refused",
}
DETAIL_MOST = 600  # letters
_FIRST = "SELECT id FROM events WHERE time_ns >= ? ORDER BY id LIMIT 1"


class Message(NamedTuple):
    """One message. `what` names it in a summary, such as `wal_large` or `fill`."""

    kind: str
    what: str
    title: str
    body: str


class News:
    """The rows after the newest one at the time of making, kind by kind as chosen."""

    def __init__(self, state_dir: Path, kinds: Collection[str], since_ns: int | None = None) -> None:
        """Begin after the newest row; with `since_ns`, nanoseconds since 1970 UTC, before the first row from then on.

        Raises JournalError without a readable journal.
        """
        self._journal, self._kinds = state_dir / FILE, frozenset(kinds)
        with reading(self._journal):
            reader = JournalReader(self._journal)
            meta, newest = reader.meta(), reader.last_entry()
            later = [] if since_ns is None else reader.query(_FIRST, (since_ns,))
            reader.close()
        self.desk = printable(meta.get("desk", "") or meta["strategy"])
        self._row = later[0]["id"] - 1 if later else newest.id if newest is not None else 0

    def read(self) -> Iterator[Message]:
        """Yield the messages of new rows. Raises JournalError; what was read before is not read again."""
        with reading(self._journal):
            reader = JournalReader(self._journal)  # opened anew: a rotation puts another file there
            try:
                for entry in reader.entries(self._row):
                    self._row = entry.id
                    yield from self._messages(entry, reader)
            finally:
                reader.close()

    def _messages(self, entry: Entry, reader: JournalReader) -> Iterator[Message]:
        """The messages of one row."""
        fields: dict[str, Any] = json.loads(entry.payload)
        when = f"{new_york_text(entry.time_ns)} New York"
        if ALARMS in self._kinds:
            for effect in _effects(entry):
                if effect.get("type") == "RaiseAlarm":
                    name = _text(effect.get("name"))
                    yield Message(ALARMS, name, f"{self.desk}: {name}", f"{_text(effect.get('detail'))}\n{when}")
        if FILLS in self._kinds and entry.kind == "OrderFilled":
            yield Message(FILLS, "fill", f"{self.desk}: {_fill(fields)}", when)
        if MODELS in self._kinds and (told := _model(entry.kind, fields)):
            yield Message(MODELS, told[0], f"{self.desk}: {told[0]}", f"{told[1]}\n{when}")
        if DAYS in self._kinds and entry.kind == "SessionEnded":
            yield self._day(reader, _text(fields.get("date")))

    def _day(self, reader: JournalReader, date: str) -> Message:
        """The report of a session in sentences."""
        day = read_day(reader, find_session(reader, date))
        body = "\n".join((first_sentence(day), *further_sentences(day)))
        return Message(DAYS, "day report", f"{self.desk}: {date}", body)


def of_alarm(line: str) -> Message:
    """The message of the line that the daemon's alarm command gets. Raises ValueError for another line."""
    found = json.loads(line)
    if not isinstance(found, dict) or not {"desk", "alarm", "detail", "time"} <= found.keys():
        raise ValueError("expected the line of an alarm, as docs/MONITORING.md has it")
    name, more = _text(found["alarm"]), []
    if found.get("halted") is True:
        more.append("The desk is halted: no new risk until it is resumed.")
    if isinstance(missed := found.get("missed"), int) and missed > 0:
        more.append(f"{missed} earlier alarm{'s' * (missed != 1)} had no message of their own.")
    body = "\n".join((_text(found["detail"]), *more, _text(found["time"])))
    return Message(ALARMS, name, f"{_text(found['desk'])}: {name}", body)


def _effects(entry: Entry) -> list[dict[str, Any]]:
    """The effects of a row's step; a row that was left out has marks instead."""
    found = json.loads(entry.effects)
    return found if isinstance(found, list) else []


def _fill(fields: dict[str, Any]) -> str:
    side = "bought" if fields.get("side") == 1 else "sold"
    return _text(f"{side} {fields.get('quantity')} {fields.get('symbol')} at {fields.get('price')}")


def _model(kind: str, fields: dict[str, Any]) -> tuple[str, str] | None:
    """What happened to a model, and to which; None for other events."""
    version = _text(fields.get("version"))
    if kind == "ModelPromoted":
        return "model activated", f"{version} in place of {_text(fields.get('previous')) or 'none'}"
    if kind in ("CandidateRefused", "ModelRefused"):
        return "model refused", f"{version}: {_text(fields.get('reason'))}"
    return None


def _text(value: object) -> str:
    return printable("" if value is None else str(value))[:DETAIL_MOST]
