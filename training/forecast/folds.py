"""Walk-forward folds by years: rows to train, calibrate and predict. Labels that overlap the next span are dropped.

A row is (session, symbol). Purging is by each label's own interval: the bars after its row up to and with its `end`
(López de Prado 2018, section 7.4.1). An embargo of further sessions widens the hole. Pure functions of arrays.

`assemble` joins the folds' out-of-sample forecasts, and refuses one of a row that its own fold has seen. Agents learn
on these alone: in-sample confidence would teach them to trust a forecaster that is better than the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.forecast.labels import BoolArray, Labels
from training.study.folds import HistoryError
from training.study.study import SESSIONS_A_YEAR

FIRST_YEAR, LAST_YEAR = 2014, 2022
NO_FOLD = 0


@dataclass(frozen=True, slots=True)
class YearFold:
    """Sessions of a fold, each a range [first, after): trained on, calibrated and validated on, predicted."""

    year: int  # predicted
    train: tuple[int, int]
    validate: tuple[int, int]
    predict: tuple[int, int]


@dataclass(frozen=True, slots=True)
class FoldRows:
    """Rows (k, 2) of session and symbol, in the order of time and then of symbols."""

    train: NDArray[np.int64]
    validate: NDArray[np.int64]
    predict: NDArray[np.int64]
    purged: int  # training and validation rows whose label reaches into the next span or its embargo
    ends: tuple[int, int]  # the sessions before which the labels of training, and of validation rows, are known


def by_years(dates: Sequence[str], first: int = FIRST_YEAR, last: int = LAST_YEAR) -> tuple[YearFold, ...]:
    """A fold for each predicted year: train from the beginning to year - 2, calibrate on year - 1, predict the year.

    Raises:
        HistoryError: a year is not covered by half of its sessions, or nothing is left to train on.
    """
    years = np.array([int(date[:4]) for date in dates])

    def span(begin: int, end: int) -> tuple[int, int]:
        places = np.flatnonzero((years >= begin) & (years <= end))
        if len(places) < SESSIONS_A_YEAR // 2:
            raise HistoryError(
                f"too little history: {len(places)} sessions in {begin}{'' if begin == end else f' to {end}'}, at "
                f"least {SESSIONS_A_YEAR // 2} are needed: give a longer file, or other years"
            )
        return int(places[0]), int(places[-1]) + 1

    begin = int(years[0]) if len(years) else first
    return tuple(
        YearFold(year, span(begin, year - 2), span(year - 1, year - 1), span(year, year))
        for year in range(first, last + 1)
    )


def rows_of(fold: YearFold, labels: Labels, valid: BoolArray, embargo: int = 0) -> FoldRows:
    """The rows of a fold.

    Args:
        valid: bool (d, n), where there is a sequence to predict from.
        embargo: sessions left out between the end of a label and the first session of the next span.
    """
    if embargo < 0:
        raise ValueError(f"the embargo is {embargo} sessions: expected at least 0")
    ends = fold.validate[0] - embargo, fold.predict[0] - embargo
    train, cut_train = _kept(fold.train, ends[0], labels, valid)
    validate, cut_validate = _kept(fold.validate, ends[1], labels, valid)
    return FoldRows(train, validate, _where(valid, fold.predict), cut_train + cut_validate, ends)


def _kept(span: tuple[int, int], session: int, labels: Labels, valid: BoolArray) -> tuple[NDArray[np.int64], int]:
    """Labelled rows of `span` whose labels end before the session `session`, and how many do not."""
    usable = valid & labels.known
    samples: BoolArray = usable & (labels.end < session)
    rows = _where(samples, span)
    return rows, len(_where(usable, span)) - len(rows)


def _where(mask: BoolArray, span: tuple[int, int]) -> NDArray[np.int64]:
    first, end = span
    rows: NDArray[np.int64] = np.argwhere(mask[first:end]) + np.array([[first, 0]])
    return rows


class LeakError(Exception):
    """A fold forecasts a row that it learned from. The text names fold, rows and sessions."""


@dataclass(frozen=True, slots=True)
class FoldForecasts:
    """One fold's forecasts, and the last session that its training saw.

    `known_until` is the last end of all labels that trained, selected or calibrated it (`last_known`). It is computed
    from the rows that were used, not from the plan.
    """

    year: int
    known_until: int
    rows: NDArray[np.int64]  # (k, 2) session and symbol
    probabilities: NDArray[np.float32]  # (k, 3), after the temperature
    confidence: NDArray[np.float32]  # (k,)
    variance: NDArray[np.float32]  # (k,) per session, calibrated


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Out-of-sample forecasts of d sessions by n symbols."""

    probabilities: NDArray[np.float32]  # (d, n, 3) HOLD, BUY, SELL; NaN where there is none
    confidence: NDArray[np.float32]  # (d, n); NaN where there is none
    variance: NDArray[np.float32]  # (d, n); NaN where there is none
    fold: NDArray[np.int16]  # (d, n) the predicted year of the fold; NO_FOLD where there is no forecast
    known_until: NDArray[np.int32]  # (d, n) the last session that the row's fold knew; -1 where there is no forecast

    @property
    def known(self) -> BoolArray:
        """Where there is a forecast, bool (d, n)."""
        mask: BoolArray = self.fold != NO_FOLD
        return mask


def last_known(labels: Labels, *rows: NDArray[np.int64]) -> int:
    """The last session of these rows (k, 2) and of the bars that decided their labels; -1 without rows."""
    every = np.concatenate(rows)
    ends = labels.end[every[:, 0], every[:, 1]]
    return int(max(every[:, 0].max(initial=-1), ends.max(initial=-1)))


def assemble(days: int, symbols: int, folds: Sequence[FoldForecasts]) -> Forecasts:
    """Put folds together.

    Raises:
        LeakError: a row is not after all that its fold knew, or two folds forecast the same row.
    """
    forecasts = Forecasts(
        probabilities=np.full((days, symbols, 3), np.nan, dtype=np.float32),
        confidence=np.full((days, symbols), np.nan, dtype=np.float32),
        variance=np.full((days, symbols), np.nan, dtype=np.float32),
        fold=np.full((days, symbols), NO_FOLD, dtype=np.int16),
        known_until=np.full((days, symbols), -1, dtype=np.int32),
    )
    for fold in folds:
        day, place = fold.rows.T
        inside = day <= fold.known_until
        if inside.any():
            raise LeakError(
                f"the fold that predicts {fold.year} learnt from sessions up to row {fold.known_until}, and "
                f"{int(inside.sum())} of its {len(day)} forecasts are of rows up to there, from {int(day.min())} on: "
                "predict rows after its training and calibration spans alone"
            )
        twice = forecasts.fold[day, place] != NO_FOLD
        if twice.any():
            raise LeakError(
                f"the folds {int(forecasts.fold[day, place][twice][0])} and {fold.year} forecast the same "
                f"{int(twice.sum())} rows: give each row one fold"
            )
        forecasts.probabilities[day, place] = fold.probabilities
        forecasts.confidence[day, place] = fold.confidence
        forecasts.variance[day, place] = fold.variance
        forecasts.fold[day, place] = fold.year
        forecasts.known_until[day, place] = fold.known_until
    return forecasts
