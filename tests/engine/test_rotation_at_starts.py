"""A start rotates a journal that is due, whatever ends it meanwhile; readers find the days of former files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from daemon.core.session import NEW_YORK
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages.history import DecisionHistory, Lookup
from daemon.dashboard.pages.price import NotThere, price_page
from daemon.engine import state_dir as segments
from daemon.engine.state_dir import growth_bytes, open_state_dir, parts_of, peek, rotate, rotate_when_due
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import ROTATED, JournalReader
from daemon.journal.rows import JournalError
from daemon.reports.end_of_day import write_report
from tests.support.desks.desk_run import Desk, execute, recovered, rltraderctl, state_digest, table, verified

MIB = 2**20
KILLED = 9


def grow(path: Path) -> Path:
    """Make the journal's file larger than one MiB."""
    execute(path, "CREATE TABLE filler (x)")
    execute(path, "INSERT INTO filler VALUES (zeroblob(2000000))")
    return path


@pytest.fixture(scope="module")
def ended_once(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk whose last session is over and has its report; its file is above one MiB."""
    path = tmp_path_factory.mktemp("ended")
    assert desk.run(path).failure is None
    session = recovered(path).machine.state.session.session
    assert session is not None
    write_report(path / FILE, session)
    return grow(path)


@pytest.fixture
def state_dir(ended_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(ended_once, tmp_path / "ended")
    return tmp_path / "ended"


def start(path: Path, mib: int) -> list[tuple[str, dict[str, Any]]]:
    """What a start does before it trades; returns what it logs."""
    logged: list[tuple[str, dict[str, Any]]] = []
    meta = peek(path)
    assert meta is not None
    state_dir = open_state_dir(path, meta, meta["epoch"])
    try:
        rotated = rotate_when_due(state_dir, recovered(path), mib, lambda name, **more: logged.append((name, more)))
        assert rotated == any("session is under way" not in str(more) for _, more in logged)
        assert state_dir.journal.reader().last_entry() is not None  # open, whatever came of it
    finally:
        state_dir.journal.close()
        state_dir.close()
    return logged


def test_a_start_rotates_a_journal_that_is_due_and_comes_to_the_same_state(state_dir: Path) -> None:
    before = state_digest(state_dir)
    assert start(state_dir, 0) == []  # never
    assert start(state_dir, 1000) == []  # not yet
    assert len(parts_of(state_dir / FILE)) == 1
    ((name, fields),) = start(state_dir, 1)
    assert (name, fields["row"], fields["old"]) == (
        "journal_rotated",
        before[2],
        str(state_dir / ROTATED / f"{1:012}-{before[2]:012}.sqlite"),
    )
    assert state_digest(state_dir) == before
    assert verified(state_dir).difference == ""
    assert growth_bytes(state_dir / FILE) < MIB // 10  # what came along does not count, so the next start leaves it
    assert start(state_dir, 1) == []


def test_no_file_ends_within_a_session_or_before_its_report(half: Path, state_dir: Path) -> None:
    shutil.rmtree(state_dir / "reports")
    for path in (grow(half), state_dir):
        ((name, fields),) = start(path, 1)
        assert (name, "or has no report yet" in fields["reason"]) == ("journal_not_rotated", True)
        assert len(parts_of(path / FILE)) == 1


@pytest.mark.parametrize("trouble", ["killed", "held", "no room"])
def test_a_start_that_cannot_rotate_says_so_and_goes_on(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "killed":
        report = next((state_dir / "reports").glob("*.json"))
        bar = [row[0] for row in table(state_dir, "events") if row[3] == "BarClosed"][-1]
        execute(state_dir, "DELETE FROM events WHERE id > ? AND kind != 'SessionEnded'", bar)
        execute(state_dir, "DELETE FROM events WHERE id > ?", bar)
        execute(state_dir, "DELETE FROM snapshots WHERE event_id > ?", bar)
        monkeypatch.setattr("daemon.engine.state_dir._under_way", lambda *_: not report.exists())
    before = state_digest(state_dir)
    reader = JournalReader(state_dir / FILE)
    if trouble == "held":
        journal = Journal(state_dir / FILE)
        journal._db.execute("PRAGMA journal_mode = WAL")
        reader.meta()
        journal._db.close()
    if trouble == "no room":

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("daemon.engine.state_dir.os.fsync", full)
    ((name, fields),) = start(state_dir, 1)
    reader.close()
    assert name == "journal_not_rotated"
    messages = {"killed": "did not stop cleanly", "held": "still has the journal open", "no room": "No space left"}
    assert messages[trouble] in fields["reason"]
    assert state_digest(state_dir) == before
    assert len(parts_of(state_dir / FILE)) == 1


def killed_at(path: Path, step: int) -> bool:
    """Rotate in a process of its own that is killed before the line number `step`; False when it came to its end."""
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != segments.__file__ or frame.f_code.co_name not in ("rotate", "finish"):
            return None if event == "call" else count
        if event == "line":
            steps += 1
            if steps == step:
                os._exit(KILLED)
        return count

    child = os.fork()
    if child == 0:
        sys.settrace(count)
        rotate(path)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def test_a_rotation_that_is_killed_at_any_step_leaves_a_desk_that_starts_with_the_same_state(
    half: Path, tmp_path: Path
) -> None:
    """Each line of the rotation is a place to be killed at; a start then finds the old file or the new one whole."""
    before, step, ends = state_digest(half), 0, set()
    while True:
        step += 1
        path = tmp_path / f"step-{step}"
        shutil.copytree(half, path)
        if not killed_at(path, step):
            break
        start(path, 0)
        assert state_digest(path) == before, step
        assert sorted(file.name for file in path.glob("journal*")) == [FILE], step
        ends.add(len(parts_of(path / FILE)))
        shutil.rmtree(path)
    assert step > 30
    assert ends == {1, 2}  # killed before, and after the old file was put aside


def test_an_unfinished_file_never_takes_the_place_of_a_journal_that_it_does_not_follow(
    desk: Desk, half: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(half, other)
    assert desk.run(other).failure is None
    for path in (half, other):
        rotate(path)
    shutil.move(half / FILE, half / "journal.rotating")
    (other_part,) = (other / ROTATED).iterdir()
    shutil.copy(other_part, half / ROTATED / f"{2:012}-{2:012}.sqlite")
    with pytest.raises(JournalError, match="or these are not of one journal"):
        start(half, 0)
    shutil.rmtree(half / ROTATED)
    with pytest.raises(JournalError, match="put that file back"):
        start(half, 0)
    assert not (half / FILE).exists()  # no new desk was begun in its place either


# --- readers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rotated(desk: Desk, half: Path) -> Path:
    """Three sessions in two files; the middle of the second session is where they meet."""
    rotate(half)
    assert desk.run(half).failure is None
    return half


def dates(path: Path) -> list[str]:
    """The New York dates of the equity's rows, oldest first."""
    days = [datetime.fromtimestamp(row[0] / 1e9, UTC).astimezone(NEW_YORK).date() for row in table(path, "equity")]
    return [day.isoformat() for day in sorted(set(days))]


def test_events_are_listed_across_the_files_of_a_journal(rotated: Path, tmp_path: Path) -> None:
    files = [JournalReader(path) for path in parts_of(rotated / FILE)]
    seqs = sorted({row["seq"] for file in files for row in file.query("SELECT seq FROM events WHERE seq IS NOT NULL")})
    for file in files:
        file.close()
    assert seqs == list(range(1, len(seqs) + 1))
    meet = recovered(rotated).last_id and seqs[-1]

    def listed(*more: object) -> list[int]:
        result = rltraderctl("events", "--state-dir", rotated, "--json", *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return [json.loads(line)["seq"] for line in result.stdout.splitlines() if json.loads(line)["seq"] is not None]

    assert listed("--after", 0, "--limit", meet) == seqs[:meet]
    bars = listed("--kind", "BarClosed", "--limit", 10_000)
    assert (len(bars), bars == sorted(set(bars))) == (3 * 86 + 3 * 75, True)


def test_an_older_day_is_reported_from_the_file_that_holds_it_or_the_place_to_look_at_is_named(
    rotated: Path, tmp_path: Path
) -> None:
    oldest = dates(rotated)[0]
    result = rltraderctl("report", "--state-dir", rotated, "--day", oldest, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["session"] == oldest
    shutil.move(rotated / ROTATED, tmp_path / "away")
    result = rltraderctl("report", "--state-dir", rotated, "--day", oldest, cwd=tmp_path)
    assert result.returncode == 2
    assert "put it into a folder of its own as journal.sqlite" in result.stderr
    result = rltraderctl("events", "--state-dir", rotated, "--after", 0, cwd=tmp_path)
    assert "rows up to" in result.stderr


def test_the_dashboard_shows_candles_and_alarms_from_before_a_rotation(rotated: Path, tmp_path: Path) -> None:
    follower = FollowedDesk("desk", rotated)
    picture = follower.look()
    oldest = dates(rotated)[0]
    with follower.reader() as reader:
        page = price_page(picture, reader, oldest)
        assert len(page.bars) == 86
        assert len(price_page(picture, reader).bars) == 75
    assert len(picture.newest.starts) == 2  # the second is of the newer file
    shutil.move(rotated / ROTATED, tmp_path / "away")
    with follower.reader() as reader, pytest.raises(NotThere, match="rows up to"):
        price_page(picture, reader, oldest)
    assert FollowedDesk("desk", rotated).look().problem == ""


def test_the_dashboard_finds_what_a_decision_saw_in_the_file_of_its_day(rotated: Path, tmp_path: Path) -> None:
    follower = FollowedDesk("desk", rotated)
    follower.look()
    meet = JournalReader(rotated / FILE)
    (first_event,) = meet.query("SELECT time_ns FROM events ORDER BY id LIMIT 1")
    first, last = (
        meet.query(f"SELECT decision FROM decisions WHERE kind = 'policy' AND {where} ORDER BY decision")[0]["decision"]
        for where in (f"time_ns < {first_event['time_ns']}", f"time_ns > {first_event['time_ns']}")
    )
    meet.close()

    def lookup(decision: int) -> Lookup:
        with ThreadPoolExecutor(1) as pool:
            history = DecisionHistory(follower, pool)
            assert history.find(decision).pending
        return history.find(decision)

    assert [lookup(decision).missing for decision in (first, last)] == ["", ""]
    shutil.move(rotated / ROTATED, tmp_path / "away")
    assert "rows up to" in lookup(first).missing
    assert lookup(last).observation is not None


def test_heads_of_later_files_are_no_difference_for_a_rotated_one(rotated: Path, tmp_path: Path) -> None:
    (old,) = (rotated / ROTATED).iterdir()
    heads = []
    for path in parts_of(rotated / FILE):
        reader = JournalReader(path)
        last = reader.last_entry()
        assert last is not None
        heads.append(f"{last.id}:{reader.chain_head(last.id).hex()}")
        reader.close()
    (tmp_path / "heads").write_text("\n".join(heads))
    for more in ((), ("--file", old)):
        result = rltraderctl("verify", "--state-dir", rotated, "--against", tmp_path / "heads", *more, cwd=tmp_path)
        assert result.returncode == 0, result.stdout
        agree = 2 if not more else 1  # both files have the row at which they meet
        assert f"published heads: {agree} agree" in result.stdout
    assert "1 are of other files of this journal" in result.stdout
