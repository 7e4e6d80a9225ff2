"""A real Redis with the configuration of systemd/redis/, in a folder of its own, on a unix socket.

Only paths differ from what is installed on a host, and the passwords, which are made for the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.experience.link import Link, RedisError
from tests.support.paths import REPOSITORY

INSTALLED = REPOSITORY / "systemd" / "redis"
BINARY = shutil.which("redis-server")
USERS = {
    "PUBLISHER": "rltrader-publisher",
    "TRAINER": "rltrader-trainer",
    "DAEMON": "rltraderd",
}  # of those in the file
OPERATOR = "operator"  # of the tests alone: it may do anything
LIMIT_S = 180.0  # generous: nothing here is measured


@dataclass(slots=True)
class RedisServer:
    """One server: `start` and `kill` as often as wanted; its append-only file stays."""

    folder: Path
    more: Sequence[str] = ()  # further arguments
    passwords: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.folder / "r.sock")

    def link(self, user: str) -> Link:
        """How this user reaches it."""
        return Link(socket=self.socket, user=user)

    def client(self, user: str = OPERATOR) -> Any:
        """A client of this user; it connects with its first request."""
        return self.link(user).client(self.passwords[user])

    def start(self) -> None:
        """Return when it answers."""
        assert BINARY is not None
        with (self.folder / "log").open("ab") as log:
            users = ("--aclfile", str(self.folder / "users.acl"))
            command = [BINARY, str(self.folder / "redis.conf"), *users, *self.more]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + LIMIT_S
        with contextlib.closing(self.client()) as client:
            while True:
                with contextlib.suppress(RedisError):
                    if client.ping():
                        return
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end, "the server does not answer"
                time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it where it is; its socket still takes connections."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def prepared(folder: Path, more: Sequence[str] = ()) -> RedisServer:
    """A server that is ready to start, with the installed files under other paths."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder, more, {user: secrets.token_hex(16) for user in (*USERS.values(), OPERATOR)})
    acl = (INSTALLED / "users.acl").read_text()
    for place, user in USERS.items():
        assert f"user {user} on #{place} " in acl
        acl = acl.replace(f"#{place} ", f"{_digest(server.passwords[user])} ")
    others = [line for line in acl.splitlines() if not re.search("#[A-Z]+ ", line)]  # no digests are made for these
    operator = f"user {OPERATOR} on {_digest(server.passwords[OPERATOR])} ~* &* +@all"
    (folder / "users.acl").write_text("\n".join((*others, operator)) + "\n")
    text = (INSTALLED / "redis.conf").read_text()
    for installed, own in (
        ("unixsocket /run/rltrader-redis/redis.sock", f"unixsocket {folder}/r.sock"),
        ("dir /var/lib/rltrader-redis", f"dir {folder}"),
    ):
        assert installed in text
        text = text.replace(installed, own)
    (folder / "redis.conf").write_text(text)
    return server


def _digest(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


@contextlib.contextmanager
def running(folder: Path, more: Sequence[str] = ()) -> Iterator[RedisServer]:
    """A server that runs; skips where Redis is not installed. `folder` must be short: it holds a socket."""
    if BINARY is None:
        pytest.skip("needs Debian's package redis-server: apt-get install redis-server")
    server = prepared(folder, more)
    try:
        server.start()
        yield server
    finally:
        server.kill()
