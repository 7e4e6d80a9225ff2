"""How `rltraderd` ends: exit codes, the log line of each failure, and suggested next commands, ready to be typed."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from daemon.config.load import EXIT_CODE, ConfigError
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass
from daemon.host.time.calendar import CalendarError
from daemon.host.version import in_this_shell
from daemon.journal.rows import JournalError, WriteFailed
from daemon.models.store import ModelError
from daemon.operator.log import Log
from daemon.tapes.minutes import TapeError

TROUBLE = 1
LEAVE_S = 10.0  # for threads that outlive the work: below systemd's watchdog, and its wait for a stop
MEND = "what was committed is intact; make room or mend the disk or the owner of its files, then start again"
REFUSALS = (ConfigError, TapeError, CalendarError, ModelError, StateDirError, JournalError)
REPLAYED = {  # after a replay
    "how it did": "rltraderctl report --range ALL",
    "its trades": "rltraderctl trades",
    "why it decided so": "rltraderctl decisions",
    "proof of the run": "rltraderctl verify",
    "its page": "rltrader-dashboard",
}
TRADED = {  # after the stop of a desk at a broker
    "what it holds": "rltraderctl status",
    "its trades": "rltraderctl trades",
    "the day": "rltraderctl report",
    "its page": "rltrader-dashboard",
}


def refuse(log: Log, problem: str) -> int:
    """Log the reason of a refused start, line by line."""
    for line in problem.splitlines():
        log("refused", problem=line)
    return EXIT_CODE


def exit_code(log: Log, work: Callable[[], int], on_refusal: Callable[[Log, str], int] = refuse) -> int:
    """Do the work and return its exit code; log a failure and return its code, or that of `on_refusal`."""
    from daemon.engine.engine import IntakeFull, ReleaseFailed, StepFailed

    try:
        return work()
    except MayPass as error:  # systemd restarts the daemon
        log("start_failed", problem=str(error))
    except REFUSALS as error:
        return on_refusal(log, str(error))
    except WriteFailed as error:
        log("journal_failed", problem=f"{error}; {MEND}")
    except (StepFailed, IntakeFull, ReleaseFailed) as error:
        log("step_failed", problem=str(error))
    return TROUBLE


class ThreadsLeft:
    """The threads begun after this was made that keep the process alive.

    Python ends no process before its threads end. The user's own strategy may start one that never ends: a failed desk
    would neither trade nor be restarted.
    """

    def __init__(self) -> None:
        self._before = frozenset(threading.enumerate())

    def leave_in_time(self, code: int) -> None:
        """End the process with this code after `LEAVE_S`, if such threads still run."""
        if self._left():
            threading.Thread(target=self._leave, args=(code,), name="leaving", daemon=True).start()

    def _leave(self, code: int) -> None:
        time.sleep(LEAVE_S)
        if names := [thread.name for thread in self._left()]:
            Log()("threads_left", threads=", ".join(names))
            os._exit(code)

    def _left(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if not thread.daemon and thread not in self._before]


def what_next(commands: Mapping[str, str], state_dir: Path) -> str:
    """Return one line per command for this state directory, each with its line break."""
    wide = max(map(len, commands)) + 1
    where = shlex.quote(str(state_dir))
    return "".join(
        f"{label + ':':{wide}}  {in_this_shell(command)} --state-dir {where}\n" for label, command in commands.items()
    )
