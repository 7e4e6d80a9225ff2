"""`rltraderctl rotate`: continue the journal of a stopped desk in a new file."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from daemon.cli.arguments import add_command
from daemon.host.own_files import StateDirError


def add_to(commands: Any) -> None:
    """Add `rotate` to rltraderctl's command line."""
    text = "go on in a new file from the newest state; what was goes to the folder rotated (stopped desk)"
    add_command(commands, "rotate", text)


def run(options: argparse.Namespace, console: Console) -> int:
    """Rotate and print what was made; returns 0. Raises StateDirError, JournalError."""
    from daemon.app.offline import rotate_offline

    try:
        made = rotate_offline(options.state_dir)
    except OSError as error:
        raise StateDirError(f"{options.state_dir}: cannot be rotated: {error}; the journal is as it was") from error
    console.print(f"rotated at event row {made.row:,}, chain head {made.head}")
    console.print(f"what was, {made.before >> 20} MiB: {made.old}; the journal has {made.after >> 20} MiB")
    return 0
