"""Data of one session of a desk for a report, and the choice of the session. `daemon.reports.gather` reads the data.

Texts in it are as journaled, and any user may have written them: they are never markup.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec

from daemon.core.events import SessionScheduled
from daemon.core.orders import TERMINAL
from daemon.core.session import NEW_YORK, new_york_text
from daemon.engine.state_dir import former_rows_text, parts_of
from daemon.journal.reader import NEWEST, JournalReader
from daemon.journal.rows import JournalError, base_of, decode_event, strategy_of
from daemon.journal.trades import TradeList, day_begin, day_end
from daemon.reports.execution_quality import OrderQuality, Quality
from strategies.kit.contract import DailySpec, Session
from strategies.kit.quantity import Quantity, from_json
from strategies.kit.units import SECOND_NS

REPORT_SPAN_NS = 3_600 * SECOND_NS  # after the close: results of the session's orders still belong to it
BEFORE_OPEN_NS = DailySpec.before_open_ns  # the earliest begin of a session before its open
WARM_NS = 6 * 86_400 * SECOND_NS  # a daily desk's last known prices are at most a long weekend old
HALTS = frozenset((
    "operator", "daily_loss", "drawdown", "reject_rate", "reconciliation", "fill_mismatch", "order_mismatch",
    "no_model", "configuration", "wrong_account", "blind_hold", "shares_from_exercise", "flatten", "disk_full",
    "journal_damaged", "history_missing", "quarantine", "code_changed", "panic", "short_position", "accept_broker",
    "cash_difference", "fenced",
))  # fmt: skip
"""Alarms that always are halts: headings of docs/OPERATIONS.md that are listed only among its halts."""


class Notice(msgspec.Struct, frozen=True):
    """One alarm, command or other incident: `name` short, `detail` as it was journaled (foreign text, never markup)."""

    time_ns: int
    name: str
    detail: str
    who: str = ""


class AnswerCount(msgspec.Struct, frozen=True):
    """Answers of a model version, live or as a shadow: their count, the first and the last time."""

    model: str
    shadow: bool
    count: int
    first_ns: int
    last_ns: int


class Held(msgspec.Struct, frozen=True):
    """A position at the end: `quantity` contracts or shares, before the session's fills and after them."""

    symbol: str
    before: Quantity
    quantity: Quantity
    price_before: Decimal | None  # USD a share at the first decision
    price: Decimal | None  # last known


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """A session. Times nanoseconds UTC; money USD. `last_ns` is the newest event's, 0 without events."""

    desk: str
    strategy: str
    decides: str  # as `Spec.decides`
    overnight: bool  # as `Spec.overnight`
    mode: str
    account: str
    tape: str
    synthetic: bool
    session: Session
    events: int
    last_ns: int
    ended: bool  # its end is journaled
    quality: Quality
    decisions: tuple[tuple[str, str, int], ...]  # action, outcome, count
    denials: tuple[tuple[str, int], ...]  # gate, count
    equity_before: Decimal | None  # at the end of the session before
    equity: tuple[tuple[int, Decimal], ...]
    at_cost: tuple[Decimal, ...]  # as `equity`, with holdings at cost; () if unknown
    history: tuple[tuple[int, Decimal], ...]  # of a daily desk: equity at the ends of earlier sessions, oldest first
    transfers: Decimal
    underlying: str  # the symbol of the session's bars; "" without one
    bars: tuple[tuple[int, float], ...]  # of `underlying`: end of the bar, close
    expected_bars: int  # up to the newest event, 0 if none are expected
    gaps: tuple[tuple[int, int], ...]  # first missing bar's start, count of missing bars
    rejected: tuple[Notice, ...]
    alarms: tuple[Notice, ...]
    commands: tuple[Notice, ...]
    halts: tuple[Notice, ...]
    halt: Notice | None  # in force at the end, if known
    models: tuple[Notice, ...]  # verified and promoted
    answers: tuple[AnswerCount, ...]
    held: tuple[Held, ...]
    exact: bool  # holdings are the desk's book, not the sum of its orders
    trades: TradeList = TradeList()  # round trips that ended in the session, and open ones entered in it
    fees_by_the_day: Decimal = Decimal(0)  # USD, booked on the New York day, not with a fill
    unread: int = 0  # rows of the journal that are damaged or unreadable for this code

    @property
    def gain(self) -> Decimal | None:
        """Change of the equity since the session before, without transfers; None if unknown."""
        if not self.equity:
            return None
        start = self.equity[0][1] if self.equity_before is None else self.equity_before
        return self.equity[-1][1] - start - self.transfers

    @property
    def open_orders(self) -> tuple[OrderQuality, ...]:
        """Orders that are still working at the end."""
        return tuple(order for order in self.quality.orders if order.status not in TERMINAL)

    @property
    def half_day(self) -> bool:
        """True for a session that is shorter than six and a half hours."""
        return self.session.close_ns - self.session.open_ns < 390 * 60 * SECOND_NS


# --- which session ------------------------------------------------------------------------------------------------


