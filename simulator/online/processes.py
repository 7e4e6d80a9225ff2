"""Processes of a learning desk, each started as by an operator, and a Redis of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET

USERS = ("rltrader-publisher", "rltrader-trainer")
LOOK_S = 0.1
STOP_S = 60.0
TAIL = 1500  # last characters of a log in an error


class ShowError(RuntimeError):
    """The demonstration cannot continue; the text gives the reason."""


class Processes:
    """Starts processes, with logs in `folder`, and stops them in reverse order; `patience` scales timeouts."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self._patience = folder, patience
        self.secret = secrets.token_hex(16)
        self._processors = os.sched_getaffinity(0)  # virtual time pins this process to one of them
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def redis_socket(self) -> Path:
        """Path of Redis's socket."""
        return self.folder / "redis.sock"

    def start(self, name: str, command: Sequence[str], *, pinned: bool = False) -> int:
        """Start a process whose output goes to its log; returns its id. `pinned`: on this process' processor."""
        environment = {
            **os.environ,
            "REDIS_PASSWORD": self.secret,
            "APCA_API_KEY_ID": DEFAULT_KEY,
            "APCA_API_SECRET_KEY": DEFAULT_SECRET,
            "RUNTIME_DIRECTORY": str(self.folder / "run"),
            "OMP_NUM_THREADS": "1",
        }
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        if not pinned:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, self._processors)
        self._running[name] = process
        return process.pid

    def start_redis(self) -> None:
        """Start `redis-server` and wait for its socket. Raises ShowError."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise ShowError("redis-server is missing: install Debian's package redis-server")
        users = [f"user {name} on >{self.secret} ~rltrader:* +@all" for name in USERS]
        lines = ["port 0", f"unixsocket {self.redis_socket}", f"dir {self.folder}", "appendonly yes", 'save ""', *users]
        path = self.folder / "redis.conf"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        self.start("redis", [binary, str(path)])
        self.until(self.redis_socket.exists, "Redis answers", 30.0)

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.folder / f"{name}.log"

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event in a JSON log so far."""
        lines = []
        for line in self.log(name).read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == event:
                    lines.append(fields)
        return lines

    def check(self) -> None:
        """Raise ShowError if a process has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                end = self.log(name).read_text(errors="replace")[-TAIL:]
                raise ShowError(f"{name} ended with {process.returncode}: {end}")

    def until(self, reached: Callable[[], bool], subject: str, limit_s: float) -> None:
        """Wait for a condition while all processes run. Raises ShowError."""
        end_s = time.monotonic() + limit_s * self._patience
        while not reached():
            self.check()
            if time.monotonic() > end_s:
                raise ShowError(
                    f"waited {limit_s * self._patience:.0f} s for this: {subject}; the logs are in {self.folder}"
                )
            time.sleep(LOOK_S)

    def begin(self, name: str, command: Sequence[str]) -> None:
        """Start a command that ends by itself; `finish` waits for it."""
        self.start(name, command)
        self._ending[name] = self._running.pop(name)

    def finish(self, name: str, limit_s: float) -> str:
        """Wait for the end of a command; returns its output. Raises ShowError."""
        process = self._ending.pop(name)
        try:
            code = process.wait(limit_s * self._patience)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        text = self.log(name).read_text(errors="replace")
        if code:
            raise ShowError(f"{name} ended with {code}: {text[-TAIL:]}")
        return text

    def stop(self, name: str, passing: Callable[[], contextlib.AbstractContextManager[None]] | None = None) -> None:
        """Stop one process by SIGTERM; `passing` lets virtual time pass meanwhile."""
        process = self._running.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired), passing() if passing else contextlib.nullcontext():
            process.wait(STOP_S * self._patience)
        if process.poll() is None:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """Stop the running processes, the newest first."""
        self._running |= self._ending
        for name in reversed(list(self._running)):
            self.stop(name)


def configuration(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Return a daemon's configuration as TOML."""
    lines = []
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
    return "\n".join(lines)
