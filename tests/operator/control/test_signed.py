"""The socket for signed commands: whoever brings one, its key decides what is done, and the rest is refused."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from daemon.app.offline.command import rotate_offline
from daemon.core.events import CommandRefused, HaltRequested, PauseRequested
from daemon.engine.state_dir import parts_of
from daemon.journal.journal import FILE
from daemon.operator.control.client import SIGNED_SOCKET, CommandAnswer, ControlError, ask, leave
from daemon.operator.remote_commands import Judge, journaled_ids
from daemon.operator.signing import SignedCommand, parse_keys, sign_command
from strategies.kit.quantity import from_json
from tests.support.desks.desk_at_work import AtWork, in_background
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.phones import KEYS

S = 1_000_000_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 75)))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def work(desk: Desk, state: Path) -> Iterator[AtWork]:
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)) as running:
        yield running


def command(name: str, key: str = "handset", nonce: int = 1) -> SignedCommand:
    return sign_command(KEYS[key], key, "desk-1", name, "a test", time.time_ns(), 30 * S, nonce.to_bytes(16))


def raw(state: Path, line: bytes) -> CommandAnswer:
    """The answer to any bytes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(state / SIGNED_SOCKET))
        client.sendall(line)
        answer = b""
        while not answer.endswith(b"\n") and (chunk := client.recv(65536)):
            answer += chunk
    return msgspec.json.decode(answer, type=CommandAnswer, dec_hook=from_json)


def test_the_group_of_the_state_directory_may_connect_and_nobody_else_whatever_the_umask(
    work: AtWork, state: Path
) -> None:
    assert stat.S_IMODE((state / SIGNED_SOCKET).stat().st_mode) == 0o660
    assert stat.S_IMODE((state / "control.sock").stat().st_mode) == 0o600
    assert (state / SIGNED_SOCKET).stat().st_gid == os.getegid()


def test_a_signed_halt_is_journaled_with_its_key_and_id_and_the_same_bytes_do_nothing_again(
    work: AtWork, state: Path
) -> None:
    halt = command("halt")
    answer = ask(state, halt)
    assert (answer.ok, answer.refused) == (True, "")
    assert answer.status is not None
    assert answer.status.halt == "operator: a test (by signed/handset #0000000000000000)"
    again = ask(state, halt)
    assert (again.ok, "it came before" in again.error) == (False, True)
    assert [type(event) for event in work.stepped].count(HaltRequested) == 1


def test_a_status_is_told_and_not_journaled(work: AtWork, state: Path) -> None:
    before = len(work.stepped)
    answer = ask(state, command("status"))
    assert answer.status is not None
    assert (answer.ok, answer.seq, answer.status.desk) == (True, 0, "desk-1")
    assert len(work.stepped) == before


@pytest.mark.parametrize("name", ["accept-broker", "resume-reset-limits", "reset-clock", "reload-model"])
def test_the_daemon_itself_refuses_what_is_beyond_the_scope_of_a_key(work: AtWork, state: Path, name: str) -> None:
    answer = ask(state, command(name))
    assert not answer.ok
    assert f"{name!r} by key handset: its scope is phone" in answer.error
    assert ask(state, command("pause", "ops", 2)).ok  # a key without a scope


def test_what_nobody_signed_is_refused_and_an_alarm_says_so(work: AtWork, state: Path) -> None:
    assert raw(state, b'{"v":1,"command":"halt","reason":"why"}\n').error == "the message cannot be read"
    forged = msgspec.structs.replace(command("flatten"), mac="0" * 64)
    assert raw(state, msgspec.json.encode(forged) + b"\n").error == "the signature is not that of key handset"
    stranger = parse_keys(f"handset:{'77' * 32}:phone")["handset"]
    other = sign_command(stranger, "handset", "desk-1", "flatten", "x", time.time_ns(), 30 * S, bytes(16))
    assert raw(state, msgspec.json.encode(other) + b"\n").error == "the signature is not that of key handset"
    ask(state, command("status"))
    refusals = [event for event in work.stepped if isinstance(event, CommandRefused)]
    assert [(event.channel, event.reason) for event in refusals] == [("signed", "the message cannot be read")]


