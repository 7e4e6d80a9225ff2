"""Checks a user's own strategy before it runs: its object, its spec and its entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite, prod
from typing import Any

import msgspec

from strategies.kit.contract import Spec
from strategies.kit.entry import RULE, StrategyEntry

KEEPS = {"bar": ("correct",), "session": ("remember", "readjust", "known")}
"""`Spec.decides` -> the methods with which such a strategy keeps bars."""
_DESK = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)  # part of a file's name

_SPEC: tuple[tuple[str, Callable[[Any, Spec], bool], str], ...] = (
    (
        "symbols",
        lambda v, _: bool(v) and all(x and x == x.strip().upper() for x in v),
        "such as ('SPY', 'QQQ')",
    ),
    ("symbols", lambda v, _: len({*v}) == len(v), "each symbol once"),
    ("history_bars", lambda v, spec: v >= (spec.decides == "session"), "1 or more of days, 0 or more of other bars"),
    ("window", lambda v, _: v >= 1, "1 or more"),
    ("observation_shape", lambda v, _: type(v) is tuple and bool(v) and min(v) >= 1, "such as (5,)"),
    ("dtype", lambda v, _: v == "float32", "'float32'"),
    (
        "features",
        lambda v, spec: 1 <= len(v) <= prod(spec.observation_shape),
        "a name for each number, no more than observation_shape has",
    ),
    ("actions", lambda v, _: 1 <= len({*v}) == len(v), "a name for each answer, each once"),
    ("temperature", lambda v, _: isfinite(v) and v > 0.0, "a number above 0"),
    ("recurrent_shape", lambda v, _: v is None or (bool(v) and min(v) >= 1), "None, or such as (64,)"),
)
"""Field of the spec -> its check, and what is expected, in words; checked in this order."""


def strategy_fault(entry: StrategyEntry, strategy: Any) -> str:
    """Return why the object that the entry made is no valid strategy, with the cure; "" if it is valid."""
    spec = getattr(strategy, "spec", None)
    parts = ("state_type", "start", "observe", "decide", *KEEPS.get(getattr(spec, "decides", ""), KEEPS["bar"]))
    lacking = [name for name in parts if not hasattr(strategy, name)]
    if lacking or not isinstance(spec, Spec):
        lack_text = ", ".join(lacking) or "a spec of type Spec"
        return f"{type(strategy).__name__} is no strategy: {lack_text} is missing: see strategies/kit/contract.py"
    if fault := _of_types(spec) or _of_values(spec) or _of_entry(entry, spec):
        return fault
    if spec.by_row and not hasattr(strategy, "options"):
        return f"{type(strategy).__name__} chooses an action for each symbol, and has no options: give it that method"
    try:
        strategy.start()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the user's code raises
        return f"its start() raises {type(error).__name__}: {error}: correct it"
    if entry.training == RULE and (spec.features[-len(spec.actions) :] != spec.actions or spec.window != 1):
        ends = f"features that end with the actions ({', '.join(spec.actions)})"
        return f"a rule answers by the last numbers of its observation: expected window=1, and {ends}"
    return ""


def _of_types(spec: Spec) -> str:
    fields = msgspec.structs.asdict(spec)
    try:
        msgspec.convert(fields, type(spec))
    except msgspec.ValidationError as error:
        cause, _, place = str(error).partition(" - at ")
        name = re.split(r"[.\[`]", place.removeprefix("`$."))[0]
        return _error_text(name, fields.get(name), (cause[:1].lower() + cause[1:]).replace("array", "tuple"))
    return ""


def _of_values(spec: Spec) -> str:
    for name, holds, expected in _SPEC:
        value = getattr(spec, name)
        if not holds(value, spec):
            return _error_text(name, value, f"expected {expected}")
    return ""


def _error_text(name: str, value: object, expected: str) -> str:
    return f"spec.{name} is {value!r:.200}: {expected}: correct it in the spec"


def _of_entry(entry: StrategyEntry, spec: Spec) -> str:
    if spec.rows_are_symbols and entry.with_symbols is None:
        return "spec.rows_are_symbols is True, and its StrategyEntry has no with_symbols: give it"
    for name, kind in (("declaration", Mapping), ("desk", str), ("defaults", Mapping), ("training", str)):
        value = getattr(entry, name)
        if not isinstance(value, kind):
            return f"{name} of its StrategyEntry is {value!r:.200}: expected a {kind.__name__}: correct it"
    if _DESK.fullmatch(entry.desk) is None:
        return f"desk of its StrategyEntry is {entry.desk!r:.200}: expected letters, digits, _ and -, such as sma_cross"
    tables: Mapping[str, object] = entry.defaults
    for table, keys in tables.items():
        if not isinstance(keys, Mapping):
            return f"defaults[{table!r}] of its StrategyEntry is {keys!r:.200}: expected keys and values"
    try:
        msgspec.json.encode(entry.declaration)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"declaration of its StrategyEntry: {error}: expected text, numbers, lists and dicts of them alone"
    return ""
