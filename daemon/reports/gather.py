"""Gather a session from its journal in one pass over its rows; nothing is written.

Ids grow with time, so binary search finds the session's rows, and only they are read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import msgspec

from daemon.core.events import (
    AcceptBrokerRequested,
    BarClosed,
    BarRejected,
    BrokerReported,
    CloseRequested,
    CommandRefused,
    ContractExpired,
    Event,
    FlattenRequested,
    HaltRequested,
    LedgerBooked,
    ModelPromoted,
    ModelVerified,
    OrderFilled,
    OrderFound,
    PanicFailed,
    PanicNoticed,
    PauseRequested,
    PolicyAnswered,
    ReloadRequested,
    ResumeRequested,
    SessionEnded,
    ShadowAnswered,
    StopRequested,
    TradeCorrected,
)
from daemon.core.session import new_york_text
from daemon.journal.equity import transfers_between
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry, decode_event, strategy_of
from daemon.journal.trades import Wanted, day_begin, day_end, fees_by_the_day, read_trades
from daemon.reports.execution_quality import ZERO, Arrival
from daemon.reports.execution_watch import Filled, Watch
from daemon.reports.holdings import holdings, prices_before, rows_between
from daemon.reports.record import (
    BEFORE_OPEN_NS,
    HALTS,
    REPORT_SPAN_NS,
    WARM_NS,
    AnswerCount,
    Day,
    Notice,
    equity_of,
    first_id,
)
from strategies.kit.contract import Grid, Session, Spec
from strategies.kit.quantity import of_column, total
from strategies.kit.units import SECOND_NS

HISTORY_NS = 90 * 86_400 * SECOND_NS
UNDERLYING: dict[str, Callable[[Spec], str]] = {"bar": lambda spec: spec.symbols[0], "session": lambda _: ""}
"""Time of decision (`Spec.decides`) -> the symbol whose bars make up the session."""


class _Pass:
    """Facts gathered in one pass over the session's rows."""

    def __init__(self, underlying: str, date: str = "") -> None:
        self.watch = Watch()
        self.underlying, self.date = underlying, date
        self.events = self.unread = self.last_ns = self.last_id = 0
        self.moved_id = 0  # last row that may have changed positions or a halt
        self.ended = False
        self.bars: list[tuple[int, int, float]] = []
        self.rejected: list[Notice] = []
        self.alarms: list[Notice] = []
        self.commands: list[Notice] = []
        self.halts: list[Notice] = []
        self.models: list[Notice] = []
        self.answers: dict[tuple[str, bool], AnswerCount] = {}
        self.prices: dict[str, Arrival] | None = None

    def take(self, entry: Entry) -> None:
        """Take a row; an unreadable one is named, and may have changed the positions."""
        self.events, self.last_id = self.events + 1, entry.id
        try:
            event = entry.event
            effects = json.loads(entry.effects) if entry.effects != "[]" else []
        except ValueError:
            self.unread, self.moved_id = self.unread + 1, entry.id
            self.alarms.append(Notice(self.last_ns, "row not read", f"row {entry.id} is damaged, or of other code"))
            return
        self.last_ns = entry.time_ns
        if not isinstance(effects, list):  # its step raised, or it was skipped for that
            self.alarms.append(Notice(event.time_ns, "event not carried out", f"{entry.kind}: {entry.effects}"))
            return
        if isinstance(event, PolicyAnswered) and self.prices is None:
            self.prices = dict(self.watch.known)
        self.watch.see(event, effects)
        self._note(entry, event)
        for effect in effects:
            if effect["type"] == "RaiseAlarm":
                notice = Notice(event.time_ns, effect["name"], effect["detail"])
                self.alarms.append(notice)
                if notice.name in HALTS and not isinstance(event, HaltRequested):
                    self.halts.append(notice)
                    self.moved_id = entry.id

    def _note(self, entry: Entry, event: Event) -> None:
        now = event.time_ns
        match event:
            case PolicyAnswered(model=model):
                self._note_answer(model, now, shadow=False)
            case ShadowAnswered(model=model):
                self._note_answer(model, now, shadow=True)
            case OrderFilled() | TradeCorrected() | ContractExpired() | OrderFound() | LedgerBooked():
                self.moved_id = entry.id
            case BrokerReported() if event.fills or event.activities or event.ended_orders:
                self.moved_id = entry.id
            case BarClosed(bar=bar) if bar.symbol == self.underlying:
                self.bars.append((bar.start_ns, now, bar.close))
            case BarRejected():
                self.rejected.append(Notice(now, event.reason, f"{event.symbol}: {event.detail}"))
            case SessionEnded(date=self.date):
                self.ended = True  # a desk that starts in the morning also gets the end of the session before
            case ModelVerified() | ModelPromoted():
                verb = "verified" if isinstance(event, ModelVerified) else f"took over from {event.previous or 'none'}"
                promotion_text = "promoted" if event.promoted else "not promoted"
                self.models.append(Notice(now, event.version, f"{verb}, {promotion_text}"))
            case HaltRequested():
                self.moved_id = entry.id
                self.halts.append(Notice(now, event.reason, event.detail, event.who))
                self.commands.append(Notice(now, "halt", f"{event.reason}: {event.detail}", event.who))
            case PanicNoticed():
                self.commands.append(Notice(now, "panic", event.detail))
            case PanicFailed():
                self.commands.append(Notice(now, "panic failed", event.detail))
            case (
                PauseRequested() | ResumeRequested() | FlattenRequested() | ReloadRequested() | AcceptBrokerRequested()
            ):
                self.moved_id = entry.id
                name = type(event).__name__.removesuffix("Requested").lower()
                if isinstance(event, ResumeRequested) and event.reset_limits:
                    name = "resume --reset-limits"
                self.commands.append(Notice(now, name, event.reason, event.who))
            case CloseRequested():
                self.moved_id = entry.id
                count = f"{event.quantity} " if event.quantity else ""
                self.commands.append(Notice(now, f"close {count}{event.symbol}", event.reason, event.who))
            case StopRequested():
                self.commands.append(Notice(now, "stop, flat" if event.flatten else "stop", event.reason))
            case CommandRefused():
                self.commands.append(Notice(now, "refused", event.reason, event.channel))

    def _note_answer(self, model: str, now: int, *, shadow: bool) -> None:
        former = self.answers.get((model, shadow))
        count, first_ns = (former.count, former.first_ns) if former else (0, now)
        self.answers[model, shadow] = AnswerCount(model, shadow, count + 1, first_ns, now)


