"""`rltrader-notify` as it is used: a test message, an alarm of the daemon, and a desk that is followed."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.host.service import Service
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalBusy, JournalError
from daemon.notify import command
from daemon.notify.command import main
from daemon.notify.news import Notification
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.inbox import Inbox, inbox
from tests.support.paths import REPOSITORY

pytest.importorskip("apprise", reason="needs apprise: make training installs it")
LINE = {"desk": "paper-1", "alarm": "wal_large", "detail": "mib 300", "time": "2023-11-14T22:13:20+00:00"}


def urls_file(folder: Path, *boxes: Inbox) -> Path:
    (folder / "urls").write_text("".join(f"{box.url}\n" for box in boxes))
    return folder / "urls"


def test_a_test_message_arrives_or_the_exit_code_says_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inbox() as box:
        arguments = ["test", "--urls", str(urls_file(tmp_path, box))]
        assert main(arguments) == 0
        assert box.titles == ["rltrader: a test message"]
        assert capsys.readouterr().out == "sent to 1 service\n"
        box.status = 403
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error == "rltrader-notify: not taken by json: check its address and the network\n"
    assert "s3cret" not in error


def test_an_alarm_on_standard_input_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with inbox() as box:
        arguments = ["alarm", "--urls", str(urls_file(tmp_path, box))]
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(LINE)))
        assert main(arguments) == 0
        assert (box.titles, box.messages[0]["message"].splitlines()[0]) == (["paper-1: wal_large"], "mib 300")
        long = {**LINE, "alarm": "reconciliation", "detail": "SPY: book 1, broker 2; " * 10_000}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(long)))
        assert main(arguments) == 0
        assert box.titles[-1] == "paper-1: reconciliation"
        monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
        assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("rltrader-notify: ")


def test_an_alarm_that_one_of_two_services_took_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with inbox() as box, inbox() as dead:
        dead.status = 500
        arguments = ["alarm", "--urls", str(urls_file(tmp_path, dead, box))]
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(LINE)))
        assert main(arguments) == 0
        assert box.titles == ["paper-1: wal_large"]
        assert "not taken by json" in capsys.readouterr().err
        box.status = 500
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(LINE)))
        assert main(arguments) == 1


def test_wrong_use_names_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inbox() as box:
        urls = urls_file(tmp_path, box)
        assert main(["follow", "--urls", str(urls), "--state-dir", str(tmp_path), "--send", "fils"]) == 2
        assert "'fils' is none of alarms, trades, fills, days, models" in capsys.readouterr().err
        (tmp_path / FILE).write_text("no journal")
        assert main(["follow", "--urls", str(urls), "--state-dir", str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(JournalBusy("locked"), 1), (JournalError("damaged"), 2)])
def test_what_may_pass_ends_it_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def fails(_: object) -> int:
        raise error

    monkeypatch.setattr(command, "_listen", fails)
    assert main(["listen", "--config", str(tmp_path / "phone.toml")]) == code
    assert capsys.readouterr().err == f"rltrader-notify: {error}\n"


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_message_that_a_slow_service_takes_feeds_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One turn can send all that waits: what each takes is less than WatchdogSec, together they take more."""
    events: list[str] = []
    messages = [Notification("alarms", f"alarm_{number}", f"title {number}", "") for number in range(4)]

    class News:
        desk = "paper-1"

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def grave_since(self, _: int) -> list[Notification]:
            return []

        def read(self) -> list[Notification]:
            new, messages[:] = list(messages), []
            return new

    def send(_: object, title: str, __: str = "", **more: str) -> list[str]:
        events.append(title)
        if title == "title 3":
            os.kill(os.getpid(), signal.SIGTERM)
        return ["json"]

    (tmp_path / FILE).touch()
    monkeypatch.setattr(command, "NewsReader", News)
    monkeypatch.setattr(command.Services, "send", send)
    monkeypatch.setattr(Service, "watchdog", lambda _: events.append("fed"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with inbox() as box:
            arguments = ["follow", "--urls", str(urls_file(tmp_path, box)), "--state-dir", str(tmp_path)]
            assert main([*arguments, "--per-minute", "60"]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert events[:8] == [word for number in range(4) for word in (f"title {number}", "fed")]


def test_follow_waits_for_the_journal_and_a_halt_then_becomes_a_message(tmp_path: Path) -> None:
    desk = Desk(write_tape(tmp_path / "tape.csv", tape_rows(2, 75)))
    state = tmp_path / "state"
    with inbox() as box:
        line = [sys.executable, "-m", "daemon.notify", "follow", "--state-dir", str(state)]
        line += ["--urls", str(urls_file(tmp_path, box))]
        with subprocess.Popen(
            line, cwd=REPOSITORY, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                waiting = f"rltrader-notify: no journal in {state} yet: waiting until its daemon makes one\n"
                assert process.stdout.readline() == waiting
                assert desk.run(state, engine_made=lambda engine: engine.stop("at once")).failure is None
                assert process.stdout.readline().startswith("rltrader-notify: follows ")
                assert ctl.main(["halt", "--state-dir", str(state), "--reason", "a test", "--who", "ann"]) == 0
                until(lambda: bool(box.messages))
                assert box.titles[0].endswith(": operator")
                assert "a test" in box.messages[0]["message"]
                process.send_signal(signal.SIGTERM)
                assert process.wait(300) == 0
            finally:
                process.kill()


def has(box: Inbox, messages: int) -> bool:
    return len(box.messages) >= messages


def test_a_halt_of_right_before_follow_began_is_told_and_one_of_long_ago_is_not(tmp_path: Path) -> None:
    """A host boots: the desk starts halted while this program still loads."""
    desk = Desk(write_tape(tmp_path / "tape.csv", tape_rows(2, 75)))
    state = tmp_path / "state"
    assert desk.run(state, engine_made=lambda engine: engine.stop("at once")).failure is None
    assert ctl.main(["halt", "--state-dir", str(state), "--reason", "now", "--who", "ann"]) == 0
    with closing(sqlite3.connect(state / FILE)) as db:
        (halted_ns,) = db.execute("SELECT max(time_ns) FROM events").fetchone()
    for later_s, titles in ((200, 1), (400, 0)):
        with inbox() as box:
            started = f"import sys, time; time.time_ns = lambda: {halted_ns} + {later_s} * 10**9\n"
            started += "from daemon.notify.command import main; sys.exit(main())"
            line = [sys.executable, "-c", started, "follow", "--state-dir", str(state)]
            line += ["--urls", str(urls_file(tmp_path, box))]
            environment = {"PATH": os.environ["PATH"]}
            with subprocess.Popen(line, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
                try:
                    assert process.stdout is not None
                    assert process.stdout.readline().startswith("rltrader-notify: follows ")
                    until(partial(has, box, titles))
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(300) == 0
                finally:
                    process.kill()
            assert [title.rpartition(": ")[2] for title in box.titles] == ["operator"] * titles
