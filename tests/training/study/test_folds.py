"""Spans of sessions: their order, the sessions left out between them, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.study.folds import HistoryError, Split, by_years, expanding, single
from training.study.study import Fold


def dates(count: int) -> tuple[str, ...]:
    """`count` names that sort as they come."""
    return tuple(f"{index:04d}" for index in range(count))


def test_one_fold_is_60_20_20_in_the_order_of_time() -> None:
    # 11 sessions: 6.6 and 8.8 rounded down
    assert single(dates(11)) == (Fold(dates(11)[:6], dates(11)[6:8], dates(11)[8:]),)


def test_too_little_history_is_an_error_that_says_how_much_there_is() -> None:
    with pytest.raises(HistoryError, match=r"too little history: 4 usable sessions, at least 5 are needed"):
        single(dates(4))


def test_173_sessions_give_the_three_folds_that_train_on_83_103_and_123() -> None:
    folds = expanding(dates(173), 3)
    assert [(len(fold.train), len(fold.validate), len(fold.test)) for fold in folds] == [
        (83, 10, 20), (103, 10, 20), (123, 10, 20),
    ]  # fmt: skip
    # session 83 is left out, 84 to 93 choose, 94 is left out, 95 to 114 test
    assert (folds[0].validate[0], folds[0].validate[-1]) == ("0084", "0093")
    assert (folds[0].test[0], folds[0].test[-1]) == ("0095", "0114")
    assert (folds[1].test[0], folds[2].test[0], folds[2].test[-1]) == ("0115", "0135", "0154")


@given(
    sessions=st.integers(1, 200), count=st.integers(1, 5), train=st.integers(1, 60), validate=st.integers(1, 20),
    test=st.integers(1, 30), gap=st.integers(0, 5),
)  # fmt: skip
def test_spans_never_touch_never_overlap_and_no_test_session_is_tested_twice(
    sessions: int, count: int, train: int, validate: int, test: int, gap: int
) -> None:
    every = dates(sessions)
    try:
        folds = expanding(every, count, train=train, validate=validate, test=test, gap=gap)
    except HistoryError:
        assert train + (count - 1) * test + validate + test + 2 * gap > sessions
        return
    tested = [date for fold in folds for date in fold.test]
    assert len(set(tested)) == len(tested) == count * test
    for fold in folds:
        spans = (fold.train, fold.validate, fold.test)
        for earlier, later in itertools.pairwise(spans):
            assert every.index(later[0]) - every.index(earlier[-1]) == gap + 1


def test_folds_that_need_more_sessions_than_there_are_say_how_many() -> None:
    # 40 + 2 x 20 + 1 + 10 + 1 + 20
    with pytest.raises(HistoryError, match=r"100 usable sessions; 3 folds that train on 40 .* need 112"):
        expanding(dates(100), 3, train=40)


def year(number: int, sessions: int) -> list[str]:
    """So many sessions of a year, by date."""
    return [f"{number}-{index // 28 + 1:02d}-{index % 28 + 1:02d}" for index in range(sessions)]


def test_years_split_where_the_sessions_cover_them_and_do_not_where_half_of_a_span_is_missing() -> None:
    split = Split((2010, 2011), (2012, 2012), (2013, 2014))
    assert str(split) == "train 2010 to 2011, validate 2012, test 2013 to 2014"
    every = [*year(2009, 9), *year(2011, 252), *year(2012, 126), *year(2013, 250), *year(2014, 250), *year(2015, 9)]
    assert by_years(every, split) == Fold(
        tuple(year(2011, 252)), tuple(year(2012, 126)), (*year(2013, 250), *year(2014, 250))
    )
    fewer = [date for date in every if date != year(2012, 1)[0]]  # 125 of 252 sessions to choose on
    assert by_years(fewer, split) is None
