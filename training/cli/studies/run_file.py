"""A whole run as one TOML file: every key is an option of `train-and-export`, `[coefficients]` change a preset's.

Relative paths are those of the file's own folder. What the command line gives comes later, so it wins.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OPTION = "--run"
PATHS = frozenset(
    {
        "bars", "models-dir", "out", "config", "coefficients", "run-dir", "import-sb3", "golden", "option-quotes",
        "closes", "model-config", "import-onnx",
    }
)  # fmt: skip
OF_CODE = frozenset({"strategy", "sink"})
"""Names, or files of one's own such as `mine.py` and `mine.py:NAME`."""
CHANGES = "--changes"  # the table of coefficients, as JSON


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments, those of the file that `--run FILE` names before all others.

    Raises:
        ValueError: the file cannot be read, or has what is no option; the text names file, key and cure.
    """
    given = list(arguments)
    for place, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if name == OPTION:
            follows = given[place + 1 : place + 2]
            if not equals and not follows:
                raise ValueError(f"{OPTION}: expected a TOML file after it")
            path = Path(value if equals else follows[0])
            rest = given[:place] + given[place + (1 if equals else 2) :]
            return [*_options(path), *rest]
    return given


def _options(path: Path) -> Iterator[str]:
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        cure = "give a file such as docs/TRAINING.md shows"
        raise ValueError(f"{path}: cannot be read as TOML ({error}): {cure}") from error
    for key, value in tables.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            if name != "coefficients":
                raise ValueError(f"{path}: [{key}] is a table, expected [coefficients] alone: write {key} = ...")
            yield from (CHANGES, json.dumps(value))
        elif isinstance(value, bool):
            yield from [f"--{name}"] if value else []
        else:
            for one in value if isinstance(value, list) else [value]:
                file = name in PATHS or (name in OF_CODE and str(one).partition(":")[0].endswith(".py"))
                text = str(path.parent / one) if file else str(one)
                yield from (f"--{name}", text)
