"""`rltraderctl`: read and verify a state directory; command its desk, running or stopped.

`verify`, `status`, `events`, `decisions` and `trades` read only, also while a daemon runs. `pause`, `resume`, `halt`,
`flatten` and `reload` journal one event with its reason. `panic` needs no state directory at all.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from daemon.cli.arguments import JournalConsole, NotFound, add_own, remember_places, take_desks
from daemon.config.load import EXIT_CODE, ConfigError
from daemon.engine.state_dir import enter
from daemon.host.own_files import StateDirError
from daemon.host.state_place import configured_state_dir
from daemon.host.version import CommandLine, add_version
from daemon.journal.journal import FILE
from daemon.journal.reader import unreadable
from daemon.journal.rows import JournalError, WriteFailed
from daemon.operator.control.client import ControlError
from rltrader import called
from strategies.kit.entry import OwnStrategyError

JOURNALED = "daemon.cli.control"
COMMANDS = {
    "verify": (
        "daemon.cli.journal.verify",
        "replay the journal without weights and compare everything, event by event",
    ),
    "rotate": (
        "daemon.cli.journal.rotate",
        "go on in a new file from the newest state; what was goes to the folder rotated (stopped desk)",
    ),
    "init": ("daemon.cli.init.command", "make a desk in a folder: account, strategy, bars, and a first dry run"),
    "start": ("daemon.cli.start.desks", "start the desks of a desks.toml, each as a daemon of its own"),
    "status": ("daemon.cli.status", "what the desk is, holds and has earned; without --state-dir all desks"),
    "events": ("daemon.cli.journal.events", "the events, newest last"),
    "decisions": ("daemon.cli.journal.explain", "the decisions, newest last; --bar explains one completely"),
    "trades": ("daemon.cli.journal.trades", "round trips from flat to flat, newest last: profit, excursion, reasons"),
    "export": ("daemon.cli.journal.export", "the journal's tables, or its option quotes, as Parquet (docs/DATA.md)"),
    "report": (
        "daemon.cli.report",
        "what a session came to and what its trading cost: a table, a page (HTML) and a CSV file of its orders",
    ),
    "gap": ("daemon.cli.journal.gap", "a session's orders at the broker next to the same orders on paper, by reason"),
    "shadow": ("daemon.cli.shadow", "candidates and the live model: agreement, confidence, and a hypothetical result"),
    "drift": ("daemon.cli.drift", "live features and actions against those of the model's training"),
    "heads": ("daemon.cli.heads", "the newest head of the journal's chain, and its signature"),
    "models": ("daemon.cli.models.command", "the model store: list, check, activate, roll back, sign"),
    "reference": (
        "daemon.cli.reference",
        "print what the code declares: log events, metrics, columns of trades, fields of a status, fees, JSON schemas",
    ),
    "new-strategy": ("daemon.cli.new_strategy", "write a package with a strategy of your own, which runs at once"),
    "pause": (JOURNALED, "take no new positions until resumed; exits go on"),
    "resume": ("daemon.cli.control:add_resume", "end a halt or a pause"),
    "halt": (JOURNALED, "take no new positions and cancel entries, until resumed with a reason; exits go on"),
    "close": (
        "daemon.cli.control:add_close",
        "close one position, or a part of it, which is not bought back in this session",
    ),
    "flatten": ("daemon.cli.control:add_flatten", "halt, and close every position"),
    "reload": (JOURNALED, "look at the model store at once (a running daemon alone)"),
    "accept-broker": (JOURNALED, "halt, and let the book take over the broker's next report; then resume"),
    "reset-clock": (
        "daemon.cli.control:add_reset_clock",
        "lead a journal whose time is ahead back to the broker's clock",
    ),
    "panic": (
        "daemon.cli.control:add_panic",
        "cancel every order and close every position of the account, straight over REST, without daemon or journal",
    ),
    "try-protection": (
        "daemon.cli.control:add_try_protection",
        "rest stops of one share and one contract at a paper account, print each answer, and remove them again",
    ),
    "remote": ("daemon.cli.remote", "send a signed command to a running desk over MQTT and print its answer"),
}
"""Command -> the module whose `add_options`, or the named function, adds its options, and the help text.

