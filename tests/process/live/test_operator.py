"""An operator at a live desk: each command acts and leaves both books equal, and nothing beside the desk holds it up.

`rltraderctl` speaks to a real daemon that trades at the loopback Alpaca. Expected values are the server's book and log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from daemon.core.events import (
    BarClosed,
    Event,
    FlattenRequested,
    HaltRequested,
    ModelPromoted,
    PauseRequested,
    PolicyAnswered,
    ResumeRequested,
)
from daemon.core.state import digest
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event
from daemon.models.pointer import CURRENT, point
from daemon.operator.control.client import CommandRequest, ask
from strategies.kit.manifest import MANIFEST_FILE
from tests.support.dashboards import serving, slow_pages
from tests.support.desks.desk_run import command, environment, verified
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, Tape, entries, flat, holding, new_york_ns, stage, until
from tests.support.outside.other_user import GROUP, as_stranger, looked

DAY = "2024-10-31"
BEGIN = "10:06"  # three minutes before the lively policy's first entry
PAUSED_MIN = 15  # two entries of the lively policy would fall into it
MINUTE_NS = 60_000_000_000
STOPPING = (PauseRequested, FlattenRequested, HaltRequested)
SMALL_LOSS = 0.001  # of the day's equity: a trade or two of the lively policy
STOP_S = 20.0  # less than service.stop_deadline_s


def send(desk: Stage, word: str, *more: str) -> None:
    """`rltraderctl` asks the running daemon, which does it."""
    arguments = [word, "--state-dir", str(desk.state_dir), "--reason", f"a test of {word}", "--who", "alice", *more]
    assert ctl.main(arguments) == 0


def second_version(store: Path) -> None:
    """The lively policy once more, as version `second`, which no pointer names."""
    shelf = store / "option_scalper"
    shutil.copytree(shelf / "lively", shelf / "second")
    manifest = json.loads((shelf / "second" / MANIFEST_FILE).read_text())
    (shelf / "second" / MANIFEST_FILE).write_text(json.dumps({**manifest, "version": "second"}))


def story(state_dir: Path) -> list[tuple[Event, list[dict[str, Any]]]]:
    """The journal's events and what each asked for."""
    reader = JournalReader(state_dir / FILE)
    try:
        return [(decode_event(entry.payload), json.loads(entry.effects or "[]")) for entry in reader.entries()]
    finally:
        reader.close()


def has_bought(desk: Stage, after: int) -> bool:
    """Whether the server has more than `after` accepted entries."""
    return entries(desk) > after


def knows_flat(desk: Stage) -> bool:
    """Whether the desk says of itself that it holds nothing and that no order works."""
    status = ask(desk.state_dir, CommandRequest(1, "status")).status
    return status is not None and not status.positions and not status.orders


@contextlib.contextmanager
def watching(desk: Stage) -> Iterator[Path]:
    """`rltraderctl status --watch`, its output in a file."""
    output = desk.folder / "watched"
    line = command("daemon.cli.ctl", "status", "--watch", "--json", "--state-dir", desk.state_dir)
    with output.open("wb") as out:
        running = subprocess.Popen(line, cwd=desk.folder, env=environment(), stdout=out)
    try:
        yield output
    finally:
        running.kill()
        running.wait()


