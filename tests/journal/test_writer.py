"""The writer thread: in order, bounded, durable when it says so; nothing follows a failed batch."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.events import ClockTicked
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch, HashChain, JournalError, WriteFailed
from daemon.journal.writer import BALLAST_FILE, IN_FLIGHT, JournalWriter


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path / FILE, {})


@pytest.fixture
def writer(journal: Journal) -> Iterator[JournalWriter]:
    new_writer = JournalWriter(journal)
    yield new_writer
    new_writer.close()


def batches(count: int, size: int = 3) -> list[CommitBatch]:
    chain, result = HashChain(), []
    for number in range(count):
        batch = CommitBatch()
        first = number * size + 1
        batch.entries = [chain.entry(seq, ClockTicked(seq), "[]") for seq in range(first, first + size)]
        result.append(batch)
    return result


async def write_each(writer: JournalWriter, pending: list[CommitBatch]) -> None:
    for batch in pending:
        await writer.write(batch)
    await writer.durable()


async def hand_over(writer: JournalWriter, pending: list[CommitBatch]) -> None:
    """Hand all over before the first can be committed; no more than `IN_FLIGHT`."""
    holder = sqlite3.connect(writer.journal.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for batch in pending:
        await writer.write(batch)
    holder.execute("ROLLBACK")
    holder.close()


def rows_in(path: Path) -> list[int | None]:
    reader = JournalReader(path / FILE)
    try:
        return [entry.seq for entry in reader.entries()]
    finally:
        reader.close()


async def test_what_is_durable_can_be_read_by_another_process_in_order(writer: JournalWriter, tmp_path: Path) -> None:
    for batch in batches(20):
        await writer.write(batch)
    await writer.durable()
    assert rows_in(tmp_path) == list(range(1, 61))


async def test_commits_happen_on_a_thread_of_their_own(writer: JournalWriter) -> None:
    await writer.write(batches(1)[0])
    await writer.durable()
    assert [t.name for t in threading.enumerate() if t.name.startswith("journal-writer")] == ["journal-writer_0"]


async def test_only_so_many_batches_are_in_flight_and_the_next_waits(writer: JournalWriter, tmp_path: Path) -> None:
    pending = batches(IN_FLIGHT + 1)
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")  # nobody else can commit now
    for batch in pending[:-1]:
        await writer.write(batch)
    waiting = asyncio.create_task(writer.write(pending[-1]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert rows_in(tmp_path) == []
    holder.execute("ROLLBACK")
    holder.close()
    await waiting
    await writer.durable()
    assert rows_in(tmp_path) == list(range(1, 3 * len(pending) + 1))


async def test_nothing_is_written_after_a_batch_that_failed(
    writer: JournalWriter, journal: Journal, tmp_path: Path
) -> None:
    first, doubled, third = batches(3)
    doubled.entries = first.entries
    await hand_over(writer, [first, doubled, third])
    with pytest.raises(WriteFailed, match="UNIQUE constraint"):
        await writer.durable()
    with pytest.raises(WriteFailed, match="UNIQUE constraint"):
        await writer.durable()
    assert rows_in(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("queued", [1, IN_FLIGHT])
async def test_a_wait_that_is_cancelled_takes_no_batch_out_of_the_middle(
    journal: Journal, tmp_path: Path, queued: int
) -> None:
    new_writer, gate, rows = JournalWriter(journal), threading.Event(), batches(IN_FLIGHT + 1)
    new_writer._pool.submit(gate.wait)  # the thread has not begun any of them
    for batch in rows[:queued]:
        await new_writer.write(batch)
    waiting = asyncio.create_task(new_writer.durable() if queued < IN_FLIGHT else new_writer.write(rows[queued]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    new_writer.close()
    reader = JournalReader(tmp_path / FILE)
    assert [entry.id for entry in reader.entries()] == list(range(1, 3 * queued + 1))
    reader.close()


async def test_a_failed_batch_is_told_by_a_later_write(journal: Journal, tmp_path: Path) -> None:
    writer = JournalWriter(journal)
    pending = batches(IN_FLIGHT + 2)
    pending[0].entries += pending[0].entries  # the same row twice
    with pytest.raises(WriteFailed, match="UNIQUE constraint"):
        await write_each(writer, pending)
    writer.close()
    assert rows_in(tmp_path) == []


async def test_nothing_follows_a_batch_that_failed_for_a_reason_that_is_not_sqlite_s(
    journal: Journal, tmp_path: Path
) -> None:
    first, second, third = batches(3)
    entry = HashChain(first.entries[-1].id + 1).entry(9, ClockTicked(1), "[]")
    first.entries.append(entry._replace(payload="\ud800"))  # half a surrogate pair is no text
    writer = JournalWriter(journal, ballast_mib=1)
    await hand_over(writer, [first, second, third])
    with pytest.raises(WriteFailed, match="UnicodeEncodeError"):
        await writer.durable()
    writer.close()
    assert rows_in(tmp_path) == []
    assert (tmp_path / BALLAST_FILE).exists()  # the disk was not full


async def test_nothing_follows_a_failed_batch_when_the_ballast_cannot_be_given_up(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / BALLAST_FILE).mkdir()  # cannot be unlinked
    writer = JournalWriter(journal)
    doubled, second = batches(2)
    doubled.entries += doubled.entries
    await hand_over(writer, [doubled, second])
    with pytest.raises(WriteFailed, match=BALLAST_FILE):
        await writer.durable()
    writer.close()
    assert rows_in(tmp_path) == []


async def test_a_full_disk_without_ballast_is_a_write_failure(journal: Journal, tmp_path: Path) -> None:
    writer = JournalWriter(journal)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(WriteFailed, match="database or disk is full"):
        await write_each(writer, batches(200, size=20))
    assert not writer.pressed
    writer.close()
    ids = rows_in(tmp_path)
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) % 20 == 0


async def test_the_ballast_is_given_up_once_and_asks_for_a_halt(journal: Journal, tmp_path: Path) -> None:
    writer = JournalWriter(journal, ballast_mib=1)
    ballast = tmp_path / BALLAST_FILE
    assert ballast.stat().st_size == 1024 * 1024
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")  # a disk that the ballast does not help
    with pytest.raises(WriteFailed):
        await write_each(writer, batches(50, size=20))
    assert writer.pressed
    assert not ballast.exists()
    writer.close()


def test_the_ballast_is_made_anew_where_it_is_missing_or_of_another_size(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / BALLAST_FILE).write_bytes(b"short")
    JournalWriter(journal, ballast_mib=2).close()
    assert (tmp_path / BALLAST_FILE).stat().st_size == 2 * 1024 * 1024


@pytest.mark.parametrize("copy", ["holes", "another name"])
def test_a_ballast_that_would_free_nothing_is_made_anew(journal: Journal, tmp_path: Path, copy: str) -> None:
    """As a backup brings it back: a copy skips what is empty, and may share the file with the folder that it copied."""
    ballast, mib = tmp_path / BALLAST_FILE, 1024 * 1024
    if copy == "holes":
        with ballast.open("wb") as file:
            file.truncate(mib)
    else:
        ballast.write_bytes(bytes(mib))
        os.link(ballast, tmp_path / "copy")
    JournalWriter(journal, ballast_mib=1).close()
    file_stat = ballast.stat()
    assert (file_stat.st_size, file_stat.st_nlink) == (mib, 1)
    assert file_stat.st_blocks * 512 >= mib
    assert copy == "holes" or (tmp_path / "copy").stat().st_size == mib


def test_a_disk_too_small_for_the_ballast_is_refused_because_a_halt_could_not_be_journaled(
    journal: Journal, tmp_path: Path
) -> None:
    with pytest.raises(
        JournalError,
        match=r"cannot reserve 2147483648 MiB .* set journal\.ballast_mib lower \(a gateway: gateway\.ballast_mib\)",
    ):
        JournalWriter(journal, ballast_mib=2**31)
    assert not (tmp_path / BALLAST_FILE).exists()


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_in_the_ballast_s_place_is_refused_by_name_and_left_alone(
    journal: Journal, tmp_path: Path, kind: str
) -> None:
    ballast, elsewhere = tmp_path / BALLAST_FILE, tmp_path / "elsewhere"
    elsewhere.write_text("another's")
    if kind == "folder":
        ballast.mkdir()
    elif kind == "link":
        ballast.symlink_to(elsewhere)
    else:
        os.mkfifo(ballast)
    with pytest.raises(JournalError, match=r"ballast: not a plain file.*: move it away, then start again"):
        JournalWriter(journal, ballast_mib=1)
    assert os.path.lexists(ballast)
    assert elsewhere.read_text() == "another's"


async def test_closing_waits_for_what_was_handed_over(journal: Journal, tmp_path: Path) -> None:
    writer = JournalWriter(journal)
    for batch in batches(IN_FLIGHT):
        await writer.write(batch)
    writer.close()
    assert rows_in(tmp_path) == list(range(1, 3 * IN_FLIGHT + 1))
    with pytest.raises(sqlite3.ProgrammingError):
        journal.reader().count()


@pytest.mark.parametrize("form", ["plain", "log"])
async def test_a_lock_of_another_process_is_waited_for_and_takes_no_ballast(
    form: str, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds up the first commit into the plain file of a stopped desk, another writer each commit."""
    monkeypatch.setattr("daemon.journal.journal.SWITCH_S", 0.0)
    first, second = batches(2)
    if form == "log":
        journal.commit(first)
    journal._db.execute("PRAGMA busy_timeout = 10")
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN" if form == "plain" else "BEGIN IMMEDIATE")
    holder.execute("SELECT * FROM meta").fetchall()
    writer = JournalWriter(journal, ballast_mib=1)
    await writer.write(second if form == "log" else first)
    asyncio.get_running_loop().call_later(0.3, holder.close)
    await writer.durable()
    assert not writer.pressed
    assert (tmp_path / BALLAST_FILE).exists()
    writer.close()
    assert rows_in(tmp_path) == list(range(1, 7 if form == "log" else 4))


async def test_a_lock_that_never_ends_is_told_as_one(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.journal.journal.SWITCH_S", 0.0)
    monkeypatch.setattr("daemon.journal.writer.LOCKED_S", 0.1, raising=False)
    journal._db.execute("PRAGMA busy_timeout = 10")
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN")
    holder.execute("SELECT * FROM meta").fetchall()
    writer = JournalWriter(journal, ballast_mib=1)
    await writer.write(batches(1)[0])
    with pytest.raises(WriteFailed, match=r"database is locked: another process holds the file: end it"):
        await writer.durable()
    assert not writer.pressed
    assert (tmp_path / BALLAST_FILE).exists()
    writer.close()
    holder.close()
