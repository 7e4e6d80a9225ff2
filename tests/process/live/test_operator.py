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
from tests.support.dashboards import serving
from tests.support.desks.desk_run import command, environment, verified
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, Tape, entries, flat, holding, new_york_ns, stage, until
from tests.support.outside.operator_side import slow_pages
from tests.support.outside.other_user import GROUP, as_stranger, looked

DAY = "2024-10-31"
BEGIN = "10:06"  # three minutes before the lively policy's first entry
PAUSED_MIN = 15  # two entries of the lively policy would fall into it
MINUTE_NS = 60_000_000_000
STOPPING = (PauseRequested, FlattenRequested, HaltRequested)
SMALL_LOSS = 0.001  # of the day's equity: a trade or two of the lively policy
STOP_S = 20.0  # less than service.stop_deadline_s


def send(played: Stage, word: str, *more: str) -> None:
    """`rltraderctl` asks the running daemon, which does it."""
    arguments = [word, "--state-dir", str(played.state_dir), "--reason", f"a test of {word}", "--who", "alice", *more]
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


def bought(played: Stage, after: int) -> bool:
    """Whether the server has more than `after` accepted entries."""
    return entries(played) > after


def knows_flat(played: Stage) -> bool:
    """Whether the desk says of itself that it holds nothing and that no order works."""
    status = ask(played.state_dir, CommandRequest(1, "status")).status
    return status is not None and not status.positions and not status.orders


@contextlib.contextmanager
def watching(played: Stage) -> Iterator[Path]:
    """`rltraderctl status --watch`, its output in a file."""
    output = played.folder / "watched"
    line = command("daemon.cli.ctl", "status", "--watch", "--json", "--state-dir", played.state_dir)
    with output.open("wb") as out:
        running = subprocess.Popen(line, cwd=played.folder, env=environment(), stdout=out)
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
        played = stack.enter_context(stage(bundled, DAY, BEGIN, tmp_path / "stage", store))
        played.start()
        played.until_true(partial(holding, played), "the first position")
        output = stack.enter_context(watching(played))

        send(played, "pause")
        played.until_time(played.clock.now_ns() + PAUSED_MIN * MINUTE_NS)
        played.until_true(partial(flat, played), "the exit goes on")
        played.until_true(lambda: "a test of pause" in output.read_text(), "the watcher shows the pause")
        before = entries(played)
        send(played, "resume")
        played.until_true(partial(bought, played, before), "an entry after the pause")

        point(store / "option_scalper", CURRENT, "second", author="alice", why="a test", now_ns=0)
        send(played, "reload")
        played.until_true(lambda: bool(played.journaled("ModelPromoted")), "the second version answers")

        played.until_true(partial(holding, played), "a position to flatten")
        send(played, "flatten", "--yes")
        played.until_true(partial(flat, played), "all was left")
        send(played, "resume")
        played.until_true(partial(bought, played, entries(played)), "an entry after the flatten")

        for stream in ("stock", "option", "trade"):
            played.server.faults.add("upgrade_refused", where={"stream": stream}, times=10_000)
            played.server.faults.add("socket_drop", where={"stream": stream})
        played.until_true(lambda: bool(played.read_log("trade_stream_lost")), "the streams are gone")
        send(played, "halt")
        (halt,) = [event for event, _ in story(played.state_dir) if isinstance(event, HaltRequested)]
        halted_ns = played.clock.now_ns()
        played.server.call(played.server.faults.clear)
        played.until_true(partial(flat, played), "exits go on under a halt")
        played.until_true(lambda: "a test of halt" in output.read_text(), "the watcher shows the halt")
        played.until_time(halted_ns + PAUSED_MIN * MINUTE_NS)
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(STOP_S) == 0, played.log()[-2000:]
        watched = [json.loads(line) for line in output.read_text().splitlines() if line.endswith("}")]
        ours = played.books()
        assert differences(ours, played.account) == []
    assert (halt.reason, halt.detail, halt.who) == ("operator", "a test of halt", f"control/alice (uid {os.geteuid()})")
    assert ours.state.risk.halt.reason == "operator"
    refusing = {gate for row in ours.decisions for gate, why in json.loads(row["gates"] or "{}").items() if why}
    assert {"paused", "halted"} <= refusing
    assert next(seen["pause"] for seen in watched if seen["pause"]) == f"a test of pause (by {halt.who})"
    assert watched[-1]["seq"] <= ours.state.seq
    assert verified(played.state_dir).difference == ""
    _check_order(story(played.state_dir))
    _swapped_between_two_bars(played.state_dir)


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
    stopped = False
    for event, effects in journaled:
        stopped = not isinstance(event, ResumeRequested) and (stopped or isinstance(event, STOPPING))
        sent = [effect for effect in effects if effect["type"] == "SubmitOrder"]
        if stopped or type(event).__name__.endswith("Requested"):
            assert [effect for effect in sent if effect["side"] > 0] == []


