"""Watch for an own strategy that ends the process: during a start, or later by what its calls changed in the process.

While it is imported, or steps the journal again, no error shows this, and each further start would end there. So its
calls are noted until the desk runs, and after two such ends in a day it counts as not importable: a stand-in leaves its
positions. The same holds if its runs end repeatedly without being stopped, for example by its use of memory or a
changed module. Its calls while the journal is stepped again could do that even to a desk that does not ask it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path

from daemon.engine.state_dir import enter, peek
from daemon.host.hang import ENDS_MAX, UNSTOPPED_MAX, CallMark, HangGuard, last_hang, shown_stack
from daemon.host.own_files import StateDirError
from daemon.journal.rows import STRATEGY_FROM, JournalError
from strategies.kit.entry import told_of_calls
from strategies.registry import STRATEGIES

START_FILE = "start_call"  # in the state directory, until the desk runs
START_STACK = "start_hung"  # the stack of a start that hung or crashed in a call
RUN_FILE = "own_runs"  # number of the day's runs that ended unstopped
CALL_MOST_S = 180.0  # for one call in a start: more than an import has, and enough for a whole golden tape
_marks: list[CallMark] = []
_guards: list[HangGuard] = []
_run_marks: list[CallMark] = []  # one at most


def watch_start(place: Path, strategy: str = "") -> None:
    """Note the calls of own code until `end_watch`; refuse its import if it ended two processes today.

    A call that takes longer than `CALL_MOST_S` ends this process with exit code 1.
    `strategy` is the configured one, a file by its full path; "" for that of the journal in `place`.
    """
    with contextlib.suppress(StateDirError, JournalError, OSError, ValueError):
        enter(place)
        strategy = strategy or (peek(place) or {}).get(STRATEGY_FROM, "")
    if not strategy or strategy in STRATEGIES or not place.is_dir():
        return
    from strategies.kit.own.load import refuse_imports

    day = f"{datetime.now(UTC):%Y-%m-%d}-{_digest(strategy)}"
    mark, run_mark = CallMark(place, day, START_FILE), CallMark(place, day, RUN_FILE, alone=True)
    _marks.append(mark)
    _run_marks[:] = [run_mark]
    told_of_calls.append(mark.note)
    last = shown_stack(last_hang(place, START_STACK), f"{strategy.rpartition('.py')[0]}.py")
    if mark.ended_in and mark.times < ENDS_MAX:
        sys.stderr.write(
            f"{strategy}: the last start ended in its code{f', in {last}' if last else ''} ({mark.ended_in}); after "
            f"{ENDS_MAX} such ends in a day it is left out\n"
        )
    if mark.times >= ENDS_MAX:
        refuse_imports(
            f"{strategy}: its code ended the process in {mark.times} starts, without an error"
            f"{f', the last in {last}' if last else ''}: correct it, or remove {place / START_FILE} to try it again"
        )
    elif run_mark.unstopped >= UNSTOPPED_MAX:
        refuse_imports(
            f"{strategy}: {run_mark.unstopped} runs of this day ended after calls of its code, and nobody stopped "
            f"them: look at the log and at dmesg, correct it, or remove {place / RUN_FILE} to try it again"
        )
    else:
        words = f"{strategy}: a call of its code did not return in {CALL_MOST_S:.0f} s: this start ends\n"
        guard = HangGuard(place, CALL_MOST_S, lambda: mark.under_way, START_STACK, words)
        guard.forget()
        guard.start()
        _guards.append(guard)


def unstopped_runs() -> int:
    """Return the day's number of runs that ended, unstopped, after calls of own code; 0 if the last was stopped."""
    return next((mark.unstopped for mark in _run_marks if mark.ended_after), 0)


def begin_run() -> None:
    """Note that a run continues with own code, until `end_run`."""
    for mark in _run_marks:
        mark.note("")


def end_run() -> None:
    """Note that the run ended in order, or was stopped."""
    for mark in _run_marks:
        mark.stopped()


def end_watch(place: Path, *, passed: bool) -> None:
    """End the notes and the guard. `passed`: own code completed the start, and earlier ends are forgotten."""
    while _guards:
        _guards.pop().close()
    for mark in _marks:
        told_of_calls.remove(mark.note)
        mark.close()
        if passed:
            with contextlib.suppress(OSError):
                (place / START_FILE).unlink()
    _marks.clear()


def _digest(strategy: str) -> str:
    """Return a digest of the file and the neighbours that it imports."""
    from strategies.kit.own.load import digest_of_place

    return hashlib.sha256(f"{strategy} {digest_of_place(strategy)}".encode()).hexdigest()[:12]
