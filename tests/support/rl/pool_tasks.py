"""Tasks of a worker pool; a worker imports them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from training.rl.pool import Emit, Flag, Stopped


def nothing(argument: Any) -> Any:
    """Prepares nothing."""
    return argument


def carry_out(argument: Path, task: str, flag: Flag, emit: Emit) -> str:
    """A task that does what its name says; `argument` is a folder where it signs for having begun."""
    (argument / f"{task}-{os.getpid()}").touch()
    emit(task)
    if task.startswith("wait"):
        while not flag.is_set():
            time.sleep(0.01)
        raise Stopped(task)
    if task == "fail":
        raise ValueError("fold 3 has no sessions")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return task.upper()
