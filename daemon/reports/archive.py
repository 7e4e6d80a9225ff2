"""Archive the journal, which is only read, and check that the disk has room for future sessions.

An archive is read in one transaction, so it is consistent while the daemon writes. It appears whole or not at all.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.engine.state_dir import cut, growth_bytes, newest_whole, parts_of
from daemon.host.whole_files import whole
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry, JournalError, Snapshot, base_of

ARCHIVE = "archive"
DAYS_TO_COME = 10


def archive(journal: Path, date: str, keep: int) -> Path | None:
    """Write the rows since the last archive to `archive/<date>.sqlite` and keep the newest `keep`; None if that is 0.

    An archive is a journal of its own that begins at a snapshot, so it can be read and verified alone. The first one
    holds all rows. Raises OSError when less than twice the needed space is free, sqlite3.Error or JournalError when it
    cannot be written.
    """
    if not keep:
        return None
    folder = journal.parent / ARCHIVE
    folder.mkdir(mode=0o750, exist_ok=True)
    path = folder / f"{date}.sqlite"
    other_files = [other for other in sorted(folder.glob("*.sqlite")) if other != path]
    first, share, begin = _since_last(journal, other_files[-1] if other_files else None)
    size, free = int(journal.stat().st_size * share), shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(
            f"{folder}: {free >> 20} MiB are free, a copy needs {size >> 20} MiB and as much to live: no copy"
        )
    with whole(path) as part:
        cut(journal, part, first, begin)
    for old in sorted(folder.glob("*.sqlite"))[:-keep]:
        old.unlink()
    return path


def _since_last(journal: Path, newest: Path | None) -> tuple[int, float, Snapshot | None]:
    """Return the row at which the next archive begins, its approximate part of the journal, and the snapshot there."""
    with closing(JournalReader(journal)) as reader:
        base, last = base_of(reader.meta()), reader.last_entry()
        begin = base.row + 1 if base is not None else 1
        archive_end = _end_of(newest) if newest is not None else None
        if last is None or archive_end is None:
            return begin, 1.0, None
        row, snapshot = archive_end
        same = reader.query("SELECT hash FROM events WHERE id = ?", (row.id,))
        if not same or bytes(same[0]["hash"]) != row.hash or snapshot.event_id <= begin:  # another's, or rotated away
            return begin, 1.0, None
        return snapshot.event_id, (last.id - snapshot.event_id + 1) / (last.id - begin + 1), snapshot


def _end_of(path: Path) -> tuple[Entry, Snapshot] | None:
    """Return an archive's last row and its newest whole snapshot; None if it has none or is unreadable."""
    try:
        with closing(JournalReader(path)) as reader:
            row, snapshot = reader.last_entry(), newest_whole(reader)
    except (JournalError, sqlite3.Error):
        return None
    return None if row is None or snapshot is None else (row, snapshot)


def disk_is_low(journal: Path) -> tuple[int, int] | None:
    """Return (free, used) in MiB when less is free than `DAYS_TO_COME` more sessions of average size need, else None.

    Used is the space of the journal, its write-ahead log, its archives and its rotated parts. A future session needs
    room in the journal, and as much in its archive if there are archives.
    """
    with closing(JournalReader(journal)) as reader:
        session_count = reader.query("SELECT count(*) AS n FROM events WHERE kind = 'SessionEnded'")[0]["n"]
    folder, log = journal.parent, journal.with_name(f"{journal.name}-wal")
    archives = list((folder / ARCHIVE).glob("*.sqlite"))
    files = [log, *archives, *parts_of(journal)]
    used_bytes, free = sum(path.stat().st_size for path in files if path.exists()), shutil.disk_usage(folder).free
    session = growth_bytes(journal) / max(session_count, 1) * (2 if archives else 1)
    return (free >> 20, used_bytes >> 20) if free < DAYS_TO_COME * session else None
