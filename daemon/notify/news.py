"""Turn new journal rows into short messages: alarms, trades, fills, model changes, ended sessions.

Only reads. The content of rows comes from outside, so it is made printable.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from daemon.core.session import new_york_text
from daemon.host.passing import MayPass, may_pass
from daemon.host.printable import printable
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import Entry, JournalError
from daemon.notify.trade_news import DAILY, MERGE_S, QUIET, TradeNews
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.urgency import HALTED, Urgency, urgency_of
from daemon.reports.gather import read_day
from daemon.reports.record import find_session
from daemon.reports.words import first_sentence, further_sentences

ALARMS, TRADES, FILLS, DAYS, MODELS = "alarms", "trades", "fills", "days", "models"
KINDS = {
    ALARMS: "every alarm, and every halt, which is one too",
    TRADES: "every closed trade with its result; of a desk that decides once a session every basket",
    FILLS: "every fill",
    DAYS: "the report of each session that ended",
    MODELS: "a model that was activated or refused",
}
DETAIL_MOST = 600  # characters
HALTED_TEXT = "The desk is halted: no new risk until it is resumed."
DAMAGED = "damaged_row"
_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter where SQLite's message quotes damaged bytes
_MessageKey = tuple[str, str, str]  # what, title without the desk, body
_LAST_BEFORE = "SELECT id FROM events WHERE time_ns < ? AND id <= ? ORDER BY id DESC LIMIT 1"
_FIRST = "SELECT id FROM events WHERE time_ns >= ? ORDER BY id LIMIT 1"


class Notification(NamedTuple):
    """One message. `what` names it in a summary, such as `wal_large` or `fill`."""

    kind: str
    what: str
    title: str
    body: str


class NewsReader:
    """Reads the rows after the newest one at the time of creation, for the chosen kinds."""

    def __init__(
        self,
        state_dir: Path,
        kinds: Collection[str],
        since_ns: int | None = None,
        *,
        entries: bool = False,
        merge_s: float = MERGE_S,
    ) -> None:
        """Begin after the newest row; with `since_ns`, nanoseconds since 1970 UTC, before the first row from then on.

        With `entries` the trades include entries, once no fill was added for `merge_s` seconds. Raises JournalError
        without a readable journal.
        """
        self._journal, self._kinds = state_dir / FILE, frozenset(kinds)
        self._trades_of = partial(TradeNews, entries=entries, merge_s=merge_s)
        self._read_ns = 0  # time of the newest row read
        with reading(self._journal):
            reader = JournalReader(self._journal)
            meta = reader.meta()
            self._begin(reader, meta, since_ns)
            reader.close()
        self.desk = printable(meta.get("desk", "") or meta["strategy"])

    def _begin(self, reader: JournalReader, meta: dict[str, str], since_ns: int | None) -> None:
        newest = reader.last_entry()
        later = [] if since_ns is None else reader.query(_FIRST, (since_ns,))
        self._trades = self._trades_of(reader, since_ns) if TRADES in self._kinds else None
        self._moved, self._epoch = self._trades is not None, meta.get("epoch", "")
        self._row = later[0]["id"] - 1 if later else newest.id if newest is not None else 0
        if newest is not None and not later:
            self._read_ns = newest.time_ns

    def _begin_again(self, reader: JournalReader) -> None:
        """Restart if another journal, or an older copy of this one, replaced the one being read."""
        meta, newest = reader.meta(), reader.query("SELECT max(id) AS id FROM events")[0]["id"] or 0
        if meta.get("epoch", "") != self._epoch:
            self._begin(reader, meta, 0)
        elif newest < self._row:
            self._begin(reader, meta, self._read_ns + 1)

    def grave_since(self, since_ns: int) -> list[Notification]:
        """Return the grave alarms from `since_ns` (UTC) to the begin of the reading, if it has alarms.

        A desk that starts halted together with its host raises its alarm before anyone follows its journal. Skips
        damaged rows.
        """
        messages: list[Notification] = []
        if ALARMS not in self._kinds:
            return messages
        with contextlib.suppress(JournalError, *_UNREADABLE), reading(self._journal):
            reader = JournalReader(self._journal)
            with contextlib.closing(reader):
                before = reader.query(_LAST_BEFORE, (since_ns, self._row))
                for entry in reader.entries(before[0]["id"] if before else 0):
                    if entry.id > self._row:
                        break
                    with contextlib.suppress(ValueError, TypeError, AttributeError):
                        messages += [
                            Notification(ALARMS, name, f"{self.desk}: {title}", body)
                            for name, title, body in _alarms(entry, reader)
                            if urgency_of(name, halts=None) == Urgency.GRAVE
                        ]
        return messages

    def read(self) -> Iterator[Notification]:
        """Yield the messages of new rows. Raises JournalError; rows read before are not read again.

        Damaged rows are skipped, and a message names them.
        """
        with reading(self._journal):
            reader = JournalReader(self._journal)  # opened again: a rotation replaces the file
            try:
                self._begin_again(reader)
                for entry in reader.entries(self._row):
                    messages = self._messages(entry, reader)
                    self._row = entry.id
                    if isinstance(entry.time_ns, int):  # a damaged row may lack it
                        self._read_ns = entry.time_ns
                    yield from messages
                yield from self._of_trades(reader)
            except _UNREADABLE as error:
                if may_pass(error, self._journal):
                    raise
                yield from self._past_damage(reader, error)
            finally:
                reader.close()

    def _of_trades(self, reader: JournalReader) -> Iterator[Notification]:
        """Yield the messages about trades, after all new rows. Stop for good if the journal's trades cannot be read."""
        if self._trades is None:
            return
        has_moved, self._moved = self._moved, False
        try:
            for kind, title, body in self._trades.read(reader, moved=has_moved):
                yield Notification(TRADES, kind, f"{self.desk}: {title}", body)
        except _UNREADABLE as error:
            if may_pass(error, self._journal):
                self._moved = True
                raise
            self._trades = None
            yield self._damage_message("what it says of trades", error)

    def _past_damage(self, reader: JournalReader, error: Exception) -> Iterator[Notification]:
        """Yield the messages before rows that SQLite cannot read; the next read begins at the first one after them.

        Raises the error if nothing after them can be read, as rows may follow.
        """
        while (entry := self._readable(reader, self._row)) is not None:
            messages = self._messages(entry, reader)
            self._row = entry.id
            yield from messages
        last = reader.last_entry()
        if last is None or last.id - 1 <= self._row:
            raise error
        low, high = self._row, last.id - 1  # `low` has no readable row after it, `high` the last one
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._readable(reader, middle) is None else (low, middle)
        first, self._row = self._row + 1, high
        yield self._damage_message(f"rows {first} to {self._row}", error)

    def _readable(self, reader: JournalReader, last_row: int) -> Entry | None:
        """Return the first row after `last_row`; None if there is none or it cannot be read."""
        try:
            return next(reader.entries(last_row, page=1), None)
        except _UNREADABLE as error:
            if may_pass(error, self._journal):
                raise
            return None

    def _messages(self, entry: Entry, reader: JournalReader) -> list[Notification]:
        """Return the messages of one row; of a damaged row the readable ones, and one about the damage."""
        messages, problems = [], []
        self._moved |= entry.kind not in QUIET
        if self._trades is not None and entry.kind == DAILY:
            self._trades.daily = True
        for kind, part in ((ALARMS, _alarms), (FILLS, _fills), (MODELS, _models), (DAYS, self._days)):
            if kind not in self._kinds:
                continue
            try:
                messages += [
                    Notification(kind, key, f"{self.desk}: {title}", body) for key, title, body in part(entry, reader)
                ]
            except Exception as error:
                if may_pass(error, self._journal) or isinstance(error, MayPass):
                    raise
                problems.append(error)
        return [*messages, *(self._damage_message(f"row {entry.id}", error) for error in problems[:1])]

    def _damage_message(self, rows_text: str, error: Exception) -> Notification:
        """Return the message about skipped rows."""
        text = _text(f"{rows_text} of the journal gave no message and was skipped: {type(error).__name__}: {error}")
        return Notification(
            ALARMS, DAMAGED, f"{self.desk}: {DAMAGED}", f"{text}\nrltraderctl verify looks at the whole journal."
        )

    def _days(self, entry: Entry, reader: JournalReader) -> Iterator[_MessageKey]:
        """Return a session's report in sentences."""
        if entry.kind == "SessionEnded":
            date = _text(_fields(entry).get("date"))
            day = read_day(reader, find_session(reader, date))
            yield "day report", date, "\n".join((first_sentence(day), *further_sentences(day)))


