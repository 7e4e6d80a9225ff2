"""Sinks, which receive a training's figures beside the run folder: the interface, the lookup and the calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Self

import msgspec

from daemon.host.whole_files import write_whole
from rltrader.install import install_line


@dataclass(frozen=True, slots=True)
class Started:
    """A trial that begins, or goes on after a stop."""

    run: str  # the name of the run's folder
    trial: str  # the name of the trial's folder
    key: str  # hexadecimal digits: the same when the trial goes on, another for any other trial
    folder: Path  # of the trial
    settings: Mapping[str, Any]  # of the run, as JSON
    updates: int = 0  # updates kept by an earlier start; the next update has the number after it


class Sink:
    """Receives the figures of one trial, in the process that trains it. It chooses nothing and changes no weight."""

    def __init__(self, started: Started) -> None:
        """Begin. What is raised here or below switches the sink off; the training goes on."""

    def on_update(self, update: int, figures: Mapping[str, float]) -> None:
        """After an update, counted from 1: its figures by their names in `metrics.jsonl`, such as `steps`, `reward`."""

    def on_look(self, update: int, figures: Mapping[str, float]) -> None:
        """After a look at the validation sessions: `steps`, `validate_return`, `validate_trades`."""

    def close(self) -> None:
        """The trial ended, or was stopped."""


GROUP = "rltrader.sinks"
OURS = "training.sinks."  # the modules of this package, each with an extra of the sink's name
Factory = Callable[[Started], Sink]
_PLACE = re.compile(r"(?P<where>.+):(?P<name>[A-Za-z_]\w*)", re.DOTALL)


def check_sinks(names: Sequence[str]) -> None:
    """Import them all. Raises ValueError as `factory_of` does."""
    for name in names:
        factory_of(name)


def factory_of(name: str) -> Factory:
    """The factory of the sink `name`: an entry point, `module:Class` or `path/to/file.py:Class`.

    Raises:
        ValueError: there is none, or it cannot be imported; the text has the cure.
    """
    place = _PLACE.fullmatch(name)
    try:
        made_by = _in_place(Path(place["where"]), place["name"]) if place is not None else _find_installed(name)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"--sink {name}: {type(error).__name__}: {error}: correct the sink or its name") from error
    fault = "" if callable(made_by) else f"--sink {name}: found {made_by!r:.80}, expected a subclass of Sink"
    if fault:
        raise ValueError(fault)
    factory: Factory = made_by
    return factory


def anywhere(name: str) -> str:
    """The same name for a process in another folder: a file by its whole path."""
    place = _PLACE.fullmatch(name)
    if place is None or not place["where"].endswith(".py"):
        return name
    return f"{Path(place['where']).expanduser().absolute()}:{place['name']}"


def _in_place(where: Path, name: str) -> Any:
    if where.suffix != ".py":
        return getattr(import_module(str(where)), name)
    path = where.expanduser().absolute()
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--sink {where}:{name}: {path}: no such file: correct the path")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _find_installed(name: str) -> Any:
    points = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    matches = [point for point in points.values() if point.name == name]
    if len(matches) != 1:
        installed = ", ".join(sorted({point.name for point in points.values()})) or "none"
        what = f"{len(matches)} packages offer a sink" if matches else "no sink is"
        raise ValueError(
            f"--sink {name}: {what} called {name!r}; installed: {installed}. Give one of these, module:Class, or "
            "path/to/file.py:Class"
        )
    try:
        return matches[0].load()
    except ImportError as error:
        extra = install_line(name) if matches[0].value.startswith(OURS) else "install it"
        package = (error.name or "it needs").partition(".")[0]
        raise ValueError(f"--sink {name}: the package {package} is not installed: {extra}") from error


LOOK = "validate_"  # prefix of the names of a validation check's figures
COUNTERS = ("steps", "updates")  # figures that keep their names for every agent


class TrialSinks:
    """The sinks of one trial. `warn` gets a line for each that is switched off."""

    def __init__(self, names: Sequence[str], started: Started, warn: Callable[[str], None]) -> None:
        self._trial, self._warn, self._update = started.trial, warn, started.updates
        self._sinks: dict[str, Sink] = {}
        for name in names:
            self._guarded(name, partial(self._open, name, started))

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the figures of one update, and of the validation check after it where there was one."""
        self._update += 1
        update, (figures, look) = self._update, figures_of(values)
        for name, sink in [*self._sinks.items()]:
            self._guarded(name, partial(_call, sink, "on_update", update, dict(figures)))
            if look and name in self._sinks:
                self._guarded(name, partial(_call, sink, "on_look", update, dict(look)))

    def close(self) -> None:
        """Close those that are left."""
        for name, sink in [*self._sinks.items()]:
            self._guarded(name, partial(_call, sink, "close"))

    def _open(self, name: str, started: Started) -> None:
        self._sinks[name] = factory_of(name)(started)

    def _guarded(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:
            self._sinks.pop(name, None)
            text = " ".join(str(error).split())
            self._warn(f"{self._trial}: sink {name} is off, training goes on: {type(error).__name__}: {text}")


def _call(sink: Sink, method: str, *arguments: object) -> None:
    """Call a method of a sink; one of another class may have none of that name. Raises what it raises."""
    getattr(sink, method)(*arguments)


def figures_of(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of an update, and those of a look with the steps; of one of several agents under its name."""
    prefix = f"{values['agent']}/" if values.get("agent") else ""
    numbers = {
        name if name in COUNTERS else prefix + name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    look = {name: value for name, value in numbers.items() if name.startswith(prefix + LOOK)}
    figures = {name: value for name, value in numbers.items() if name not in look}
    return figures, {"steps": numbers.get("steps", 0), **look} if look else {}


class MetricsFile:
    """A trial's `metrics.jsonl`, open for appending after its first `keep` lines (a trial that went back forgets the
    rest)."""

    def __init__(self, path: Path, keep: int, feed: TrialSinks | None = None) -> None:
        lines = path.read_text().splitlines(keepends=True)[:keep] if path.exists() else []
        write_whole(path, "".join(lines).encode())
        self._file, self._feed = path.open("a", buffering=1), feed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one line. Raises OSError."""
        self._file.write(msgspec.json.encode(values).decode() + "\n")
        if self._feed is not None:
            self._feed.write(values)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        if self._feed is not None:
            self._feed.close()
