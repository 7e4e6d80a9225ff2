"""`rltraderctl`: read and verify a state directory; command its desk, running or stopped.

`verify`, `status`, `events` and `decisions` read only, also while a daemon runs. `pause`, `resume`, `halt`,
`flatten` and `reload` journal one event with its reason. `panic` needs no state directory at all.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from daemon.cli import control, drift, heads, remote, report, shadow, status
from daemon.cli.journal import events, explain, rotate, verify
from daemon.cli.journal.explain import NotFound
from daemon.cli.models import command as models
from daemon.config.load import EXIT_CODE, ConfigError
from daemon.engine.state_dir import enter
from daemon.host.own_files import StateDirError
from daemon.journal.journal import FILE
from daemon.journal.reader import unreadable
from daemon.journal.rows import JournalError, WriteFailed
from daemon.operator.control.client import ControlError


def parser() -> argparse.ArgumentParser:
    """The command line of rltraderctl."""
    line = argparse.ArgumentParser(
        prog="rltraderctl", description="Look into a state directory and prove it; command its desk; panic."
    )
    commands = line.add_subparsers(dest="command", required=True)
    for part in (verify, rotate, status, events, explain, report, shadow, drift, heads, models, control, remote):
        part.add_to(commands)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltraderctl`; returns 0, 1 when verify found a difference, 2 for an impossible request."""
    options = parser().parse_args(arguments)
    try:
        if getattr(options, "state_dir", None) is not None and options.command != "panic":  # which nothing may refuse
            enter(options.state_dir)
        code = COMMANDS[options.command](options, _console())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ConfigError, ControlError, JournalError, StateDirError, WriteFailed, NotFound) as error:
        problem: Exception = error
    except OSError as error:  # a folder that this user may not enter
        problem = error
    except (sqlite3.DatabaseError, UnicodeError) as error:  # a page that nothing had to read before
        problem = unreadable(Path(getattr(options, "file", None) or getattr(options, "state_dir", None) or FILE), error)
    else:
        return code
    sys.stderr.write(f"rltraderctl: {problem}\n")
    return EXIT_CODE


def _console() -> Console:
    """Open standard output: the terminal's width, or wide enough for whole rows."""
    console = Console(highlight=False, markup=False)  # what the journal holds is shown as it is, brackets too
    return console if console.is_terminal else Console(highlight=False, markup=False, width=200)


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "verify": verify.run,
    "rotate": rotate.run,
    "status": status.run,
    "events": events.run,
    "decisions": explain.run,
    "report": report.run,
    "shadow": shadow.run,
    "drift": drift.run,
    "heads": heads.run,
    "models": models.run,
    **dict.fromkeys(control.COMMANDS, control.run),
    "remote": remote.run,
    "panic": control.panic,
}


if __name__ == "__main__":
    sys.exit(main())
