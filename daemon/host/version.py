"""What is installed: its version, its programs as a shell finds them, and how they refuse what they do not know."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rltrader import called


class CommandLine(argparse.ArgumentParser):
    """The parser of a program, and of each of its commands: it names the option that was meant.

    argparse would ask for what is missing first, and print the usage of the program, which lists no option of its
    commands.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what is not known, with the nearest option."""
        words = sys.argv[1:] if args is None else list(args)
        passes_on = any(action.nargs == argparse.REMAINDER for action in self._actions)  # to a program that it starts
        for word in () if passes_on else itertools.takewhile(lambda word: word != "--", words):
            if word.startswith("--"):
                self._check_option(word.partition("=")[0])
            elif self._subparsers is not None:
                break  # what follows is the command's
        options, unknown_words = super().parse_known_args(words, namespace)
        if unknown_words:
            word = unknown_words[0].partition("://")[0]  # the rest of an address may be a secret
            self.error(f"{word!r} is one argument too many; {self.prog} --help lists all")
        return options, unknown_words

    def _check_option(self, name: str) -> None:
        """Raise SystemExit for an option that neither is one nor is short for one."""
        if any(option.startswith(name) for option in self._option_string_actions):
            return
        near = get_close_matches(name, self._option_string_actions, 1)
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists all"
        self.error(f"no option is called {name!r}; {hint}")


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
    own_program = Path(sys.executable).parent / name
    path = shutil.which(name)
    if not own_program.exists() or (path is not None and own_program.samefile(path)):
        return name
    try:
        near = os.path.relpath(own_program)
    except OSError:  # the working folder is gone
        return shlex.quote(str(own_program))
    near = near if "/" in near else f"./{near}"
    return shlex.quote(min(near, str(own_program), key=len))
