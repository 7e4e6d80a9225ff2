"""A sink by its name: an installed one (entry points of `rltrader.sinks`), a class of a module or of a file."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from training.sinks.sink import Sink, Started

GROUP = "rltrader.sinks"
OURS = "training.sinks."  # the modules of this package, each with an extra of the sink's name
Factory = Callable[[Started], Sink]
_PLACE = re.compile(r"(?P<where>.+):(?P<name>[A-Za-z_]\w*)", re.DOTALL)


def check_sinks(names: Sequence[str]) -> None:
    """Import them all. Raises ValueError as `factory_of` does."""
    for name in names:
        factory_of(name)


def factory_of(name: str) -> Factory:
    """What makes the sink `name`: an entry point's, `module:Class` or `path/to/file.py:Class`.

    Raises:
        ValueError: there is none, or it cannot be imported; the text has the cure.
    """
    place = _PLACE.fullmatch(name)
    try:
        found = _in_place(Path(place["where"]), place["name"]) if place is not None else _installed(name)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"--sink {name}: {type(error).__name__}: {error}: correct the sink or its name") from error
    fault = "" if callable(found) else f"--sink {name}: found {found!r:.80}, expected a subclass of Sink"
    if fault:
        raise ValueError(fault)
    factory: Factory = found
    return factory


def anywhere(name: str) -> str:
    """The same name for a process in another folder: a file by its whole path."""
    place = _PLACE.fullmatch(name)
    if place is None or not place["where"].endswith(".py"):
        return name
    return f"{Path(place['where']).expanduser().absolute()}:{place['name']}"


def _in_place(where: Path, name: str) -> Any:
    if where.suffix != ".py":
        return getattr(importlib.import_module(str(where)), name)
    path = where.expanduser().absolute()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--sink {where}:{name}: {path}: no such file: correct the path")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _installed(name: str) -> Any:
    points = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    own = [point for point in points.values() if point.name == name]
    if len(own) != 1:
        known = ", ".join(sorted({point.name for point in points.values()})) or "none"
        what = f"{len(own)} packages offer a sink" if own else "no sink is"
        raise ValueError(
            f"--sink {name}: {what} called {name!r}; installed: {known}. Give one of these, module:Class, or "
            "path/to/file.py:Class"
        )
    try:
        return own[0].load()
    except ImportError as error:
        extra = f"pip install -c constraints.txt 'rltrader[{name}]'" if own[0].value.startswith(OURS) else "install it"
        package = (error.name or "it needs").partition(".")[0]
        raise ValueError(f"--sink {name}: the package {package} is not installed: {extra}") from error