def of_alarm(line: str) -> Notification:
    """Return the message for a line of the daemon's alarm command. Raises ValueError for any other line."""
    try:
        alarm = json.loads(line)
    except ValueError:
        alarm = None
    if not isinstance(alarm, dict) or not {"desk", "alarm", "detail", "time"} <= alarm.keys():
        raise ValueError(
            f"standard input has {line[:80]!r}; expected the line of an alarm, as docs/MONITORING.md has it"
        )
    name = _text(alarm["alarm"])
    more = _meaning(name)
    if alarm.get("halted") is True:
        more.append(HALTED_TEXT)
    if isinstance(missed_count := alarm.get("missed"), int) and missed_count > 0:
        more.append(f"{missed_count} earlier alarm{'s' * (missed_count != 1)} had no message of their own.")
    body = "\n".join((_text(alarm["detail"]), *more, _text(alarm["time"])))
    return Notification(ALARMS, name, f"{_text(alarm['desk'])}: {name}", body)


def _meaning(name: str) -> list[str]:
    """Return what an alarm of the log means: its detail may be figures alone."""
    event = LOG_EVENTS.get(name)
    return [event.meaning] if event is not None and event.alarm else []


def _alarms(entry: Entry, _: JournalReader) -> Iterator[_MessageKey]:
    """Yield the alarms of a row's step; a skipped row has marks instead."""
    effects = json.loads(entry.effects)
    for effect in effects if isinstance(effects, list) else ():
        if effect.get("type") == "RaiseAlarm":
            name = _text(effect.get("name"))
            halted = [HALTED_TEXT] * (name in HALTED)
            lines = (_text(effect.get("detail")), *_meaning(name), *halted, _when(entry))
            yield name, name, "\n".join(lines)


