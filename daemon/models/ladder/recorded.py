"""The last sessions of a desk's journal, as a tape of the same bars has them.

In a journal a bar has the time of its arrival, a second or two after its end, which lies within the next bar. A replay
by bars trades at the open of the first bar that begins after an order, so it would trade a whole bar late. On a tape a
bar has the time of its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.events import BarClosed, BarCorrected, ClockTicked, Event, SessionEnded, SessionScheduled
from daemon.engine.segments import parts_of
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import decode_event
from daemon.models.ladder.replay_gate import Request
from strategies.kit.contract import AnyStrategy, Session, Spec
from strategies.kit.units import SECOND_NS

ROWS_AT_ONCE = 20_000  # of one short transaction
ROWS_MOST = 5_000_000  # that are looked at, from the newest on
KINDS = ("SessionScheduled", "BarClosed", "BarCorrected", "SessionEnded")


class Recorded(NamedTuple):
    """One session of the journal: its events in their order."""

    date: str
    events: list[Event]

    @property
    def whole(self) -> bool:
        """Whether it was followed to its end."""
        return any(isinstance(event, SessionEnded) for event in self.events)

    @property
    def bars(self) -> int:
        """Bars of all symbols."""
        return sum(isinstance(event, BarClosed) for event in self.events)


def recorded_sessions(request: Request, strategy: AnyStrategy) -> list[Recorded]:
    """Return the last whole sessions, oldest first, and as many before them as the strategy is warmed by.

    Raises JournalError, sqlite3.Error.
    """
    rows: list[Event] = []  # newest first
    looked, before = 0, 2**62  # rows, and the id below the last of them
    for part in reversed(parts_of(Path(request.journal))):
        with closing(JournalReader(part)) as reader, reading(part):
            newest, first = _bounds(reader)
            before = min(before, newest)
            while before >= first and looked < ROWS_MOST:
                rows += _rows(reader, before, request.seq)
                before, looked = max(before - ROWS_AT_ONCE, first - 1), looked + ROWS_AT_ONCE
                found = _sessions(rows)
                if _enough(found, request, strategy):
                    return found
    return _sessions(rows)


def _bounds(reader: JournalReader) -> tuple[int, int]:
    row = reader.query("SELECT max(id) AS newest, min(id) AS first FROM events")[0]
    return row["newest"] or 0, row["first"] or 1


def _rows(reader: JournalReader, newest: int, seq: int) -> list[Event]:
    """Return the feed's events among `ROWS_AT_ONCE` rows, newest first."""
    found = reader.query(
        f"SELECT payload FROM events WHERE id <= ? AND id > ? AND seq <= ? "
        f"AND kind IN ({','.join('?' * len(KINDS))}) ORDER BY id DESC",
        (newest, newest - ROWS_AT_ONCE, seq, *KINDS),
    )
    return [decode_event(row["payload"]) for row in found]


def _sessions(rows: list[Event]) -> list[Recorded]:
    """Group events, given newest first, by session, oldest first; what is before the first, or not whole last, goes."""
    found: list[Recorded] = []
    for event in reversed(rows):
        if isinstance(event, SessionScheduled) and (not found or found[-1].date != event.session.date):
            found.append(Recorded(event.session.date, []))
        if found:
            found[-1].events.append(event)
    while found and not found[-1].whole:
        found.pop()
    return found


def _enough(found: list[Recorded], request: Request, strategy: AnyStrategy) -> bool:
    """Return whether enough sessions are there; the oldest one may be cut and does not count."""
    before = found[1 : -request.sessions]
    warm = sum(session.bars for session in before) >= strategy.spec.history_bars * len(strategy.spec.symbols)
    return warm and len(before) > request.trading.paper.volatility_sessions


# --- the time ---------------------------------------------------------------------------------------------------------


def timed_as_on_a_tape(events: list[Event], spec: Spec) -> Iterator[Event]:
    """Yield a session's events with each bar at its end, and a tick where some symbols lack a bar of the time.

    The order stays, so a bar that came late is not earlier than what came before it.
    """
    session: Session | None = None
    now_ns, slot_ns, seen = 0, 0, set[str]()
    for event in events:
        at_ns = event.time_ns
        match event:
            case SessionScheduled():
                session = event.session
            case BarClosed(bar=bar) if session is not None and bar.start_ns >= slot_ns:
                at_ns = min(bar.start_ns + spec.bar_span_s * SECOND_NS, session.close_ns)
                if bar.start_ns > slot_ns:
                    yield from _tick(seen, spec, now_ns, at_ns)
                    slot_ns, seen = bar.start_ns, set()
                seen.add(bar.symbol)
            case BarClosed() | BarCorrected() if session is not None:
                at_ns = now_ns
            case SessionEnded() if session is not None:
                yield from _tick(seen, spec, now_ns, session.close_ns)
                seen = set()
        now_ns = max(now_ns, at_ns)
        yield replace(event, time_ns=now_ns)


def _tick(seen: set[str], spec: Spec, now_ns: int, before_ns: int) -> Iterator[Event]:
    """Yield the tick that ends the wait for further symbols, as `daemon.tapes.minutes` has it."""
    if 0 < len(seen) < len(spec.symbols) and now_ns + MINUTE_WAIT_NS < before_ns:
        yield ClockTicked(now_ns + MINUTE_WAIT_NS)
