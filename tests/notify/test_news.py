"""What a journal says in messages, against the journal's own tables; and the line of the alarm command."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from daemon.core.events import ModelPromoted
from daemon.journal.journal import FILE
from daemon.journal.rows import Entry
from daemon.notify.news import ALARMS, DAYS, FILLS, KINDS, MODELS, TRADES, NewsReader, Notification, of_alarm
from daemon.notify.news import _models as of_models
from daemon.operator.urgency import Urgency, urgency_of
from tests.support.desks.desk_run import Desk, tape_rows, write_tape

LINE = {
    "v": 1, "desk": "paper-1", "strategy": "option_scalper", "mode": "paper", "alarm": "wal_large",
    "detail": "mib 300\x1b[8m", "time_ns": 0, "time": "2023-11-14T22:13:20+00:00", "halted": False, "missed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk after two sessions in which it traded."""
    folder = tmp_path_factory.mktemp("desk")
    assert Desk(write_tape(folder / "tape.csv", tape_rows(2, 75))).run(folder / "state").failure is None
    return folder / "state"


def from_the_start(state: Path, *kinds: str) -> NewsReader:
    return NewsReader(state, kinds or tuple(KINDS), since_ns=0)


def test_a_journal_that_stands_still_has_no_news(state: Path) -> None:
    assert list(NewsReader(state, KINDS).read()) == []


def test_every_fill_alarm_and_session_is_one_message(state: Path) -> None:
    news = from_the_start(state)
    messages = list(news.read())
    with closing(sqlite3.connect(state / FILE)) as db:
        fills = db.execute("SELECT count(*) FROM fills").fetchone()[0]
        sessions = db.execute("SELECT count(*) FROM events WHERE kind = 'SessionEnded'").fetchone()[0]
        trades = db.execute("SELECT count(*) FROM moves WHERE held = 0 AND opened_ns <> 0").fetchone()[0]
        effects = [effect for (text,) in db.execute("SELECT effects FROM events") for effect in json.loads(text)]
    alarms = sum(effect["type"] == "RaiseAlarm" for effect in effects)
    assert fills > 0
    assert sessions == 5  # two whole sessions and three stubs before them
    assert Counter(message.kind for message in messages) == Counter(
        {FILLS: fills, ALARMS: alarms, DAYS: sessions, TRADES: trades}
    )
    assert list(news.read()) == []  # once
    first = next(message for message in messages if message.kind == FILLS)
    assert first.title.startswith(f"{news.desk}: bought ")
    day = next(message for message in messages if message.kind == DAYS)
    assert " fill" in day.body or "order" in day.body


def test_the_grave_alarms_of_before_a_start_are_known_and_no_others(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE)) as db:
        rows = db.execute("SELECT time_ns, effects FROM events ORDER BY id").fetchall()
    raised = [
        (time_ns, effect["name"])
        for time_ns, text in rows
        for effect in json.loads(text)
        if effect["type"] == "RaiseAlarm" and urgency_of(effect["name"]) == Urgency.GRAVE
    ]
    assert raised
    news = NewsReader(state, KINDS)
    assert [message.what for message in news.grave_since(0)] == [name for _, name in raised]
    since_ns = raised[-1][0]
    assert [message.what for message in news.grave_since(since_ns)] == [n for time, n in raised if time >= since_ns]
    assert news.grave_since(rows[-1][0] + 1) == []
    assert NewsReader(state, (FILLS,)).grave_since(0) == []
    assert list(news.read()) == []


