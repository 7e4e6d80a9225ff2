"""A journal with a long past put before it, and a count of what SQLite does: to see what grows with the journal."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import FILE

EVERY = 20  # operations of SQLite's machine
OLDER_NS = 10**12  # between two rows of the past
EXPIRED = "SPY200103C00300000"
_MOVED = ("events.id", "snapshots.event_id")
_COPIED = {"decisions": "decision", "orders": "client_order_id", "fills": "client_order_id", "equity": "time_ns"}


def put_before(path: Path, rows: int) -> None:
    """Put `rows` ticks before the journal's events, and a tenth as many rows before those of each read model.

    No start reads them: recovery begins at the newest snapshot.
    """
    with contextlib.closing(sqlite3.connect(path / FILE)) as db:
        for place in _MOVED:
            table, column = place.split(".")
            db.execute(f"UPDATE {table} SET {column} = -({column} + ?)", (rows,))
            db.execute(f"UPDATE {table} SET {column} = -{column}")
        (first_ns,) = db.execute("SELECT min(time_ns) FROM events").fetchone()
        tick = '{"type":"ClockTicked","time_ns":1}'
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) "
            "INSERT INTO events SELECT i, i, ?2 - (?1 - i) * 10, 'ClockTicked', ?3, '[]', x'00' FROM n",
            (rows, first_ns, tick),
        )
        started = db.execute("SELECT payload FROM events WHERE kind = 'RunStarted' ORDER BY id").fetchone()
        db.execute("UPDATE events SET kind = 'RunStarted', payload = ? WHERE id = 1", started)
        for table, key in _COPIED.items():
            _copy(db, table, key, rows // 10)
        db.commit()


def _copy(db: sqlite3.Connection, table: str, key: str, rows: int) -> None:
    """Older copies of the table's first row, each with a key of its own."""
    rows_of = db.execute(f"SELECT * FROM {table} LIMIT 1")
    names = [column[0] for column in rows_of.description]
    one = dict(zip(names, rows_of.fetchone(), strict=True))
    for at in range(1, rows + 1):
        older = {name: value - at * OLDER_NS for name, value in one.items() if name.endswith("_ns") and value}
        named = {} if key == "time_ns" else {key: -at if key == "decision" else f"past-{at}"}
        row = {**one, **older, **named} | ({"symbol": EXPIRED} if "symbol" in one else {})
        db.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", tuple(row.values()))


@contextlib.contextmanager
def operations() -> Iterator[Counter[str]]:
    """Counts `total`, the operations of SQLite's machine in units of `EVERY`, on connections that are opened within."""
    done, connect = Counter[str](), sqlite3.connect

    def counted(*arguments: Any, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **more)

        def tick() -> int:
            done["total"] += 1
            return 0

        connection.set_progress_handler(tick, EVERY)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", counted)
        yield done