def _fills(entry: Entry, _: JournalReader) -> Iterator[_MessageKey]:
    if entry.kind == "OrderFilled":
        fields = _fields(entry)
        side = "bought" if fields.get("side") == 1 else "sold"
        fill = f"{side} {fields.get('quantity')} {fields.get('symbol')} at {fields.get('price')}"
        yield "fill", _text(fill), _when(entry)


def _models(entry: Entry, _: JournalReader) -> Iterator[_MessageKey]:
    if (change := _model(entry)) is not None:
        yield change[0], change[0], f"{change[1]}\n{_when(entry)}"


def _model(entry: Entry) -> tuple[str, str] | None:
    """Return the change of a model, and its name; None for other events."""
    if entry.kind == "ModelPromoted":
        fields = _fields(entry)
        return "model activated", f"{_text(fields['version'])} in place of {_text(fields['previous']) or 'none'}"
    if entry.kind in ("CandidateRefused", "ModelRefused"):
        fields = _fields(entry)
        if fields.get("known"):
            return None
        return "model refused", f"{_text(fields.get('version'))}: {_text(fields.get('reason'))}"
    return None


def _fields(entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(entry.payload)
    return fields


def _when(entry: Entry) -> str:
    return f"{new_york_text(entry.time_ns)} New York"


def _text(value: object) -> str:
    return printable("" if value is None else str(value), DETAIL_MOST)
