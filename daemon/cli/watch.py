"""`rltraderctl status --watch`: follow one desk's journal, as a live table or as a line of JSON for each change."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daemon.app.desks import Journaled, alarms_of, desk_status, journaled
from daemon.cli.status_table import table
from daemon.core.limits import Trading
from daemon.engine.follow import Follower
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.status import unreadable_desk


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
    path, machine = follower.path.parent, follower.machine
    if machine is None or follower.problem:
        return msgspec.json.encode(unreadable_desk(str(path), follower.problem))
    return msgspec.json.encode(desk_status(path, follower.meta, machine, facts))


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
        self._of: tuple[Trading | None, int, int] = None, 0, 0
        self._known = Journaled()

    def known(self) -> Journaled:
        """Return the facts as of the newest start and decision that were read."""
        machine = self._follower.machine
        if machine is None or self._follower.problem:
            return self._known
        before, now = self._of, (machine.state.trading, machine.state.stats.decisions, machine.state.seq)
        if now[1:] == before[1:] and now[0] is before[0]:
            return self._known
        with closing(JournalReader(self._follower.path)) as reader:
            if now[0] is before[0] and now[1] == before[1]:
                alarms, alarm = alarms_of(reader, machine)
                self._known = replace(self._known, alarms=alarms, alarm=alarm)
            else:
                self._known = journaled(reader, machine)
        self._of = now
        return self._known


def live_table(follower: Follower, facts: Journaled) -> Table:
    """Return the desk as last read, and why that may be old."""
    machine = follower.machine
    if machine is None:
        grid = Table(show_header=False)
        grid.add_row(Text(follower.problem, "red"))
        return grid
    grid = table(desk_status(follower.path.parent, follower.meta, machine, facts))
    if follower.problem:
        grid.add_row("old", Text(follower.problem, "red"))
    return grid
