"""Decode wire data: the result is a value of bounded nesting, or `Unreadable`.

Decoders raise RecursionError for deep nesting, and slightly less deep nesting makes the next reader of the value raise
it. Neither may end a feed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import msgpack
import msgspec

T = TypeVar("T")
MANY = 100_000  # items of one array or map of msgpack; a frame of Alpaca's has some hundred messages
_CONTAINERS = (dict, list, tuple)
LEVELS_MOST = 64  # levels of nesting; the deepest message of Alpaca has five


class Unreadable(ValueError):
    """The data cannot be decoded, or is nested too deeply. The text shows none of it."""


def prepare_types() -> None:
    """Let msgspec analyse all loaded struct types now, before there are threads.

    It does so in steps when a type is first decoded: a thread that decodes the same type meanwhile reads a null
    pointer, and the process crashes (msgspec 0.22.0).
    """
    kinds: list[type[Any]] = [msgspec.Struct]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        with contextlib.suppress(TypeError, NameError):  # types that cannot be decoded
            msgspec.json.Decoder(kind)


def decode_with_type(decode: Callable[[bytes], T], data: bytes) -> T:
    """Decode by a typed decoder, whose type bounds the nesting. Raises Unreadable."""
    return _guard(lambda: decode(data), len(data))


def json_value(data: bytes | str) -> object:
    """Decode any JSON value. Raises Unreadable."""
    return check_depth(_guard(lambda: msgspec.json.decode(data), len(data)))


def msgpack_value(data: bytes) -> object:
    """Decode any msgpack value; times are `msgpack.Timestamp`. Raises Unreadable."""

    def unpack() -> object:
        return msgpack.unpackb(
            data, timestamp=0, strict_map_key=False, unicode_errors="replace", max_array_len=MANY, max_map_len=MANY
        )

    return check_depth(_guard(unpack, len(data)))


def writable(value: T) -> T:
    """Return the value, bounded. Raises Unreadable for half a surrogate pair in a text, which no journal can write."""
    try:
        msgspec.json.encode(check_depth(value))
    except (UnicodeEncodeError, TypeError):
        raise Unreadable("a text in it is no Unicode") from None
    return value


def check_depth(value: T) -> T:
    """Return the value. Raises Unreadable for too many levels of arrays and objects."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(LEVELS_MOST):
        parts = [*chain.from_iterable(outer.values() if isinstance(outer, dict) else outer for outer in level)]
        kinds = {kind for kind in set(map(type, parts)) if issubclass(kind, _CONTAINERS)}  # empty at the last level
        level = [part for part in parts if type(part) in kinds and part] if kinds else []  # skips empty containers
        if not level:
            return value
    raise Unreadable(f"nested more than {LEVELS_MOST} levels deep")


def _guard(decode: Callable[[], T], size: int) -> T:
    try:
        return decode()
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None
    except (msgspec.MsgspecError, msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"{size} bytes that cannot be decoded: {type(error).__name__}") from None
