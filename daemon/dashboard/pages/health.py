"""The health of daemon, journal and dashboard: file sizes, counts and times, without a verdict."""

from __future__ import annotations

from pathlib import Path

from daemon.dashboard.desks import Picture
from daemon.dashboard.pages.price import day_of, first_id, midnight_ns
from daemon.dashboard.views import HealthPage
from daemon.journal.reader import JournalReader

MIB = 2**20


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
        day = day_of(last[0]["time_ns"] - 1)  # a session's end at midnight belongs to the day before
        from_id = first_id(reader, midnight_ns(day))
        rows = reader.query(
            "SELECT kind, count(*) AS n FROM events WHERE id >= ? GROUP BY kind ORDER BY n DESC, kind", (from_id,)
        )
        kinds = tuple((row["kind"], row["n"]) for row in rows)
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
        starts=tuple(start for start in picture.newest.starts if start),  # a replay's have no time
        kinds=kinds,
        rejected_bars=picture.state.stats.bars_rejected if picture.state is not None else 0,
        follow_ms=picture.look_ms,
        clients=clients,
    )


def _mib(path: Path) -> float:
    try:
        return path.stat().st_size / MIB
    except OSError:
        return 0.0
