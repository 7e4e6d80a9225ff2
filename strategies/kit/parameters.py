"""The declared numbers of a strategy: what a desk may set, and what `sweep` and `search` vary.

A strategy declares them in its own file and is made with their values. Their canonical text is that of the values which
differ from the defaults, "" for none: it is the `config` of the spec, so it counts in contract hash, journal and model,
and a desk at the defaults is what it was without parameters.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Mapping

import msgspec

FLOAT_MAX = sys.float_info.max
Value = bool | int | float
Values = Mapping[str, Value]


class Parameter(msgspec.Struct, frozen=True):
    """A number of a strategy: its type is that of the default, its bounds are included; a switch has none.

    >>> from strategies.kit import Parameter
    >>> Parameter(10, 2, 60, "days of the fast average").default
    10
    """

    default: Value
    low: float = -math.inf
    high: float = math.inf
    meaning: str = ""

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if isinstance(self.default, bool):
            return "true or false"
        type_text = "a whole number" if isinstance(self.default, int) else "a number"
        return (
            type_text
            if math.isinf(self.low) and math.isinf(self.high)
            else f"{type_text} from {self.low:g} to {self.high:g}"
        )

    def taken(self, value: object) -> Value | None:
        """Return the value converted to the parameter's type; None where that fails or the value is out of bounds."""
        kind = type(self.default)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if kind is bool or isinstance(value, bool):
            return value if kind is bool and isinstance(value, bool) else None
        if not isinstance(value, int | float) or not -FLOAT_MAX <= value <= FLOAT_MAX:
            return None
        if not self.low <= value <= self.high:
            return None
        if kind is int:
            return int(value) if value == int(value) else None
        return float(value) + 0.0  # -0.0 is 0.0


def text_of(parameters: Mapping[str, Parameter], values: Mapping[str, object]) -> str:
    """Return the canonical text of these values. Raises ValueError for an unknown name or a value that is none."""
    changes = {}
    for name, value in values.items():
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, 1)
            cure = f"did you mean {near[0]}?" if near else f"it has {', '.join(parameters) or 'none'}"
            raise ValueError(f"the strategy declares no parameter {name}: {cure}")
        parsed_value = parameters[name].taken(value)
        if parsed_value is None:
            raise ValueError(f"the parameter {name} is {value}, expected {parameters[name].expected}")
        if parsed_value != parameters[name].default:
            changes[name] = parsed_value
    return json.dumps(changes, sort_keys=True, separators=(",", ":")) if changes else ""


def given_by(words: Iterable[str]) -> dict[str, str]:
    """Return name -> value from words such as `fast=20`. Raises ValueError for any other word, or a repeated name."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not name or name in values:
            raise ValueError(f"{word!r}: expected each parameter once, as NAME=VALUE, such as fast=20")
        values[name] = value
    return values


def words_given(text: str) -> list[str]:
    """Return the words, such as `fast=20`, that produce this canonical text."""
    return [f"{name}={json.dumps(value)}" for name, value in (json.loads(text) if text else {}).items()]


def values_of(parameters: Mapping[str, Parameter], text: str) -> dict[str, Value]:
    """Return the value of each parameter by a canonical text. Raises ValueError as `text_of`."""
    json_values = json.loads(text) if text else {}
    text_of(parameters, json_values)
    return {name: one.default for name, one in parameters.items()} | json_values


def words_of(parameters: Mapping[str, Parameter], text: str) -> str:
    """Return each parameter with its value on one line, a changed one with its default."""
    values = values_of(parameters, text)
    return ", ".join(
        f"{name} {values[name]}" + (f" (default {one.default})" if values[name] != one.default else "")
        for name, one in parameters.items()
    )
