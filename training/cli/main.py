"""The entry of `train-and-export`: finds the command and runs it.

The command's module parses its options, and reports every error of a file or an argument as one line with exit code 2.
Its libraries are loaded only when it runs.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from training.cli.commands import COMMANDS, FOLDERS, STOPPED, STOPPED_TEXT, wrong


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
        meant = f"; did you mean {near[0]}?" if near else ""
        return wrong(ValueError(f"no command is called {words[0]!r}: expected one of {', '.join(COMMANDS)}{meant}"))
    return _command("train")(words)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """A command's own main."""
    module = ".".join(["training.cli", *([FOLDERS[name]] if name in FOLDERS else []), name.replace("-", "_")])
    entry: Callable[[Sequence[str]], int] = import_module(module).main
    return entry
