"""The lines of `metrics.jsonl`, and the sinks that receive each of them. A sink that raises is switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from daemon.host.whole_files import write_whole
from training.sinks.find import factory_of
from training.sinks.sink import Sink, Started

LOOK = "validate_"  # begins the names of what a look found
COUNTERS = ("steps", "updates")  # keep their names, whichever agent they are of


class TrialSinks:
    """The sinks of one trial. `warn` gets a line for each that is switched off."""

    def __init__(self, names: Sequence[str], started: Started, warn: Callable[[str], None]) -> None:
        self._trial, self._warn, self._update = started.trial, warn, started.updates
        self._sinks: dict[str, Sink] = {}
        for name in names:
            self._guarded(name, partial(self._open, name, started))

    def write(self, values: Mapping[str, Any]) -> None:
        """One update, and what a look after it found where there was one."""
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


def _call(sink: Sink, method: str, *given: object) -> None:
    """Call a method of a sink; one of another class may have none of that name. Raises what it raises."""
    getattr(sink, method)(*given)


def figures_of(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of an update, and those of a look with the steps; of one of several agents under its name."""
    before = f"{values['agent']}/" if values.get("agent") else ""
    numbers = {
        name if name in COUNTERS else before + name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    look = {name: value for name, value in numbers.items() if name.startswith(before + LOOK)}
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
        """One line. Raises OSError."""
        self._file.write(msgspec.json.encode(values).decode() + "\n")
        if self._feed is not None:
            self._feed.write(values)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        if self._feed is not None:
            self._feed.close()
