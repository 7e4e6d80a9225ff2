"""`rltrader completion bash`: a script that lets the shell complete every command, flag and choice of all programs.

The script is made once and holds all it needs, so that a key press starts no Python: the parser of `train` alone takes
seconds. That is why neither argcomplete (which starts the program at each key) nor a list in git is used.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from rltrader import PROGRAMS, front
from strategies.registry import names

TEMPLATE = Path(__file__).with_name("completion.sh")
HEADS = {"bash": "", "zsh": "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n"}
"""Shell -> what stands before the functions: zsh completes as bash does by a module of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader completion`; returns the exit code."""
    line = argparse.ArgumentParser(
        prog="rltrader completion",
        description="Print what lets a shell complete every command, flag, strategy and state folder. Write it into a "
        "file once, and again after an upgrade.",
        epilog="bash: rltrader completion bash > ~/.rltrader.bash; echo '. ~/.rltrader.bash' >> ~/.bashrc",
    )
    line.add_argument("shell", choices=tuple(HEADS), help="for which shell")
    options = line.parse_args(arguments)
    sys.stdout.write(script(options.shell))
    return 0


def script(shell: str) -> str:
    """Return the script for a shell of `HEADS`."""
    from daemon.journal.journal import FILE

    words = {command.starts: f"rltrader {word}" for word, command in front.COMMANDS.items()}
    programs = [name for name in PROGRAMS if name == "rltrader" or name in words]
    values = {
        "SHELL": shell,
        "VERSION": version("rltrader"),
        "HEAD": HEADS[shell],
        "TABLES": "\n".join(filter(None, _tables())),
        "PROGRAMS": "\n".join(f"    {name}) path={shlex.quote(words.get(name, name))} ;;" for name in programs),
        "JOURNAL": FILE,
        "NAMES": " ".join(programs),
    }
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _tables() -> Iterator[str]:
    """Yield a line of the shell's table for each command, and for each flag whose values are known."""
    from rltrader.parsers import Command, commands_behind

    yield _row(["rltrader"], front.COMMANDS, ["--help", "--version"])
    for word in front.COMMANDS:
        found: list[Command] = []
        with redirect_stderr(StringIO()), suppress(ImportError, ValueError):  # without its extra: the word alone
            found = list(commands_behind(word))
        for words, parser in found:
            deeper = [other.words[-1] for other in found if other.words[:-1] == words]
            yield from _rows(["rltrader", *words], deeper, parser)


def _rows(path: list[str], commands: list[str], parser: argparse.ArgumentParser) -> Iterator[str]:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    flags = {flag: action for action in shown for flag in action.option_strings if flag.startswith("--")}
    words = [str(choice) for action in shown if not action.option_strings for choice in action.choices or ()]
    yield _row(path, commands or words, flags)
    for flag, action in flags.items():
        if action.nargs != 0:
            yield _row([*path, flag], *_values(flag, action))


def _values(flag: str, action: argparse.Action) -> tuple[Iterable[str], Iterable[str], str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices], (), "words"
    if flag == "--strategy" and action.metavar != "FILE.py":  # which is where a desk's own strategy went
        return names(), (), "strategy"
    return (), (), "state" if flag == "--state-dir" else "files"


def _row(path: Sequence[str], words: Iterable[str], flags: Iterable[str] = (), kind: str = "") -> str:
    sets = {"words": " ".join(words), "flags": " ".join(flags), "kind": kind}
    shown = "; ".join(f"{name}={shlex.quote(value)}" for name, value in sets.items() if value)
    return f"    {shlex.quote(' '.join(path))}) {shown} ;;" if shown else ""
