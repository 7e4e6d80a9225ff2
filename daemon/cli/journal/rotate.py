"""`rltraderctl rotate`: continue the journal of a stopped desk in a new file."""

from __future__ import annotations

import argparse

from rich.console import Console

from daemon.cli.arguments import add_state_dir, lead_on
from daemon.host.own_files import StateDirError


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `rotate`."""
    command.set_defaults(run=run)
    add_state_dir(command)


def run(options: argparse.Namespace, console: Console) -> int:
    """Rotate and print the new files; returns 0. Raises StateDirError, JournalError."""
    from daemon.app.offline.command import rotate_offline

    try:
        rotation = rotate_offline(options.state_dir)
    except OSError as error:
        raise StateDirError(f"{options.state_dir}: cannot be rotated: {error}; the journal is as it was") from error
    console.print(f"rotated at event row {rotation.row:,}, chain head {rotation.head}")
    console.print(f"what was, {rotation.before >> 20} MiB: {rotation.old}; the journal has {rotation.after >> 20} MiB")
    lead_on(options, "verify", "--file", str(rotation.old))
    return 0
