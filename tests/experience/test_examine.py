"""What a check finds at a real Redis, each fault with its cure; it writes nothing and shows no password."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.experience.__main__ import main
from daemon.experience.examine import CHECKED, DAEMON, PUBLISHER, RedisCheck, examine
from daemon.experience.link import Link
from tests.support.outside.between import IMPOSSIBLE, between
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import redis_anywhere

USER = "rltraderd"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


def checks_of(server: RedisServer, user: str = USER, secret: str | None = None) -> list[RedisCheck]:
    """What is found; nothing was written, and no line has the password."""
    password = server.passwords[user] if secret is None else secret
    lines = examine(server.link(user), password, "the test", "paper-1", PUBLISHER if "publisher" in user else DAEMON)
    assert not any(password and password in line.text for line in lines)
    with server.client() as client:
        assert client.dbsize() == 0
    return lines


@pytest.mark.parametrize("user", [USER, "rltrader-publisher"])
def test_the_shipped_files_are_good_for_daemon_and_publisher(server: RedisServer, user: str) -> None:
    lines = checks_of(server, user)
    assert [(line.subject, line.good) for line in lines] == [(CHECKED, True), ("redis keeps", True)]
    assert lines[0].text.startswith(f"{server.socket}: user {user} may XADD, X")
    assert "maxmemory-policy noeviction, appendonly yes" in lines[1].text


def test_the_publisher_checks_itself(
    server: RedisServer, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--state-dir", str(state), "--own-dir", str(state / "own"), "--redis", f"unix://{server.socket}"]
    monkeypatch.setenv("REDIS_PASSWORD", server.passwords["rltrader-publisher"])
    assert main([*arguments, "--check"]) == 0
    good = capsys.readouterr().out
    assert [line.split()[-1] for line in good.splitlines()] == ["XLEN", "yes"]
    monkeypatch.setenv("REDIS_PASSWORD", server.passwords[USER])
    assert main([*arguments, "--check"]) == 2
    bad = capsys.readouterr().out
    assert "FAIL" in bad
    assert not any(word in good + bad for word in server.passwords.values())
    assert not (state / "own").exists()


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("not its password", f"user {USER} is refused with the password (from the test): put the user's own there"),
        ("", f"user {USER} needs a password, and REDIS_PASSWORD is empty (from the test)"),
    ],
)
def test_another_password_and_none_are_named_without_it(server: RedisServer, secret: str, text: str) -> None:
    (line,) = checks_of(server, secret=secret)
    assert (line.subject, line.good) == (CHECKED, False)
    assert text in line.text


def test_what_gives_answers_that_no_redis_gives_is_named_with_one_cure(server: RedisServer) -> None:
    with between(server, "rltraderd") as proxy:
        proxy.instead = IMPOSSIBLE["a number"]
        (line,) = examine(proxy.link, server.passwords["rltraderd"], "the environment", "toy", DAEMON)
    assert not line.good
    assert "no Redis answers XADD like this" in line.text
    assert line.text.endswith("connect to Redis without a proxy that repeats or changes answers")


def test_a_server_that_is_not_there_or_frozen_is_named(server: RedisServer) -> None:
    (line,) = examine(Link(socket="/nowhere/r.sock", user=USER), "x", "the test", "paper-1", DAEMON)
    assert line.text.startswith("/nowhere/r.sock: ConnectionError: ")
    assert "start it, correct the address" in line.text
    server.freeze()
    try:
        (line,) = examine(server.link(USER), server.passwords[USER], "the test", "paper-1", DAEMON)
    finally:
        server.thaw()
    assert (line.good, "no answer: it is frozen or overloaded" in line.text) == (False, True)


@pytest.mark.parametrize(
    ("change", "back", "good", "text"),
    [
        (("acl setuser rltraderd -xread",), ("acl setuser rltraderd +xread",), None,
         "user rltraderd may not XREAD on rltrader:paper-1:check: give it its line of systemd/redis/users.acl"),
        (("acl setuser rltraderd resetkeys ~others:*",), ("acl setuser rltraderd resetkeys ~rltrader:*",), None,
         "user rltraderd may not XADD on rltrader:paper-1:check"),
        (("acl setuser rltraderd -info",), ("acl setuser rltraderd +info",), True, "user rltraderd may not INFO: give"),
        (("config set maxmemory 1",), ("config set maxmemory 1gb",), None, "it is full and refuses XADD: start the"),
        (("config set maxmemory-policy allkeys-lru",), ("config set maxmemory-policy noeviction",), True,
         'maxmemory-policy is "allkeys-lru", so a full server forgets experience: set "noeviction"'),
        (("config set appendonly no",), ("config set appendonly yes",), True, 'appendonly is "no", so a restart'),
    ],
)  # fmt: skip
def test_each_fault_of_rights_and_settings_has_its_line(
    server: RedisServer, change: tuple[str, ...], back: tuple[str, ...], good: bool | None, text: str
) -> None:
    with server.client() as client:
        try:
            for words in change:
                client.execute_command(*words.split())
            lines = checks_of(server)
        finally:
            for words in back:
                client.execute_command(*words.split())
            while client.info("persistence")["aof_rewrite_in_progress"]:  # a process of its own in the server's folder
                time.sleep(0.02)
    assert [(line.subject, line.good) for line in lines][: 1 if good is None else 2] == (
        [(CHECKED, False)] if good is None else [(CHECKED, True), ("redis keeps", False)]
    )
    assert text in lines[-1].text
