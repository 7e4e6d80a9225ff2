"""What `GET /api/health` answers. Times are seconds since 1970 UTC, 0 for unknown."""

from __future__ import annotations

import msgspec


class TimingLine(msgspec.Struct, frozen=True):
    """Durations in seconds of the newest `count` of one kind."""

    name: str
    what: str
    count: int
    median_s: float
    p99_s: float
    worst_s: float


class TroubleLine(msgspec.Struct, frozen=True):
    """Something to look at; `since` 0 where that is not known."""

    what: str
    since: float
    cure: str


class HealthPage(msgspec.Struct, frozen=True):
    """`GET /api/health`."""

    running: bool
    process: str
    code: str  # digest of the deciding code of the last run
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
    follow_ms: float  # how long the last look at the journal took
    clients: int  # pages that are open
    timings: tuple[TimingLine, ...] = ()  # none of recorded data
    troubles: tuple[TroubleLine, ...] = ()  # none: nothing keeps the desk from its work now
    alarms: int = 0  # of the newest New York day; of recorded data all of the newest rows, at most 50
