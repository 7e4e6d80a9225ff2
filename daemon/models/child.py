"""Start a module of this code as a child process that gets no key, no setting and one thread for each library."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from strategies.registry import VARIABLE, places

_HERE = str(Path(__file__).resolve().parents[2])
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"


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


def exchange(child: subprocess.Popen[bytes], question: Sequence[bytes], most: int) -> bytes:
    """Send a child its bytes; return what it answers, `most` bytes of it. Unread or unsent data ends with it."""
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout, contextlib.suppress(BrokenPipeError):
        with child.stdin as into:
            for part in question:
                into.write(part)
        return child.stdout.read(most)
    return b""


def environment() -> dict[str, str]:
    """Return the environment of a child: no key or setting of this process, but the files of its strategies."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    variables = {VARIABLE: places()}  # where strategies of one's own are
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **threads, **variables}
