"""What a journal says in messages, against the journal's own tables; and the line of the alarm command."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from daemon.core.events import ModelPromoted
from daemon.journal.journal import FILE
from daemon.notify.news import ALARMS, DAYS, FILLS, KINDS, MODELS, News, of_alarm
from daemon.notify.news import _model as of_model
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


def from_the_start(state: Path, *kinds: str) -> News:
    return News(state, kinds or tuple(KINDS), since_ns=0)


def test_a_journal_that_stands_still_has_no_news(state: Path) -> None:
    assert list(News(state, KINDS).read()) == []


def test_every_fill_alarm_and_session_is_one_message(state: Path) -> None:
    news = from_the_start(state)
    found = list(news.read())
    with closing(sqlite3.connect(state / FILE)) as db:
        fills = db.execute("SELECT count(*) FROM fills").fetchone()[0]
        ended = db.execute("SELECT count(*) FROM events WHERE kind = 'SessionEnded'").fetchone()[0]
        effects = [effect for (text,) in db.execute("SELECT effects FROM events") for effect in json.loads(text)]
    alarms = sum(effect["type"] == "RaiseAlarm" for effect in effects)
    assert fills > 0
    assert ended == 5  # two whole sessions and three stubs before them
    assert Counter(message.kind for message in found) == Counter({FILLS: fills, ALARMS: alarms, DAYS: ended})
    assert list(news.read()) == []  # once
    first = next(message for message in found if message.kind == FILLS)
    assert first.title.startswith(f"{news.desk}: bought ")
    day = next(message for message in found if message.kind == DAYS)
    assert " fill" in day.body or "order" in day.body


def test_a_journal_that_was_waited_for_is_read_from_then_on(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE)) as db:
        times = [row[0] for row in db.execute("SELECT time_ns FROM events WHERE kind = 'OrderFilled' ORDER BY id")]
    middle, end = times[len(times) // 2], times[-1] + 10**18
    assert len(list(News(state, (FILLS,), middle).read())) == sum(time >= middle for time in times)
    assert list(News(state, KINDS, end).read()) == []


def test_only_what_was_chosen_is_sent(state: Path) -> None:
    assert {message.kind for message in from_the_start(state, FILLS).read()} == {FILLS}


def test_a_model_s_change_names_both_versions() -> None:
    assert of_model("ModelPromoted", {"version": "v2", "previous": "v1"}) == ("model activated", "v2 in place of v1")
    assert ModelPromoted.__name__ == "ModelPromoted"
    assert of_model("CandidateRefused", {"version": "v3", "reason": "digest"}) == ("model refused", "v3: digest")
    assert MODELS in KINDS


def test_the_line_of_the_alarm_command_becomes_a_message_that_commands_no_terminal() -> None:
    message = of_alarm(json.dumps(LINE | {"halted": True, "missed": 2}))
    assert message.title == "paper-1: wal_large"
    assert message.body.splitlines() == [
        "mib 300\\x1b[8m", "The desk is halted: no new risk until it is resumed.",
        "2 earlier alarms had no message of their own.", "2023-11-14T22:13:20+00:00",
    ]  # fmt: skip
    assert len(of_alarm(json.dumps(LINE)).body.splitlines()) == 2


@pytest.mark.parametrize("line", ["", "[]", '{"desk": "a"}', "no json"])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, or ours
        of_alarm(line)
