"""The cells of a sweep: every combination of the keys' values, and the policy's result in each. Pure."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from decimal import Decimal
from typing import Any

import msgspec

from daemon.core.limits import Trading
from daemon.core.strategy_rules import TABLES
from strategies.kit.parameters import Parameter
from training.evidence.overfitting import Deflated, Overfitting

CELLS_MOST = 2_500
TOGETHER = 64  # most cells that a process plays together: more would share little, and a stop loses them all
LEFT_OUT = ("paper.cash_usd",)  # returns are parts of it
Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Axis:
    """A dotted key and its values, in their order."""

    key: str
    values: tuple[Value, ...]


OF_THE_STRATEGY = "parameters."
"""Prefix of the keys of a strategy's declared parameters."""


def parted(values: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """Split the values: the strategy's declared parameters by name, and the desk's rules by dotted key."""
    parameters = {k.removeprefix(OF_THE_STRATEGY): v for k, v in values.items() if k.startswith(OF_THE_STRATEGY)}
    return parameters, {k: v for k, v in values.items() if not k.startswith(OF_THE_STRATEGY)}


def axis_of(text: str, declared: Mapping[str, Parameter] | None = None) -> Axis:
    """The axis that `KEY=LOW:HIGH:COUNT` or `KEY=VALUE,VALUE,...` describes.

    `declared` are the strategy's parameters: their keys are `parameters.NAME`.

    Raises:
        ValueError: an unknown key, a value of another type or given twice, or a range of less than two.
    """
    key, _, values_text = text.partition("=")
    parameters = {f"{OF_THE_STRATEGY}{name}": parameter for name, parameter in (declared or {}).items()}
    defaults = _defaults() | {name: parameter.default for name, parameter in parameters.items()}
    if key not in defaults:
        near = difflib.get_close_matches(key, defaults, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"expected a key of {', '.join(TABLES)}, such as {next(iter(defaults))}"
        )
        raise ValueError(f"--set {text}: {key} is no rule that a sweep can change: {hint}")
    kind = type(defaults[key])
    parts = values_text.split(":")
    texts = _range(text, parts) if len(parts) == 3 else [part.strip() for part in values_text.split(",")]
    values = tuple(_value(text, value, kind) for value in texts)
    numbers = [Decimal(value) if kind is Decimal else value for value in map(str, values)]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--set {text}: a value is there twice: expected different ones, each is a cell and a trial")
    if key in parameters and (wrong := [value for value in values if parameters[key].taken(value) is None]):
        raise ValueError(f"--set {text}: found {wrong[0]}, expected {parameters[key].expected}")
    return Axis(key, values)


def _defaults() -> dict[str, Any]:
    rules = Trading()
    defaults = {
        f"{table}.{field.name}": getattr(getattr(rules, table), field.name)
        for table in TABLES
        for field in fields_of(getattr(rules, table))
    }
    defaults |= {"sizing.trailing_stop": 0.0, "sizing.time_stop_min": 0}  # unset by default
    return {key: value for key, value in defaults.items() if key not in LEFT_OUT and not isinstance(value, tuple)}


def _range(text: str, parts: Sequence[str]) -> list[str]:
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
    except ValueError as error:
        raise ValueError(f"--set {text}: {error}: expected LOW:HIGH:COUNT, such as 0.4:0.8:5") from error
    if count < 2 or not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"--set {text}: expected two values at least, between finite numbers")
    return [f"{round(low + (high - low) * nth / (count - 1), 10):.10g}" for nth in range(count)]


def _value(text: str, value: str, kind: type) -> Value:
    """A value as the configuration takes it."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[value]
        if kind is int:
            return int(value)
        if kind is float:
            return float(value)
        if kind is Decimal:
            return str(Decimal(value))
    except (ValueError, KeyError, ArithmeticError):
        kind_text = {bool: "true or false", int: "whole numbers"}.get(kind, "numbers")
        more = "; a range is LOW:HIGH:COUNT, such as 0.4:0.8:5" if ":" in value else ""
        raise ValueError(f"--set {text}: found {value!r}, expected {kind_text}{more}") from None
    return value


def cells_of(axes: Sequence[Axis]) -> tuple[Mapping[str, Value], ...]:
    """Every combination, the last axis changing fastest.

    Raises:
        ValueError: no axis, one twice, or too many cells.
    """
    keys = [axis.key for axis in axes]
    if not axes or len(set(keys)) < len(keys):
        raise ValueError(f"--set is given for {', '.join(keys) or 'nothing'}: expected each key once, one at least")
    count = math.prod(len(axis.values) for axis in axes)
    if count > CELLS_MOST:
        raise ValueError(f"{count:,} cells are too many: expected at most {CELLS_MOST:,}; give fewer values")
    return tuple(dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes)))


class GridCell(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's result under one set of rules. Returns are by session, as parts of its capital."""

    rules: dict[str, Value]  # changed rules; empty: the unchanged cell
    returns: tuple[float, ...]
    net_return: float
    sharpe_annual: float
    max_drawdown: float
    trades: int
    denials: dict[str, int]
    sweep: str = ""  # digest of its sweep, and of the code that played it


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """All cells and their joint statistics: `sweep.json`."""

    strategy: str
    version: str
    bars: str
    first: str
    last: str
    sessions: int
    seen: int  # sessions of these on which the policy was trained or chosen
    keys: tuple[str, ...]
    configured: GridCell  # without any change
    cells: tuple[GridCell, ...]
    best: int  # index of the cell with the largest Sharpe ratio
    overfitting: Overfitting
    deflated: Deflated  # of the best, among the cells and all earlier trials on these sessions
    words: str