def test_each_command_acts_on_a_trading_desk_and_leaves_both_books_equal(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(lively, store)
    second_version(store)
    with ExitStack() as stack:
        desk = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", store))
        desk.start()
        desk.until_true(partial(holding, desk), "the first position")
        output = stack.enter_context(watching(desk))

        send(desk, "pause")
        desk.until_time(desk.clock.now_ns() + PAUSED_MIN * MINUTE_NS)
        desk.until_true(partial(flat, desk), "the exit goes on")
        desk.until_true(lambda: "a test of pause" in output.read_text(), "the watcher shows the pause")
        before = entries(desk)
        send(desk, "resume")
        desk.until_true(partial(has_bought, desk, before), "an entry after the pause")

        point(store / "option_scalper", CURRENT, "second", author="alice", why="a test", now_ns=0)
        send(desk, "reload")
        desk.until_true(lambda: bool(desk.journaled("ModelPromoted")), "the second version answers")

        desk.until_true(partial(holding, desk), "a position to flatten")
        send(desk, "flatten", "--yes")
        desk.until_true(partial(flat, desk), "all was left")
        send(desk, "resume")
        desk.until_true(partial(has_bought, desk, entries(desk)), "an entry after the flatten")

        for stream in ("stock", "option", "trade"):
            desk.server.faults.add("upgrade_refused", where={"stream": stream}, times=10_000)
            desk.server.faults.add("socket_drop", where={"stream": stream})
        desk.until_true(lambda: bool(desk.read_log("trade_stream_lost")), "the streams are gone")
        send(desk, "halt")
        (halt,) = [event for event, _ in story(desk.state_dir) if isinstance(event, HaltRequested)]
        halted_ns = desk.clock.now_ns()
        desk.server.call(desk.server.faults.clear)
        desk.until_true(partial(flat, desk), "exits go on under a halt")
        desk.until_true(lambda: "a test of halt" in output.read_text(), "the watcher shows the halt")
        desk.until_time(halted_ns + PAUSED_MIN * MINUTE_NS)
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(STOP_S) == 0, desk.log()[-2000:]
        statuses = [json.loads(line) for line in output.read_text().splitlines() if line.endswith("}")]
        books = desk.books()
        assert differences(books, desk.account) == []
    assert (halt.reason, halt.detail, halt.who) == ("operator", "a test of halt", f"control/alice (uid {os.geteuid()})")
    assert books.state.risk.halt.reason == "operator"
    refusing = {gate for row in books.decisions for gate, why in json.loads(row["gates"] or "{}").items() if why}
    assert {"paused", "halted"} <= refusing
    assert next(status["pause"] for status in statuses if status["pause"]) == f"a test of pause (by {halt.who})"
    assert statuses[-1]["seq"] <= books.state.seq
    assert verified(desk.state_dir).difference == ""
    _check_order(story(desk.state_dir))
    _swapped_between_two_bars(desk.state_dir)


def _check_order(journaled: list[tuple[Event, list[dict[str, Any]]]]) -> None:
    """Each command is one event, and none of them sent an entry; from pause, flatten or halt to resume nothing did."""
    names = [type(event).__name__ for event, _ in journaled if type(event).__name__.endswith("Requested")]
    assert names == [
        "PauseRequested",
        "ResumeRequested",
        "ReloadRequested",
        "FlattenRequested",
        "ResumeRequested",
        "HaltRequested",
        "StopRequested",
    ]
    is_stopped = False
    for event, effects in journaled:
        is_stopped = not isinstance(event, ResumeRequested) and (is_stopped or isinstance(event, STOPPING))
        orders = [effect for effect in effects if effect["type"] == "SubmitOrder"]
        if is_stopped or type(event).__name__.endswith("Requested"):
            assert [effect for effect in orders if effect["side"] > 0] == []


def _swapped_between_two_bars(state_dir: Path) -> None:
    """No minute is missing or came twice, and each answer after the promotion is the new model's."""
    version, minutes, answers = "lively", [], []
    for event, _ in story(state_dir):
        match event:
            case BarClosed(bar=bar) if bar.start_ns >= new_york_ns(DAY, "09:30"):
                minutes.append(bar.start_ns)
            case ModelPromoted(previous="lively", version="second"):
                version = "second"
            case PolicyAnswered(model=model):
                answers.append((model, version))
            case _:
                pass
    assert minutes == list(range(minutes[0], minutes[-1] + 1, MINUTE_NS))
    assert all(model == running for model, running in answers)
    assert {model for model, _ in answers} == {"lively", "second"}


def test_a_halt_for_the_days_loss_ends_with_a_reset_alone_and_the_desk_trades_again(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path / "stage", lively) as desk:
        desk.start(tables=({"risk": {"daily_loss_max": SMALL_LOSS}},))
        desk.until_true(lambda: "daily_loss" in desk.halts(), "the day's loss halts")
        desk.until_true(partial(flat, desk), "all was left")
        cash = desk.server.call(lambda: desk.account.cash)
        assert cash < desk.account.last_equity * (1 - Decimal(str(SMALL_LOSS)))
        arguments = ["resume", "--state-dir", str(desk.state_dir), "--reason", "a test"]
        assert ctl.main(arguments) == 1
        assert "resume --reset-limits" in "".join(capsys.readouterr())
        before = entries(desk)
        assert ctl.main([*arguments, "--reset-limits"]) == 0
        desk.until_true(partial(has_bought, desk, before), "an entry after the reset")
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(STOP_S) == 0, desk.log()[-2000:]
        assert differences(desk.books(), desk.account) == []


# --- the end ------------------------------------------------------------------------------------------------------


def swallowing() -> socket.socket:
    """A socket to which one can connect, and which never answers."""
    return socket.create_server(("127.0.0.1", 0), backlog=64)


def hanging(folder: Path) -> Path:
    """A program that writes down its process and that of what it started, and never ends."""
    program = folder / "hanging"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {folder / 'alarmed'}\nwait\n")
    program.chmod(0o755)
    return program


def lives(process: str) -> bool:
    """Whether a process with this id runs; one that was killed and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_beside_the_desk_holds_up_its_end_and_a_second_user_sees_it_afterwards(
    bundled: Tape, lively: Path
) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # not below a folder of ours alone
        folder.chmod(0o755)
        store = folder / "store"
        shutil.copytree(lively, store)
        second_version(store)
        alarmed = folder / "alarmed"
        hole = stack.enter_context(swallowing())
        tables: dict[str, dict[str, object]] = {
            "mqtt": {"enabled": True, "port": hole.getsockname()[1], "tls": False},
            "alarms": {"command": [str(hanging(folder))], "timeout_s": 600.0},
        }
        desk = stack.enter_context(stage(bundled, DAY, BEGIN, folder / "stage", store, tables))
        daemon = desk.start()
        desk.until_true(partial(holding, desk), "a position")
        dashboard = stack.enter_context(serving(desk.state_dir))
        for page in slow_pages(dashboard.port, 5):
            stack.enter_context(page)
        send(desk, "halt")
        until(lambda: alarmed.exists() and len(alarmed.read_text().split()) == 2, "the alarm's program began")
        desk.until_true(partial(knows_flat, desk), "the desk heard of its last exit")
        point(store / "option_scalper", CURRENT, "second", author="alice", why="a test", now_ns=0)
        send(desk, "reload")
        daemon.terminate()  # while a version is tried
        assert daemon.wait(STOP_S) == 0, desk.log()[-2000:]
        assert desk.read_log("stop_late") == []
        assert desk.read_log("task_failed") == []
        until(lambda: not any(map(lives, alarmed.read_text().split())), "the alarm's program, which was killed, ended")
        assert desk.journaled("CandidateRefused") == []
        books = desk.books()
        until(lambda: dashboard.json("/api/now")["seq"] == books.state.seq, "the dashboard shows the end")
        assert differences(books, desk.account) == []
        assert verified(desk.state_dir).difference == ""
        if os.geteuid() == 0:  # only root can become another user
            shutil.chown(desk.state_dir, group=GROUP)
            desk.state_dir.chmod(0o750)
            for file in desk.state_dir.glob(f"{FILE}*"):
                shutil.chown(file, group=GROUP)
                file.chmod(0o640)
            view = as_stranger(looked(desk.state_dir))
            assert (view["problem"], view["digest"]) == ("", digest(books.state))
