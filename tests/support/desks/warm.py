"""The commands that a user starts, as processes that are forked from a warm server: a start costs no imports.

Each is a real process with arguments, environment, working directory, standard output and standard error of its own;
it can be killed. What only a new interpreter shows (how it starts, how it ends) needs `python -m`.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

FORK = multiprocessing.get_context("forkserver")
PRELOAD = ["tests.support.desks.live_desk_preload"]
DOORS = {"daemon": "daemon.__main__", "daemon.cli.ctl": "daemon.cli.ctl"}  # where `python -m` enters
_LOCK = threading.Lock()  # a start looks at all processes: of two threads that look at one, one reads a wrong exit code


class Command:
    """`python -m module arguments`, under way; its outputs are read as those of `subprocess.Popen` with text."""

    def __init__(self, module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.args = (sys.executable, "-m", module, *arguments)
        (out, its_out), (err, its_err) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
        FORK.set_forkserver_preload(PRELOAD)
        self._process = FORK.Process(
            target=_become, args=(module, list(arguments), str(cwd), dict(env), its_out, its_err), daemon=True
        )
        with _LOCK:
            self._process.start()
        self.stdout, self.stderr = _text(out), _text(err)
        its_out.close()
        its_err.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._process.pid or 0)

    def poll(self) -> int | None:
        """None while it runs; the exit code, or minus the signal that ended it."""
        with _LOCK:
            return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired where it still runs after `timeout_s`."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            left_s = None if end_s is None else end_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout_s or 0.0)
            wait([self._process.sentinel], left_s)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def finish(self, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Read both outputs to the end. Raises subprocess.TimeoutExpired, and kills, where it runs longer."""
        errors: list[str] = []
        beside = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        watch = threading.Timer(timeout_s, self.kill)
        watch.start()
        beside.start()
        out = self.stdout.read()
        beside.join()
        expired = not watch.is_alive()
        watch.cancel()
        code = self.wait()
        self.close()
        if expired:
            raise subprocess.TimeoutExpired(self.args, timeout_s, out, errors[0])
        return subprocess.CompletedProcess(self.args, code, out, errors[0])

    def close(self) -> None:
        """Close this end of both outputs."""
        self.stdout.close()
        self.stderr.close()


def _text(end: Connection) -> io.TextIOWrapper:
    """The bytes that come out of a pipe, as text; the connection itself is closed."""
    number = os.dup(end.fileno())
    end.close()
    return os.fdopen(number)


def _become(module: str, arguments: list[str], cwd: str, env: dict[str, str], out: Connection, err: Connection) -> None:
    """In the forked process: be what `python -m module` is after its start, and run."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for end, number in ((out, 1), (err, 2)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(DOORS[module]).main())
