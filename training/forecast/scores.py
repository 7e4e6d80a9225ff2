"""How good probabilities are: log loss, Brier score, expected calibration error, accuracy; with intervals.

Rows of one session are drawn together by the block bootstrap, because symbols move together. Sources: Brier 1950;
Naeini et al. 2015 and Guo et al. 2017 (calibration error over bins of equal width). The intervals cover other sessions
of the same kind, not other seeds; markets change, so they understate the uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evidence.resampling import Interval, pooled_intervals
from training.forecast.labels import BUY, CLASSES, HOLD, SELL, Float64Array

BINS = 15
RANKS = 100  # bins of equal count that scores are ranked in
SKILL_DRAWS = 2_000
SMALLEST = 1e-15  # below it a probability counts as this, so that one row is not the whole log loss


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over all rows, each with its interval."""

    rows: int
    sessions: int
    log_loss: Interval  # nats
    brier: Interval  # sum over the three classes, 0 to 2
    expected_calibration_error: Interval  # of the predicted class
    accuracy: Interval
    base_rate: Interval  # share of the commonest class of the rows


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """Scores before and after the temperature, and what it changed (after - before) on the same drawn sessions."""

    temperature: float
    before: Scores
    after: Scores
    log_loss: Interval
    brier: Interval
    expected_calibration_error: Interval


def scores(
    probabilities: Float64Array, classes: NDArray[np.int64], sessions: NDArray[np.int64], *, seed: int = 0
) -> Scores:
    """Scores of probabilities (n, 3) of rows whose true classes (n,) came in these sessions (n,)."""
    parts = _parts(probabilities, classes, sessions)
    intervals = pooled_intervals(parts, list(_FIGURES.values()), blocks_of=parts[:, 1] / parts[:, 0], seed=seed)
    return _scores(len(classes), len(parts), intervals)


def compared(
    before: Float64Array,
    after: Float64Array,
    classes: NDArray[np.int64],
    sessions: NDArray[np.int64],
    temperature: float,
    *,
    seed: int = 0,
) -> Calibrated:
    """Scores before and after, and their differences; all intervals are of the same draws."""
    parts = _parts(before, classes, sessions)
    width, blocks_of = parts.shape[1], parts[:, 1] / parts[:, 0]
    parts = np.concatenate([parts, _parts(after, classes, sessions)], axis=1)

    def first(of: _Figure) -> _Figure:
        return lambda sums: of(sums[:, :width])

    def second(of: _Figure) -> _Figure:
        return lambda sums: of(sums[:, width:])

    def change(of: _Figure) -> _Figure:
        return lambda sums: of(sums[:, width:]) - of(sums[:, :width])

    names, figures = ("log_loss", "brier", "expected_calibration_error"), list(_FIGURES.values())
    estimators = [*map(first, figures), *map(second, figures), *(change(_FIGURES[name]) for name in names)]
    intervals = pooled_intervals(parts, estimators, blocks_of=blocks_of, seed=seed)
    count, rows, days = len(figures), len(classes), len(parts)
    return Calibrated(
        temperature=temperature,
        before=_scores(rows, days, intervals[:count]),
        after=_scores(rows, days, intervals[count : 2 * count]),
        **dict(zip(names, intervals[2 * count :], strict=True)),
    )


def _scores(rows: int, sessions: int, intervals: list[Interval]) -> Scores:
    return Scores(rows=rows, sessions=sessions, **dict(zip(_FIGURES, intervals, strict=True)))


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """Areas under ROC curves: the probability that of two rows the right one ranks first; 0.5 is no skill."""

    moves: Interval  # HOLD against BUY and SELL together, by 1 - P(HOLD)
    sides: Interval  # BUY against SELL of the rows where one of them came, by P(BUY) / (P(BUY) + P(SELL))
    buy: Interval  # BUY against the others, by P(BUY)
    sell: Interval  # SELL against the others, by P(SELL)


