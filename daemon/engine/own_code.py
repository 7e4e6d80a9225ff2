"""A strategy of one's own that ends the process in a start: while it is imported, or steps the journal again.

No error says so, and each further start would end there. So its calls are noted until the desk runs, and after two ends
of a day it counts as one that cannot be imported: what stands in for it leaves what is held.
"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from daemon.engine.state_dir import enter, peek
from daemon.host.hang import ENDS_MAX, CallMark
from daemon.host.own_files import StateDirError
from daemon.journal.rows import STRATEGY_FROM, JournalError
from strategies.kit.entry import told_of_calls
from strategies.registry import STRATEGIES

START_FILE = "start_call"  # in the state directory, until the desk runs
_marks: list[CallMark] = []


def watch_start(place: Path, strategy: str = "") -> None:
    """Note the calls of own code until `end_watch`; refuse its import where it ended two processes today.

    `strategy` is the one that is asked for, a file by its whole path; "" for that of the journal in `place`.
    """
    with contextlib.suppress(StateDirError, JournalError, OSError, ValueError):
        enter(place)
        strategy = strategy or (peek(place) or {}).get(STRATEGY_FROM, "")
    if not strategy or strategy in STRATEGIES or not place.is_dir():
        return
    from strategies.kit.own.load import refuse_imports

    mark = CallMark(place, f"{datetime.now(UTC):%Y-%m-%d}-{_digest(strategy)}", START_FILE)
    _marks.append(mark)
    told_of_calls.append(mark.note)
    if mark.times >= ENDS_MAX:
        refuse_imports(
            f"{strategy}: its code ended the process in {mark.times} starts, without an error: correct it, or remove "
            f"{place / START_FILE} to try it again"
        )


def end_watch(place: Path, *, passed: bool) -> None:
    """End the notes. `passed`: own code came through the start, and earlier ends are forgotten."""
    for mark in _marks:
        told_of_calls.remove(mark.note)
        mark.close()
        if passed:
            with contextlib.suppress(OSError):
                (place / START_FILE).unlink()
    _marks.clear()


def _digest(strategy: str) -> str:
    """Return what changes with the file, and with those next to it that it imports."""
    from strategies.kit.own.load import digest_of_place

    return hashlib.sha256(f"{strategy} {digest_of_place(strategy)}".encode()).hexdigest()[:12]
