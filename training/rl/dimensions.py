"""`Plan`, the settings of a training procedure, and `Dimension`, the bounds within which a search varies a field."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import msgspec

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

T = TypeVar("T")
P = TypeVar("P", bound="Plan")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One searched field: a number from `low` to `high`, or one of `choices`."""

    name: str
    why: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str | int | float, ...] = ()
    optional: bool = False  # the field may also be switched off
    off: float | None = None  # the field's value when off

    @property
    def switch(self) -> str:
        """The name of the search parameter that switches the field on or off."""
        return f"{self.name}_on"

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that Optuna suggests for this trial."""
        if self.optional and not trial.suggest_categorical(self.switch, (False, True)):
            return self.off
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def fixed(self, value: Any) -> dict[str, Any]:
        """The search parameters with which `suggest` returns `value`. Raises `ValueError` for a value out of bounds."""
        if self.optional and value == self.off:
            return {self.switch: False}
        within = value in self.choices if self.choices else self.low <= value <= self.high
        broken = within and self.whole and value != int(value)
        if not within or broken:
            among = self.choices or f"{self.low:g} to {self.high:g}{', a whole number' if broken else ''}"
            raise ValueError(f"{self.name} is {value!r}: expected {among}")
        return {self.name: value} | ({self.switch: True} if self.optional else {})


def value_of(value: Any, name: str) -> Any:
    """The value of a field by its dotted name."""
    for part in name.split("."):
        value = getattr(value, part)
    return value


def with_values(settings: T, values: Mapping[str, Any]) -> T:
    """The settings with these values, by dotted names of fields."""
    for name, value in values.items():
        settings = _replace(settings, name, value)
    return settings


def _replace(settings: Any, name: str, value: Any) -> Any:
    first, _, inner_name = name.partition(".")
    inner = _replace(getattr(settings, first), inner_name, value) if inner_name else value
    if isinstance(settings, msgspec.Struct):
        return msgspec.structs.replace(settings, **{first: inner})
    return dataclasses.replace(settings, **{first: inner})


def whole_rollouts(steps: int, rollout: int) -> int:
    """The number of whole rollouts of `rollout` transitions that cover `steps`; at least 1."""
    return max(1, -(-steps // rollout))


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of a training procedure. Each procedure's subclass adds its fields, plain values only."""

    setting: ClassVar[str] = "plan"
    """The key of the plan within a run's identity."""

    @property
    def members(self) -> int:
        """Networks of a deep ensemble; 1 for a procedure that has none."""
        return 1

    @property
    def folds(self) -> int:
        """The default number of folds."""
        return 1

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """The fields, by their dotted names, that a search may vary."""
        return ()

    @property
    def settable(self) -> tuple[Dimension, ...]:
        """The fields that `--coefficients` may change: what is searched, and others."""
        return self.searched

    @property
    def common(self) -> Any:
        """The settings that decide the outcome of the tasks before the trials, as JSON; None without such tasks."""
        return None

    def at(self, _precision: str, /) -> Self:
        """The plan for a run of this precision; it differs where the plan holds a precision of its own."""
        return self

    def trained_steps(self, steps: int, /) -> int:
        """The transitions of a training of `steps` steps: a rollout that has begun is completed."""
        return steps

    def gradient_steps(self, _steps: int, /) -> int | None:
        """The number of optimizer steps of a training of this many transitions; None where unknown."""
        return None

    def search_steps(self, steps: int, /) -> int:
        """Transitions of each training of a search, if a run takes `steps`."""
        return -(-steps // SEARCH_PART)

    def changed(self, values: Mapping[str, Any], origin: str) -> Self:
        """The plan with these values in place of its own; `origin` names where they are from.

        Raises:
            ValueError: a field is unknown, of the wrong type or out of bounds.
        """
        dimensions = {dimension.name: dimension for dimension in self.settable}
        for name, value in values.items():
            if name not in dimensions:
                raise ValueError(f"{origin}: {unknown(name, dimensions)}")
            try:
                dimensions[name].fixed(None if isinstance(value, bool) else value)
            except ValueError as error:
                raise ValueError(f"{origin}: {error}") from error
            except TypeError as error:
                raise ValueError(f"{origin}: {name} is {value!r}: {error}") from error
        return with_values(self, values)

    def differences(self, usual: Self) -> dict[str, Any]:
        """The settable fields that differ from those of the usual plan, by name."""
        values = {dimension.name: value_of(self, dimension.name) for dimension in self.settable}
        return {name: value for name, value in values.items() if value != value_of(usual, name)}


SEARCH_PART = 4  # a search trains on one part in so many of a run's transitions


def unknown(name: str, names: Mapping[str, Any]) -> str:
    """What is wrong with a field of this name that no plan has, and the nearest one."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(names)}"
    return f"unknown coefficient {name!r}: {hint}"


def read_plan(path: Path, usual: P) -> P:
    """The usual plan with the values of a file of coefficients: JSON with the fields that differ from it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or a field is unknown, of the wrong type or out of bounds.
    """
    try:
        changes = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not a file of coefficients: {error}; expected a JSON object such as {{"learning_rate": 0.0003}}'
        ) from error
    return usual.changed(changes, str(path))
