"""A whole run as one TOML file: every key is an option of `train-and-export`, `[coefficients]` change a preset's.

Relative paths start from the file's folder. The command line overrides the file; for an option that may be repeated,
its values replace the file's.
"""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OPTION = "--run"
OF_CODE = frozenset({"strategy", "sink"})
"""Names, or files of one's own such as `mine.py` and `mine.py:NAME`."""
CHANGES = "--changes"  # the table of coefficients, as JSON
REPEATED = frozenset({"bars", "practice", "sink"})
"""Options that may be given several times."""
NOT_KEYS = frozenset({OPTION, CHANGES, "--help", "--version"})
CURE = "give a file such as docs/TRAINING.md shows"


def expanded(arguments: Sequence[str], options: argparse.ArgumentParser) -> list[str]:
    """The arguments, those of the file that `--run FILE` names before all others.

    Raises:
        ValueError: the file cannot be read, or a key is no option or has what the option does not take; the text names
            file, key, value and cure.
    """
    remaining, files = _without_files(list(arguments))
    if len(files) > 1:
        raise ValueError(f"{OPTION} is given {len(files)} times ({', '.join(files)}): expected one file")
    actions: list[argparse.Action] = vars(options)["_actions"]  # argparse has no public name for it
    by_name = {name: action for action in actions for name in action.option_strings if name not in NOT_KEYS}
    return [*(_options(Path(files[0]), by_name, remaining) if files else ()), *remaining]


def _without_files(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--run FILE` and `--run=FILE`, and these files."""
    remaining: list[str] = []
    files: list[str] = []
    waiting = False
    for argument in words:
        name, equals, value = argument.partition("=")
        if waiting:
            files.append(argument)
        elif name == OPTION and equals:
            files.append(value)
        elif name != OPTION:
            remaining.append(argument)
        waiting = not waiting and name == OPTION and not equals
    if waiting:
        raise ValueError(f"{OPTION}: expected a TOML file after it")
    return remaining, files


def _options(path: Path, by_name: dict[str, argparse.Action], arguments: Sequence[str]) -> Iterator[str]:
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as TOML ({error}): {CURE}") from error
    keys: dict[str, str] = {}
    for key, value in tables.items():
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, dict):
            if name != "--coefficients":
                raise ValueError(f"{path}: [{key}] is a table, expected [coefficients] alone: write {key} = ...")
            yield from (CHANGES, json.dumps(value, default=str))
            continue
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1)
            raise ValueError(f"{path}: {key} is no option: {f'did you mean {near[0][2:]}?' if near else CURE}")
        action = by_name[name]
        if (first_key := keys.setdefault(action.dest, key)) != key:
            raise ValueError(f"{path}: {key} is {first_key} by another name: expected one of them")
        several = value if isinstance(value, list) and action.dest in REPEATED else [value]
        texts = [_text(path, key, item, action) for item in several]
        if action.nargs == 0:
            yield from [name] if value else []
        elif action.dest not in REPEATED or not any(_names(argument, name) for argument in arguments):
            yield from (part for text in texts for part in (name, text))


def _names(argument: str, option: str) -> bool:
    """Whether an argument of the command line names the option, or is short for it."""
    name = argument.partition("=")[0]
    return len(name) > len("--") and option.startswith(name)


def _text(path: Path, key: str, value: object, action: argparse.Action) -> str:
    """A value as the command line has it."""
    if action.nargs == 0:
        good = isinstance(value, bool)
    elif action.type in {int, float}:
        good = isinstance(value, int if action.type is int else (int, float)) and not isinstance(value, bool)
    else:
        good = isinstance(value, str)
    if not good:
        value_text = json.dumps(value, default=str)
        raise ValueError(f"{path}: {key} is {value_text}: expected {_expected_values(action)}")
    text = str(value)
    name = key.replace("_", "-")
    file = action.type is Path or (name in OF_CODE and text.partition(":")[0].endswith(".py"))
    return str(path.parent / text) if file else text


def _expected_values(action: argparse.Action) -> str:
    """The values that an option takes, as text for an error message."""
    words = {int: "a whole number", float: "a number", Path: "a path in quotation marks"}
    expected = "true or false" if action.nargs == 0 else "text in quotation marks"
    for kind, text in words.items():
        expected = text if action.type is kind else expected
    return f"{expected}, or a list of such" if action.dest in REPEATED else expected
