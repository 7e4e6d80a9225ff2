"""A real Redis with the installed configuration: what each user may do, and that the file as shipped lets nobody in."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

INSTALLED = REPOSITORY / "systemd" / "redis"
USERS = ("rltrader-publisher", "rltrader-trainer", "rltraderd", "rltrader-dashboard")
LIMIT_S = 120.0
STREAM = "rltrader:paper-1:e1:experience"

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("redis-cli") is None,
    reason="needs Debian's redis-server: apt-get install redis-server",
)


def started(folder: Path, users: str) -> subprocess.Popen[bytes]:
    """A server with the installed configuration, in this folder, with this file of users."""
    text = (INSTALLED / "redis.conf").read_text()
    for installed in ("/run/rltrader-redis", "/var/lib/rltrader-redis"):
        assert installed in text
        text = text.replace(installed, str(folder))
    (folder / "redis.conf").write_text(text)
    (folder / "users.acl").write_text(users)
    command = ["redis-server", str(folder / "redis.conf"), "--aclfile", str(folder / "users.acl")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)


def ask(folder: Path, user: str, *words: str, given: str | None = None) -> str:
    """The server's answer to one command, or to the lines that are `given`."""
    who = ["--user", user, "--pass", f"secret of {user}", "--no-auth-warning"] if user else []
    done = subprocess.run(
        ["redis-cli", "-s", str(folder / "redis.sock"), *who, *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).strip()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running server's folder; each user's password is `secret of USER`, filled in as the manual does it."""
    folder = tmp_path_factory.mktemp("r")
    server = started(folder, with_passwords())
    until_it_answers(folder, server)
    yield folder
    server.kill()
    server.wait()


def with_passwords() -> str:
    """The file of users with the digests of their passwords."""
    users = (INSTALLED / "users.acl").read_text()
    for user in USERS:
        digest = hashlib.sha256(f"secret of {user}".encode()).hexdigest()
        users, count = re.subn(rf"(?m)^(user {user} on) #\w+", rf"\1 #{digest}", users)
        assert count == 1
    return users


def until_it_answers(folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers the probe."""
    end = time.monotonic() + LIMIT_S
    while ask(folder, "rltrader-probe", "ping") != "PONG":
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_redis
def test_who_is_not_known_may_do_nothing_and_the_probe_may_ask_whether_it_lives(redis: Path) -> None:
    assert "NOAUTH" in ask(redis, "", "ping")
    assert ask(redis, "rltrader-probe", "ping") == "PONG"
    assert "NOPERM" in ask(redis, "rltrader-probe", "xlen", STREAM)
    assert "NOPERM" in ask(redis, "rltrader-probe", "info")


@needs_redis
def test_a_message_goes_from_the_publisher_to_the_trainer_and_is_acknowledged_and_trimmed(redis: Path) -> None:
    assert ask(redis, "rltrader-publisher", "xadd", STREAM, "5-0", "a", "1") == "5-0"
    assert "smaller" in ask(redis, "rltrader-publisher", "xadd", STREAM, "5-0", "a", "1")  # counted once
    assert ask(redis, "rltrader-trainer", "xgroup", "create", STREAM, "trainer", "0") == "OK"
    read = ask(redis, "rltrader-trainer", "xreadgroup", "group", "trainer", "one", "streams", STREAM, ">")
    assert "5-0" in read
    assert "5-0" in ask(redis, "rltrader-publisher", "xpending", STREAM, "trainer")
    assert "0-0" in ask(redis, "rltrader-trainer", "xautoclaim", STREAM, "trainer", "two", "0", "0")
    assert ask(redis, "rltrader-trainer", "xack", STREAM, "trainer", "5-0") == "1"
    assert ask(redis, "rltrader-publisher", "xtrim", STREAM, "minid", "=", "6-0") == "1"
    assert "trainer" in ask(redis, "rltrader-dashboard", "xinfo", "groups", STREAM)


@needs_redis
@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("rltrader-trainer", ("xtrim", STREAM, "maxlen", "0")),
        ("rltrader-trainer", ("xadd", STREAM, "9-0", "a", "1")),
        ("rltrader-trainer", ("xgroup", "destroy", STREAM, "trainer")),
        *((user, words) for user in USERS for words in (("set", "rltrader:a", "1"), ("get", "rltrader:a"))),
        *((user, words) for user in USERS for words in (("del", STREAM), ("expire", STREAM, "1"))),
        ("rltrader-publisher", ("xack", STREAM, "trainer", "5-0")),
        ("rltrader-publisher", ("xgroup", "destroy", STREAM, "trainer")),
        ("rltrader-publisher", ("xadd", "other:stream", "1-0", "a", "1")),
        ("rltrader-dashboard", ("xadd", STREAM, "9-0", "a", "1")),
        *((user, words) for user in USERS for words in (("flushall",), ("config", "get", "*"), ("acl", "list"))),
        *((user, ("eval", "return 1", "0")) for user in USERS),
        *((user, ("shutdown",)) for user in USERS),
    ],
)
def test_what_a_user_need_not_do_is_refused(redis: Path, user: str, words: tuple[str, ...]) -> None:
    assert "NOPERM" in ask(redis, user, *words)


@needs_redis
def test_the_trainer_adds_answers_and_the_daemon_reads_them(redis: Path) -> None:
    answers = "rltrader:paper-1:e1:answers"
    assert ask(redis, "rltrader-trainer", "xadd", answers, "5-0", "a", "1") == "5-0"
    assert "5-0" in ask(redis, "rltraderd", "xread", "streams", answers, "0")
    assert ask(redis, "rltraderd", "xadd", "rltrader:paper-1:e1:questions", "6-0", "a", "1") == "6-0"
    assert "6-0" in ask(redis, "rltrader-trainer", "xread", "streams", "rltrader:paper-1:e1:questions", "0")


@needs_redis
def test_a_full_server_refuses_and_forgets_nothing_and_every_message_is_on_disk(redis: Path) -> None:
    text = (redis / "redis.conf").read_text()
    given = dict(line.split(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    assert given["maxmemory-policy"] == "noeviction"
    assert (given["appendonly"], given["appendfsync"], given["port"]) == ("yes", "always", "0")


@needs_redis
def test_what_was_stored_in_a_transaction_is_there_after_a_crash(tmp_path: Path) -> None:
    users = with_passwords()
    server = started(tmp_path, users)
    until_it_answers(tmp_path, server)
    both = f"multi\nxadd {STREAM} 7-0 a 1\nxadd {STREAM} 8-0 a 1\nexec\n"
    assert "8-0" in ask(tmp_path, "rltrader-publisher", given=both)
    server.kill()
    server.wait()
    server = started(tmp_path, users)
    until_it_answers(tmp_path, server)
    assert ask(tmp_path, "rltrader-publisher", "xlen", STREAM) == "2"
    server.kill()
    server.wait()


@needs_redis
def test_the_file_as_it_is_shipped_has_no_password_and_the_server_does_not_start_with_it(tmp_path: Path) -> None:
    server = started(tmp_path, (INSTALLED / "users.acl").read_text())
    assert server.wait(timeout=LIMIT_S) != 0
    assert "ACL" in (tmp_path / "log").read_text()
