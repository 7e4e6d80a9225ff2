"""Write a session's report as JSON and as a page, and archive the journal, which is only read.

Files appear whole or not at all, and a failure leaves no partial file. The archive is read in one transaction, so it is
consistent while the daemon writes. A page that cannot be made does not stop the report.
"""

from __future__ import annotations

import glob
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.instruments.option_market import parse_occ
from daemon.engine.segments import cut, grown, newest_whole, parts_of
from daemon.engine.state_dir import report_path
from daemon.host.whole_files import sync
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry, JournalError, Snapshot, base_of
from daemon.reports.execution_quality import as_json
from daemon.reports.gather import read_day
from daemon.reports.page import day_page
from daemon.reports.record import BEFORE_OPEN_NS, REPORT_SPAN_NS, Day, first_id
from strategies.kit.contract import Session
from strategies.registry import strategy

ARCHIVE = "archive"
DAYS_TO_COME = 10
PAGE_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, JournalError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, msgspec.MsgspecError, sqlite3.Error,
)  # fmt: skip
"""Errors of reading the session or making its page: named in the report, which is written anyway."""


def day_report(journal: Path, session: Session, day: Day | None = None) -> dict[str, Any]:
    """Decisions, orders, fills, equity and alarms of one session, from its open to an hour after its close.

    A daily desk decides and sends its sells before the open: its session begins as long before as that may be.
    Money is USD as text. `realized_usd` is the gain since the last session's end (since the first equity known where
    there is none); equity is None in a session without a bar. `execution` is None where the session, as
    `daemon.reports.gather` read it, is not given. Raises JournalError, sqlite3.Error.
    """
    with closing(JournalReader(journal)) as reader:
        lead_ns = BEFORE_OPEN_NS if strategy(reader.meta()["strategy"]).spec.decides == "session" else 0
        span = (session.open_ns - lead_ns, session.close_ns + REPORT_SPAN_NS)
        outcomes = reader.query(
            "SELECT outcome, count(*) AS n FROM decisions WHERE time_ns BETWEEN ? AND ? GROUP BY outcome", span
        )
        orders = reader.query(
            "SELECT purpose, status, symbol, side, filled, fees_usd FROM orders WHERE submitted_ns BETWEEN ? AND ? "
            "ORDER BY purpose, status",
            span,
        )
        equity = reader.query(
            "SELECT equity_usd, realized_usd FROM equity WHERE time_ns BETWEEN ? AND ? ORDER BY time_ns", span
        )
        before = reader.query(
            "SELECT realized_usd FROM equity WHERE time_ns < ? ORDER BY time_ns DESC LIMIT 1", span[:1]
        )
        rows = (first_id(reader, span[0]), first_id(reader, span[1] + 1) - 1)  # times never decrease: no full scan
        alarms = reader.query(
            "SELECT time_ns, effects FROM events WHERE id BETWEEN ? AND ? AND effects LIKE '[%\"RaiseAlarm\"%' "
            "ORDER BY id",
            rows,
        )
        last = reader.last_entry()
        chain = {"row": last.id if last is not None else 0, "head": reader.chain_head().hex()}
    return {
        "date": session.date,
        "chain": chain,
        "decisions": {row["outcome"]: row["n"] for row in outcomes},
        "orders": [
            {"purpose": purpose, "status": status, "n": n}
            for (purpose, status), n in Counter((row["purpose"], row["status"]) for row in orders).items()
        ],
        "contracts_bought": _filled(orders, 1, options=True),
        "contracts_sold": _filled(orders, -1, options=True),
        "shares_bought": _filled(orders, 1, options=False),
        "shares_sold": _filled(orders, -1, options=False),
        "fees_usd": str(sum((Decimal(row["fees_usd"]) for row in orders), Decimal(0))),
        "equity_first_usd": equity[0]["equity_usd"] if equity else None,
        "equity_last_usd": equity[-1]["equity_usd"] if equity else None,
        "realized_usd": _gain([*before, *equity]) if equity else None,
        "execution": as_json(day.quality) if day is not None else None,
        "alarms": [
            {"time_ns": row["time_ns"], "alarm": effect["name"], "detail": effect["detail"]}
            for row in alarms
            for effect in json.loads(row["effects"])
            if effect["type"] == "RaiseAlarm"
        ],
    }


def newest_head(journal: Path) -> tuple[int, str]:
    """The last event row on the disk, and the chain's head there, hex. Raises JournalError, sqlite3.Error."""
    with closing(JournalReader(journal)) as reader:
        last = reader.last_entry()
        row = last.id if last is not None else 0
        return row, reader.chain_head(row).hex()


def _filled(orders: list[sqlite3.Row], side: int, *, options: bool) -> int:
    """Contracts or shares that the orders of one side filled; what the broker corrected is corrected here too."""
    ours = (row for row in orders if row["side"] == side and (parse_occ(row["symbol"]) is not None) == options)
    return sum(row["filled"] for row in ours)


def _gain(rows: list[sqlite3.Row]) -> str:
    return str(Decimal(rows[-1]["realized_usd"]) - Decimal(rows[0]["realized_usd"]))


