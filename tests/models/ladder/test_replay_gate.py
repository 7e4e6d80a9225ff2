"""The replay between card and shadow: the journal's own bars, both versions, and the same result after a kill.

Expected values come from whole runs of the desk with each version over the same tape, read by plain SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from daemon.core.events import BarClosed, BarCorrected, ClockTicked, LadderMoved, SessionEnded, SessionScheduled
from daemon.core.state import LadderState
from daemon.engine.recover import identity_of
from daemon.journal.journal import FILE
from daemon.models.ladder.replay_child import NICE, replayed, timed_as_on_a_tape
from daemon.models.ladder.replay_gate import ReplayLost, ReplayProcess, ReplayRequest
from daemon.models.pointer import ModelError
from strategies.kit.contract import Bar, Session
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE
from strategies.kit.units import MINUTE_NS
from strategies.registry import strategy as registered
from tests.support.desks.desk_run import Crash, records, rltraderctl, verified
from tests.support.models.climbing import ONLINE, RULES, Climb, climb_online, climber_of, online_desk, online_store
from tests.support.models.swaps import events, name, running

NAME = ONLINE.spec.name
NEW_YORK_0930_NS = 1_704_205_800_000_000_000  # 2024-01-02
PLACES = (("SPY", NEW_YORK_0930_NS), ("QQQ", NEW_YORK_0930_NS), ("SPY", NEW_YORK_0930_NS + MINUTE_NS))
SESSIONS, REPLAYED = 6, 3  # of the tape, two of which warm the indicators
Play = Callable[[Climb], Awaitable[None]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose challenger does the opposite of the champion, and a desk that traded the tape without a ladder."""
    folder = tmp_path_factory.mktemp("traded")
    online_store(folder / "store", slope=-1.0)
    climb_online(online_desk(folder, folder / "store", SESSIONS - 2), folder / "state", folder / "none", SESSIONS)
    return folder


@pytest.fixture
def desk(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "desk"))


def request_of(folder: Path, **changes: Any) -> ReplayRequest:
    """What a climber of this desk asks for, at its journal's end."""
    online = online_desk(folder, folder / "store", SESSIONS - 2)
    return ReplayRequest(
        **{
            "models_dir": str(folder / "store"),
            "journal": str(folder / "state" / FILE),
            "identity": identity_of({**online.replay.meta(), "epoch": online.replay.epoch()}),
            "trading": online.replay.settings.trading(),
            "public_key": "",
            "champion": "v1",
            "challenger": "v2",
            "seq": 2**40,
            "sessions": REPLAYED,
            **changes,
        }
    )


def whole_run(folder: Path, version: str) -> tuple[float, int, int]:
    """What a desk that never explores makes of the last sessions with this version: gain, fills, and questions."""
    online = online_desk(folder, folder / "store", SESSIONS - 2, policy__version=version, exploration__kind="none")
    state = folder / f"whole {version}"
    assert online.run(state).failure is None
    ends = [event.time_ns for event in events(state, "SessionEnded")]
    begin, last = ends[-REPLAYED - 1], ends[-1]
    money = [(row["time_ns"], float(row["equity_usd"])) for row in records(state, "equity", "time_ns")]
    before, after = ([usd for time_ns, usd in money if time_ns <= at][-1] for at in (begin, last))
    fills = sum(begin < fill["filled_ns"] <= last for fill in records(state, "fills", "filled_ns"))
    questions = sum(row["kind"] == "policy" and row["time_ns"] > begin for row in records(state, "decisions"))
    return after / before - 1.0, fills, questions


def moves_of(folder: Path, play: Play) -> list[LadderMoved]:
    """Start the desk on what is left, and play; returns the ladder's steps."""
    online = online_desk(folder, folder / "store", SESSIONS - 2)
    rules = replace(RULES, replay_sessions=REPLAYED)

    async def run_play() -> None:
        async with running(online, folder / "state") as run:
            climber = climber_of(run, folder / "store", rules, strategy=online.replay.strategy)
            try:
                await play(Climb(run, climber))
            finally:
                climber._replaying.give_up()

    with contextlib.suppress(Crash):
        asyncio.run(run_play())
    return events(folder / "state", "LadderMoved")


