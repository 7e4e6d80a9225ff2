"""Health of daemon, journal and dashboard: troubles first, then file sizes, counts and times.

A live desk's speed is taken from its journal's newest rows: their times are this host's clock when it learned of an
event.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.risk.guards import loss_to_reset
from daemon.core.session import new_york_date
from daemon.core.state import State
from daemon.dashboard.desks import Picture
from daemon.dashboard.newest import raised_of
from daemon.dashboard.pages.price import decision_of, first_id, midnight_ns
from daemon.dashboard.views import Raised
from daemon.journal.reader import JournalReader
from daemon.operator.status import resume_words
from strategies.kit.contract import Bar, Spec
from strategies.kit.units import SECOND_NS


class TimingLine(msgspec.Struct, frozen=True):
    """Durations in seconds of the newest `count` measurements of one kind."""

    name: str
    what: str
    count: int
    median_s: float
    p99_s: float
    worst_s: float


class TroubleLine(msgspec.Struct, frozen=True):
    """A trouble that needs attention; `since` 0 if unknown."""

    what: str
    since: float
    cure: str


class HealthPage(msgspec.Struct, frozen=True):
    """`GET /api/health`."""

    running: bool
    process: str
    code: str  # digest of the trading code of the last run
    own_code: str  # this dashboard's
    journal_mib: float
    wal_mib: float
    events: int
    snapshots: int
    first_event: float
    last_event: float
    starts: tuple[float, ...]  # newest first, at most 20
    kinds: tuple[tuple[str, int], ...]  # events of the newest session by kind
    rejected_bars: int
    follow_ms: float  # duration of the last look at the journal
    clients: int  # open pages
    timings: tuple[TimingLine, ...] = ()  # empty for recorded data
    troubles: tuple[TroubleLine, ...] = ()  # empty: nothing hinders the desk now
    alarms: int = 0  # of the newest New York day; for recorded data of the whole run
    raised: tuple[Raised, ...] = ()  # the alarms, each kind once with its count


MIB = 2**20
LIVE = ("live", "paper", "dry_run")
NEWEST = 200  # measurements of each kind
ROWS = 20_000  # newest rows of the journal that are searched
FEED = "feed lag", "from a bar's end until the desk had it"
DECISION = "bar to decision", "from a bar's end until the decision"
ORDER = "bar to order", "from a bar's end until its order was journaled to be sent"
BROKER = "broker round trip", "from an order until its acceptance was known"


def health_page(picture: Picture, reader: JournalReader, file: Path, own_code: str, clients: int) -> HealthPage:
    """`GET /api/health`. Kinds are counted from the New York midnight before the newest event. Raises sqlite3.Error."""
    ends = reader.query(
        "SELECT (SELECT id FROM events WHERE seq IS NOT NULL ORDER BY id LIMIT 1) AS first, "
        "(SELECT id FROM events WHERE seq IS NOT NULL ORDER BY id DESC LIMIT 1) AS last, "
        "(SELECT count(*) FROM snapshots) AS snapshots"
    )[0]
    first = reader.query("SELECT time_ns FROM events WHERE id = ?", (ends["first"],))
    last = reader.query("SELECT time_ns, seq FROM events WHERE id = ?", (ends["last"],))
    kinds: tuple[tuple[str, int], ...] = ()
    if last:
        day = new_york_date(last[0]["time_ns"] - 1)  # a session's end at midnight belongs to the day before
        from_id = first_id(reader, midnight_ns(day))
        rows = reader.query(
            "SELECT kind, count(*) AS n FROM events WHERE id >= ? GROUP BY kind ORDER BY n DESC, kind", (from_id,)
        )
        kinds = tuple((row["kind"], row["n"]) for row in rows)
    alarms, _ = raised_of(picture.newest, picture.state, picture.meta.get("mode", ""))
    newest = reader.query("SELECT code FROM snapshots ORDER BY event_id DESC LIMIT 1")
    return HealthPage(
        running=bool(picture.process),
        process=picture.process,
        code=picture.newest.code or (newest[0]["code"] if newest else ""),
        own_code=own_code,
        journal_mib=_mib(file),
        wal_mib=_mib(file.with_name(f"{file.name}-wal")),
        events=last[0]["seq"] if last else 0,
        snapshots=ends["snapshots"],
        first_event=first[0]["time_ns"] / 1e9 if first else 0.0,
        last_event=last[0]["time_ns"] / 1e9 if last else 0.0,
        starts=tuple(start for start in picture.newest.starts if start),  # a replay's starts have no time
        kinds=kinds,
        rejected_bars=picture.state.stats.bars_rejected if picture.state is not None else 0,
        follow_ms=picture.look_ms,
        clients=clients,
        timings=timings_of(reader, picture.spec, picture.meta.get("mode", "")),
        troubles=tuple(troubles_of(picture, own_code)),
        alarms=sum(alarm.count for alarm in alarms),
        raised=alarms,
    )


# --- what to look at --------------------------------------------------------------------------------------------------


def troubles_of(picture: Picture, own_code: str) -> Iterator[TroubleLine]:
    """Yield troubles that hinder the desk, or this page; the gravest first."""
    recorded = picture.meta.get("mode", "") not in LIVE
    newest_s = picture.state.now_ns / SECOND_NS if picture.state is not None else 0.0
    if picture.problem:
        yield TroubleLine(f"the journal: {picture.problem}", 0.0, "rltraderctl verify names the damage")
    if not picture.process and not recorded:
        yield TroubleLine("no daemon runs on this desk", newest_s, "start it; its log says why it ended")
    if picture.state is not None:
        yield from _risk(picture.state, reconciles=bool(picture.process) and not recorded)
    if picture.newest.code and picture.newest.code != own_code:
        cure = "start the dashboard from the release that the daemon runs"
        yield TroubleLine("this dashboard has other code than the daemon, so it cannot follow its states", 0.0, cure)


def _risk(state: State[Any], *, reconciles: bool) -> Iterator[TroubleLine]:
    risk = state.risk
    resume = f"rltraderctl {' '.join(resume_words(loss_to_reset(state)))} --reason TEXT"
    if risk.halt is not None:
        halt_text = (
            f"halted: {risk.halt.reason.replace('_', ' ')}{f' ({risk.halt.detail})' if risk.halt.detail else ''}"
        )
        cure = f"docs/OPERATIONS.md, heading {risk.halt.reason}; then {resume}"
        yield TroubleLine(halt_text, risk.halt.since_ns / SECOND_NS, cure)
    if risk.pause is not None and not risk.pause.until_ns:  # a pause with an end needs no one
        yield TroubleLine(f"paused: {risk.pause.reason.replace('_', ' ')}", 0.0, resume)
    if reconciles and not risk.reconciled:
        cure = "wait for the broker's next report; if it stays, the log's newest broker event says why"
        yield TroubleLine("book and broker are not compared yet, so nothing new is opened", 0.0, cure)


def _mib(path: Path) -> float:
    try:
        return path.stat().st_size / MIB
    except OSError:
        return 0.0


# --- how fast ---------------------------------------------------------------------------------------------------------


class _Bar(msgspec.Struct):
    bar: Bar


class _Accepted(msgspec.Struct):
    client_order_id: str


_bar, _accepted_decoder = msgspec.json.Decoder(_Bar), msgspec.json.Decoder(_Accepted)


def timings_of(reader: JournalReader, spec: Spec | None, mode: str) -> tuple[TimingLine, ...]:
    """Return the measured durations; none for recorded data, whose times are the tape's. Raises sqlite3.Error."""
    if spec is None or mode not in LIVE:
        return ()
    timings = [(BROKER, list(_round_trips(reader)))]
    if not spec.before_open_ns:  # the desk decides at the ends of bars, not before the open
        length_ns = spec.bar_interval_s * SECOND_NS
        bars = [(DECISION, _decisions(reader, length_ns)), (ORDER, _orders(reader, length_ns))]
        timings = [(FEED, list(_bars(reader, length_ns))), *((name, list(some)) for name, some in bars), *timings]
    return tuple(_line(*name, some) for name, some in timings if some)