def _swapped_between_two_bars(state_dir: Path) -> None:
    """No minute is missing or came twice, and each answer after the promotion is the new model's."""
    version, minutes, answered = "lively", [], []
    for event, _ in story(state_dir):
        match event:
            case BarClosed(bar=bar) if bar.start_ns >= new_york_ns(DAY, "09:30"):
                minutes.append(bar.start_ns)
            case ModelPromoted(previous="lively", version="second"):
                version = "second"
            case PolicyAnswered(model=model):
                answered.append((model, version))
            case _:
                pass
    assert minutes == list(range(minutes[0], minutes[-1] + 1, MINUTE_NS))
    assert all(model == running for model, running in answered)
    assert {model for model, _ in answered} == {"lively", "second"}


def test_a_halt_for_the_days_loss_ends_with_a_reset_alone_and_the_desk_trades_again(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage(bundled, DAY, BEGIN, tmp_path / "stage", lively) as played:
        played.start(tables=({"risk": {"daily_loss_max": SMALL_LOSS}},))
        played.until_true(lambda: "daily_loss" in played.halts(), "the day's loss halts")
        played.until_true(partial(flat, played), "all was left")
        cash = played.server.call(lambda: played.account.cash)
        assert cash < played.account.last_equity * (1 - Decimal(str(SMALL_LOSS)))
        arguments = ["resume", "--state-dir", str(played.state_dir), "--reason", "a test"]
        assert ctl.main(arguments) == 1
        assert "resume --reset-limits" in "".join(capsys.readouterr())
        before = entries(played)
        assert ctl.main([*arguments, "--reset-limits"]) == 0
        played.until_true(partial(bought, played, before), "an entry after the reset")
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(STOP_S) == 0, played.log()[-2000:]
        assert differences(played.books(), played.account) == []


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
        played = stack.enter_context(stage(bundled, DAY, BEGIN, folder / "stage", store, tables))
        daemon = played.start()
        played.until_true(partial(holding, played), "a position")
        dashboard = stack.enter_context(serving(played.state_dir))
        for page in slow_pages(dashboard.port, 5):
            stack.enter_context(page)
        send(played, "halt")
        until(lambda: alarmed.exists() and len(alarmed.read_text().split()) == 2, "the alarm's program began")
        played.until_true(partial(knows_flat, played), "the desk heard of its last exit")
        point(store / "option_scalper", CURRENT, "second", author="alice", why="a test", now_ns=0)
        send(played, "reload")
        daemon.terminate()  # while a version is tried
        assert daemon.wait(STOP_S) == 0, played.log()[-2000:]
        assert played.read_log("stop_late") == []
        assert played.read_log("task_failed") == []
        until(lambda: not any(map(lives, alarmed.read_text().split())), "the alarm's program, which was killed, ended")
        assert played.journaled("CandidateRefused") == []
        ours = played.books()
        until(lambda: dashboard.json("/api/now")["seq"] == ours.state.seq, "the dashboard shows the end")
        assert differences(ours, played.account) == []
        assert verified(played.state_dir).difference == ""
        if os.geteuid() == 0:  # only root can become another user
            shutil.chown(played.state_dir, group=GROUP)
            played.state_dir.chmod(0o750)
            for file in played.state_dir.glob(f"{FILE}*"):
                shutil.chown(file, group=GROUP)
                file.chmod(0o640)
            seen = as_stranger(looked(played.state_dir))
            assert (seen["problem"], seen["digest"]) == ("", digest(ours.state))