async def child_of(climb: Climb, former: int = 0) -> int:
    """The process that replays, another one than `former`, once there is one."""
    for _ in range(6000):
        await climb.climber.look()
        replay = climb.climber._replaying._replay
        if replay is not None and replay._child.process is not None and replay._child.process.pid != former:
            return replay._child.process.pid
        await asyncio.sleep(0.01)
    raise AssertionError("nothing replays")


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_whole_runs_that_never_explore(desk: Path) -> None:
    (pnl, fills, questions), (champions, champion_fills, _) = whole_run(desk, "v2"), whole_run(desk, "v1")
    figures = replayed(request_of(desk))
    assert pnl != champions
    assert figures.pnl == pytest.approx(pnl, abs=1e-12)
    assert figures.champion_pnl == pytest.approx(champions, abs=1e-12)
    assert (figures.trades, figures.champion_trades, figures.asked) == (fills, champion_fills, questions)
    assert (figures.sessions, figures.failed, figures.problem) == (REPLAYED, 0, "")


def test_the_same_versions_in_the_other_roles_give_the_same_figures(desk: Path) -> None:
    one, two = replayed(request_of(desk)), replayed(request_of(desk, champion="v2", challenger="v1"))
    assert (one.pnl, one.champion_pnl, one.trades) == (two.champion_pnl, two.pnl, two.champion_trades)


def test_only_whole_sessions_up_to_the_named_event_are_replayed(desk: Path) -> None:
    ends = [row["seq"] for row in records(desk / "state", "events", "id") if row["kind"] == "SessionEnded"]
    assert replayed(request_of(desk, seq=ends[0] - 1)).sessions == 0
    early = replayed(request_of(desk, seq=ends[-1] - 1, sessions=100))
    assert early.sessions == SESSIONS - 1
    assert early == replayed(request_of(desk, seq=ends[-2], sessions=100))


def test_bars_that_came_a_second_after_their_end_give_the_figures_of_a_tape(desk: Path) -> None:
    expected = replayed(request_of(desk))
    assert expected.trades > 0
    with contextlib.closing(sqlite3.connect(desk / "state" / FILE)) as journal, journal:
        rows = journal.execute("SELECT id, payload FROM events WHERE kind = 'BarClosed' ORDER BY id").fetchall()
        for place, (row, payload) in enumerate(rows):
            bar = json.loads(payload)
            late = json.dumps({**bar, "time_ns": bar["time_ns"] + 1_200_000_000 + place % 4})
            journal.execute("UPDATE events SET payload = ? WHERE id = ?", (late, row))
    assert replayed(request_of(desk)) == expected


def test_a_recorded_minute_that_lacks_a_symbol_ends_with_a_tick_as_on_a_tape() -> None:
    first, second = NEW_YORK_0930_NS, NEW_YORK_0930_NS + MINUTE_NS
    session = Session("2024-01-02", first, first + 390 * MINUTE_NS)
    spy, qqq, later = (Bar(name, start, 1.0, 1.0, 1.0, 1.0, 1) for name, start in PLACES)
    came = [
        SessionScheduled(first - 5, session, ()),
        BarClosed(second + 1_100, qqq),
        BarCorrected(second + 2_000, qqq),
        BarClosed(second + MINUTE_NS + 900, later),
        BarClosed(second + MINUTE_NS + 950, spy),  # of the first minute
        SessionEnded(session.close_ns + 7, session.date),
    ]
    spec = registered(NAME, ("SPY", "QQQ")).spec
    assert list(timed_as_on_a_tape(came, spec)) == [
        came[0],
        BarClosed(second, qqq),
        BarCorrected(second, qqq),
        ClockTicked(second + 5_000_000_000),
        BarClosed(second + MINUTE_NS, later),
        BarClosed(second + MINUTE_NS, spy),
        ClockTicked(second + MINUTE_NS + 5_000_000_000),
        came[-1],
    ]


