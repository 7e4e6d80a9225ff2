"""The submitter answers once an event is stepped and durable, to a task of the loop and to another thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from daemon.core.effects import AnyEffect
from daemon.core.events import Event, FlattenRequested, HaltRequested, PauseRequested, ReloadRequested
from daemon.journal.journal import Journal
from daemon.journal.rows import CommitBatch, WriteFailed
from daemon.journal.writer import BALLAST_FILE
from daemon.operator.commands import Command, CommandError, event_of
from daemon.operator.submitter import Submitter
from tests.support.desks.desk_at_work import at_work
from tests.support.desks.desk_run import Desk, chained, table, tape_rows, write_tape


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 75)))


def no_room(*_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def disk_full_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The next commit finds no room, until the reserve is given up."""
    commit, full = Journal.commit, [True]

    def refuse(journal: Journal, batch: CommitBatch) -> None:
        if full and full.pop():
            raise WriteFailed("the disk is full")
        commit(journal, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", refuse)
        yield


def at_any_time(event: Event) -> Callable[[int], Event]:
    return lambda _: event


async def test_an_event_is_in_the_journal_when_submit_returns(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path, 3) as work:
        now = work.submitter.now_ns()
        result = await work.submitter.submit(event_of(Command("halt", "x", "ann")))
        last = chained(tmp_path)[-1]
        assert (last[0], last[1], last[2]) == (result.seq, now, "HaltRequested")
        assert result.step.state == work.submitter.state == work.engine.machine.state
        assert result.seq == result.step.state.seq


async def test_many_at_once_are_each_told_of_their_own(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path, 3) as work:
        results = await asyncio.gather(
            *(work.submitter.submit(event_of(Command("pause", f"r{n}", "a"))) for n in range(20))
        )
        rows = {row[0]: row[3] for row in chained(tmp_path)}
        for number, result in enumerate(results):
            assert f'"reason":"r{number}"' in rows[result.seq]
        assert len({result.seq for result in results}) == 20


async def test_two_equal_events_are_two(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path) as work:
        requests = [PauseRequested(0, "x", "a"), PauseRequested(0, "x", "a")]
        first, second = await asyncio.gather(*(work.submitter.submit(at_any_time(e)) for e in requests))
        assert second.seq == first.seq + 1


async def test_an_event_that_no_one_waits_for_goes_in_all_the_same(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path) as work:
        work.submitter.put(at_any_time(ReloadRequested(0, "x", "a")))
        await work.quiet()
        assert isinstance(work.stepped[-1], ReloadRequested)


async def test_an_engine_that_does_not_come_to_it_is_a_timeout_and_a_late_step_meets_nobody(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(desk, tmp_path) as work:
        events: list[Event] = []
        with monkeypatch.context() as patch:
            patch.setattr(work.submitter, "_put", events.append)
            with pytest.raises(TimeoutError):
                await work.submitter.submit(lambda now: HaltRequested(now, "operator", "x", "a"), 0.01)
        work.intake.put(events[0])
        await work.quiet()
        assert work.engine.machine.state.risk.halt is not None
        assert (await work.submitter.submit(event_of(Command("resume", "x", "a")))).step.state.risk.halt is None


async def test_a_task_that_gives_up_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path) as work:
        waiting = asyncio.create_task(work.submitter.submit(event_of(Command("pause", "x", "a"))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await work.quiet()
        assert work.submitter._waiting == {}
        assert work.engine.machine.state.risk.pause is not None


async def test_another_thread_gets_what_the_loop_gets(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path, 3) as work:
        submitter = work.submitter
        result = await asyncio.to_thread(
            lambda: submitter.submit_from_thread(event_of(Command("pause", "x", "mqtt/ann"))).result()
        )
        assert chained(tmp_path)[-1][0] == result.seq


def test_after_the_loop_has_ended_another_thread_gets_an_error(desk: Desk, tmp_path: Path) -> None:
    async def submitter_of_a_desk_that_ended() -> Submitter:
        async with at_work(desk, tmp_path) as work:
            return work.submitter

    submitter = asyncio.run(submitter_of_a_desk_that_ended())
    submitted = submitter.submit_from_thread(event_of(Command("pause", "x", "a")))
    assert isinstance(submitted.exception(0), RuntimeError)


class Market:
    """The broker's side: notes what leaves, and what the journal held by then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: list[tuple[str, int]] = []

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        self.left += [(type(effect).__name__, len(table(self.path, "events"))) for effect in effects]


async def test_a_command_whose_effects_leave_the_process_is_told_when_they_have_left(
    desk: Desk, tmp_path: Path
) -> None:
    market = Market(tmp_path)
    async with at_work(desk, tmp_path, 320, market) as work:
        symbols = [p.symbol for p in work.submitter.state.book.positions.values()]
        assert symbols, "the tape's first 320 events end with a position"
        before = len(market.left)
        result = await work.submitter.submit(lambda now: FlattenRequested(now, "x", "a"))
        row = next(row[0] for row in table(tmp_path, "events") if row[1] == result.seq)
        assert ("SubmitOrder", row) in market.left[before:]


async def test_a_resume_after_a_full_disk_takes_the_reserve_again_or_is_refused(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume, ballast = event_of(Command("resume", "x", "a")), tmp_path / BALLAST_FILE
    async with at_work(desk, tmp_path, 320, Market(tmp_path), ballast_mib=1) as work:
        assert work.submitter.state.book.positions, "the tape's first 320 events end with a position"
        with disk_full_once(monkeypatch):
            await work.submitter.submit(event_of(Command("pause", "x", "a")))
        await work.submitter.submit(event_of(Command("pause", "at the next event", "a")))
        await work.quiet()
        assert not ballast.exists()
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", no_room)
            with pytest.raises(CommandError, match=r"cannot reserve 1 MiB .* make room"):
                await work.submitter.submit(resume)
        assert [halt.reason for halt in work.submitter.state.risk.halts] == ["disk_full"]
        assert (await work.submitter.submit(resume)).step.state.risk.halt is None
        assert ballast.stat().st_size == 2**20
