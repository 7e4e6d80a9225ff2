"""The interface of a sink. A class of one's own inherits `Sink` and does what it wants with each update and look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """A trial that begins, or goes on after a stop."""

    run: str  # the name of the run's folder
    trial: str  # the name of the trial's folder
    key: str  # hexadecimal digits: the same when the trial goes on, another for any other trial
    folder: Path  # of the trial
    settings: Mapping[str, Any]  # of the run, as JSON
    updates: int = 0  # that an earlier start kept; the next one has the number after it


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
