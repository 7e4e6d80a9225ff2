"""What is left of a session: a report as JSON, and a copy of the journal. Reads the journal, writes beside it.

Files appear whole or not at all; the copy is SQLite's own online backup, so it is sound while the daemon writes.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.shell.journal import JournalReader
from strategies.contract import Session

REPORTS, ARCHIVE = "reports", "archive"
PAGES = 2000  # copied at a time: the writer is never kept waiting for long
DAYS_TO_COME = 10
SECOND_NS = 1_000_000_000


def day_report(journal: Path, session: Session) -> dict[str, Any]:
    """Decisions, orders, fills, equity and alarms of one session, from its open to its report. Money as text, USD."""
    reader = JournalReader(journal)
    span = (session.open_ns, session.close_ns + 3600 * SECOND_NS)
    try:
        outcomes = reader.query(
            "SELECT outcome, count(*) AS n FROM decisions WHERE time_ns BETWEEN ? AND ? GROUP BY outcome", span
        )
        orders = reader.query(
            "SELECT purpose, status, count(*) AS n FROM orders WHERE submitted_ns BETWEEN ? AND ? "
            "GROUP BY purpose, status",
            span,
        )
        fills = reader.query("SELECT side, quantity, price, fees_usd FROM fills WHERE time_ns BETWEEN ? AND ?", span)
        equity = reader.query(
            "SELECT equity_usd, realized_usd FROM equity WHERE time_ns BETWEEN ? AND ? ORDER BY time_ns", span
        )
        alarms = reader.query(
            "SELECT time_ns, effects FROM events WHERE time_ns BETWEEN ? AND ? AND effects LIKE '%RaiseAlarm%'", span
        )
    finally:
        reader.close()
    return {
        "date": session.date,
        "decisions": {row["outcome"]: row["n"] for row in outcomes},
        "orders": [dict(row) for row in orders],
        "contracts_bought": sum(row["quantity"] for row in fills if row["side"] > 0),
        "contracts_sold": sum(row["quantity"] for row in fills if row["side"] < 0),
        "fees_usd": str(sum((Decimal(row["fees_usd"]) for row in fills), Decimal(0))),
        "equity_first_usd": equity[0]["equity_usd"] if equity else None,
        "equity_last_usd": equity[-1]["equity_usd"] if equity else None,
        "realized_usd": str(Decimal(equity[-1]["realized_usd"]) - Decimal(equity[0]["realized_usd"]))
        if equity
        else None,
        "alarms": [
            {"time_ns": row["time_ns"], "alarm": effect["name"], "detail": effect["detail"]}
            for row in alarms
            for effect in json.loads(row["effects"])
            if effect["type"] == "RaiseAlarm"
        ],
    }


def write_report(journal: Path, session: Session) -> Path:
    """Write `reports/<date>.json` beside the journal. Raises OSError, sqlite3.Error."""
    path = journal.parent / REPORTS / f"{session.date}.json"
    path.parent.mkdir(mode=0o750, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(day_report(journal, session), indent=1) + "\n")
    part.replace(path)
    return path


def archive(journal: Path, date: str, keep: int) -> Path | None:
    """Copy the journal to `archive/<date>.sqlite` and keep the newest `keep` copies; None when `keep` is 0.

    Raises OSError when less is free than the copy and some more days need, sqlite3.Error when the copy fails.
    """
    if not keep:
        return None
    folder = journal.parent / ARCHIVE
    folder.mkdir(mode=0o750, exist_ok=True)
    size, free = journal.stat().st_size, shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(
            f"{folder}: {free >> 20} MiB are free, a copy needs {size >> 20} MiB and as much to live: no copy"
        )
    path, part = folder / f"{date}.sqlite", folder / f"{date}.part"
    part.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(part)) as copy,
    ):
        source.backup(copy, pages=PAGES)
    part.chmod(0o640)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    for old in sorted(folder.glob("*.sqlite"))[:-keep]:
        old.unlink()
    return path


def disk_is_low(journal: Path) -> tuple[int, int] | None:
    """(free, journal) in MiB when less is free than `DAYS_TO_COME` more sessions like the past ones need."""
    reader = JournalReader(journal)
    try:
        ended = reader.query("SELECT count(*) AS n FROM events WHERE kind = 'SessionEnded'")[0]["n"]
    finally:
        reader.close()
    size, free = journal.stat().st_size, shutil.disk_usage(journal.parent).free
    return (free >> 20, size >> 20) if free < DAYS_TO_COME * size / max(ended, 1) else None
