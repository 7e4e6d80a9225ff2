"""`rltrader`: one command, whose words start every program there is.

It looks at the first word alone: the program gets the others as they were typed, and everything behind it (exit code,
signals, environment) is the program's own. Nothing is imported before that word is known.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from rltrader import PROGRAMS, call, load

USAGE_ERROR = 2


class Command(NamedTuple):
    """What a word starts: a program of `PROGRAMS`, or the function `module:function`; and what that is for."""

    starts: str
    text: str


GROUPS: dict[str, dict[str, Command]] = {
    "begin": {
        "init": Command(
            "daemon.cli.init.command:main", "make a desk here: account, strategy, bars, and a first dry run"
        ),
        "completion": Command("rltrader.completion:main", "print what lets bash or zsh complete these commands"),
    },
    "trade and watch": {
        "run": Command("rltraderd", "trade at a broker, or in a dry run; --check says what would run"),
        "ctl": Command("rltraderctl", "status, trades, reports and models of a desk; pause, halt, flatten, panic"),
        "runs": Command(
            "daemon.cli.runs.command:main", "dry runs and trainings: list, compare, tag, delete; start and watch one"
        ),
        "dashboard": Command("rltrader-dashboard", "the page about your desks, read only"),
        "mcp": Command("rltrader-mcp", "let an assistant read desks, models and manuals; it cannot act"),
        "simulate": Command("rltrader-simulator", "a broker on this machine with recorded or made-up prices"),
        "gateway": Command("rltrader-gateway", "one account for several desks"),
        "guard": Command("rltrader-guard", "watch a desk from another host, and protect what it holds"),
        "notify": Command("rltrader-notify", "messages to Telegram, mail and other services"),
        "pod": Command("rltrader-pod", "run one of these in a container as systemd would"),
    },
    "train": {
        "data": Command("training.cli.data:main", "the folder of bars: fetch, update, list, check, make longer ones"),
        "train": Command("train-and-export", "train, test, compare and export policies; recorded bars and quotes"),
        "trainer": Command("rltrader-trainer", "learn from a desk while it trades"),
        "publisher": Command("rltrader-publisher", "give what a desk lives through to its trainer"),
    },
}
"""Heading -> word -> what it starts."""
COMMANDS = {word: command for group in GROUPS.values() for word, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader`; returns the exit code of what it started, 2 for a word that starts nothing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else "--help"
    if first in ("--help", "-h"):
        sys.stdout.write(help_text())
        return 0
    if first == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"rltrader {version('rltrader')}\n")
        return 0
    if first not in COMMANDS:
        sys.stderr.write(f"rltrader: no command is called {first!r}{_meant(first)}; rltrader --help lists all\n")
        return USAGE_ERROR
    return _started(first, words[1:])


def _started(word: str, arguments: list[str]) -> int:
    starts = COMMANDS[word].starts
    call({command.starts: f"rltrader {typed}" for typed, command in COMMANDS.items() if command.starts in PROGRAMS})
    sys.argv[1:] = arguments
    module, _, function = PROGRAMS.get(starts, starts).partition(":")
    try:
        code: int = getattr(load(module), function or "main")()
    except ModuleNotFoundError as error:
        from rltrader.install import what_installs

        if not (words := what_installs(error)):
            raise
        sys.stderr.write(f"rltrader {word}: {words}\n")
        return USAGE_ERROR
    return code


def help_text() -> str:
    """Return the table of all commands."""
    wide = max(map(len, COMMANDS)) + 2
    lines = ["usage: rltrader COMMAND …", ""]
    for heading, commands in GROUPS.items():
        lines += [f"{heading}:", *(f"  {word:{wide}}{command.text}" for word, command in commands.items()), ""]
    lines.append("rltrader COMMAND --help explains one of them; rltrader --version prints the version.")
    return "\n".join(lines) + "\n"


def _meant(word: str) -> str:
    """Return the nearest command as words of a sentence, "" where nothing is near."""
    from difflib import get_close_matches

    near = {typed: f"rltrader {typed}" for typed in COMMANDS}
    near |= {command.starts: f"rltrader {typed}" for typed, command in COMMANDS.items() if command.starts in PROGRAMS}
    if found := get_close_matches(word, near, 1):
        return f"; did you mean `{near[found[0]]}`?"
    from daemon.cli.ctl import nearest

    return f"; did you mean `rltrader ctl {of_control}`?" if (of_control := nearest(word)) else ""
