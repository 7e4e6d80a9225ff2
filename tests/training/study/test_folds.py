"""Spans of sessions: their order, the sessions left out between them, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.study.folds import HistoryError, Walk, YearSplit, by_years, is_short, last_fold, single, walk
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


RULE = Walk(train=40, validate=10, test=20, purge=5)


def test_three_folds_of_173_sessions_end_with_the_last_session_and_leave_five_out() -> None:
    folds = walk(dates(173), RULE, 3)
    # the tests are 113 to 132, 133 to 152, 153 to 172; each validation ends five sessions before its test
    assert [(fold.test[0], fold.test[-1]) for fold in folds] == [("0113", "0132"), ("0133", "0152"), ("0153", "0172")]
    assert (folds[0].validate[0], folds[0].validate[-1]) == ("0098", "0107")
    assert [(fold.train[0], fold.train[-1]) for fold in folds] == [("0000", "0092"), ("0000", "0112"), ("0000", "0132")]


@given(
    sessions=st.integers(1, 200), count=st.integers(1, 5), train=st.integers(1, 60), validate=st.integers(1, 20),
    test=st.integers(1, 30), purge=st.integers(0, 30),
)  # fmt: skip
def test_the_last_session_is_tested_spans_are_apart_and_no_test_session_is_tested_twice(
    sessions: int, count: int, train: int, validate: int, test: int, purge: int
) -> None:
    every, rule = dates(sessions), Walk(train, validate, test, purge)
    try:
        folds = walk(every, rule, count)
    except HistoryError:
        assert train + validate + 2 * purge + count * test > sessions
        assert count > 1 or is_short(every, rule)
        return
    tested = [date for fold in folds for date in fold.test]
    assert tested == list(every[-count * test :])
    for fold in folds:
        assert (len(fold.validate), len(fold.test)) == (validate, test)
        assert len(fold.train) >= train
        spans = (fold.train, fold.validate, fold.test)
        for earlier, later in itertools.pairwise(spans):
            assert every.index(later[0]) - every.index(earlier[-1]) == purge + 1


def test_folds_that_need_more_sessions_than_there_are_say_how_many() -> None:
    # 40 + 5 + 10 + 5 + 3 x 20; of 100 sessions two tests fit behind the 60 that the first needs
    with pytest.raises(HistoryError, match=r"100 usable sessions; folds = 3 needs 120 .*, there can be 2"):
        walk(dates(100), RULE, 3)


def test_a_file_too_short_for_one_fold_is_split_60_20_20() -> None:
    assert last_fold(dates(79), RULE) == single(dates(79))[0]
    assert last_fold(dates(80), RULE) == walk(dates(80), RULE, 1)[0]


def year(number: int, sessions: int) -> list[str]:
    """So many sessions of a year, by date."""
    return [f"{number}-{index // 28 + 1:02d}-{index % 28 + 1:02d}" for index in range(sessions)]


def test_tests_by_years_begin_with_them_and_the_last_goes_on_to_the_end_of_the_file() -> None:
    rule = Walk(train=200, validate=100, test=252, purge=50, years=True)
    every = [day for number in range(2012, 2019) for day in year(number, 250)] + year(2019, 30)
    folds = walk(every, rule, 3)
    assert [fold.test[0][:4] for fold in folds] == ["2016", "2017", "2018"]
    assert folds[-1].test == (*year(2018, 250), *year(2019, 30))
    begin = every.index("2017-01-01")
    assert folds[1].validate == tuple(every[begin - 150 : begin - 50])
    assert folds[1].train == tuple(every[: begin - 200])
    # 2014 begins after 500 sessions, of which 50 + 100 + 50 lie between; 2013 is too early to be tested
    assert walk(every, rule, 5)[0].test[0] == "2014-01-01"
    with pytest.raises(
        HistoryError, match=r"folds = 6 needs 400 before the first tested year \(2014 or later\) .*, there can be 5"
    ):
        walk(every, rule, 6)


def test_an_unfinished_year_with_half_of_its_sessions_is_a_test_of_its_own() -> None:
    rule = Walk(train=200, validate=100, test=252, purge=50, years=True)
    every = [day for number in range(2012, 2016) for day in year(number, 250)] + year(2016, 126)
    assert walk(every, rule, 1)[0].test == tuple(year(2016, 126))


def test_a_year_that_is_mostly_missing_in_the_middle_of_a_file_belongs_to_the_test_before_it() -> None:
    rule = Walk(train=200, validate=100, test=252, purge=50, years=True)
    every = [day for number in range(2012, 2016) for day in year(number, 250)] + year(2016, 125) + year(2017, 250)
    folds = walk(every, rule, 3)
    assert [fold.test[0] for fold in folds] == ["2014-01-01", "2015-01-01", "2017-01-01"]
    assert folds[1].test == (*year(2015, 250), *year(2016, 125))


def test_a_references_years_go_on_to_the_last_session_and_are_refused_where_half_of_a_span_is_missing() -> None:
    split = YearSplit((2010, 2011), (2012, 2012), (2013, 2014))
    assert str(split) == "train 2010 to 2011, validate 2012, test 2013 to 2014"
    every = [*year(2009, 9), *year(2011, 252), *year(2012, 126), *year(2013, 250), *year(2014, 250), *year(2015, 9)]
    assert by_years(every, split) == Fold(
        tuple(year(2011, 252)), tuple(year(2012, 126)), (*year(2013, 250), *year(2014, 250), *year(2015, 9))
    )
    fewer = [date for date in every if date != year(2012, 1)[0]]  # 125 of 252 sessions to choose on
    with pytest.raises(HistoryError, match=r"125 usable sessions in the years that validate \(2012 to 2012\)"):
        by_years(fewer, split)
