"""Tasks of a worker pool; a worker imports them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.core.desks.guarded import GuardedStrategy
from training.rl.pool import Emit, Flag, Stopped


def nothing(argument: Any) -> Any:
    """Prepares nothing."""
    return argument


class NoRowError(Exception):
    """An error of a strategy's own, which no other process can make again."""

    def __init__(self, symbol: str, day: int) -> None:
        super().__init__(f"no row of {symbol} on day {day}")


class Failing:
    """A strategy that fails."""

    def correct(self, *_: Any) -> Any:
        """Raise its own error."""
        raise NoRowError("SPY", 3)


def carry_out(argument: Path, task: str, flag: Flag, emit: Emit) -> str:
    """A task that does what its name says; `argument` is a folder where it signs for having begun."""
    (argument / f"{task}-{os.getpid()}").touch()
    emit(task)
    if task.startswith("wait"):
        while not flag.is_set():
            time.sleep(0.01)
        raise Stopped(task)
    while task == "talk" and not flag.is_set():  # without a pause, as updates of a small network come
        emit(task)
        time.sleep(0.01)
    if task == "fail":
        raise ValueError("fold 3 has no sessions")
    if task == "ask":
        draft: Any = SimpleNamespace(risk=SimpleNamespace(strategy_off=False), strategy=None)
        bar: Any = None
        GuardedStrategy(Failing()).correct(draft, bar)
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return task.upper()
