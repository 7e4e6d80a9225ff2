"""What a search may vary: a field of coefficients or, by its dotted name, of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from training.rl.coefficients import Coefficients

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

T = TypeVar("T")


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
    optional: bool = False  # may also be switched off: 0 or None, as in the defaults

    @property
    def switch(self) -> str:
        """The name of the choice between off and on."""
        return f"{self.name}_on"

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that this trial is to have."""
        if self.optional and not trial.suggest_categorical(self.switch, (False, True)):
            return getattr(Coefficients(), self.name)
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def fixed(self, value: Any) -> dict[str, Any]:
        """What makes `suggest` answer `value`. Raises `ValueError` for a value outside."""
        if self.optional and value == getattr(Coefficients(), self.name):
            return {self.switch: False}
        within = value in self.choices if self.choices else self.low <= value <= self.high
        broken = within and self.whole and value != int(value)
        if not within or broken:
            among = self.choices or f"{self.low:g} to {self.high:g}{', a whole number' if broken else ''}"
            raise ValueError(f"{self.name} is {value!r}: expected {among}")
        return {self.name: value} | ({self.switch: True} if self.optional else {})


def value_of(found: Any, name: str) -> Any:
    """The field with this name, with dots for what lies in another."""
    for part in name.split("."):
        found = getattr(found, part)
    return found


def with_values(found: T, values: Mapping[str, Any]) -> T:
    """The same with other values of the fields with these names."""
    for name, value in values.items():
        found = _changed(found, name, value)
    return found


def _changed(found: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    inner = _changed(getattr(found, first), rest, value) if rest else value
    if isinstance(found, msgspec.Struct):
        return msgspec.structs.replace(found, **{first: inner})
    return dataclasses.replace(found, **{first: inner})
