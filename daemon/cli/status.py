"""`rltraderctl status`: one desk as a table, all desks, or one followed live (`--watch`). Reads only journals."""

from __future__ import annotations

import argparse
import json
import os
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

from daemon.app import desks
from daemon.app.desks import ROOT, Journaled, alarms_of, desk_status, journal_facts
from daemon.cli.arguments import NotFound, add_state_dir, lead_on, print_table
from daemon.cli.status_table import fleet_table, table, totals_table
from daemon.core.limits import Trading
from daemon.engine.desks_file import DESKS_HELP
from daemon.engine.follow import Follower
from daemon.host.own_files import StateDirError
from daemon.host.state_place import CONFIG, VARIABLE, configured_state_dir
from daemon.host.version import in_this_shell
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.fleet import fleet_of
from daemon.operator.status import DeskStatus, needs_accepting, resume_words, unreadable_desk
from strategies.kit.quantity import to_json


def watch(path: Path, console: Console, every_s: float, *, as_json: bool) -> int:
    """Follow the desk in `path` until Ctrl-C; returns 0. Raises JournalError if there is no journal at first."""
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
    """Print a line of JSON for each change: the desk's status, or the reason why it cannot be followed."""
    last_text, facts = b"", _FromJournal(follower)
    while True:
        _look(follower)
        line = _status_line(follower, facts.known())
        if line != last_text:
            sys.stdout.write(line.decode() + "\n")
            sys.stdout.flush()
            last_text = line
        time.sleep(every_s)


def _status_line(follower: Follower, facts: Journaled) -> bytes:
    path, machine = follower.path.parent, follower.machine
    if machine is None or follower.problem:
        return msgspec.json.encode(unreadable_desk(str(path), follower.problem))
    return msgspec.json.encode(desk_status(path, follower.meta, machine, facts), enc_hook=to_json)


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
        self._facts = Journaled()

    def known(self) -> Journaled:
        """Return the facts as of the newest start and decision read."""
        machine = self._follower.machine
        if machine is None or self._follower.problem:
            return self._facts
        parts_before, now = self._of, (machine.state.trading, machine.state.stats.decisions, machine.state.seq)
        if now[1:] == parts_before[1:] and now[0] is parts_before[0]:
            return self._facts
        with closing(JournalReader(self._follower.path)) as reader:
            if now[0] is parts_before[0] and now[1] == parts_before[1]:
                alarms, alarm = alarms_of(reader, machine)
                self._facts = replace(self._facts, alarms=alarms, alarm=alarm)
            else:
                self._facts = journal_facts(reader, machine)
        self._of = now
        return self._facts


def live_table(follower: Follower, facts: Journaled) -> Table:
    """Return the desk as last read, and the reason if that may be old."""
    machine = follower.machine
    if machine is None:
        grid = Table(show_header=False)
        grid.add_row(Text(follower.problem, "red"))
        return grid
    grid = table(desk_status(follower.path.parent, follower.meta, machine, facts))
    if follower.problem:
        grid.add_row("old", Text(follower.problem, "red"))
    return grid


EVERY_S = 1.0
EVERY_LEAST_S = 0.1


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    command.set_defaults(run=run)
    add_state_dir(command, desks=f"{DESKS_HELP} ({ROOT} where there is no journal here)")
    command.add_argument("--json", action="store_true", help="one JSON object a desk")
    command.add_argument("--watch", action="store_true", help="follow one desk until Ctrl-C")
    command.add_argument(
        "--every", type=_seconds, default=EVERY_S, metavar="S", help=f"seconds between two looks (default {EVERY_S:g})"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not EVERY_LEAST_S <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected {EVERY_LEAST_S:g} to 3600 seconds")
    return seconds


def run(options: argparse.Namespace, console: Console) -> int:
    """Show one desk, all desks, or follow one. Raises NotFound, StateDirError, JournalError."""
    path = options.state_dir or (None if options.desks else desks.configured_desk())
    if options.watch:
        if path is None:
            raise NotFound("--watch follows one desk: name it with --state-dir")
        return watch(path, console, options.every, as_json=options.json or not console.is_terminal)
    if path is None:
        return _show_all(options, console)
    if options.json:
        return _as_json([desks.desk_of(path)])
    reader = JournalReader(path / FILE)
    recovery, without_its_file = desks.shown_desk(reader)
    if without_its_file:
        sys.stderr.write(f"rltraderctl: {without_its_file}; what the desk is and holds is shown without it\n")
    status = desks.desk_status(path, reader.meta(), recovery.machine, desks.journal_facts(reader, recovery.machine))
    _lead_on(options, status)
    console.print(table(status))
    if (took := recovery.handover) is not None and not status.process:
        reason = "journal_damaged" if took.damaged else "code_changed"
        console.print(f"it did not stop cleanly: its next start is halted ({reason}): {took.detail}")
    return 0


def _show_all(options: argparse.Namespace, console: Console) -> int:
    """Print all desks and their totals; returns 0, or 1 when one could not be read."""
    named_desks = desks.desks_of(options.desks) if options.desks else _of_this_host()
    if options.json:
        return _as_json([desk for _, desk in named_desks])
    fleet = fleet_of(named_desks, time.time())
    print_table(console, fleet_table(fleet), "event", "strategy", "exposure", "holds", "alarms")
    if len(fleet.desks) > 1:
        print_table(console, totals_table(fleet), "exposure", "alarms")
    for remark in fleet.remarks:
        console.print(remark, soft_wrap=True)
    looked_at = min(fleet.desks, key=lambda desk: bool(desk.problem) or (desk.may_trade and not desk.alarms))
    lead_on(options, "status", "--state-dir", looked_at.state_dir)
    return int(any(desk.problem for desk in fleet.desks))


def _of_this_host() -> list[tuple[str, DeskStatus]]:
    """Return the desks below `ROOT`; without any, the one of this folder, which may not have been started yet."""
    try:
        return desks.desks_of(ROOT)
    except StateDirError as error:
        if not CONFIG.exists() and VARIABLE not in os.environ:
            raise
        place = configured_state_dir()
        start = f"`{in_this_shell('rltraderd')} --check` says what its first start would do"
        raise NotFound(f"{place}: no journal here yet, because this desk was not started: {start}") from error


def _as_json(desks: list[DeskStatus]) -> int:
    for desk in desks:
        sys.stdout.write(json.dumps(msgspec.to_builtins(desk, enc_hook=to_json)) + "\n")
    return int(any(desk.problem for desk in desks))


def _lead_on(options: argparse.Namespace, status: DeskStatus) -> None:
    """Set the suggested next command from this status of a desk."""
    if needs_accepting(status):
        lead_on(options, "accept-broker", "--reason", "TEXT")
    elif status.halt or status.pause:
        lead_on(options, *resume_words(status.loss_to_reset), "--reason", "TEXT")
    elif status.process:
        lead_on(options, "status", "--watch")
    else:
        lead_on(options, "report")
