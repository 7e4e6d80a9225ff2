"""A desk that was played, and the dashboard as a process.

Expected values are read from the journal by plain SQL, never through the dashboard's code.
"""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.journal.journal import FILE
from tests.support.desks.desk_run import environment
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

LIMIT_S = 180.0  # generous: nothing here is measured


@dataclass(frozen=True, slots=True)
class Played:
    """A state directory, and the rows of the tape that was played."""

    path: Path
    rows: list[str]

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a query, straight from SQLite."""
        with closing(sqlite3.connect(f"{(self.path / FILE).resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(statement, values)]


@dataclass(frozen=True, slots=True)
class Served:
    """A dashboard that answers on a port of 127.0.0.1."""

    port: int
    process: subprocess.Popen[str]

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (names in lower case) and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def json(self, path: str) -> Any:
        """The body of an answer that has to be good."""
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def computed(self, path: str) -> Any:
        """The body of a good answer that is computed on request, once it is there."""
        end = time.monotonic() + LIMIT_S
        while (page := self.json(path))["pending"]:
            assert time.monotonic() < end, f"{path} is pending for ever"
            time.sleep(0.02)
        return page


@contextmanager
def serving(*state_dirs: Path, models_dir: Path = FIXTURE_MODELS, runs: Sequence[Path] = ()) -> Iterator[Served]:
    """The dashboard as a process of its own, ended with the block."""
    named = [part for state_dir in state_dirs for part in ("--state-dir", str(state_dir))]
    named += [part for folder in runs for part in ("--runs-dir", str(folder))]
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon.dashboard", *named, "--models-dir", str(models_dir), "--port", "0"],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # the socket listens by then
        yield Served(int(line.split("http://127.0.0.1:")[1].split("/")[0]), process)
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process and read what is left of its output."""
    process.terminate()
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def slow_pages(port: int, count: int) -> list[socket.socket]:
    """Clients that ask for the stream and never read what comes."""
    pages = []
    for _ in range(count):
        page = socket.create_connection(("127.0.0.1", port), 5.0)
        page.sendall(f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        pages.append(page)
    return pages
