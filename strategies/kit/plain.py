"""What a strategy keeps and returns must be plain: the journal keeps it as JSON, and a start reads it again.

A numpy number cannot be written, and NaN is read back as null: a desk with such a state could not be restarted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct, inspect

from strategies.kit.contract import Bar
from strategies.kit.quantity import from_json, to_json

_SCALARS = frozenset((int, bool, bytes, type(None), Bar))
CURE = "let it hold plain numbers, text and bytes, tuples of them and msgspec.Struct: float(x), int(x), .tobytes()"
STATE_MOST = 64 * 2**20
"""Bytes of a state: each snapshot of the journal has it, and each start reads it."""
ONE_AT_A_TIME = threading.Lock()  # msgspec analyses a type in several steps; other threads must not see it half done
_encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=to_json).encode


def not_plain(value: Any, where: str) -> str:
    """Return which part of a value cannot be stored, and why; "" where all can. `where` names the value."""
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
        if kinds <= _SCALARS or (kinds == {float} and all(map(isfinite, value))):  # fast, for many
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
    if _form_of(kind)(state):
        return state
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


def size_of(value: Any) -> int:
    """Return about how many bytes a plain value holds: 8 for a number, 64 for a bar."""
    kind = type(value)
    if kind is bytes or kind is str:
        return len(value)
    if kind is Bar:
        return 64
    if isinstance(value, Struct):
        return sum([size_of(getattr(value, name)) for name in value.__struct_fields__])
    if isinstance(value, Mapping):
        return sum([size_of(key) + size_of(item) for key, item in value.items()])
    if kind is tuple or kind is list:
        kinds = set(map(type, value))
        if len(kinds) == 1 and (one := next(iter(kinds))) in _SIZES:
            return len(value) * _SIZES[one]
        return sum(map(size_of, value))
    return 8


_SIZES = {int: 8, float: 8, bool: 8, Bar: 64}


@cache
def _form_of(kind: Any) -> Callable[[Any], bool]:
    """Return a quick test whether a value of this type is read back from the journal unchanged.

    It may return False for a value that is; `read_again` then checks in full.
    """
    try:
        with ONE_AT_A_TIME:
            return _form(inspect.type_info(kind))
    except (TypeError, NameError, RecursionError):
        return _never  # a type unknown to msgspec, or a recursive one


def _form(info: inspect.Type) -> Callable[[Any], bool]:
    if kinds := _scalars(info):
        return lambda value: type(value) in kinds
    match info:
        case inspect.FloatType(gt=None, ge=None, lt=None, le=None, multiple_of=None):
            return lambda value: type(value) is float and isfinite(value)
        case inspect.StrType(min_length=None, max_length=None, pattern=None):
            return lambda value: type(value) is str and value.isascii()
        case inspect.VarTupleType(min_length=None, max_length=None, item_type=item):
            return _form_of_tuple(item)
        case inspect.TupleType(item_types=items):
            parts = [_form(one) for one in items]
            return lambda value: (
                type(value) is tuple
                and len(value) == len(parts)
                and all(form(one) for form, one in zip(parts, value, strict=True))
            )
        case inspect.DictType(min_length=None, max_length=None, key_type=key, value_type=item):
            of_key, of_item = _form(key), _form(item)
            return lambda value: (
                type(value) is dict
                and isinstance(key, inspect.StrType)
                and all(map(of_key, value))
                and all(map(of_item, value.values()))
            )
        case inspect.StructType(cls=cls, fields=fields):
            forms = [(field.name, _form(field.type)) for field in fields]
            return lambda value: type(value) is cls and all(form(getattr(value, name)) for name, form in forms)
        case inspect.UnionType(types=types):
            alternatives = [_form(one) for one in types]
            return lambda value: any(form(value) for form in alternatives)
    return _never


def _form_of_tuple(item: inspect.Type) -> Callable[[Any], bool]:
    if kinds := _scalars(item):
        return lambda value: type(value) is tuple and kinds.issuperset(map(type, value))
    form = _form(item)
    if isinstance(item, inspect.FloatType) and form is not _never:
        return lambda value: type(value) is tuple and {float}.issuperset(map(type, value)) and all(map(isfinite, value))
    return lambda value: type(value) is tuple and all(map(form, value))


def _scalars(info: inspect.Type) -> frozenset[type[Any]]:
    """Return the types of `_SCALARS` that make up this type; empty where it includes any other type, or bounds."""
    match info:
        case inspect.IntType(gt=None, ge=None, lt=None, le=None, multiple_of=None):
            return frozenset((int,))
        case inspect.BoolType():
            return frozenset((bool,))
        case inspect.BytesType(min_length=None, max_length=None):
            return frozenset((bytes,))
        case inspect.NoneType():
            return frozenset((type(None),))
        case inspect.StructType(cls=cls) if cls is Bar:
            return frozenset((Bar,))
        case inspect.UnionType(types=types):
            kinds = [_scalars(one) for one in types]
            return frozenset().union(*kinds) if all(kinds) else frozenset()
    return frozenset()


def _never(_: Any) -> bool:
    return False


def _first(parts: Any) -> str:
    return next((fault for where, item in parts if (fault := not_plain(item, where))), "")


def _encode_value(value: Any, where: str) -> str:
    try:
        _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"{where} is a {type(value).__name__}, which the journal cannot keep"
    return ""