def read_day(journal: Path | JournalReader, session: Session) -> Day:
    """Return the session from four hours before its open to an hour after its close.

    Raises JournalError, sqlite3.Error.
    """
    reader = JournalReader(journal) if isinstance(journal, Path) else journal
    try:
        return _read(reader, session)
    finally:
        if isinstance(journal, Path):
            reader.close()


def _read(reader: JournalReader, session: Session) -> Day:
    meta = reader.meta()
    spec = strategy_of(meta).spec
    underlying = UNDERLYING[spec.decides](spec)
    span = (session.open_ns - BEFORE_OPEN_NS, session.close_ns + REPORT_SPAN_NS)
    begin, end = first_id(reader, span[0]), first_id(reader, span[1] + 1)
    first_pass = _Pass(underlying, session.date)
    for payload in prices_before(reader, begin, span[0], session, underlying):
        with suppress(msgspec.MsgspecError):  # a damaged row: a price is missing
            first_pass.watch.see_price(decode_event(payload))
    for row in reader.query(_EARLIER, span[:1] * 2):
        first_pass.watch.see_earlier(dict(row), _filled_before(reader, row["client_order_id"], span[0]))
    for entry in rows_between(reader, begin, end):
        first_pass.take(entry)
    night = _since_snapshot(reader, begin)
    statuses = {name: _status(reader, name) for name in first_pass.watch.names}
    quality = first_pass.watch.quality({name: status for name, status in statuses.items() if status})
    decisions, denials = _decisions(reader, span)
    equity_before, equity = equity_of(reader, session)
    transfers = (
        transfers_between(reader, (equity_before or equity)[0]["time_ns"], equity[-1]["time_ns"]) if equity else ZERO
    )
    flat = next((row for row in equity if row["cash_usd"] == row["equity_usd"]), None)
    start = Decimal(flat["cash_usd"]) - Decimal(flat["realized_usd"]) if flat and not transfers else None
    places = (max(first_pass.moved_id, night.moved_id, 1), max(first_pass.last_id, night.last_id))
    positions, halt, exact = holdings(
        reader, places, quality, session, span[1], first_pass.prices or {}, first_pass.watch.known
    )
    gaps, expected = _gaps(first_pass, session, spec.grid) if underlying else ((), 0)
    return Day(
        desk=meta.get("desk", ""),
        strategy=meta["strategy"],
        decides=spec.decides,
        overnight=spec.overnight,
        mode=meta.get("mode", ""),
        account=meta.get("account", ""),
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        session=session,
        events=first_pass.events,
        last_ns=first_pass.last_ns,
        ended=first_pass.ended,
        quality=quality,
        decisions=decisions,
        denials=denials,
        equity_before=Decimal(equity_before[0]["equity_usd"]) if equity_before else None,
        equity=tuple((row["time_ns"], Decimal(row["equity_usd"])) for row in equity),
        at_cost=tuple(start + Decimal(row["realized_usd"]) for row in equity) if start is not None else (),
        history=_history(reader, session) if spec.compounds else (),
        transfers=transfers,
        underlying=first_pass.underlying,
        bars=tuple((ended_ns, close) for start_ns, ended_ns, close in first_pass.bars if _within(start_ns, session)),
        expected_bars=expected,
        gaps=gaps,
        rejected=tuple(first_pass.rejected),
        alarms=tuple(first_pass.alarms),
        commands=tuple(first_pass.commands),
        halts=(*_standing(night), *first_pass.halts),
        halt=halt,
        models=tuple(first_pass.models),
        answers=tuple(first_pass.answers.values()),
        held=positions,
        exact=exact,
        trades=read_trades(reader, Wanted(start_ns=day_begin(session.date), end_ns=day_end(session.date))),
        fees_by_the_day=fees_by_the_day(reader, day_begin(session.date), day_end(session.date)),
        unread=first_pass.unread,
    )


