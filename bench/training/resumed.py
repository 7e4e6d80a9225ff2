"""A study in parts, each kept in a file of JSON lines as soon as it is done: a study that was stopped goes on there."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

Key = TypeVar("Key")


class OtherStudy(ValueError):
    """The file holds another study's parts."""


def resumed(
    path: Path | None,
    plan: dict[str, Any],
    keys: Iterable[Key],
    work: Callable[[list[Key]], Iterable[tuple[Key, Any]]],
) -> Generator[tuple[Key, Any], None, None]:
    """Yield each key's part, first those that `path` holds (None: nothing is kept), then the others as they are done.

    Args:
        plan: what the parts were made with, as JSON has it.
        keys: strings or whole numbers.
        work: yields the parts of the keys that are missing, each once.

    Raises:
        OtherStudy: the file's parts were made with another plan.
        OSError: it cannot be read or written.
    """
    all_keys, parts = list(keys), _read(path, plan)
    yield from ((key, parts[key]) for key in all_keys if key in parts)
    for key, part in work([key for key in all_keys if key not in parts]):
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps({"plan": plan, "key": key, "part": part}) + "\n")
        yield key, part


def _read(path: Path | None, plan: dict[str, Any]) -> dict[Any, Any]:
    """Return the parts so far; a last line that was cut by a kill counts as missing."""
    if path is None:
        return {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}
    text = path.read_text()
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text)
    parts = {}
    for line in text.splitlines():
        entry = json.loads(line)
        if entry["plan"] != plan:
            raise OtherStudy(f"{path} was made with {entry['plan']}, now {plan}: name another file, or remove this one")
        parts[entry["key"]] = entry["part"]
    return parts
