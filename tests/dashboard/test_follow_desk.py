"""A desk is followed to its exact state while its journal grows, is replaced, damaged, or missing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from daemon.core.events import Event
from daemon.core.state import digest
from daemon.dashboard import api
from daemon.dashboard.desks import FollowedDesk, Picture, name_desks
from daemon.dashboard.newest import Newest, read_on
from daemon.dashboard.pages.now import stale
from daemon.engine.engine import EventSource
from daemon.engine.state_dir import process_of
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from tests.support.dashboards import Played, serving
from tests.support.desks import desk_run
from tests.support.desks.desk_run import execute


class Until:
    """The tape's first `count` events."""

    def __init__(self, tape: EventSource, count: int) -> None:
        self._tape = tape
        self._left = count

    def poll(self) -> Event | None:
        """The next one, while there are some left."""
        self._left -= 1
        return self._tape.poll() if self._left >= 0 else None

    async def next(self) -> Event | None:
        """The same: a tape has its events already."""
        return self.poll()


def until(count: int) -> Callable[[EventSource], EventSource]:
    return lambda tape: Until(tape, count)


def test_each_look_ends_at_the_engines_own_state(desk: desk_run.Desk, tmp_path: Path) -> None:
    followed_desk = FollowedDesk("desk", tmp_path)
    for count in (200, 100, 1, 0, 10**6):
        run = desk.run(tmp_path, source=until(count))
        picture = followed_desk.look()
        assert not picture.problem
        assert picture.caught_up
        assert picture.state is not None
        assert digest(picture.state) == run.digest
        assert picture.generation == 1


def test_between_two_looks_nobody_holds_the_journal(replay: Played) -> None:
    followed_desk = FollowedDesk("desk", replay.path)
    followed_desk.look()
    open_files = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert (replay.path / FILE).resolve() not in open_files


def test_a_journal_that_was_replaced_is_followed_anew(desk: desk_run.Desk, tmp_path: Path) -> None:
    followed_desk = FollowedDesk("desk", tmp_path / "desk")
    desk.run(tmp_path / "desk")
    followed_desk.look()
    shutil.rmtree(tmp_path / "desk")
    stale_picture = followed_desk.look()
    assert "no journal here" in stale_picture.problem
    assert stale_picture.state is not None  # what was known stays known
    run = desk.run(tmp_path / "desk", source=until(150))
    for _ in range(3):
        picture = followed_desk.look()
    assert not picture.problem
    assert picture.state is not None
    assert digest(picture.state) == run.digest


def test_a_journal_of_other_code_is_said_and_its_read_models_are_shown(replay: Played, tmp_path: Path) -> None:
    copy = tmp_path / "desk"
    copy.mkdir()
    shutil.copyfile(replay.path / FILE, copy / FILE)
    execute(copy, "DELETE FROM snapshots")
    execute(copy, "UPDATE events SET hash = zeroblob(32) WHERE id = 1")
    followed_desk = FollowedDesk("desk", copy)
    picture = followed_desk.look()
    assert picture.problem
    assert picture.readable
    now = api.now(followed_desk)
    last = replay.sql("SELECT * FROM decisions ORDER BY decision DESC LIMIT 1")[0]
    assert (now.decision, now.action, now.stale) == (last["decision"], last["action"], picture.problem)
    positions = replay.sql("SELECT symbol, SUM(side * quantity) AS held FROM fills GROUP BY symbol HAVING held <> 0")
    assert positions
    assert [(one.symbol, one.quantity) for one in now.positions] == [(row["symbol"], row["held"]) for row in positions]


def test_a_directory_without_a_daemon_has_no_process_and_its_lock_is_not_touched(tmp_path: Path) -> None:
    assert process_of(tmp_path) == ""
    (tmp_path / "lock").write_text("999999999")
    assert process_of(tmp_path) == ""
    (tmp_path / "lock").write_text("nonsense")
    assert process_of(tmp_path) == ""
    (tmp_path / "lock").write_text(str(os.getpid()))  # a number that belongs to another process by now
    assert process_of(tmp_path) == ""


