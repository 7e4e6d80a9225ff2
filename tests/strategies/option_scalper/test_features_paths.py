"""The table path and the streaming path are one definition: the same bits on real minutes, with holes, and on any bars.

Expected values of one path come from the other; that both are right is shown by hand and by the oracle.
"""

from __future__ import annotations

import random
from math import isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.kit.contract import Bar, Session
from strategies.kit.synthetic import synthetic_sessions
from strategies.option_scalper import feature_table
from tests.support.examples import examples
from tests.support.strategies.minutes import Minutes, W, minutes_of, two_sessions

Shape = tuple[float, float, float, float, float]


def assert_same_bits(minutes: Minutes) -> None:
    table = minutes.table()
    streamed = np.array(minutes.streamed(), dtype=np.float64)
    assert len(streamed) > 0
    assert table.values[table.warm].tobytes() == streamed.tobytes()


def test_table_and_stream_agree_to_the_bit_on_all_recorded_minutes(spy_minutes: Minutes) -> None:
    lengths = {len(spy_minutes.of_session(i)) for i in range(len(spy_minutes.sessions))}
    assert lengths == {210, 390}  # half days are among them
    assert_same_bits(spy_minutes)


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_table_and_stream_agree_to_the_bit_with_minutes_missing(spy_minutes: Minutes, share: float) -> None:
    draw = random.Random(f"missing {share}")
    bars = [bar for bar in spy_minutes.bars if draw.random() >= share]
    assert_same_bits(minutes_of(bars, spy_minutes.sessions))


def test_without_elapsed_minutes_no_minute_is_taken_to_be_missing(spy_minutes: Minutes) -> None:
    o, h, low, c, v = (spy_minutes.column(name) for name in ("open", "high", "low", "close", "volume"))
    minutes = [len(spy_minutes.of_session(i)) for i in range(len(spy_minutes.sessions))]
    table = feature_table(o, h, low, c, v, session_starts=spy_minutes.starts, session_minutes=minutes)
    assert table.values.tobytes() == spy_minutes.table().values.tobytes()


def test_rows_are_warm_from_the_first_session_that_enough_bars_precede() -> None:
    half = minutes_of(*_synthetic_half_days(4))
    table = half.table()
    assert table.warm.tolist() == [False] * 420 + [True] * 420  # 210 bars before the second day, 420 before the third
    assert not table.values[:420].any()
    assert minutes_of(*_synthetic_half_days(1)).table().warm.sum() == 0


def _synthetic_half_days(days: int) -> tuple[list[Bar], list[Session]]:
    day_ns, open_ns = 86_400_000_000_000, 1_720_013_400_000_000_000
    sessions = [Session(str(i), open_ns + i * day_ns, open_ns + i * day_ns + 210 * 60_000_000_000) for i in range(days)]
    return list(synthetic_sessions(7, sessions)), sessions


ONE_CENT_TO_A_THOUSAND = st.integers(1, 100_000)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """A valid bar: positive prices in whole cents with low <= open, close <= high; the volume may be 0."""
    low, *middle, high = sorted(draw(st.lists(ONE_CENT_TO_A_THOUSAND, min_size=4, max_size=4)))
    first, last = draw(st.permutations(middle))
    return (first / 100, high / 100, low / 100, last / 100, float(draw(st.integers(0, 10**8))))


HISTORIES = st.lists(shapes(), min_size=1, max_size=8).map(lambda few: (few * W)[:W])
SESSIONS = st.lists(shapes(), min_size=1, max_size=12)


@settings(max_examples=examples(150), deadline=None)
@given(HISTORIES, SESSIONS)
def test_any_valid_bars_give_finite_numbers_and_the_same_bits_on_both_paths(
    history: list[Shape], session: list[Shape]
) -> None:
    minutes = two_sessions(history + session)
    assert all(isfinite(x) for row in minutes.streamed() for x in row)
    assert_same_bits(minutes)


@settings(max_examples=examples(150), deadline=None)
@given(HISTORIES, SESSIONS, SESSIONS)
def test_a_row_never_changes_when_later_bars_do(past: list[Shape], seen: list[Shape], later: list[Shape]) -> None:
    now = W + len(seen)
    alone = two_sessions(past + seen).table().values
    followed = two_sessions(past + seen + later).table().values
    assert followed[:now].tobytes() == alone.tobytes()


ONES = np.ones(6)
COLUMNS = [ONES] * 5


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="volume has 5 rows, close has 6"):
        feature_table(ONES, ONES, ONES, ONES, np.ones(5), session_starts=[0], session_minutes=[6])


def test_one_length_of_session_is_needed_for_each_start() -> None:
    with pytest.raises(ValueError, match="session_minutes has 2 sessions, session_starts 1"):
        feature_table(*COLUMNS, session_starts=[0], session_minutes=[6, 6])


def test_one_elapsed_minute_is_needed_for_each_bar() -> None:
    with pytest.raises(ValueError, match="elapsed_minutes has 3 rows, close has 6"):
        feature_table(*COLUMNS, session_starts=[0], session_minutes=[6], elapsed_minutes=[1, 2, 3])


@pytest.mark.parametrize("starts", [[], [1], [0, 3, 3], [0, 6], [0, 4, 2]])
def test_session_starts_must_ascend_from_the_first_row(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 0 first, then ascending row indices"):
        feature_table(*COLUMNS, session_starts=starts, session_minutes=[6] * len(starts))
