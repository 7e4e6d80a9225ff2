"""Joins the folds' out-of-sample forecasts, and refuses a forecast of a row that its own fold has seen.

Agents learn on these alone: in-sample confidence would teach them to trust a forecaster that is better than the real
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.forecast.labels import BoolArray, Labels

NO_FOLD = 0


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
    joined = Forecasts(
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
        twice = joined.fold[day, place] != NO_FOLD
        if twice.any():
            raise LeakError(
                f"the folds {int(joined.fold[day, place][twice][0])} and {fold.year} forecast the same "
                f"{int(twice.sum())} rows: give each row one fold"
            )
        joined.probabilities[day, place] = fold.probabilities
        joined.confidence[day, place] = fold.confidence
        joined.variance[day, place] = fold.variance
        joined.fold[day, place] = fold.year
        joined.known_until[day, place] = fold.known_until
    return joined
