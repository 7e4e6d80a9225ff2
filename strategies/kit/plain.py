"""What a strategy keeps and returns must be plain: the journal keeps it as JSON, and a start reads it again.

A number of numpy cannot be written, and NaN is read again as nothing: a desk that has one cannot go on after its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from strategies.kit.contract import Bar
from strategies.kit.quantity import from_json, to_json

_SCALARS = frozenset((int, bool, bytes, type(None), Bar))
CURE = "let it hold plain numbers, text and bytes, tuples of them and msgspec.Struct: float(x), int(x), .tobytes()"
ONE_AT_A_TIME = threading.Lock()  # msgspec takes in a type in steps, which no other thread may meet
_encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=to_json).encode


def not_plain(value: Any, where: str) -> str:
    """Return which part of a value cannot be kept, and why; "" where all can. `where` is its name."""
    kind = type(value)
    if kind in _SCALARS:
        return ""
    if kind is float:
        return "" if isfinite(value) else f"{where} is {value}, which no start can read again"
    if kind is str and value.isascii():
        return ""
    if isinstance(value, AbstractSet):
        return f"{where} is a {kind.__name__}, whose order is another one in each process: give a sorted tuple"
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


def read_again(state: Any, kind: Any) -> Any:
    """Return a state as a start reads it again from the journal, by its type `kind`.

    Raises TypeError with the part that the journal cannot keep or that no start can read, and the cure.
    """
    if fault := not_plain(state, "state"):
        raise TypeError(f"{fault}: {CURE}")
    name = getattr(kind, "__name__", kind)
    try:
        plain = msgspec.to_builtins(state, builtin_types=(bytes,), str_keys=True, enc_hook=to_json)
        with ONE_AT_A_TIME:
            read = msgspec.convert(plain, kind, builtin_types=(bytes,), str_keys=True, dec_hook=from_json)
    except (msgspec.MsgspecError, TypeError, ValueError, NotImplementedError, RecursionError) as error:
        raise TypeError(f"it cannot be read again as {name}: {error}: correct the type of its field") from error
    if isinstance(state, Struct) and type(read) is not type(state):
        raise TypeError(f"it is a {type(state).__name__}, and would be read again as {name}: correct state_type")
    return read


def _first(parts: Any) -> str:
    return next((fault for where, item in parts if (fault := not_plain(item, where))), "")


def _encode_value(value: Any, where: str) -> str:
    try:
        _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"{where} is a {type(value).__name__}, which the journal cannot keep"
    return ""