def test_a_rotated_journal_is_replayed_across_its_files(desk: Path, tmp_path: Path) -> None:
    whole = replayed(request_of(desk, sessions=100))
    result = rltraderctl("rotate", "--state-dir", desk / "state", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((desk / "state" / "rotated").glob("*.sqlite"))) == 1
    assert replayed(request_of(desk, sessions=100)) == whole


def test_a_version_that_the_store_refuses_is_a_problem_by_its_name(desk: Path) -> None:
    policy = desk / "store" / NAME / "v2" / POLICY_FILE
    policy.write_bytes(policy.read_bytes()[:-1])
    with pytest.raises(ModelError, match="digest"):
        replayed(request_of(desk))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_version_that_is_not_the_one_that_was_judged_is_not_replayed(desk: Path, version: str) -> None:
    manifest = desk / "store" / NAME / version / MANIFEST_FILE
    manifests = {version: sha256(manifest.read_bytes()).hexdigest()}
    manifest.write_bytes(manifest.read_bytes().rstrip() + b"\n\n")  # the same in other bytes
    with pytest.raises(ModelError, match="judged version"):
        replayed(request_of(desk, manifests=manifests))


# --- beside the desk --------------------------------------------------------------------------------------------------


def test_a_kill_of_the_daemon_or_of_the_child_leads_to_the_same_figures(desk: Path) -> None:
    expected = replayed(request_of(desk))

    async def die(climb: Climb) -> None:
        child = await child_of(climb)
        raise Crash(child)

    assert [move.to_step for move in moves_of(desk, die)] == ["replay"]
    log: list[tuple[str, dict[str, Any]]] = []

    async def go_on(climb: Climb) -> None:
        child = await child_of(climb)
        os.kill(child, signal.SIGKILL)
        await child_of(climb, child)
        await climb.settle()
        log.extend(climb.run.log)

    moves = moves_of(desk, go_on)
    assert [event for event, _ in log if event == "ladder_replay_lost"] == ["ladder_replay_lost"]
    last = moves[-1]
    behind = expected.pnl < expected.champion_pnl
    assert [(move.to_step, move.reason) for move in moves] == [
        ("replay", "card_passed"),
        ("refused", "replay_behind") if behind else ("shadow", "replay_passed"),
    ], last.detail
    for figure in ("sessions", "asked", "failed", "pnl", "champion_pnl", "trades", "champion_trades"):
        assert last.figures[f"replay_{figure}"] == getattr(expected, figure), figure
    assert f"{expected.pnl:+.3%}" in last.detail
    assert verified(desk / "state").difference == ""


def test_a_version_promoted_by_hand_meanwhile_ends_its_replay(desk: Path) -> None:
    pids: list[int] = []

    async def play(climb: Climb) -> None:
        pids.append(await child_of(climb))
        assert climb.step == "v2 replay"
        ladder = climb.run.submitter.state.ladder
        assert isinstance(ladder, LadderState)
        name(desk / "store", "v2", strategy=NAME)
        await climb.run.lifecycle.look()
        await climb.run.quiet()
        await climb.climber.look()
        assert climb.step == "v2 champion"

    moves = moves_of(desk, play)
    assert [(move.to_step, move.reason) for move in moves] == [("replay", "card_passed"), ("champion", "by_hand")]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_the_child_has_the_lowest_priority_and_a_lost_one_says_how_it_ended(desk: Path) -> None:
    replay = ReplayProcess()

    async def run_play() -> None:
        task = asyncio.create_task(asyncio.to_thread(replay.run, request_of(desk)))
        while replay._child.process is None or os.getpriority(os.PRIO_PROCESS, replay._child.process.pid) != NICE:
            assert not task.done()
            await asyncio.sleep(0.01)
        replay.kill()
        with pytest.raises(ReplayLost, match="signal 9"):
            await task
        with pytest.raises(ReplayLost, match="given up"):
            replay.run(request_of(desk))

    asyncio.run(run_play())
