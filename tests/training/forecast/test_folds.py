"""Walk-forward folds by years: spans, and purging against purgedcv."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from purgedcv import purge

from training.forecast.folds import YearFold, by_years, rows_of
from training.forecast.labels import NONE, Barriers, Labels
from training.study.folds import HistoryError

DATES = [str(date.date()) for date in pd.bdate_range("2010-01-04", "2022-12-30")]


def _labels(days: int, symbols: int, seed: int = 0) -> Labels:
    """Labels with ends of their own, 1 to 9 sessions later; a tenth of the rows has none."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, (days, symbols)).astype(np.int8)
    end = np.arange(days)[:, None] + random.integers(1, 10, (days, symbols))
    none = (random.random((days, symbols)) < 0.1) | (end >= days)
    classes[none], end[none] = NONE, NONE
    return Labels(Barriers(), classes, end.astype(np.int32), np.full((days, symbols), 0.01))


def test_a_fold_trains_to_two_years_before_calibrates_on_the_next_and_predicts_the_year() -> None:
    folds = by_years(DATES)
    assert [fold.year for fold in folds] == list(range(2014, 2023))
    for fold in folds:
        spans = [(DATES[first][:4], DATES[after - 1][:4]) for first, after in (fold.train, fold.validate, fold.predict)]
        year = fold.year
        assert spans == [("2010", str(year - 2)), (str(year - 1),) * 2, (str(year),) * 2]
        assert fold.train[0] == 0
        assert fold.train[1] == fold.validate[0]
        assert fold.validate[1] == fold.predict[0]


def test_a_year_that_the_file_lacks_is_named() -> None:
    with pytest.raises(HistoryError, match="0 sessions in 2023"):
        by_years(DATES, 2022, 2023)


@pytest.mark.parametrize("embargo", [0, 5])
def test_purging_is_that_of_purgedcv_with_each_labels_own_interval(embargo: int) -> None:
    """A label uses the bars after its row up to and with its end, so its half-open interval is [row, end + 1)."""
    days, symbols = 90, 4
    labels, fold = _labels(days, symbols), YearFold(2000, (0, 40), (40, 70), (70, 90))
    valid = np.random.default_rng(1).random((days, symbols)) < 0.9
    rows = rows_of(fold, labels, valid, embargo)
    day, place = np.nonzero(valid & labels.known)
    moment = pd.Series(pd.Timestamp("2000-01-01") + pd.to_timedelta(day, unit="D"))
    label_ends = pd.Series(pd.Timestamp("2000-01-01") + pd.to_timedelta(labels.end[day, place] + 1, unit="D"))
    for places, (first, after), following in ((rows.train, fold.train, 40), (rows.validate, fold.validate, 70)):
        training_rows = np.flatnonzero((day >= first) & (day < after))
        later = np.flatnonzero((day >= following) & (day < following + 20))
        indices = purge(training_rows, later, moment, label_ends, pd.Timedelta(days=embargo))
        assert places.tolist() == np.stack([day, place], axis=1)[indices].tolist()
        assert 0 < len(indices) < len(training_rows)


def test_every_valid_row_of_the_year_is_predicted_with_a_label_or_without() -> None:
    labels, fold = _labels(90, 4), YearFold(2000, (0, 40), (40, 70), (70, 90))
    valid = np.ones((90, 4), dtype=np.bool_)
    valid[75, 2] = False
    rows = rows_of(fold, labels, valid)
    assert len(rows.predict) == 20 * 4 - 1
    assert [75, 2] not in rows.predict.tolist()
    assert rows.purged > 0


def test_no_training_row_knows_a_bar_of_the_spans_after_it() -> None:
    labels, fold = _labels(90, 4), YearFold(2000, (0, 40), (40, 70), (70, 90))
    rows = rows_of(fold, labels, np.ones((90, 4), dtype=np.bool_), embargo=3)
    assert labels.end[tuple(rows.train.T)].max() < 40 - 3
    assert labels.end[tuple(rows.validate.T)].max() < 70 - 3


def test_a_negative_embargo_is_refused() -> None:
    with pytest.raises(ValueError, match="embargo is -1"):
        rows_of(YearFold(2000, (0, 4), (4, 7), (7, 9)), _labels(9, 1), np.ones((9, 1), dtype=np.bool_), -1)