def test_a_journal_that_was_waited_for_is_read_from_then_on(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE)) as db:
        times = [row[0] for row in db.execute("SELECT time_ns FROM events WHERE kind = 'OrderFilled' ORDER BY id")]
    middle, end = times[len(times) // 2], times[-1] + 10**18
    assert len(list(NewsReader(state, (FILLS,), middle).read())) == sum(time >= middle for time in times)
    assert list(NewsReader(state, KINDS, end).read()) == []


def test_a_journal_that_is_begun_anew_is_heard_from_its_first_row(state: Path, tmp_path: Path) -> None:
    shutil.copy(state / FILE, tmp_path)
    news = NewsReader(tmp_path, (ALARMS, FILLS))
    other = tmp_path / "other"
    assert Desk(write_tape(tmp_path / "tape.csv", tape_rows(1, 75))).run(other).failure is None
    (other / FILE).replace(tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        fills = db.execute("SELECT count(*) FROM fills").fetchone()[0]
    assert 0 < fills == sum(message.kind == FILLS for message in news.read())
    assert list(news.read()) == []


def test_an_older_copy_of_the_journal_is_heard_from_where_it_goes_on(state: Path, tmp_path: Path) -> None:
    shutil.copy(state / FILE, tmp_path)
    news = NewsReader(tmp_path, (ALARMS, FILLS))
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        alarm = ("BrokerReported", "{}", '[{"type": "RaiseAlarm", "name": "reconciliation", "detail": "apart"}]', b"")
        later_ns = db.execute("SELECT max(time_ns) + 60000000000 FROM events").fetchone()[0]
        db.execute("DELETE FROM events WHERE id > 100")
        db.commit()
        assert list(news.read()) == []
        db.execute("INSERT INTO events VALUES (101, NULL, ?, ?, ?, ?, ?)", (later_ns, *alarm))
        db.commit()
    assert [message.what for message in news.read()] == ["reconciliation"]


def test_only_what_was_chosen_is_sent(state: Path) -> None:
    assert {message.kind for message in from_the_start(state, FILLS).read()} == {FILLS}


DAMAGES = {
    "effects": "UPDATE events SET effects = 'no json' WHERE id = ?",
    "an effect": "UPDATE events SET effects = '[1]' WHERE id = ?",
    "payload": "UPDATE events SET payload = x'7bff' WHERE id = ?",
    "time": "UPDATE events SET time_ns = 'noon' WHERE id = ?",
}


@pytest.fixture
def copied(state: Path, tmp_path: Path) -> Path:
    with closing(sqlite3.connect(state / FILE)) as db, closing(sqlite3.connect(tmp_path / FILE)) as copy:
        db.backup(copy)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_skipped_and_named_and_what_follows_is_told(copied: Path, damage: str) -> None:
    whole = list(from_the_start(copied, FILLS, ALARMS).read())
    with closing(sqlite3.connect(copied / FILE)) as db:
        fills = [row[0] for row in db.execute("SELECT id FROM events WHERE kind = 'OrderFilled' ORDER BY id")]
        db.execute(DAMAGES[damage], (fills[1],))
        db.commit()
    news = from_the_start(copied, FILLS, ALARMS)
    messages = list(news.read())
    damaged = [message for message in messages if message.what == "damaged_row"]
    assert [f"row {fills[1]} of the journal" in message.body for message in damaged] == [True]
    rest = [message for message in messages if message not in damaged]
    assert len(whole) - len(rest) <= 1
    assert rest[-1] == whole[-1]
    assert list(news.read()) == []


def test_rows_that_sqlite_cannot_read_are_passed_over_and_counted(copied: Path) -> None:
    whole = list(from_the_start(copied, FILLS).read())
    damaged_page(copied / FILE)
    news, messages = from_the_start(copied, FILLS), list[Notification]()
    for _ in range(3):
        messages += news.read()
    (damaged,) = [message for message in messages if message.what == "damaged_row"]
    assert re.match(r"rows \d+ to \d+ of the journal gave no message and was skipped: DatabaseError: ", damaged.body)
    at = messages.index(damaged)
    assert messages[:at] == whole[:at]
    assert messages[at + 1 :] == whole[len(whole) - (len(messages) - at - 1) :]
    assert 0 < at < len(messages) - 1  # messages from both sides of the damage


def damaged_page(path: Path) -> None:
    """Overwrite a page of the table of events, in the last quarter."""
    with closing(sqlite3.connect(path)) as db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        leaves = "SELECT pageno FROM dbstat WHERE name = 'events' AND pagetype = 'leaf' ORDER BY path"
        pages = [row[0] for row in db.execute(leaves)]
    with path.open("r+b") as file:
        file.seek((pages[len(pages) * 3 // 4] - 1) * size)
        file.write(b"\xff" * size)


def test_a_model_s_change_names_both_versions() -> None:
    def change(kind: str, **fields: str) -> list[tuple[str, str]]:
        entry = Entry(1, 1, 0, kind, json.dumps(fields), "[]", b"")
        return [(title, body.splitlines()[0]) for _, title, body in of_models(entry, None)]  # type: ignore[arg-type]

    assert change("ModelPromoted", version="v2", previous="v1") == [("model activated", "v2 in place of v1")]
    assert ModelPromoted.__name__ == "ModelPromoted"
    assert change("CandidateRefused", version="v3", reason="digest") == [("model refused", "v3: digest")]
    assert MODELS in KINDS


def test_the_line_of_the_alarm_command_becomes_a_message_that_commands_no_terminal() -> None:
    message = of_alarm(json.dumps(LINE | {"halted": True, "missed": 2}))
    assert message.title == "paper-1: wal_large"
    assert message.body.splitlines() == [
        "mib 300\\x1b[8m", "The journal's write-ahead log is long: a reader holds on to an old view of it.",
        "The desk is halted: no new risk until it is resumed.",
        "2 earlier alarms had no message of their own.", "2023-11-14T22:13:20+00:00",
    ]  # fmt: skip
    assert len(of_alarm(json.dumps(LINE)).body.splitlines()) == 3
    assert len(of_alarm(json.dumps(LINE | {"alarm": "exit_stuck"})).body.splitlines()) == 2  # its detail is in words


def test_a_long_detail_shows_that_it_is_cut() -> None:
    first, *_ = of_alarm(json.dumps(LINE | {"detail": "SPY: 100 " * 100})).body.splitlines()
    assert first.endswith("…")
    assert ("SPY: 100 " * 100).startswith(first[:-1])


def test_a_halt_is_grave_and_says_what_it_stops_in_what_the_journal_tells_too(state: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(state, copy)
    raised = [
        {"type": "RaiseAlarm", "name": name, "detail": "d"} for name in ("fill_mismatch", "foreign_order", "blind")
    ]
    with closing(sqlite3.connect(copy / FILE)) as db, db:
        db.execute("UPDATE events SET effects = ? WHERE id = (SELECT max(id) FROM events)", (json.dumps(raised),))
    messages = NewsReader(copy, (ALARMS,)).grave_since(0)[-3:]
    assert [message.what for message in messages] == ["fill_mismatch", "foreign_order", "blind"]
    halted = "The desk is halted: no new risk until it is resumed."
    assert [halted in message.body.splitlines() for message in messages] == [
        True,
        False,
        False,
    ]  # these two may be alone


@pytest.mark.parametrize("line", ["", "[]", '{"desk": "a"}', "no json"])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"standard input has .*; expected the line of an alarm"):
        of_alarm(line)