def test_the_ids_of_what_was_done_are_known_after_a_rotation_and_beside_damage(desk: Desk, state: Path) -> None:
    first, second = (int("a" * 32, 16), int("b" * 32, 16))
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)):
        assert ask(state, command("pause", nonce=first)).ok
        assert ask(state, command("status", nonce=7)).ok
    rotate_offline(state)
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)):
        assert ask(state, command("resume", nonce=second)).ok
    ids = journaled_ids(parts_of(state / FILE))  # both files have the row at which one goes on
    assert list(dict.fromkeys(ids)) == ["a" * 16, "b" * 16]
    with closing(sqlite3.connect(state / FILE)) as db:
        db.execute("UPDATE events SET payload = 'no json' WHERE kind = 'ResumeRequested'")
        db.commit()
    parts_of(state / FILE)[0].write_bytes(b"damage")
    assert list(journaled_ids(parts_of(state / FILE))) == ["a" * 16]  # of the row that both have
    ids_beside_damage = journaled_ids([state / FILE, state / "none"])
    assert isinstance(Judge("desk-1", KEYS, time.time_ns, done_ids=ids_beside_damage), Judge)


def test_what_waits_is_taken_where_systemd_forbids_bits_of_set_id_and_the_leaver_is_of_another_group(
    desk: Desk, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fchmod, bits = os.fchmod, stat.S_ISUID | stat.S_ISGID

    def restricted(descriptor: int, mode: int) -> None:
        """What RestrictSUIDSGID=yes makes of it (systemd.exec(5))."""
        if mode & bits:
            raise PermissionError(1, "Operation not permitted")
        fchmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", restricted)
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)):
        assert ask(state, command("status")).ok
    folder = state / "signed"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1770
    former = os.umask(0o077)  # of systemd/rltrader-phone.service
    try:
        leave(
            state,
            sign_command(KEYS["handset"], "handset", "desk-1", "pause", "a test", time.time_ns(), 3600 * S, bytes(16)),
        )
    finally:
        os.umask(former)
    (waiting,) = folder.iterdir()
    assert stat.S_IMODE(waiting.stat().st_mode) & stat.S_IROTH
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)) as work:
        status = ask(state, command("status", nonce=int("c" * 32, 16))).status
        assert status is not None
        assert status.pause == "a test (by signed/handset #0000000000000000)"
        assert [type(event) for event in work.stepped].count(PauseRequested) == 1
    assert not waiting.exists()


def test_what_others_left_before_it_keeps_no_command_back(desk: Desk, state: Path) -> None:
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)):
        pass  # makes the folder
    now_ns, last = time.time_ns(), b"\xff" * 16
    leave(state, sign_command(KEYS["handset"], "handset", "desk-1", "halt", "a test", now_ns, 3600 * S, last))
    for number in range(250):
        (state / "signed" / f"{number:032x}.json").write_text("no command")
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)):
        status = ask(state, command("status")).status
    assert status is not None
    assert status.halt == "operator: a test (by signed/handset #ffffffffffffffff)"
    assert list((state / "signed").iterdir()) == []


def test_a_command_that_a_full_disk_does_not_take_names_the_way_out(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("daemon.operator.control.client.write_whole", full)
    waiting = sign_command(
        KEYS["handset"], "handset", "desk-1", "flatten", "a test", time.time_ns(), 3600 * S, bytes(16)
    )
    with pytest.raises(
        ControlError, match=r"No space left on device; ask again when there is room; .* rltraderctl panic"
    ):
        leave(state, waiting)


def test_a_folder_for_waiting_commands_that_is_none_is_an_alarm_and_the_socket_is_served(
    desk: Desk, state: Path, tmp_path: Path
) -> None:
    with in_background(desk, state, 5):
        pass
    (state / "signed").write_text("no folder")
    with in_background(desk, state, 5, judge=Judge("desk-1", KEYS, time.time_ns)) as work:
        assert ask(state, command("status")).ok
        reasons = [event.reason for event in work.stepped if isinstance(event, CommandRefused)]
    assert reasons == ["what was left for this start cannot be read: File exists"]
