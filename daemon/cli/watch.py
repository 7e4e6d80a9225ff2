"""`rltraderctl status --watch`: follow one desk's journal, as a live table or as a line of JSON for each change."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daemon.cli.status_table import Journaled, journaled, table
from daemon.core.limits import Trading
from daemon.engine.follow import Follower
from daemon.engine.state_dir import locked_by
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.status import status_of, unreadable_desk


def watch(path: Path, console: Console, every_s: float, *, as_json: bool) -> int:
    """Follow the desk in `path` until Ctrl-C; returns 0. Raises JournalError where there is no journal at first."""
    JournalReader(path / FILE).close()
    follower = Follower(path)
    try:
        if as_json:
            _lines(follower, every_s)
        else:
            _live(follower, console, every_s)
    except KeyboardInterrupt:
        pass
    finally:
        follower.close()
    return 0


def _look(follower: Follower) -> None:
    """Step over all new rows."""
    follower.advance()
    while not (follower.caught_up or follower.problem):
        follower.advance()


def _lines(follower: Follower, every_s: float) -> None:
    """Print a line of JSON for each change: the desk's status, or why it cannot be followed."""
    printed, facts = b"", _FromJournal(follower)
    while True:
        _look(follower)
        line = _status_line(follower, facts.known())
        if line != printed:
            sys.stdout.write(line.decode() + "\n")
            sys.stdout.flush()
            printed = line
        time.sleep(every_s)


def _status_line(follower: Follower, facts: Journaled) -> bytes:
    state = follower.state
    if state is None or follower.problem:
        return msgspec.json.encode(unreadable_desk(str(follower.path.parent), follower.problem))
    path = follower.path.parent
    status = status_of(state, follower.meta.get("desk", ""))
    known = {"limits": facts.limits, "left_alone": facts.left_alone}
    return msgspec.json.encode(replace(status, state_dir=str(path), process=locked_by(path), **known))


def _live(follower: Follower, console: Console, every_s: float) -> None:
    facts = _FromJournal(follower)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            _look(follower)
            live.update(live_table(follower, facts.known()), refresh=True)
            time.sleep(every_s)


class _FromJournal:
    """Facts of the journal outside the state, read again after each start and each decision."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._of: tuple[Trading | None, int] = None, 0
        self._known = Journaled()

    def known(self) -> Journaled:
        """Return the facts as of the newest start and decision that were read."""
        state = self._follower.state
        if state is None or self._follower.problem:
            return self._known
        now = state.trading, state.stats.decisions
        if now[0] is not self._of[0] or now[1] != self._of[1]:
            self._known, self._of = journaled(self._follower.path.parent, state), now
        return self._known


def live_table(follower: Follower, facts: Journaled) -> Table:
    """Return the desk as last read, and why that may be old."""
    state = follower.state
    if state is None:
        shown = Table(show_header=False)
        shown.add_row(Text(follower.problem, "red"))
        return shown
    shown = table(follower.meta, state, locked_by(follower.path.parent), facts)
    if follower.problem:
        shown.add_row("old", Text(follower.problem, "red"))
    return shown
