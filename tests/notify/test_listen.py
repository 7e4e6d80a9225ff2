"""A person with a phone, a loopback Telegram, the listener, and a desk that takes signed commands of its key alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.notify.desk_line import LocalDesk
from daemon.operator.remote_commands import Judge
from tests.support.desks.desk_at_work import AtWork, in_background
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.phones import KEYS, Heard, heard
from tests.support.outside.telegram import BOT_ID, Telegram, telegram


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 75)))


@pytest.fixture
def server() -> Iterator[Telegram]:
    with telegram() as serving:
        yield serving


@contextmanager
def at_the_phone(server: Telegram, desk: Desk, state: Path) -> Iterator[tuple[AtWork, Heard]]:
    judge = Judge("desk-1", KEYS, time.time_ns)
    with in_background(desk, state, 5, judge=judge) as work:
        line = LocalDesk("desk-1", state, "handset", KEYS["handset"], BOT_ID)
        with heard(server, [line]) as listener:
            yield work, listener


def commands(work: AtWork) -> list[str]:
    """The commands that were journaled."""
    return [type(event).__name__ for event in work.stepped if type(event).__name__.endswith("Requested")]


def test_status_tells_and_pause_asks_first_and_is_then_done_once(server: Telegram, desk: Desk, tmp_path: Path) -> None:
    with at_the_phone(server, desk, tmp_path / "state") as (work, _):
        server.write("/status")
        first = server.until_sent(1)[0]
        assert first.startswith("desk-1 (replay) ")
        assert "Holds nothing; 0 orders at work." in first

        server.write("/Pause@Desk_Bot")
        question = server.until_sent(2)[1]
        assert question.startswith("desk-1: take no new positions until it is resumed?")
        assert commands(work) == []
        server.press("Yes")
        assert server.until_sent(3)[2].startswith("desk-1: done (event ")
        server.until(lambda: len(server.toasts) == 1)
        assert commands(work) == ["PauseRequested"]
        pause = work.submitter.state.risk.pause
        assert pause is not None
        assert pause.reason.startswith("from the phone by ann (Telegram user 4711, update 8740000")
        assert "signed/handset #" in pause.reason

        server.press("Yes")  # the same button again
        assert server.until_sent(4)[3].startswith("No such question is open: nothing was done.")
        assert commands(work) == ["PauseRequested"]
