"""What a test sees of the processes that Ray started for it: they inherit a mark in their environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.rl.ray_cluster import ENVIRONMENT, LOCAL_ENVIRONMENT

MARK = "RLTRADER_TEST_OF_RAY"
LISTENING = "0A"  # in /proc/net/tcp
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def mark(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Let what is started from here on carry the mark; what Ray's settings change is gone after the test."""
    for name in (*ENVIRONMENT, *LOCAL_ENVIRONMENT):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(MARK, home)


def marked(home: str) -> Iterator[Path]:
    """The folders in /proc of all processes that inherited the mark, but for this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={home}".encode() in environment.split(b"\0") and int(folder.name) != os.getpid():
            yield folder


def left(home: str) -> list[Path]:
    """The marked processes that are still there after a while: the last of Ray's end when they miss the others."""
    paths: list[Path] = []
    for _ in range(600):
        paths = list(marked(home))
        if not paths:
            break
        time.sleep(0.1)
    return paths


def listening(home: str) -> dict[str, str]:
    """Local address by socket, of every TCP socket on which this or a marked process listens."""
    sockets = set()
    for folder in [*marked(home), Path("/proc/self")]:
        for descriptor in (folder / "fd").glob("*"):
            try:
                sockets.add(str(descriptor.readlink()))
            except OSError:
                continue
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[9]: row[1].split(":")[0] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in sockets}
