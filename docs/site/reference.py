"""The reference as Markdown, made from the code: each program's options, and every key of config.toml.

Programs are found in pyproject.toml and started up to the point where they parse their arguments; none is run.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from daemon.config.load import defaults
from strategies.registry import STRATEGIES, entry

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = REPOSITORY / "config.toml"
WIDTH = 88  # characters of a usage line
_TABLE = re.compile(r"\[(\w+)\]  # (.+)")
_KEY = re.compile(r"(?:# )?(\w+) = (\S.*)")
_END = "# One file for desks"


class Parsed(BaseException):  # no handler of a program catches it
    """Raised instead of running a program: the parser that it asked, and what that parser made of the arguments."""

    def __init__(self, parser: argparse.ArgumentParser, found: argparse.Namespace | None) -> None:
        super().__init__(parser.prog)
        self.parser, self.found = parser, found


def programs() -> dict[str, str]:
    """Return program -> `module:function`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return dict(project["scripts"])


def parse(program: str, arguments: Sequence[str], *, really: bool = True) -> Parsed:
    """Start a program up to the point where its arguments are parsed.

    With `really` false they are not: the parser alone is found. Raises SystemExit where the program refuses them.
    """
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> Any:
        raise Parsed(parser, original(parser, given) if really else None)

    module, _, function = programs()[program].partition(":")
    start = getattr(import_module(module), function)
    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch.object(sys, "argv", [program, *arguments]):
        try:
            start()
        except Parsed as parsed:
            return parsed
    raise AssertionError(f"{program} {' '.join(arguments)} parses no argument")


class Command(NamedTuple):
    """A command: its words after the program's name, none for the program itself, and its parser."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser


def commands(program: str) -> Iterator[Command]:
    """Yield the program itself and each of its commands, outer ones first."""
    if program == "train-and-export":  # each of its commands is a module with a parser of its own
        from training.cli.main import COMMANDS

        yield Command((), parse(program, [], really=False).parser)
        for name in COMMANDS:
            yield Command((name,), parse(program, [name], really=False).parser)
        return
    outer = parse(program, [], really=False).parser
    yield Command((), outer)
    for name in _inner(outer):
        parser = _inner(parse(program, [name], really=False).parser)[name]  # rltraderctl fills in the chosen one alone
        yield Command((name,), parser)
        for word, deeper in _inner(parser).items():
            yield Command((name, word), deeper)


def _inner(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser; those under a former name are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = {choice.dest for choice in action._choices_actions}
            return {name: found for name, found in action.choices.items() if name in shown}
    return {}


def command_page(program: str) -> str:
    """Return the reference of a program as Markdown."""
    parts = [f"# `{program}`\n"]
    for words, parser in commands(program):
        if words:
            parts.append(f"{'#' * (len(words) + 1)} `{' '.join((program, *words))}`\n")
        parts += [f"{_sentence(parser.description or '')}\n", f"```text\n{_usage(parser)}\n```\n"]
        if rows := [row for group in parser._action_groups for row in _rows(parser, group)]:
            parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n")
        if parser.epilog:
            parts.append(_epilog(parser))
    return "\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    return re.sub(r"\{[^}]{60,}\}", "COMMAND", formatter.format_help().strip())


def _rows(parser: argparse.ArgumentParser, group: Any) -> Iterator[str]:
    formatter = argparse.HelpFormatter(parser.prog)
    named = group.title not in {"options", "positional arguments"}
    for action in group._group_actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        if named:
            yield f"| **{_text(group.title)}** | |"
            named = False
        text = formatter._expand_help(action) if action.help else ""
        invoked = formatter._format_action_invocation(action).replace("|", "\\|")
        yield f"| `{invoked}` | {_text(text)} |"


def _sentence(text: str) -> str:
    """Return the text with a capital, and a full stop at its end."""
    shown = _text(text)
    return f"{shown[:1].upper()}{shown[1:].rstrip('.')}." if shown else ""


def _epilog(parser: argparse.ArgumentParser) -> str:
    if parser.formatter_class is argparse.RawDescriptionHelpFormatter:
        return f"```text\n{parser.epilog}\n```\n"
    return f"{_text(parser.epilog or '')}\n"


def configuration_page() -> str:
    """Return the reference of config.toml as Markdown. Raises ValueError for a key without a text."""
    lines = CONFIGURATION.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith(_END))
    first = next(number for number, line in enumerate(lines) if _TABLE.fullmatch(line))
    parts = ["# Configuration\n", _text(" ".join(line.removeprefix("# ") for line in lines[:first])), ""]
    texts = _texts(lines[first:end])
    for table, keys in defaults().items():
        parts += [f"## `[{table}]`\n", _text(texts[table, ""]), "", "| key | default | meaning |", "|---|---|---|"]
        parts += [f"| `{key}` | {_default(value)} | {_text(texts[table, key])} |" for key, value in keys.items()]
        parts.append("")
    parts += ["## Defaults of single strategies\n", "| strategy | key | default |", "|---|---|---|"]
    for name in STRATEGIES:
        for table, keys in entry(name).defaults.items():
            parts += [f"| `{name}` | `{table}.{key}` | {_default(value)} |" for key, value in keys.items()]
    parts += ["", "## One file for several desks\n", *_several(lines[end:])]
    return "\n".join(parts) + "\n"


def _texts(lines: list[str]) -> dict[tuple[str, str], str]:
    """Return (table, key) -> its text; of the key "" the table's own."""
    found: dict[tuple[str, str], str] = {}
    table, above = "", list[str]()
    for line in lines:
        if match := _TABLE.fullmatch(line):
            table, above = match[1], []
            found[table, ""] = match[2]
        elif match := _KEY.fullmatch(line):
            found[table, match[1]] = " ".join(above).partition(" Default: ")[0]
            above = []
        elif line.startswith("# "):
            above.append(line.removeprefix("# "))
        else:
            above = []
    return found


def _several(lines: list[str]) -> list[str]:
    """Return what stands at the file's end: its text, and its example as a block."""
    made: list[str] = []
    for raw in lines:
        line = raw.removeprefix("#").removeprefix(" ")
        if (line.startswith("[") or _KEY.fullmatch(line)) and not (made and made[-1].startswith("    ")):
            made += ["", f"    {line}"]
        elif line.startswith("[") or _KEY.fullmatch(line):
            made.append(f"    {line}")
        else:
            made += ["", _text(line)] if line.startswith("- ") and not made[-1].startswith("- ") else [_text(line)]
    return made


def _default(value: object) -> str:
    shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str | Path) else value
    if isinstance(value, tuple | list):
        shown = list(value)
    return "`" + str(shown).replace("|", "\\|") + "`"


def _text(text: str) -> str:
    """Return one line of Markdown that shows this text as it is, with its code and links to manuals."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    for sign in "\\*_<|[":
        text = text.replace(sign, f"\\{sign}")
    return re.sub(r"docs/([A-Z\\_]+)\.md", lambda match: _manual(match[1].replace("\\", "")), text)


def _manual(name: str) -> str:
    return f"[{name}](../docs/{name}.md)"
