"""What is installed: its version, and its programs as a shell finds them."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rltrader import called


class _Print(argparse.Action):
    """Print the command and the version of the installed package, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # 10 ms that a start without --version saves

        sys.stdout.write(f"{parser.prog} {version('rltrader')}\n")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version` to a command."""
    parser.add_argument("--version", action=_Print, help="print the installed version and exit")


def in_this_shell(command: str) -> str:
    """Return a command that begins with a program of ours so that it works as it is typed here."""
    name, space, rest = command.partition(" ")
    program, *word = called(name).split(" ")
    return " ".join([_program(program), *word]) + space + rest


def _program(name: str) -> str:
    """Return how this shell finds a program: by its name, else by its path, from the working folder where shorter.

    The name alone where the shell's search leads to the same file, and where the file is not next to this Python.
    """
    ours = Path(sys.executable).parent / name
    path = shutil.which(name)
    if not ours.exists() or (path is not None and ours.samefile(path)):
        return name
    try:
        near = os.path.relpath(ours)
    except OSError:  # the working folder is gone
        return shlex.quote(str(ours))
    near = near if "/" in near else f"./{near}"
    return shlex.quote(min(near, str(ours), key=len))
