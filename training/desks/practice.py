"""A practice from what a user gives: `KEY=VALUE` each. What is read is of the right types and within bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.rl.presets import Practice

BOUNDS = {"universe": (0.02, 1.0), "turnover": (0.0, 1.0)}


def practice_of(texts: Sequence[str], known: Sequence[str], strategy: str) -> Practice:
    """The practice of `KEY=VALUE` each, of the keys that the strategy has.

    Raises:
        ValueError: a key is unknown or has two values, or a value is of the wrong type or out of bounds.
    """
    values: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            expected = f"expected one of {', '.join(known)}" if known else "it has none"
            raise ValueError(f"--practice {text}: {strategy} has no {key!r}: {expected}")
        if values.setdefault(key, value) != value:
            raise ValueError(f"--practice {text}: {key} is {values[key]} as well: expected one value of it")
    return checked(values)


def checked(values: Mapping[str, Any]) -> Practice:
    """The practice of these values, as they are or as texts. Raises ValueError as `practice_of`."""
    try:
        found = msgspec.convert(dict(values), type=Practice, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"--practice: {error}") from error
    for name, (low, high) in BOUNDS.items():
        if not low <= getattr(found, name) <= high:
            raise ValueError(f"--practice {name} is {getattr(found, name)}: expected {low:g} to {high:g}")
    return found