def _since_snapshot(reader: JournalReader, begin: int) -> _Pass:
    """Gather the rows after the newest snapshot before row `begin`, up to that row."""
    night = _Pass("")
    newest = reader.query("SELECT max(event_id) AS id FROM snapshots WHERE event_id < ?", (begin,))[0]["id"]
    for entry in rows_between(reader, newest + 1, begin) if newest is not None else ():
        night.take(entry)
    return night


def _standing(night: _Pass) -> tuple[Notice, ...]:
    """Return the newest halt, unless a command since asked to end it."""
    newest = night.halts[-1:]
    was_lifted = newest and any("resume" in one.name and one.time_ns >= newest[0].time_ns for one in night.commands)
    return () if was_lifted else tuple(newest)


_EARLIER = "SELECT * FROM orders WHERE +submitted_ns < ? AND updated_ns >= ? ORDER BY +submitted_ns"
"""Orders of earlier sessions that changed since a time, such as stops that rest until cancelled.

The plus signs make SQLite look them up by their last change, which is selective, and not by their age.
"""


def _filled_before(reader: JournalReader, name: str, time_ns: int) -> Filled:
    rows = reader.query(
        "SELECT quantity, price, fees_usd FROM fills WHERE client_order_id = ? AND time_ns < ?", (name, time_ns)
    )
    quantities = [of_column(row["quantity"]) for row in rows]
    cost = sum((Decimal(row["price"]) * n for row, n in zip(rows, quantities, strict=True)), ZERO)
    return Filled(total(quantities), cost, sum((Decimal(row["fees_usd"]) for row in rows), ZERO))


def _history(reader: JournalReader, session: Session) -> tuple[tuple[int, Decimal], ...]:
    """Return the last equity of each New York date of the three months before."""
    rows = reader.query(
        "SELECT time_ns, equity_usd FROM equity WHERE time_ns BETWEEN ? AND ? ORDER BY time_ns",
        (session.open_ns - HISTORY_NS, day_begin(session.date) - 1),
    )
    last = {new_york_text(row["time_ns"])[:10]: (row["time_ns"], Decimal(row["equity_usd"])) for row in rows}
    return tuple(last.values())


def _status(reader: JournalReader, name: str) -> str:
    rows = reader.query("SELECT status FROM orders WHERE client_order_id = ?", (name,))
    return str(rows[0]["status"]) if rows else ""


def _decisions(
    reader: JournalReader, span: tuple[int, int]
) -> tuple[tuple[tuple[str, str, int], ...], tuple[tuple[str, int], ...]]:
    """Return (action, outcome, count), and (gate, count), the most frequent first. A rule's action is its reason."""
    rows = reader.query(
        "SELECT kind, action, resolved, outcome, gates FROM decisions WHERE bar_ns BETWEEN ? AND ? "
        "AND time_ns BETWEEN ? AND ?",
        (span[0] - WARM_NS, span[1], *span),  # a bar is known before its decision, and bars are indexed
    )
    counts = Counter(
        (f"rule: {row['action']}" if row["kind"] == "rule" else row["resolved"] or row["action"] or "", row["outcome"])
        for row in rows
    )
    gates = Counter(name for row in rows if row["gates"] for name, reason in json.loads(row["gates"]).items() if reason)
    return tuple((*key, count) for key, count in counts.most_common()), tuple(gates.most_common())


def _within(start_ns: int, session: Session) -> bool:
    return session.open_ns <= start_ns < session.close_ns


def _gaps(first_pass: _Pass, session: Session, grid: Grid) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the runs of missing bars up to the newest event, and the number of bars expected until then."""
    starts = {start_ns for start_ns, _, _ in first_pass.bars}
    newest_ns, count = min(first_pass.last_ns, session.close_ns), 0
    start_ns, end_ns = grid.at(session.open_ns, session)
    gaps: list[tuple[int, int]] = []
    whole = True  # the bar before exists
    while end_ns <= newest_ns:
        count += 1
        if start_ns in starts:
            whole = True
        elif whole:
            gaps.append((start_ns, 1))
            whole = False
        else:
            gaps[-1] = (gaps[-1][0], gaps[-1][1] + 1)
        if end_ns == session.close_ns:
            break
        start_ns, end_ns = grid.at(end_ns, session)
    return tuple(gaps), count
