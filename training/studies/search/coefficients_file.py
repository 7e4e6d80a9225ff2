"""A file of coefficients: JSON with the fields of `Coefficients` that differ from a preset's.

Invariant: what is read is whole, of the right types and within bounds, or an error names the field and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from daemon.host.whole_files import write_whole
from training.rl.coefficients import SCHEDULES, Coefficients
from training.rl.dimensions import Dimension, with_values
from training.rl.presets import Plan

P = TypeVar("P", bound=Plan)
COEFFICIENTS_FILE = "coefficients.json"
MANY = 1e9


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A number from `low` (left out when `above`) to `high`; a whole one; or null."""

    low: float = 0.0
    high: float = MANY
    above: bool = True
    whole: bool = False
    optional: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        high = "" if self.high == MANY else f" up to {self.high:g}"
        return f"{kind} {low}{high}{', or null' if self.optional else ''}"

    def hold(self, value: object) -> bool:
        """Whether `value` is such a number."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


_COUNT = _Bounds(1.0, above=False, whole=True)
_SHARE, _ANY_SHARE = _Bounds(high=1.0), _Bounds(high=1.0, above=False)
BOUNDS = {
    "learning_rate": _SHARE,
    "adam_epsilon": _SHARE,
    "discount": _SHARE,
    "gae_lambda": _ANY_SHARE,
    "clip": _SHARE,
    "value_clip": _Bounds(optional=True),
    "entropy": _ANY_SHARE,
    "value": _Bounds(above=False),
    "max_grad_norm": _Bounds(),
    "target_kl": _Bounds(optional=True),
    "weight_average": _Bounds(high=0.9999, optional=True),
    "epochs": _COUNT,
    "environments": _COUNT,
    "rollout_steps": _COUNT,
    "batch": _COUNT,
    "sequence": _COUNT,
}
"""What each number may be; `schedule` is a word, `normalize_advantage` true or false."""


def differences(coefficients: Coefficients, usual: Coefficients | None = None) -> dict[str, Any]:
    """The fields that differ from the usual ones (None: the defaults), by name."""
    others = asdict(usual or Coefficients())
    return {name: value for name, value in asdict(coefficients).items() if value != others[name]}


def write_coefficients(path: Path, coefficients: Coefficients, usual: Coefficients | None = None) -> None:
    """Put the differences from the usual ones (None: the defaults) at `path`, whole or not at all. Raises `OSError`."""
    write_values(path, differences(coefficients, usual))


def write_values(path: Path, values: Mapping[str, Any]) -> None:
    """Put fields by their names at `path`, whole or not at all. Raises `OSError`."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(values), indent=1) + b"\n")


def read_coefficients(path: Path, usual: Coefficients | None = None) -> Coefficients:
    """The coefficients of a file, with the usual ones (None: the defaults) for what it does not name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or a field is unknown, of the wrong type or out of bounds.
    """
    return changed(usual or Coefficients(), _object(path), str(path))


def changed(usual: Coefficients, values: Mapping[str, Any], origin: str) -> Coefficients:
    """The coefficients with these values in place of their own; `origin` names where they are from.

    Raises:
        ValueError: a field is unknown, of the wrong type or out of bounds.
    """
    for name, value in values.items():
        problem = _problem(name, value)
        if problem:
            raise ValueError(f"{origin}: {problem}")
    return replace(usual, **values)


def read_plan(path: Path, plan: P, space: Sequence[Dimension]) -> P:
    """The plan with the values of a file that a search has written: dotted names, each within what is searched.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or a field is unknown, of the wrong type or out of bounds.
    """
    return changed_plan(plan, space, _object(path), str(path))


def changed_plan(plan: P, space: Sequence[Dimension], values: Mapping[str, Any], origin: str) -> P:
    """The plan with these values, each within what is searched; see `read_plan`."""
    known = {dimension.name: dimension for dimension in space}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(known)}"
            raise ValueError(f"{origin}: unknown coefficient {name!r}: {hint}")
        try:
            known[name].fixed(None if isinstance(value, bool) else value)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error
        except TypeError as error:
            raise ValueError(f"{origin}: {name} is {value!r}: {error}") from error
    return with_values(plan, values)


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not a file of coefficients: {error}; expected a JSON object such as {{"learning_rate": 0.0003}}'
        ) from error


def _problem(name: str, value: object) -> str:
    """What is wrong with a field; empty when nothing is."""
    known = tuple(asdict(Coefficients()))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(known)}"
        return f"unknown coefficient {name!r}: {hint}"
    if name == "schedule":
        expected = f"one of {', '.join(map(repr, SCHEDULES))}"
        good = value in SCHEDULES
    elif name == "normalize_advantage":
        expected, good = "true or false", isinstance(value, bool)
    else:
        expected, good = str(BOUNDS[name]), BOUNDS[name].hold(value)
    return "" if good else f"{name} is {value!r}: expected {expected}"
