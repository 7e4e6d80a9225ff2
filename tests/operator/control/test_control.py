"""The control socket: who may command, what is refused, what is journaled before the answer comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from daemon.core.events import CommandRefused
from daemon.operator import submitter
from daemon.operator.control import control
from daemon.operator.control.client import SOCKET, CommandRequest, ControlError, address, ask
from daemon.operator.control.control import ControlServer, listen
from daemon.operator.side_thread import supervise
from tests.support.desks.desk_at_work import AtWork, at_work, in_background, listening, until
from tests.support.desks.desk_run import Desk, chained, tape_rows, verified, write_tape

UID = os.geteuid()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 75)))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def work(desk: Desk, state: Path) -> AsyncIterator[AtWork]:
    async with at_work(desk, state, 5) as running:
        yield running


@pytest.fixture
async def server(work: AtWork, state: Path) -> AsyncIterator[ControlServer]:
    async with listening(work, state) as serving:
        yield serving


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def exchange(state: Path, line: bytes, *, eof: bool = False) -> dict[str, Any]:
    """The answer to these bytes; {} for none."""
    return await asyncio.to_thread(_exchange, state, line, eof)


def _exchange(state: Path, line: bytes, eof: bool) -> dict[str, Any]:
    answer = b""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(ConnectionError):
        client.settimeout(180)
        client.connect(str(state / SOCKET))
        with contextlib.suppress(BrokenPipeError):
            client.sendall(line)
        if eof:
            client.shutdown(socket.SHUT_WR)
        while not answer.endswith(b"\n") and (chunk := client.recv(65536)):
            answer += chunk
    return json.loads(answer) if answer else {}


def line(command: str, reason: str = "why", **more: object) -> bytes:
    return json.dumps({"v": 1, "command": command, "reason": reason, **more}).encode() + b"\n"


def journaled(state: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(row[3]) for row in chained(state) if row[2] == kind]


# --- what commands do ---------------------------------------------------------------------------------------------


async def test_a_command_is_durable_with_its_channel_and_person_when_its_answer_comes(
    work: AtWork, server: ControlServer, state: Path
) -> None:
    answer = await exchange(state, line("halt", " lunch ", who="alice"))
    actor = f"control/alice (uid {UID})"
    last = chained(state)[-1]
    assert (answer["ok"], answer["seq"], answer["error"]) == (True, last[0], "")
    assert {key: json.loads(last[3])[key] for key in ("type", "reason", "detail", "who")} == {
        "type": "HaltRequested",
        "reason": "operator",
        "detail": "lunch",
        "who": actor,
    }
    assert answer["status"]["halt"] == f"operator: lunch (by {actor})"
    assert answer["effects"] == ["RaiseAlarm"]
    assert work.entries("command") == [
        {"command": "halt", "channel": "control", "who": actor, "reason": "lunch", "seq": last[0]}
    ]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("pause", "PauseRequested"),
        ("resume", "ResumeRequested"),
        ("halt", "HaltRequested"),
        ("flatten", "FlattenRequested"),
        ("accept-broker", "AcceptBrokerRequested"),
        ("reload-model", "ReloadRequested"),
    ],
)
async def test_each_command_is_one_event(
    work: AtWork, server: ControlServer, state: Path, command: str, kind: str
) -> None:
    before = len(chained(state))
    answer = await exchange(state, line(command))
    rows = chained(state)
    assert [row[2] for row in rows[before:]] == [kind]
    assert answer["seq"] == before + 1


async def test_a_pause_then_a_resume_show_in_the_answers(work: AtWork, server: ControlServer, state: Path) -> None:
    paused = await exchange(state, line("pause", "news", who="bo"))
    assert (paused["status"]["pause"], paused["status"]["halt"]) == (f"news (by control/bo (uid {UID}))", "")
    resumed = await exchange(state, line("resume", "over", who="bo"))
    assert (resumed["status"]["pause"], resumed["status"]["halt"]) == ("", "")


async def test_status_is_answered_and_not_journaled(work: AtWork, server: ControlServer, state: Path) -> None:
    before = chained(state)
    answer = await exchange(state, b'{"v":1,"command":"status"}\n')
    assert (answer["ok"], answer["seq"]) == (True, 0)
    assert (answer["status"]["desk"], answer["status"]["seq"]) == ("desk-1", work.engine.machine.state.seq)
    assert chained(state) == before
    assert work.entries("command") == []


async def test_without_a_name_the_peer_s_user_stands_for_it(work: AtWork, server: ControlServer, state: Path) -> None:
    await exchange(state, line("pause"))
    process = await asyncio.create_subprocess_exec("id", "-un", stdout=subprocess.PIPE)
    user, _ = await process.communicate()
    assert journaled(state, "PauseRequested")[0]["who"] == f"control/{user.decode().strip()} (uid {UID})"


async def test_a_journal_with_commands_is_identical_when_stepped_again(desk: Desk, state: Path) -> None:
    async with at_work(desk, state, 120) as work, listening(work, state):
        for command in ("pause", "resume", "halt", "flatten", "resume", "reload-model"):
            assert (await exchange(state, line(command)))["ok"]
    assert verified(state).difference == ""


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"halt\n", "an unreadable line"),
        (b'{"v":2,"command":"halt","reason":"x"}\n', "an unreadable line"),
        (b'{"v":1,"command":"halt","reason":"x","buy":"SPY"}\n', "unknown field `buy`"),
        (b'{"v":1,"command":["halt"],"reason":"x"}\n', "an unreadable line"),
        (b'{"v":1,"reason":"x"}\n', "missing required field `command`"),
        (b'{"v":1,"command":"halt","reason":"\xff"}\n', "an unreadable line"),
        (b"[" * 4000 + b"\n", "an unreadable line"),
        (b"\n", "an unreadable line"),
        (b'{"v":1,"command":"halt","reason":"' + b"x" * 4096 + b'"}\n', "a line of more than 4096 bytes"),
        (b"x" * 100_000, "a line of more than 4096 bytes"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_an_alarm_and_nothing_is_done(
    work: AtWork, server: ControlServer, state: Path, sent: bytes, message: str
) -> None:
    answer = await exchange(state, sent)
    if answer:  # a client that still writes when it is cut off may not see why
        assert (answer["ok"], message in answer["error"]) == (False, True)
    await work.quiet()
    refusal = work.stepped[-1]
    assert isinstance(refusal, CommandRefused)
    assert (refusal.channel, message in refusal.reason) == ("control", True)
    assert work.engine.machine.state.risk.halt is None


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (line("buy"), "command is 'buy': expected one of pause, resume, halt, flatten, close, reload-model"),
        (line("halt", "  "), "reason has 0 letters: expected 1 to 500 printable ones"),
        (line("halt", "x" * 501), "reason has 501 letters"),
        (line("halt", "a\nb"), "reason has text with control characters"),
        (line("halt", who="\x1b[2J"), "who has text with control characters"),
    ],
)
async def test_a_command_that_means_nothing_is_answered_and_not_journaled(
    work: AtWork, server: ControlServer, state: Path, sent: bytes, message: str
) -> None:
    before = len(chained(state))
    answer = await exchange(state, sent)
    assert (answer["ok"], answer["seq"]) == (False, 0)
    assert answer["error"].startswith(message)
    assert len(chained(state)) == before


async def test_another_user_is_refused_with_an_alarm(work: AtWork, state: Path) -> None:
    async with listening(work, state, allowed_uids={UID + 1}):
        answer = await exchange(state, line("halt"))
    assert answer == {
        "ok": False,
        "seq": 0,
        "error": f"user id {UID} may not command this desk: its own user and root may",
        "status": None,
        "effects": [],
        "refused": "",
    }
    await work.quiet()
    assert isinstance(work.stepped[-1], CommandRefused)
    assert work.engine.machine.state.risk.halt is None


@pytest.mark.skipif(UID != 0, reason="needs root to become another user")
async def test_a_process_of_another_user_cannot_even_connect_and_is_known_by_the_kernel_where_it_can(
    desk: Desk,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        async with at_work(desk, state, 1) as work, listening(work, state):
            for place in (Path(folder), state):
                place.chmod(0o755)
            assert await _as_nobody(state / SOCKET) == "PermissionError"
            (state / SOCKET).chmod(0o666)  # somebody's mistake
            assert "user id 65534 may not command this desk" in await _as_nobody(state / SOCKET)
            assert work.engine.machine.state.risk.halt is None


async def _as_nobody(path: Path) -> str:
    """What the client of another user prints: the answer, or the error's name."""
    code = (
        "import contextlib, os, socket, sys\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "with socket.socket(socket.AF_UNIX) as c:\n"
        "    try:\n"
        "        c.connect(sys.argv[1])\n"
        "        with contextlib.suppress(BrokenPipeError):\n"
        '            c.sendall(b\'{"v":1,"command":"halt","reason":"x","who":"root"}\\n\')\n'
        "        print(c.recv(4096).decode())\n"
        "    except OSError as error:\n"
        "        print(type(error).__name__)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", code, str(path), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()


async def test_refusals_in_a_row_are_one_alarm_and_counted_in_the_next(
    work: AtWork, server: ControlServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, every_s = asyncio.get_running_loop(), 3600.0  # longer than any machine takes for four commands
    monkeypatch.setattr(submitter, "REFUSAL_EVERY_S", every_s)
    for _ in range(4):
        await exchange(state, b"x\n")
    now_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: now_s() + every_s)
    await exchange(state, line("pause"))  # behind them all
    reasons = [event["reason"] for event in journaled(state, "CommandRefused")]
    assert len(reasons) == 2
    assert "others" not in reasons[0]
    assert reasons[1].endswith("(and 2 others)")


# --- clients that misbehave ---------------------------------------------------------------------------------------


async def test_a_client_that_says_nothing_is_dropped_and_one_that_leaves_is_no_trouble(
    work: AtWork, server: ControlServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT_S", 0.05)
    assert await exchange(state, b"") == {}
    assert await exchange(state, b'{"v":1,"comm') == {}
    assert await exchange(state, b"", eof=True) == {}
    assert "without an end" in (await exchange(state, b'{"v":1', eof=True))["error"]
    assert (await exchange(state, line("status")))["ok"]


async def test_a_client_that_does_not_wait_for_its_answer_is_obeyed_all_the_same(
    work: AtWork, server: ControlServer, state: Path
) -> None:
    _, writer = await asyncio.open_unix_connection(str(state / SOCKET))
    writer.write(line("halt"))
    await writer.drain()
    await close(writer)
    await until(lambda: work.engine.machine.state.risk.halt is not None)
    assert (await exchange(state, line("status")))["status"]["halt"].startswith("operator: why")


async def test_the_ninth_client_at_once_is_told_to_come_again(work: AtWork, server: ControlServer, state: Path) -> None:
    clients = [await asyncio.open_unix_connection(str(state / SOCKET)) for _ in range(8)]
    await asyncio.sleep(0)
    assert (await exchange(state, line("halt")))["error"] == "8 clients are being served: try again in a moment"
    for _, writer in clients:
        await close(writer)
    await until(lambda: not server._socket._clients)
    assert (await exchange(state, line("status")))["ok"]


async def test_a_command_that_the_engine_does_not_come_to_is_said_to_be_open(
    work: AtWork, server: ControlServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "WITHIN_S", 0.01)
    monkeypatch.setattr(work.submitter, "_put", lambda _: None)  # an engine that is busy for good
    answer = await exchange(state, line("halt"))
    assert (answer["ok"], answer["error"]) == (
        False,
        "the engine did not come to it in 0.01 s; it may still be carried out",
    )


async def test_whatever_goes_wrong_with_a_command_is_its_answer_and_the_next_one_is_served(
    work: AtWork, server: ControlServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OverflowError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(work.submitter, "_put", full)
        assert (await exchange(state, line("halt")))["error"] == "OverflowError: no room"
    assert (await exchange(state, line("halt")))["ok"]


# --- the socket ---------------------------------------------------------------------------------------------------


async def test_the_socket_is_its_owner_s_alone_from_the_first_moment_and_goes_with_the_server(
    work: AtWork, state: Path
) -> None:
    before = os.umask(0)  # the most open there is
    try:
        async with listening(work, state):
            status = (state / SOCKET).lstat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        os.umask(before)
    assert not (state / SOCKET).exists()


async def test_a_dead_daemon_s_socket_is_replaced_and_a_living_one_s_is_not(work: AtWork, state: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(state / SOCKET))
    dead.close()
    async with listening(work, state):
        assert (await exchange(state, line("status")))["ok"]
        with pytest.raises(ControlError, match="another process listens here"):
            listen(state)
        assert (await exchange(state, line("status")))["ok"]


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET).write_text("mine")
    with pytest.raises(ControlError, match="something that is no socket: move it away"):
        listen(tmp_path)
    assert (tmp_path / SOCKET).read_text() == "mine"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot listen: No such file or directory"):
        listen(tmp_path / "none")


def test_a_socket_whose_queue_is_full_counts_as_a_living_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / SOCKET))
        busy.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(str(tmp_path / SOCKET))
            except BlockingIOError:
                break
        with pytest.raises(ControlError, match="another process listens here"):
            listen(tmp_path)
        for client in waiting:
            client.close()