The module is imported only for the chosen command: all of them load numpy, onnxruntime, TA-Lib and MQTT.
"""


CHANGES = frozenset(
    {"pause", "resume", "halt", "close", "flatten", "reload", "accept-broker", "reset-clock", "models", "rotate"}
    | {"remote", "new-strategy"}
)
"""Commands that change something: their suggested next command is printed without a terminal, too."""
OWN_DEFAULT = ("status", "panic", "try-protection")
"""Commands that find a state directory without `--state-dir`."""


def nearest(word: str) -> str:
    """Return the command that was meant by `word`, which is none: one of `models`, or the nearest; "" for none."""
    from daemon.cli.models.command import FORMERLY, WORDS

    word = FORMERLY.get(word, word)
    return f"models {word}" if word in WORDS else next(iter(get_close_matches(word, COMMANDS, 1)), "")


def parser(chosen: str, prog: str = "rltraderctl") -> argparse.ArgumentParser:
    """The command line of rltraderctl, with the options of the chosen command alone."""
    line = CommandLine(prog=prog, description="Look into a state directory and prove it; command its desk; panic.")
    add_version(line)
    commands = line.add_subparsers(dest="command")
    for name, (place, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            module, _, function = place.partition(":")
            getattr(import_module(module), function or "add_options")(command)
    return line


def main(arguments: Sequence[str] | None = None, prog: str = "") -> int:
    """Run `rltraderctl`; returns 0, 1 when verify found a difference, 2 for an impossible request.

    `prog` is what was typed before the command, where that is not this program.
    """
    prog = prog or called("rltraderctl")
    words = sys.argv[1:] if arguments is None else arguments
    chosen = next((argument for argument in words if not argument.startswith("-")), "")
    if words and words[0] == chosen and chosen not in COMMANDS:
        near = nearest(chosen)
        hint = f"; did you mean {near}?" if near else ""
        sys.stderr.write(f"{prog}: no command is called {chosen!r}{hint}: {prog} --help lists all\n")
        return EXIT_CODE
    line = parser(chosen, prog)
    options = line.parse_args(words)
    if options.command is None:
        sys.stderr.write(f"{line.format_help()}\n{prog}: name a command: {prog} COMMAND --help explains one\n")
        return EXIT_CODE
    try:
        take_desks(options)
        remember_places(options)
        if getattr(options, "state_dir", "") is None and chosen not in OWN_DEFAULT:
            options.state_dir = configured_state_dir()
        if getattr(options, "state_dir", None) is not None and chosen != "panic":  # nothing may refuse a panic
            enter(options.state_dir)
        if getattr(options, "own_strategy", None):
            add_own(options.own_strategy)
        code: int = options.run(options, _console())
        sys.stdout.flush()
        _print_next(options, code)
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (
        ConfigError, ControlError, JournalError, StateDirError, WriteFailed, NotFound, OwnStrategyError
    ) as error:  # fmt: skip
        problem: Exception = error
    except OSError as error:  # such as a folder that this user may not enter
        allowed = not isinstance(error, PermissionError)
        cure = "run it as root or as the desk's user, or name another place"
        problem = error if allowed else OSError(f"{error.filename}: {error.strerror}: {cure}")
    except (sqlite3.DatabaseError, UnicodeError) as error:  # such as a damaged page that nothing read before
        problem = unreadable(Path(getattr(options, "file", None) or getattr(options, "state_dir", None) or FILE), error)
    else:
        return code
    sys.stderr.write(f"{prog}: {problem}\n")
    return EXIT_CODE


def _print_next(options: argparse.Namespace, code: int) -> None:
    """Print the suggested next command on a terminal, and after each change; never with JSON."""
    command = getattr(options, "next_command", "")
    if not command or code or getattr(options, "json", False):
        return
    if options.command in CHANGES or sys.stderr.isatty():
        sys.stderr.write(f"next: {command}\n")


def _console() -> JournalConsole:
    return JournalConsole(200)


if __name__ == "__main__":
    sys.exit(main())