def find_session(reader: JournalReader, date: str | None = None) -> Session:
    """Return the session of this New York date; without a date the newest that has begun. Raises JournalError."""
    newest = reader.query("SELECT id, time_ns FROM events ORDER BY id DESC LIMIT 1")
    if not newest:
        raise JournalError(f"{reader.path}: the journal is empty, there is no session to report on")
    low, high = 1, newest[0]["id"]
    if date is not None:
        noon = int(datetime.fromisoformat(f"{date}T12:00").replace(tzinfo=NEW_YORK).timestamp()) * SECOND_NS
        low, high = first_id(reader, noon - WARM_NS), first_id(reader, noon + WARM_NS)
    lead_ns = strategy_of(reader.meta()).spec.before_open_ns
    rows = reader.query(
        "SELECT payload FROM events WHERE kind = 'SessionScheduled' AND id BETWEEN ? AND ? ORDER BY id DESC LIMIT 20",
        (low, high),
    )
    for row in rows:
        try:
            event = decode_event(row["payload"])
        except msgspec.MsgspecError:
            continue  # a damaged row; each start schedules the session again
        assert isinstance(event, SessionScheduled)
        session = event.session
        if session.date == date or (date is None and session.open_ns - lead_ns <= newest[0]["time_ns"]):
            return session
    expected = "a session that has begun" if date is None else f"the session of {date}"
    raise JournalError(f"{reader.path}: {expected} is not in the journal; `rltraderctl events` shows what is")


@contextmanager
def session_of(journal: Path, date: str | None = None) -> Iterator[tuple[JournalReader, Session]]:
    """Yield the session as `find_session` returns it, with the file that holds it: the journal, or a rotated part.

    Raises JournalError if no remaining file holds it.
    """
    refusal, reason_before = "", ""
    for path in reversed(parts_of(journal)):
        with closing(JournalReader(path)) as reader:
            try:
                session = find_session(reader, date)
            except JournalError as error:
                refusal, reason_before = refusal or str(error), former_rows_text(reader)
                continue
            yield reader, session
            return
    raise JournalError(f"{refusal}{reason_before}")


def first_id(reader: JournalReader, time_ns: int) -> int:
    """Return the id of the first row at `time_ns` or later, else one above the last row's. Reads about 20 rows."""
    ends = reader.query(  # two look-ups by index; in one query they would read all rows
        "SELECT (SELECT min(id) FROM events) AS low, (SELECT max(id) FROM events) AS high"
    )[0]
    if ends["low"] is None:
        return 1
    low, high = ends["low"], ends["high"] + 1
    while low < high:
        middle = (low + high) // 2
        row = reader.query("SELECT time_ns FROM events WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        if row[0]["time_ns"] < time_ns:
            low = middle + 1
        else:
            high = middle
    return int(low)


def equity_of(reader: JournalReader, session: Session) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
    """Return the last record of the equity before the session's New York day, if there is one, and those of the day."""
    columns = "SELECT time_ns, equity_usd, cash_usd, realized_usd FROM equity WHERE time_ns"
    day_ns = day_begin(session.date), day_end(session.date)
    rows_before = reader.query(f"{columns} < ? ORDER BY time_ns DESC LIMIT 1", day_ns[:1])
    return rows_before, reader.query(f"{columns} BETWEEN ? AND ? ORDER BY time_ns", day_ns)


def alarms_since_midnight(reader: JournalReader, time_ns: int) -> tuple[int, str]:
    """Return how many alarms were raised on the New York day of `time_ns` up to the newest row, and the newest's name.

    Alarms before a rotation are read from the part before, if it still exists.
    """
    since_ns, base = day_begin(new_york_text(time_ns)[:10]), base_of(reader.meta())
    begin, names = first_id(reader, since_ns), list[str]()
    if base is not None and begin == base.row + 1:  # the file begins with this row
        for part in parts_of(reader.path)[-2:-1]:
            with suppress(JournalError, OSError, sqlite3.Error), closing(JournalReader(part)) as former:
                names += _alarms_in(former, first_id(former, since_ns), base.row)
    names += _alarms_in(reader, begin, NEWEST)
    return len(names), names[-1] if names else ""


def _alarms_in(reader: JournalReader, first: int, last: int) -> list[str]:
    """Return the names of the alarms of these rows."""
    query = "SELECT effects FROM events WHERE id BETWEEN ? AND ? AND effects LIKE '%\"RaiseAlarm\"%' ORDER BY id"
    return [name for row in reader.query(query, (first, last)) for name, _ in alarms_in(row["effects"])]


def alarms_in(effects: str) -> list[tuple[str, str]]:
    """Return name and detail of each alarm in a row's effects, none if it is damaged or its step raised."""
    try:
        return [(one.name, one.detail) for one in _effects.decode(effects) if one.type == "RaiseAlarm"]
    except (msgspec.DecodeError, UnicodeError):
        return []


class _NamedEffect(msgspec.Struct):
    """The fields of an effect that name an alarm."""

    type: str
    name: str = ""
    detail: str = ""


_effects = msgspec.json.Decoder(list[_NamedEffect], dec_hook=from_json)
