"""The watch over the write-ahead log, against a real SQLite writer and a reader that holds on to an old view."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.metrics.loop_lag import WalWatch, wal_bytes

MIB = 1 << 20


class LogRecorder:
    """The log's events, as (name, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.something = asyncio.Event()

    def __call__(self, name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields)
        assert LOG_EVENTS[name].alarm
        self.events.append((name, fields))
        self.something.set()


def open_db(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    return db


def write_mib(db: sqlite3.Connection, mib: int) -> None:
    for _ in range(mib):
        db.execute("INSERT INTO t VALUES (zeroblob(?))", (MIB,))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_a_reader_that_holds_on_is_told_once_and_again_only_after_it_let_go(journal: Path) -> None:
    writer, log = open_db(journal), LogRecorder()
    writer.execute("CREATE TABLE t (x)")
    watch = WalWatch(journal, 4, log)
    reader = sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()  # from here on it holds on to this view
        watch.look()
        assert log.events == []
        write_mib(writer, 5)
        assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1  # busy: the reader is in the way
        watch.look()
        write_mib(writer, 1)
        watch.look()
        assert [name for name, _ in log.events] == ["wal_large"]
        reader.execute("ROLLBACK")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        watch.look()
        assert len(log.events) == 1
        write_mib(writer, 5)
        watch.look()
        assert [name for name, _ in log.events] == ["wal_large"] * 2
    finally:
        reader.close()
        writer.close()


def test_the_alarm_names_sizes_and_no_path(journal: Path) -> None:
    log = LogRecorder()
    journal.with_name("journal.sqlite-wal").write_bytes(b"\0" * (3 * MIB + MIB // 2))
    WalWatch(journal, 3, log).look()
    assert log.events == [("wal_large", {"mib": 3.5, "limit_mib": 3})]


def test_a_log_as_long_as_the_limit_is_no_alarm(journal: Path) -> None:
    log = LogRecorder()
    journal.with_name("journal.sqlite-wal").write_bytes(b"\0" * (3 * MIB))
    WalWatch(journal, 3, log).look()
    assert log.events == []
    assert wal_bytes(journal) == 3 * MIB


def test_without_a_log_its_length_is_nothing(journal: Path) -> None:
    assert wal_bytes(journal) == 0


async def test_it_looks_again_and_again_until_it_is_ended(journal: Path) -> None:
    log = LogRecorder()
    running = asyncio.create_task(WalWatch(journal, 1, log, every_s=0.01).run())
    await asyncio.sleep(0)
    assert log.events == []
    journal.with_name("journal.sqlite-wal").write_bytes(b"\0" * 2 * MIB)
    async with asyncio.timeout(180):
        await log.something.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert len(log.events) == 1
