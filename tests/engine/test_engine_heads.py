"""The chain's head at a snapshot: known at once, published when its row is on the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.core.events import Event
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from tests.support.desks.desk_run import Desk

TURNS = 50  # of the event loop, in which nothing may become durable


async def looked_at(engine: Engine, path: Path) -> tuple[int, str]:
    """Hold the journal's file over a snapshot; returns its row and head when they are durable."""
    with closing(sqlite3.connect(path / FILE, isolation_level=None, timeout=30)) as lock:
        lock.execute("BEGIN IMMEDIATE")  # the writer thread waits
        row, head = await engine.wait_for_snapshot(engine.last_row)
        writing = asyncio.ensure_future(engine.wait_until_durable(row))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not writing.done()
        (on_disk,) = lock.execute("SELECT ifnull(max(id), 0) FROM events").fetchone()
        assert on_disk < row
        lock.execute("ROLLBACK")
        await writing
    reader = JournalReader(path / FILE)
    last = reader.last_entry()
    assert last is not None
    assert last.id >= row
    assert reader.chain_head(row).hex() == head
    reader.close()
    return row, head


def test_a_snapshot_s_head_is_durable_when_its_row_is_kept_and_not_before(desk: Desk, tmp_path: Path) -> None:
    engines: list[Engine] = []
    looks: list[asyncio.Task[tuple[int, str]]] = []

    def observe(_event: Event, _step: Step) -> None:
        if not looks and engines[0].machine.state.seq > 400:
            looks.append(asyncio.get_running_loop().create_task(looked_at(engines[0], tmp_path)))

    run = desk.run(tmp_path, engine_made=engines.append, observe=observe, group_events=256)
    assert run.failure is None
    row, head = looks[0].result()
    assert row > 400
    assert len(head) == 64
