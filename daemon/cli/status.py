"""`rltraderctl status`: one desk as a table, all desks, or one followed live. Reads journals only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from daemon.app import desks
from daemon.app.desks import ROOT
from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.cli.status_table import journaled, table
from daemon.cli.watch import watch
from daemon.core.state import State
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import locked_by
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.status import option_fills_of, status_of

EVERY_S = 1.0
EVERY_LEAST_S = 0.1


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument(
        "--desks", type=Path, metavar="DIR", help=f"all desks below this folder ({ROOT} where there is no journal here)"
    )
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
        return desks.show(options.desks or ROOT, console, as_json=options.json)
    if options.json:
        return desks.show_one(path)
    reader = JournalReader(path / FILE)
    found = recovered_desk(reader)
    state = found.machine.state
    _lead_on(options, state, running=bool(locked_by(path)))
    facts = replace(journaled(path, state), option_fills=option_fills_of(found.machine.market_state))
    console.print(table(reader.meta(), state, locked_by(path), facts))
    if (took := found.handover) is not None and not locked_by(path):
        reason = "journal_damaged" if took.damaged else "code_changed"
        console.print(f"it did not stop cleanly: its next start is halted ({reason}): {took.detail}")
    return 0


def _lead_on(options: argparse.Namespace, state: State[Any], *, running: bool) -> None:
    """Set the command that leads on from this state of a desk."""
    status = status_of(state, "")
    if status.then:
        lead_on(options, "accept-broker", "--reason", "TEXT")
    elif status.halt or status.pause:
        lead_on(options, "resume", "--reason", "TEXT")
    elif running:
        lead_on(options, "status", "--watch")
    else:
        lead_on(options, "report")
