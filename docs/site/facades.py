"""What docs/PYTHON.md has from the code: `.venv/bin/python docs/site/facades.py` writes it into the page.

The part between `BEGIN` and `END` is made here: the names in each façade's `__all__`, each with the first sentence of
its text. What is around it is written by hand.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "PYTHON.md"
BEGIN, END = "<!-- from the code: docs/site/facades.py -->", "<!-- end -->"
FACADES = ("rltrader", "strategies.kit", "training", "daemon.journal")


def made(page: str) -> str:
    """Return the page with its part from the code as the code is now. ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} lacks {BEGIN} or {END}: put both where the part from the code belongs")
    return f"{before}{BEGIN}\n\n{from_code()}\n\n{END}{after}"


def from_code() -> str:
    """Return the part from the code."""
    return "\n\n".join(_facade(importlib.import_module(name)) for name in FACADES)


def _facade(module: ModuleType) -> str:
    rows = [f"| `{name}` | {text} |" for name, text in _names(module)]
    return "\n".join([f"## `{module.__name__}`", "", _sentence(module.__doc__), "", "| name | |", "|---|---|", *rows])


def _names(module: ModuleType) -> Iterator[tuple[str, str]]:
    for name in module.__all__:
        value = getattr(module, name)
        described = inspect.isclass(value) or inspect.isroutine(value)
        text = value.__doc__ if described else _of_constant(module, name)
        yield name, _sentence(text).replace("|", "\\|")


def _of_constant(module: ModuleType, name: str) -> str:
    """Return the string below the assignment of a constant, in the module itself or in one that it imports from."""
    sources: dict[str, Any] = {module.__name__: module}
    for node in ast.parse(Path(module.__file__ or "").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            sources[node.module] = importlib.import_module(node.module)
    for source in sources.values():
        body = ast.parse(Path(source.__file__).read_text()).body
        for node, below in itertools.pairwise(body):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return str(below.value.value)
    raise ValueError(f"{module.__name__}.{name} has no text: write a string below its assignment")


def _sentence(text: str | None) -> str:
    """Return the first paragraph of a text on one line, up to the end of its first sentence."""
    line = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    first, stop, _ = line.partition(". ")
    return (first + stop).strip()


def main() -> int:
    """Write the part into the page; returns the exit code."""
    PAGE.write_text(made(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
