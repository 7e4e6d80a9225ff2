"""A state is given as JSON would bring it back: the decoder of msgspec is the oracle."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from strategies.kit.contract import Bar
from strategies.kit.plain import read_again


class Inner(Struct, frozen=True):
    count: int
    name: str = ""


class Kept(Struct, frozen=True):
    closes: tuple[float, ...] = ()
    inner: tuple[Inner, ...] = ()
    bars: tuple[Bar, ...] = ()
    flag: bool | None = None
    mean: float | None = None
    either: int | float = 0
    pair: tuple[int, float] = (0, 0.0)
    raw: bytes = b""
    by_name: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.one_of(FLOATS, st.integers(-(2**53), 2**53))
BARS = st.builds(Bar, st.sampled_from(("SPY", "BRK.B")), st.integers(0, 2**53), *[FLOATS] * 5)
STATES = st.builds(
    Kept,
    closes=st.one_of(st.lists(NUMBERS), st.lists(FLOATS).map(tuple)),
    inner=st.lists(st.builds(Inner, st.integers(-9, 9), st.text())).map(tuple),
    bars=st.lists(BARS, max_size=3).map(tuple),
    flag=st.one_of(st.none(), st.booleans()),
    mean=st.one_of(st.none(), NUMBERS),
    either=NUMBERS,
    pair=st.one_of(st.tuples(st.integers(0, 9), NUMBERS), st.lists(st.integers(0, 9), min_size=2, max_size=2)),
    raw=st.binary(max_size=4),
    by_name=st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 9)), max_size=2),
)


@given(STATES)
def test_a_state_has_the_form_of_what_a_start_reads(state: Kept) -> None:
    try:
        expected = msgspec.json.decode(msgspec.json.encode(state), type=Kept)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        with pytest.raises(TypeError):
            read_again(state, Kept)
        return
    assert repr(read_again(state, Kept)) == repr(expected)  # it tells 1 from 1.0, and a list from a tuple


def test_what_has_its_form_is_given_back_itself() -> None:
    bars = tuple(Bar("SPY", minute, 1.0, 2.0, 0.5, 1.5, 10.0) for minute in range(400))
    state = Kept(closes=(1.0, 2.0), inner=(Inner(1, "a"),), bars=bars, mean=0.5, raw=b"1")
    assert read_again(bars, tuple[Bar, ...]) is bars
    whole = msgspec.structs.replace(state, pair=(1, 1.0), by_name={"AAA": (1,)})
    assert read_again(whole, Kept) is whole
    for other in ({"pair": (1, 1)}, {"by_name": {"AAA": [1]}}, {"closes": (1.0, 2)}):
        part = msgspec.structs.replace(whole, **other)
        assert read_again(part, Kept) is not part


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ((1.0, float("nan")), tuple[float, ...], "which no start can read again"),
        (({1, 2},), tuple[Any, ...], "give a sorted tuple"),
        (Kept(mean="x"), Kept, "correct the type of its field"),  # type: ignore[arg-type]
        (Inner(2, "b"), Kept, "correct"),
    ],
)
def test_what_no_start_can_read_is_named(state: Any, kind: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        read_again(state, kind)
