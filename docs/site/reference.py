"""The reference as Markdown, made from the code: each program's options, and every key of config.toml.

Programs are found in pyproject.toml; `rltrader.parsers` has their parsers.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon.config.load import defaults
from rltrader import PROGRAMS, front
from rltrader.parsers import commands, parse
from strategies.registry import STRATEGIES, entry

__all__ = ["command_page", "commands", "configuration_page", "parse", "programs"]

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = REPOSITORY / "config.toml"
WIDTH = 88  # characters of a usage line
_TABLE = re.compile(r"\[(\w+)\]  # (.+)")
_KEY = re.compile(r"(?:# )?(\w+) = (\S.*)")
_END = "# One file for desks"


def programs() -> dict[str, str]:
    """Return program -> `module:function`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return dict(project["scripts"])


def command_page(program: str) -> str:
    """Return the reference of a program as Markdown."""
    if program == "rltrader":
        return _table_of_words()
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


def _table_of_words() -> str:
    """Return the page of the command whose words start the others; each of those has a page of its own."""
    about = "One command, whose words start every program there is, with the options of that program.\n"
    parts, head = ["# `rltrader`\n", about], ("| command | what it does | also called |", "|---|---|---|")
    for heading, words in front.GROUPS.items():
        parts += [f"## {heading[0].upper()}{heading[1:]}\n", *head]
        for word, command in words.items():
            name = f"[`{command.starts}`]({command.starts}.md)" if command.starts in PROGRAMS else ""
            parts.append(f"| `rltrader {word}` | {_sentence(command.text)} | {name} |")
        parts.append("")
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