async def test_a_socket_that_took_our_place_is_not_taken_away(work: AtWork, state: Path) -> None:
    async with listening(work, state):
        (state / SOCKET).rename(state / "ours")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(state / SOCKET))
    assert (state / SOCKET).exists()


async def test_a_socket_whose_file_is_taken_away_is_made_again(
    work: AtWork, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    server, problems = ControlServer(state, work.submitter, "desk", lambda *_, **__: None), list[str]()
    serving = asyncio.create_task(supervise("control", server.run, lambda _, problem: problems.append(problem)))
    try:
        await until((state / SOCKET).exists)
        (state / SOCKET).unlink()
        await until(lambda: bool(problems))
        await until((state / SOCKET).exists)
        assert (await exchange(state, line("status")))["ok"]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert "control.sock: somebody took it away" in problems[0]


def test_a_path_longer_than_the_kernel_takes_works(desk: Desk, tmp_path: Path) -> None:
    state = tmp_path / ("d" * 100) / ("e" * 100)
    with in_background(desk, state):
        assert ask(state, CommandRequest(1, "pause", "x", "ann")).ok
        assert stat.S_IMODE((state / SOCKET).lstat().st_mode) == 0o600
    assert not (state / SOCKET).exists()
    with address(tmp_path) as short:
        assert short == str(tmp_path / SOCKET)


def test_it_serves_on_the_loop_that_a_daemon_runs_on(desk: Desk, state: Path) -> None:
    async def commanded() -> dict[str, Any]:
        async with at_work(desk, state, 5) as work, listening(work, state):
            return await exchange(state, line("pause", who="ann"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(commanded())["ok"]
    assert not (state / SOCKET).exists()


# --- the client ---------------------------------------------------------------------------------------------------


def test_the_client_gets_what_the_server_answers(desk: Desk, state: Path) -> None:
    with in_background(desk, state, 5):
        answer = ask(state, CommandRequest(1, "halt", "x", "ann"))
        assert answer.status is not None
        assert (answer.ok, answer.seq) == (True, answer.status.seq)
        with pytest.raises(ControlError, match=r"the command has \d+ bytes, at most 4096 are taken"):
            ask(state, CommandRequest(1, "halt", "x" * 5000))


def test_a_client_that_is_refused_before_it_asked_is_told_why(desk: Desk, state: Path) -> None:
    with in_background(desk, state, allowed_uids={UID + 1}):
        answer = ask(state, CommandRequest(1, "halt", "x" * 3000))
    assert (answer.ok, answer.error) == (
        False,
        f"user id {UID} may not command this desk: its own user and root may",
    )


def test_the_client_says_who_does_not_answer(tmp_path: Path) -> None:
    request = CommandRequest(1, "halt", "x")
    with pytest.raises(ControlError, match=r"no control socket: it is starting .* control.enabled = false"):
        ask(tmp_path, request)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / SOCKET))
        with pytest.raises(ControlError, match="no daemon listens: it is starting or ending"):
            ask(tmp_path, request)
        other.listen()
        with pytest.raises(ControlError, match=r"may still be carried out; .* rltraderctl panic needs none"):
            ask(tmp_path, request, 0.05)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "no whole answer came: the daemon ended or dropped the command"),
        (b'{"ok":tr', "no whole answer came"),
        (b'{"ok":7}\n', "an answer of another version"),
    ],
)
def test_the_client_says_what_a_strange_answer_is(tmp_path: Path, reply: bytes, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / SOCKET))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ControlError, match=message):
            ask(tmp_path, CommandRequest(1, "halt", "x"), 5.0)
        thread.join()


def test_a_client_that_is_cut_off_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / SOCKET))
        other.listen()

        def reset() -> None:
            connection, _ = other.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()  # with its line unread: the client's read is reset

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(ControlError, match="the daemon ended or dropped the command"):
            ask(tmp_path, CommandRequest(1, "halt", "x"), 5.0)
        thread.join()
