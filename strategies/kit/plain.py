"""What a strategy keeps and returns must be plain: the journal keeps it as JSON, and a start reads it again.

A number of numpy cannot be written, and NaN is read again as nothing: a desk that has one cannot go on after its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from strategies.kit.contract import Bar
from strategies.kit.quantity import from_json, to_json

_SCALARS = frozenset((int, bool, str, bytes, type(None), Bar))
CURE = "let it hold plain numbers, text and bytes, tuples of them and msgspec.Struct: float(x), int(x), .tobytes()"
_encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=to_json).encode


def not_plain(value: Any, where: str) -> str:
    """Return which part of a value cannot be kept, and why; "" where all can. `where` is its name."""
    kind = type(value)
    if kind in _SCALARS:
        return ""
    if kind is float:
        return "" if isfinite(value) else f"{where} is {value}, which no start can read again"
    if kind is tuple or kind is list:
        kinds = set(map(type, value))
        if kinds <= _SCALARS or (kinds == {float} and all(map(isfinite, value))):  # of many, in little time
            return ""
        return _first((f"{where}[{place}]", item) for place, item in enumerate(value))
    if isinstance(value, Struct):
        return _first((f"{where}.{name}", getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Mapping):
        return _first((f"{where}[{key!r}]", item) for key, item in value.items()) or _encode_value(value, where)
    return _encode_value(value, where)


def unreadable(state: Any, kind: type[Any]) -> str:
    """Return why a start could not read a state of the type `kind` again; "" where it could."""
    if fault := not_plain(state, "state"):
        return f"{fault}: {CURE}"
    try:
        msgspec.json.decode(_encode(state), type=kind, dec_hook=from_json)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        return (
            f"a state cannot be read again as {getattr(kind, '__name__', kind)}: {error}: correct the type of its field"
        )
    return ""


def _first(parts: Any) -> str:
    return next((fault for where, item in parts if (fault := not_plain(item, where))), "")


def _encode_value(value: Any, where: str) -> str:
    try:
        _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"{where} is a {type(value).__name__}, which the journal cannot keep"
    return ""
