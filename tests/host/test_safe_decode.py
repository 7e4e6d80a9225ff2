"""Whatever comes over a wire is a value of bounded nesting, or unreadable: nothing else is raised."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.host.safe_decode import (
    LEVELS_MOST,
    Unreadable,
    check_depth,
    decode_with_type,
    json_value,
    msgpack_value,
    writable,
)
from daemon.operator.remote_commands import CommandRefusal, Judge
from daemon.operator.signing import parse_keys

FIRST_DECODES = """
import sys, threading, msgspec
from daemon.host.safe_decode import prepare_types
def kinds():
    inner = int
    for _ in range(3):
        inner = msgspec.defstruct("Kind", [(f"f{n}", inner) for n in range(8)])
    return inner
value = {f"f{n}": 1 for n in range(8)}
for _ in range(2):
    value = {f"f{n}": value for n in range(8)}
data, wanted = msgspec.json.encode(value), [kinds() for _ in range(40)]
prepare_types()
sys.setswitchinterval(1e-6)
for kind in wanted:
    begin = threading.Barrier(4)
    threads = [threading.Thread(target=lambda: (begin.wait(), msgspec.json.decode(data, type=kind))) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""


def test_types_that_are_prepared_may_be_decoded_first_by_several_threads() -> None:
    subprocess.run([sys.executable, "-c", FIRST_DECODES], check=True, timeout=120)


def nested(levels: int) -> Any:
    """So many arrays in one another."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b"", b"\xff", b"[1"],
)
def test_what_no_decoder_can_take_is_unreadable_json(text: bytes) -> None:
    with pytest.raises(Unreadable):
        json_value(text)


@pytest.mark.parametrize("data", [b"\x91" * 100_000 + b"\x01", b"\x91" * 900 + b"\x01", b"", b"\xc1", b"\x91"])
def test_what_no_decoder_can_take_is_unreadable_msgpack(data: bytes) -> None:
    with pytest.raises(Unreadable):
        msgpack_value(data)


def test_nesting_is_bounded_in_arrays_and_objects_alike() -> None:
    assert check_depth(nested(LEVELS_MOST)) == nested(LEVELS_MOST)
    with pytest.raises(Unreadable, match="nested more than 64 levels deep"):
        check_depth({"a": ({"b": nested(LEVELS_MOST - 1)},)})


@given(st.recursive(st.integers(0, 9) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_what_is_ordinary_comes_back_as_it_was_sent(value: Any) -> None:
    assert json_value(json.dumps(value)) == value
    assert msgpack_value(msgpack.packb(value)) == value


@pytest.mark.parametrize("text", ['["\\ud800"]', '{"\\udfffx": 1}'])
def test_half_a_surrogate_pair_that_json_lets_pass_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable, match="no Unicode"):
        writable(json.loads(text))
    assert writable(json.loads('["\\ud83d\\ude00", NaN, 1e400]'))[0] == "\N{GRINNING FACE}"


def test_a_typed_decoder_s_own_words_are_kept_and_its_depth_is_no_other_error() -> None:
    decode = msgspec.json.Decoder(dict[str, int]).decode
    assert decode_with_type(decode, b'{"a":1}') == {"a": 1}
    with pytest.raises(Unreadable, match="Expected `int`, got `str`"):
        decode_with_type(decode, b'{"a":"b"}')
    skipping = msgspec.json.Decoder(msgspec.defstruct("Some", [("a", int, 1)])).decode
    with pytest.raises(Unreadable, match="RecursionError"):
        decode_with_type(skipping, b'{"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_command_that_is_nested_deeply_is_refused() -> None:
    judge = Judge("paper-1", parse_keys(f"ops:{'ab' * 32}"), lambda: 7)
    verdict = judge.judge(b'{"other":' + b"[" * 4000, retained=False)
    assert verdict == CommandRefusal("the message cannot be read")


@pytest.mark.parametrize("head", [b"\xdd\x00\xff\xff\xff", b"\xdf\x00\x7f\xff\xff"])
def test_an_array_or_map_of_a_million_parts_is_not_built(head: bytes) -> None:
    with pytest.raises(Unreadable, match="ValueError"):
        msgpack_value(head + b"\xc0" * (1 << 24))
