"""The entry of `train-and-export`: its commands, each a module of this package, and the exits and errors they share.

The command's module parses its options, and reports every error of a file or an argument as one line with exit code 2.
Its libraries are loaded only when it runs: this module imports no training library.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from daemon.host.time.calendar import CalendarError
from daemon.tapes.files import TapeError
from training.desks.trial import Diverged
from training.export.shelf import ExportError
from training.rl.pool import own_fault
from training.runs.ledger import LedgerError
from training.study.folds import HistoryError

COMMANDS = {
    "learn": "watch a policy learn a made-up market whose rule is known, then trade it in the dry run",
    "download": "bars from Alpaca into a file that training, dry run and replay read",
    "data": "bars that live in one folder: fetch, update, list, check, make longer ones",
    "convert": "vendors' option quotes, or stock minutes, into files that this project reads",
    "check-quotes": "what is wrong with a file of option quotes, and what it covers",
    "calibrate": "what recorded option quotes say of the option market's constants, as a file",
    "search": "look for better coefficients with Optuna, or with Ray on a cluster",
    "sweep": "one policy of the store under many desk rules: a table, a heat map, and how much of it is luck",
    "ablate": "named settings of a training, compared on validation: keep or drop",
    "compare": "finished runs side by side: one table, one plot, and their updates as CSV",
    "analyse": "does a strategy look ahead, or depend on how much history it was given?",
    "report": "make the report of a run folder again",
    "promote": "let a version of the store trade real money, if its report passes every criterion",
    "reference": "put the distributions that drift is measured against into a version that has none",
}
"""Help text by command; `foo-bar` runs `training.cli.foo_bar.main`, or that of its folder in `FOLDERS`."""
FOLDERS = {"sweep": "studies", "compare": "studies", "ablate": "studies"}
"""Folder of this package by command, where the module is in one."""
DONE, NOT_PROMOTED, USAGE_ERROR, STOPPED = 0, 1, 2, 130
NOT_ACTIVE = NOT_PROMOTED
STOPPED_TEXT = "stopped; give the same command again to go on"


def add_models_dir(command: Any, text: str, former: str) -> None:
    """Add `--models-dir`, the name of the model store in all commands; its former name still works.

    `command` is a parser, or one of its groups.
    """
    usual = Path("onnx_models")
    command.add_argument("--models-dir", type=Path, default=usual, metavar="DIR", help=f"{text} (%(default)s)")
    command.add_argument(former, dest="models_dir", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def wrong(error: Exception) -> int:
    """Report a fault of a file or an argument as one line on standard error; returns the exit code."""
    text = own_fault(error) or str(error)
    text = " ".join(text.split()) or type(error).__name__  # one line, whatever a library raised
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = "" if error.filename else " for the run's folder or the store"  # a write that fails names no file
        text = f"{text}{where}: make room, and give the same command again to go on"
    sys.stderr.write(f"train-and-export: {text}\n")
    return USAGE_ERROR


ERRORS = (
    TapeError, CalendarError, HistoryError, ExportError, LedgerError, Diverged,
    OSError, ValueError, RuntimeError, MemoryError, OverflowError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 not promoted or not active, 2 a fault of the user, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _carried_out(words)
    except KeyboardInterrupt:
        sys.stderr.write(f"train-and-export: {STOPPED_TEXT}\n")
        return STOPPED


def _carried_out(words: list[str]) -> int:
    if words and words[0] in COMMANDS:
        return _command(words[0])(words[1:])
    if words and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return wrong(ValueError(f"no command is called {words[0]!r}: expected one of {', '.join(COMMANDS)}{hint}"))
    return _command("train")(words)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """A command's own main."""
    module = ".".join(["training.cli", *([FOLDERS[name]] if name in FOLDERS else []), name.replace("-", "_")])
    entry: Callable[[Sequence[str]], int] = import_module(module).main
    return entry
