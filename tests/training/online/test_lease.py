"""One trainer a desk: the second is refused while the first lives, and begins once it is gone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import LIMIT_S, redis_anywhere, until
from tests.support.paths import REPOSITORY
from training.online.lease import FOLDER_FILE, GROUP, Lease, LeaseTaken

DESK, KEY = "toy", "rltrader:toy:trainer"
LEASE_S, RENEW_S = 3.0, 0.2


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    """The trainer's own client, with the rights that are shipped. It begins with nothing."""
    with server.client() as operator:
        operator.flushall()
        operator.config_set("maxmemory", 0)
    with server.client("rltrader-trainer") as connection:
        yield connection


def lease(client: Any, folder: Path, **more: Any) -> Lease:
    """One of a process that begins now in this folder."""
    folder.mkdir(exist_ok=True)
    return Lease(client, DESK, folder, **({"lease_s": LEASE_S, "renew_s": RENEW_S} | more))


def refusal(second: Lease) -> str:
    """How a trainer is refused, which must come."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            assert not second.take()
        except LeaseTaken as error:
            return str(error)
        time.sleep(0.02)
    raise AssertionError("it was not refused")


def test_a_second_trainer_of_the_desk_is_refused_by_name_while_the_first_lives(client: Any, tmp_path: Path) -> None:
    first = lease(client, tmp_path / "one")
    assert first.take()
    with first:
        text = refusal(lease(client, tmp_path / "two"))
        first.check()
    host = re.escape(socket.gethostname())
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"
    assert re.match(
        rf"another trainer learns from toy: host {host}, pid {os.getpid()}, since {since}: run one for each desk: stop "
        r"that one or this one; a trainer that died is forgotten after 3 s",
        text,
    )


def test_another_desk_has_a_lease_of_its_own(client: Any, tmp_path: Path) -> None:
    first, other = lease(client, tmp_path / "one"), Lease(client, "toys", tmp_path)
    assert first.take()
    assert other.take()


CRASHES = """
import sys, time
from pathlib import Path
import redis
from training.online.lease import Lease
path, user, secret, folder = sys.argv[1:]
client = redis.Redis(unix_socket_path=path, username=user, password=secret)
lease = Lease(client, "toy", Path(folder), lease_s=3.0, renew_s=0.2)
assert lease.take()
with lease:
    print("held", flush=True)
    time.sleep(600)
"""


def test_after_a_crash_another_begins_when_the_lease_ran_out_and_the_same_one_at_once(
    client: Any, server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    user = "rltrader-trainer"
    command = [sys.executable, "-c", CRASHES, str(server.socket), user, server.passwords[user], str(tmp_path / "one")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert f"pid {process.pid}, since" in refusal(lease(client, tmp_path / "two"))
        process.kill()
    second = lease(client, tmp_path / "two")
    assert not second.take()  # it may live
    assert f"pid {process.pid}, since" in second.awaited
    assert lease(client, tmp_path / "one").take()  # the same folder, without any wait
    third = lease(client, tmp_path / "three")
    until(third.take)  # the last two gave no sign since
    with third:
        assert "learns from toy" in refusal(second)


def test_who_stops_in_order_gives_it_back(client: Any, tmp_path: Path) -> None:
    first = lease(client, tmp_path / "one")
    assert first.take()
    with first:
        pass
    assert client.xinfo_consumers(KEY, GROUP) == []
    assert lease(client, tmp_path / "two").take()


def test_with_the_users_file_of_a_former_release_it_runs_out_by_itself(
    client: Any, server: RedisServer, tmp_path: Path
) -> None:
    with server.client() as operator:
        (line,) = [text for text in operator.acl_list() if text.startswith("user rltrader-trainer ")]
        words = line.split("#", 1)[1].split(" ", 1)
        selector = "(~rltrader:*:trainer resetchannels -@all +xgroup|delconsumer)"
        assert selector in words[1]
        operator.execute_command("ACL", "SETUSER", "rltrader-trainer", "clearselectors")
        try:
            first = lease(client, tmp_path / "one")
            assert first.take()
            with first:
                first.check()
            until(lease(client, tmp_path / "two").take)
        finally:
            operator.execute_command(
                "ACL", "SETUSER", "rltrader-trainer", "(~rltrader:*:answers -@all +xadd)", selector
            )


def test_who_was_stopped_for_longer_than_the_lease_has_lost_it_to_another(client: Any, tmp_path: Path) -> None:
    now = 0.0
    first = lease(client, tmp_path / "one", lease_s=0.5, steady=lambda: now)
    assert first.take()
    second = lease(client, tmp_path / "two", lease_s=0.5)
    until(second.take)  # the first gives no sign: it is stopped
    now = 0.6
    with second, pytest.raises(LeaseTaken, match="another trainer learns from toy"):
        first.check()
    with pytest.raises(LeaseTaken):
        first.check()  # for good


def test_who_was_stopped_and_has_no_successor_goes_on(client: Any, tmp_path: Path) -> None:
    now = 0.0
    first = lease(client, tmp_path / "one", lease_s=0.5, steady=lambda: now)
    assert first.take()
    now = 10.0
    first.check()
    assert not lease(client, tmp_path / "two", lease_s=60.0).take()


def test_of_two_that_hold_it_the_later_one_ends(client: Any, tmp_path: Path) -> None:
    first = lease(client, tmp_path / "one")
    assert first.take()
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied" / FOLDER_FILE).write_bytes((tmp_path / "one" / FOLDER_FILE).read_bytes())
    copied = lease(client, tmp_path / "copied")  # of a folder that was copied
    assert copied.take()

    def is_lost() -> bool:
        try:
            copied.check()
        except LeaseTaken:
            return True
        return False

    with first, copied:
        until(is_lost)
        first.check()


def test_a_full_server_takes_a_restart_too(client: Any, server: RedisServer, tmp_path: Path) -> None:
    assert lease(client, tmp_path / "one").take()
    with server.client() as operator:
        operator.config_set("maxmemory", 1)
    again = lease(client, tmp_path / "one")
    assert again.take()
    with again:
        again.check()


def test_a_lease_of_an_emptied_server_goes_on(client: Any, server: RedisServer, tmp_path: Path) -> None:
    now = 0.0
    first = lease(client, tmp_path / "one", steady=lambda: now)
    assert first.take()
    with server.client() as operator:
        operator.flushall()
    now = 2.0
    first.check()
    assert not lease(client, tmp_path / "two").take()