def write_report(journal: Path, session: Session) -> Path:
    """Write the report to its `report_path`, then the page in the same folder; `page` names its file or the error.

    Raises JournalError, OSError, sqlite3.Error where the report itself cannot be made or written.
    """
    path = report_path(journal, session)
    day, page, failed = _page(journal, session)
    report = day_report(journal, session, day)
    path.parent.mkdir(mode=0o750, exist_ok=True)
    _write_json(path, report | {"page": f"not made: {failed}" if failed else path.with_suffix(".html").name})
    if page:
        try:
            whole_text(path.with_suffix(".html"), page)
        except OSError as error:  # the report comes first, also where the room is for one alone
            with suppress(OSError):
                _write_json(path, report | {"page": f"not written: {error}"})
    return path


def _page(journal: Path, session: Session) -> tuple[Day | None, str, str]:
    """Return the session, its page, and why one of them is missing."""
    day: Day | None = None
    try:
        day = read_day(journal, session)
        return day, day_page(day), ""
    except PAGE_FAILURES as error:
        return day, "", f"{type(error).__name__}: {error}"


def _write_json(path: Path, report: dict[str, Any]) -> None:
    whole_text(path, json.dumps(report, indent=1) + "\n")


def whole_text(path: Path, text: str) -> None:
    """Write the file whole or not at all, for owner and group alone. Raises OSError."""
    with _whole(path) as part:
        part.write_text(text)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a file to write to; it becomes `path` at the end, durably; a failure removes it."""
    part = path.with_suffix(".part" if path.suffix in (".json", ".sqlite") else f"{path.suffix}.part")
    _remove(part)  # of a process that was killed
    try:
        part.touch(mode=0o640)
        yield part
        sync(part)
        part.replace(path)
    except BaseException:
        _remove(part)
        raise


def _remove(part: Path) -> None:
    """Remove it and the files that SQLite adds to it."""
    for leftover in part.parent.glob(f"{glob.escape(part.name)}*"):
        leftover.unlink()


def archive(journal: Path, date: str, keep: int) -> Path | None:
    """Write the rows since the last archive to `archive/<date>.sqlite` and keep the newest `keep`; None when that is 0.

    It is a journal of its own that begins at a snapshot: it can be looked at and verified alone. The first one holds
    all rows. Raises OSError when less is free than it needs and as much again, sqlite3.Error or JournalError when it
    cannot be written.
    """
    if not keep:
        return None
    folder = journal.parent / ARCHIVE
    folder.mkdir(mode=0o750, exist_ok=True)
    path = folder / f"{date}.sqlite"
    others = [other for other in sorted(folder.glob("*.sqlite")) if other != path]
    first, share, begin = _since_last(journal, others[-1] if others else None)
    size, free = int(journal.stat().st_size * share), shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(
            f"{folder}: {free >> 20} MiB are free, a copy needs {size >> 20} MiB and as much to live: no copy"
        )
    with _whole(path) as part:
        cut(journal, part, first, begin)
    for old in sorted(folder.glob("*.sqlite"))[:-keep]:
        old.unlink()
    return path


def _since_last(journal: Path, newest: Path | None) -> tuple[int, float, Snapshot | None]:
    """The row at which the next archive begins, about which part of the journal it is, and the snapshot there."""
    with closing(JournalReader(journal)) as reader:
        base, last = base_of(reader.meta()), reader.last_entry()
        begin = base.row + 1 if base is not None else 1
        archived = _end_of(newest) if newest is not None else None
        if last is None or archived is None:
            return begin, 1.0, None
        row, snapshot = archived
        same = reader.query("SELECT hash FROM events WHERE id = ?", (row.id,))
        if not same or bytes(same[0]["hash"]) != row.hash or snapshot.event_id <= begin:  # another's, or rotated away
            return begin, 1.0, None
        return snapshot.event_id, (last.id - snapshot.event_id + 1) / (last.id - begin + 1), snapshot


def _end_of(path: Path) -> tuple[Entry, Snapshot] | None:
    """The last row of an archive and its newest whole snapshot; None where it has none or cannot be read."""
    try:
        with closing(JournalReader(path)) as reader:
            row, snapshot = reader.last_entry(), newest_whole(reader)
    except (JournalError, sqlite3.Error):
        return None
    return None if row is None or snapshot is None else (row, snapshot)


def disk_is_low(journal: Path) -> tuple[int, int] | None:
    """(free, used) in MiB when less is free than `DAYS_TO_COME` more sessions like the past ones need.

    Used is what the desk keeps: the journal, its write-ahead log, its archives and what was rotated away. A session to
    come needs room in the journal, and as much in its archive where there are any.
    """
    with closing(JournalReader(journal)) as reader:
        ended = reader.query("SELECT count(*) AS n FROM events WHERE kind = 'SessionEnded'")[0]["n"]
    folder, log = journal.parent, journal.with_name(f"{journal.name}-wal")
    archives = list((folder / ARCHIVE).glob("*.sqlite"))
    kept = [log, *archives, *parts_of(journal)]
    used, free = sum(path.stat().st_size for path in kept if path.exists()), shutil.disk_usage(folder).free
    session = grown(journal) / max(ended, 1) * (2 if archives else 1)
    return (free >> 20, used >> 20) if free < DAYS_TO_COME * session else None