def _newest(reader: JournalReader, kind: str) -> list[tuple[int, str]]:
    newest = reader.query("SELECT max(id) AS id FROM events")[0]["id"] or 0
    rows = reader.query(
        "SELECT time_ns, payload FROM events WHERE id > ? AND +kind = ? AND seq IS NOT NULL ORDER BY id DESC LIMIT ?",
        (newest - ROWS, kind, NEWEST),
    )
    return [(row["time_ns"], row["payload"]) for row in rows]


def _bars(reader: JournalReader, length_ns: int) -> Iterator[int]:
    """Yield the delay of each bar of the feed. Bars received together, over for longer than a bar, are history."""
    rows = _newest(reader, "BarClosed")
    together = Counter(time_ns for time_ns, _ in rows)
    for time_ns, payload in rows:
        try:
            lag_ns = time_ns - _bar.decode(payload).bar.start_ns - length_ns
        except msgspec.DecodeError:
            continue  # a damaged row: the follower reports it
        if together[time_ns] == 1 or lag_ns < length_ns:
            yield lag_ns


def _decisions(reader: JournalReader, length_ns: int) -> Iterator[int]:
    rows = reader.query("SELECT kind, time_ns, bar_ns FROM decisions ORDER BY decision DESC LIMIT ?", (NEWEST,))
    yield from (row["time_ns"] - row["bar_ns"] - length_ns for row in rows if row["kind"] == "policy")


def _orders(reader: JournalReader, length_ns: int) -> Iterator[int]:
    """Yield the delay of the first order of each decision: later ones wait for its result."""
    rows = reader.query("SELECT work, reason, submitted_ns FROM orders ORDER BY submitted_ns DESC LIMIT ?", (NEWEST,))
    first = {decision_of(row["work"]): row["submitted_ns"] for row in rows if row["reason"] == "policy"}
    for number, submitted_ns in first.items():
        bars = reader.query("SELECT bar_ns FROM decisions WHERE decision = ?", (number,))
        yield from (submitted_ns - bar["bar_ns"] - length_ns for bar in bars)


def _round_trips(reader: JournalReader) -> Iterator[int]:
    """Yield the time until the first acceptance of each order: the broker says it again, at the open too."""
    first: dict[str, int] = {}
    for time_ns, payload in _newest(reader, "OrderAccepted"):
        with contextlib.suppress(msgspec.DecodeError):
            first[_accepted_decoder.decode(payload).client_order_id] = time_ns
    for name, time_ns in first.items():
        for row in reader.query("SELECT submitted_ns FROM orders WHERE client_order_id = ?", (name,)):
            yield time_ns - row["submitted_ns"]


def _line(name: str, meaning: str, durations_ns: Sequence[int]) -> TimingLine:
    seconds = sorted(max(duration, 0) / SECOND_NS for duration in durations_ns)
    last = len(seconds) - 1
    return TimingLine(name, meaning, len(seconds), seconds[last // 2], seconds[round(last * 0.99)], seconds[last])
