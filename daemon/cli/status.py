"""`rltraderctl status`: one desk as a table, all desks, or one followed live. Reads journals only."""

from __future__ import annotations

import argparse
import json
import sys
import time

import msgspec
from rich.console import Console

from daemon.app import desks
from daemon.app.desks import ROOT
from daemon.cli.arguments import NotFound, add_state_dir, lead_on, print_table
from daemon.cli.status_table import fleet_table, table, totals_table
from daemon.cli.watch import watch
from daemon.engine.desks_file import DESKS_HELP
from daemon.engine.recover import recovered_desk
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.fleet import fleet_of
from daemon.operator.status import DeskStatus, resume_words

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
    recovered = recovered_desk(reader)
    status = desks.desk_status(path, reader.meta(), recovered.machine, desks.journaled(reader, recovered.machine))
    _lead_on(options, status)
    console.print(table(status))
    if (took := recovered.handover) is not None and not status.process:
        reason = "journal_damaged" if took.damaged else "code_changed"
        console.print(f"it did not stop cleanly: its next start is halted ({reason}): {took.detail}")
    return 0


def _show_all(options: argparse.Namespace, console: Console) -> int:
    """Print all desks and their totals; returns 0, or 1 when one could not be read."""
    named = desks.desks_of(options.desks or ROOT)
    if options.json:
        return _as_json([desk for _, desk in named])
    fleet = fleet_of(named, time.time())
    print_table(console, fleet_table(fleet), "event", "strategy", "exposure", "holds", "alarms")
    if len(fleet.desks) > 1:
        print_table(console, totals_table(fleet), "exposure", "alarms")
    for remark in fleet.remarks:
        console.print(remark, soft_wrap=True)
    looked_at = min(fleet.desks, key=lambda desk: bool(desk.problem) or (desk.may_trade and not desk.alarms))
    lead_on(options, "status", "--state-dir", looked_at.state_dir)
    return int(any(desk.problem for desk in fleet.desks))


def _as_json(desks: list[DeskStatus]) -> int:
    for desk in desks:
        sys.stdout.write(json.dumps(msgspec.to_builtins(desk)) + "\n")
    return int(any(desk.problem for desk in desks))


def _lead_on(options: argparse.Namespace, status: DeskStatus) -> None:
    """Set the command that leads on from this status of a desk."""
    if status.then:
        lead_on(options, "accept-broker", "--reason", "TEXT")
    elif status.halt or status.pause:
        lead_on(options, *resume_words(status.loss_to_reset), "--reason", "TEXT")
    elif status.process:
        lead_on(options, "status", "--watch")
    else:
        lead_on(options, "report")