@pytest.mark.parametrize("planted", ["fifo", "link", "bytes", "endless"])
def test_whatever_stands_in_the_place_of_the_lock_holds_no_look_up(
    replay: Played, tmp_path: Path, planted: str
) -> None:
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    place = tmp_path / "lock"
    match planted:
        case "fifo":
            os.mkfifo(place)
        case "link":
            (tmp_path / "other").write_text(str(os.getpid()))
            place.symlink_to(tmp_path / "other")
        case "bytes":
            place.write_bytes(b"\xff\xfe")
        case _:
            place.write_bytes(b"1" * 100_000)
    pictures: list[Picture] = []
    looking = threading.Thread(target=lambda: pictures.append(FollowedDesk("desk", tmp_path).look()), daemon=True)
    looking.start()
    looking.join(60)
    assert [(picture.process, picture.problem, picture.caught_up) for picture in pictures] == [("", "", True)]


def test_a_desk_that_is_run_is_live(desk: desk_run.Desk, tmp_path: Path) -> None:
    state_dir = desk.fresh_state(tmp_path)
    try:
        picture = FollowedDesk("desk", tmp_path).look()
        assert picture.process == str(os.getpid())
        assert stale(picture) == ""
    finally:
        state_dir.journal.close()
        state_dir.close()


def test_two_desks_of_one_name_are_told_apart(replay: Played, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second", "other/second", "daily")]
    for folder in folders:
        folder.mkdir(parents=True)
        shutil.copyfile(replay.path / FILE, folder / FILE)
    with closing(sqlite3.connect(folders[-1] / FILE)) as db:
        db.execute("UPDATE meta SET value = 'regime_switcher' WHERE key = 'strategy'")
        db.commit()
    desks = name_desks([*folders, tmp_path / "none"])
    assert list(desks) == ["first", tmp_path.name, "other", "paper-1 regime switcher", "none"]


def test_alarms_commands_and_swaps_are_read_once_and_kept(replay: Played, tmp_path: Path) -> None:
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    newest = replay.sql("SELECT max(id) AS id FROM events")[0]["id"]
    reader = JournalReader(tmp_path / FILE)
    before = read_on(reader, Newest())
    assert before.last_id == newest
    rows = (
        ("HaltRequested", '{"type":"HaltRequested","time_ns":2,"reason":"operator","detail":"<b>","who":"me"}'),
        ("ModelPromoted", '{"type":"ModelPromoted","version":"v2","previous":"v1"}'),
        ("CandidateRefused", '{"type":"CandidateRefused","version":"v3","reason":"digest"}'),
        *(
            ("LadderMoved", f'{{"type":"LadderMoved","version":"v2","reason":"{reason}","figures":{{"n":{number}}}}}')
            for number, reason in enumerate(("peak", "peak", "session", "peak"))
        ),
    )
    effects = '[{"type":"RaiseAlarm","name":"operator","detail":"<b>"}]'
    for number, (kind, payload) in enumerate(rows, newest + 1):
        values = (number, number, 5_000_000_000, kind, payload, effects if kind == "HaltRequested" else "[]")
        execute(tmp_path, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, x'')", *values)
    after = read_on(reader, before)
    reader.close()
    assert [(line.time, line.name, line.detail) for line in after.commands[:1]] == [
        (5.0, "halt", "operator: <b> (by me)")
    ]
    assert (after.alarms[0].name, after.alarms[0].detail) == ("operator", "<b>")
    assert [(line.name, line.detail) for line in after.swaps[:2]] == [
        ("refused", "v3: digest"),
        ("activated", "v2 in place of v1"),
    ]
    assert after.starts == before.starts
    # of peaks in a row the newest one stands
    assert [(line.reason, line.figures["n"]) for line in after.steps] == [("peak", 3), ("session", 2), ("peak", 1)]


def test_the_stream_tells_what_the_journal_got_since(desk: desk_run.Desk, tmp_path: Path) -> None:
    desk.run(tmp_path, source=until(400))
    with (
        serving(tmp_path) as dashboard,
        closing(http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=120)) as connection,
    ):
        connection.request("GET", "/api/stream")
        answer = connection.getresponse()

        def read_message() -> dict[str, object]:
            while True:
                line = answer.readline().decode()
                if line.startswith("data: "):
                    message: dict[str, object] = json.loads(line.removeprefix("data: "))
                    return message

        first = read_message()
        run = desk.run(tmp_path)
        assert run.failure is None
        last = read_message()
        while last["seq"] == first["seq"] or not last["session_ended"]:
            last = read_message()
    assert run.engine is not None
    assert last["seq"] == run.engine.machine.state.seq
