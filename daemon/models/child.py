"""Start a module of this code as a child process without keys or settings, and with one thread for each library."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from strategies.registry import VARIABLE, places

_HERE = str(Path(__file__).resolve().parents[2])
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from daemon.host.lean import without_pandas; without_pandas(); "
    "from {module} import main; main()"
)


class GivenUp(Exception):
    """A child was ended before it began; the text says why."""


class ChildProcess:
    """A child for a single request. `ask` blocks; `kill` ends it from another thread."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.killed = ""
        """Why it was killed before its answer."""

    def ask(
        self, module: str, arguments: Sequence[str], question: Sequence[bytes], most: int, late: str
    ) -> tuple[bytes, int]:
        """Return the output of a module's `main()`, at most `most` bytes, and its exit code or minus a signal.

        After the deadline it is killed for the reason `late`. Raises GivenUp, and OSError where no process starts.
        """
        with self._lock:
            if self.killed:
                raise GivenUp(self.killed)
            self.process = child = start_child(module, arguments)
        timer = threading.Timer(self._deadline_s, self.kill, (late,))
        timer.daemon = True
        timer.start()
        try:
            answer = _exchange(child, question, most)
        finally:
            timer.cancel()
            self.kill("")
            status = child.wait()
        return answer, status

    def kill(self, reason: str = "given up") -> None:
        """End the child and its processes; from any thread, any number of times."""
        with self._lock:
            self.killed = self.killed or reason
            child = self.process
            if child is not None and child.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)  # until it is waited for, a child keeps its number


def start_child(module: str, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start `main()` of a module, in a session of its own, with pipes for input and output. Raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _START.format(module=module), _HERE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
        start_new_session=True,
    )


def _exchange(child: subprocess.Popen[bytes], question: Sequence[bytes], most: int) -> bytes:
    """Send a child its bytes; return at most `most` bytes of its output. Unread or unsent data ends with it."""
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout, contextlib.suppress(BrokenPipeError):
        with child.stdin as into:
            for part in question:
                into.write(part)
        return child.stdout.read(most)
    return b""


def environment() -> dict[str, str]:
    """Return the environment of a child: no key or setting of this process, but the paths of own strategies."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    variables = {VARIABLE: places()}  # where strategies of one's own are
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **threads, **variables}