def skill(
    probabilities: Float64Array, classes: NDArray[np.int64], sessions: NDArray[np.int64], *, seed: int = 0
) -> Skill | None:
    """Areas under the ROC curves of probabilities (n, 3); arguments as `scores`. None where a class never came."""
    if len(np.unique(classes)) < len(CLASSES):
        return None
    exact = probabilities.astype(np.float64)
    move, buy, sell = 1.0 - exact[:, HOLD], exact[:, BUY], exact[:, SELL]
    side = np.divide(buy, buy + sell, out=np.full(len(buy), 0.5), where=buy + sell > 0.0)
    everywhere, moved = np.ones(len(classes), dtype=np.bool_), classes != HOLD
    estimators = (
        (move, moved, everywhere),
        (side, classes == BUY, moved),
        (buy, classes == BUY, everywhere),
        (sell, classes == SELL, everywhere),
    )
    parts = np.concatenate([_ranked(score, right, rows, sessions) for score, right, rows in estimators], axis=1)
    of = [_area_of(slice(2 * RANKS * place, 2 * RANKS * (place + 1))) for place in range(len(estimators))]
    day = np.unique(sessions, return_inverse=True)[1]
    lucky = np.bincount(day, exact.argmax(axis=1) == classes) / np.bincount(day)
    intervals = pooled_intervals(parts, of, blocks_of=lucky, seed=seed, draws=SKILL_DRAWS)
    return Skill(moves=intervals[0], sides=intervals[1], buy=intervals[2], sell=intervals[3])


def _ranked(
    score: Float64Array, right: NDArray[np.bool_], rows: NDArray[np.bool_], sessions: NDArray[np.int64]
) -> Float64Array:
    """How many right and wrong rows each session has in each of `RANKS` bins of equal count, (sessions, 2 * RANKS)."""
    days, at = np.unique(sessions, return_inverse=True)
    edges = np.quantile(score[rows], np.linspace(0.0, 1.0, RANKS + 1)[1:-1])
    place = (np.searchsorted(edges, score, side="left") + RANKS * ~right + 2 * RANKS * at)[rows]
    return np.bincount(place, minlength=2 * RANKS * len(days)).astype(np.float64).reshape(len(days), 2 * RANKS)


def _area_of(columns: slice) -> _Figure:
    """Mann and Whitney's estimate from counts by bin; rows of one bin count as tied."""

    def area(sums: Float64Array) -> Float64Array:
        right, wrong = sums[:, columns][:, :RANKS], sums[:, columns][:, RANKS:]
        below = np.cumsum(wrong, axis=1) - wrong
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        wins = (right * (below + wrong / 2.0)).sum(axis=1)
        shares: Float64Array = np.divide(wins, pairs, out=np.full(len(sums), 0.5), where=pairs > 0.0)
        return shares

    return area


_Figure = Callable[[Float64Array], Float64Array]


def _mean(column: int) -> _Figure:
    return lambda sums: sums[:, column] / sums[:, 0]


def _calibration_error(sums: Float64Array) -> Float64Array:
    error: Float64Array = np.abs(sums[:, _BINNED:]).sum(axis=1) / sums[:, 0]
    return error


_BINNED = 5  # the first column of the bins
_FIGURES: dict[str, _Figure] = {
    "log_loss": _mean(1),
    "brier": _mean(2),
    "accuracy": _mean(3),
    "base_rate": _mean(4),
    "expected_calibration_error": _calibration_error,
}
"""Functions from the sums of `_parts` to figures."""


def _parts(probabilities: Float64Array, classes: NDArray[np.int64], sessions: NDArray[np.int64]) -> Float64Array:
    """Sums over the rows of each session, float64 (sessions, 5 + BINS).

    Rows, losses, squares, rows predicted rightly, rows of the commonest class, and by bin of equal width the confidence
    less the rows predicted rightly.
    """
    if not len(classes):
        raise ValueError("no row to score: expected labelled rows with a forecast")
    exact = probabilities.astype(np.float64)
    unique, at = np.unique(sessions, return_inverse=True)
    likelihoods, sure = exact[np.arange(len(classes)), classes], exact.max(axis=1)
    right = (exact.argmax(axis=1) == classes).astype(np.float64)
    values = (
        np.ones(len(classes)),
        -np.log(np.maximum(likelihoods, SMALLEST)),
        np.square(exact - np.eye(len(CLASSES))[classes]).sum(axis=1),
        right,
        (classes == np.bincount(classes, minlength=len(CLASSES)).argmax()).astype(np.float64),
    )
    place = at * BINS + np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    bins = np.bincount(place, sure - right, len(unique) * BINS).reshape(-1, BINS)
    return np.concatenate(
        [np.stack([np.bincount(at, values_row, len(unique)) for values_row in values], axis=1), bins], axis=1
    )
