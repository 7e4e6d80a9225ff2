"""How the parts are put together: a replay goes on where its journal began, and who only watches stops nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.core.state import State
from daemon.shell.engine import Engine
from daemon.shell.journal import JournalError
from daemon.wiring import Replay, open_replay, prepare_replay, run_replay
from tests.shell.desk_run import (
    Crash,
    Desk,
    chained,
    execute,
    settings,
    silent_log,
    table,
    tape_rows,
    verified,
    write_tape,
)


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(3, 75))


@pytest.fixture(scope="module")
def desk(tape: Path) -> Desk:
    return Desk(tape)


async def resumed(replay: Replay) -> Engine:
    """The run that goes on, by the wiring of the daemon itself."""
    state_dir, writer, session, startup = open_replay(replay, silent_log(), None)
    try:
        await session.engine.run(startup)
    finally:
        writer.close()
        state_dir.close()
    return session.engine


def crashed(desk: Desk, path: Path) -> None:
    """A run that ends at its 200th step, before any snapshot."""
    left = 200

    def crash(boundary: str) -> None:
        nonlocal left
        left -= boundary == "before step"
        if left == 0:
            raise Crash

    desk.run(path, boundary=crash, group_events=1, snapshot_events=10**6)
    assert table(path, "snapshots") == []


def test_other_cash_in_the_configuration_changes_nothing_in_a_journal_without_a_snapshot(
    desk: Desk, tape: Path, tmp_path: Path
) -> None:
    crashed(desk, tmp_path)
    engine = asyncio.run(resumed(prepare_replay(settings(tmp_path, paper__cash_usd="250000"), tape)))
    assert engine.machine.state.risk.halt is None
    assert engine.machine.state.risk.reconciled
    assert verified(tmp_path).difference == ""


def test_a_journal_that_never_ran_begins_with_the_cash_of_the_configuration(
    desk: Desk, tape: Path, tmp_path: Path
) -> None:
    desk.fresh_state(tmp_path).close()
    engine = asyncio.run(resumed(prepare_replay(settings(tmp_path, paper__cash_usd="250000"), tape)))
    assert engine.machine.state.risk.halt is None
    assert engine.machine.state.book.cash > 200_000


def test_a_journal_whose_first_event_cannot_be_read_is_refused_with_its_row(
    desk: Desk, tape: Path, tmp_path: Path
) -> None:
    crashed(desk, tmp_path)
    execute(tmp_path, "UPDATE events SET payload = replace(payload, 'RunStarted', 'RunStopped') WHERE id = 1")
    with pytest.raises(JournalError, match=r"damaged at event row 1 \(RunStarted\).*run rltraderctl verify"):
        asyncio.run(resumed(prepare_replay(settings(tmp_path), tape)))


def test_a_progress_display_that_raises_does_not_end_the_run(desk: Desk, tape: Path, tmp_path: Path) -> None:
    def broken(_: State[object]) -> None:
        raise ValueError("the terminal went away")

    undisturbed, watched = tmp_path / "undisturbed", tmp_path / "watched"
    assert desk.run(undisturbed).failure is None
    summary, _ = asyncio.run(run_replay(prepare_replay(settings(watched), tape), silent_log(), None, broken))
    assert summary.stopped_by == ""
    assert chained(watched) == chained(undisturbed)
