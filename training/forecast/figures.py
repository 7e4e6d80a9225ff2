"""Data of the report's plots of a forecaster: reliability, confusion, coverage curves.

Coverage is the share of rows that are traded when only the most confident rows are (Chalkidis & Savani 2021,
2110.14914). Rows of equal confidence are taken together, so a point never depends on the order of the file.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evidence.calibration import wilson
from training.forecast.labels import BUY, CLASSES, Float64Array
from training.forecast.scores import BINS

POINTS = 20  # of a coverage curve


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of similar confidence; `low` and `high` are the Wilson interval of `right`, as if rows were independent."""

    begin: float  # of the bin, (begin, end]
    end: float
    rows: int
    confidence: float  # mean
    right: float  # share of rows whose predicted class was right
    low: float
    high: float


class CoveragePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy and profit of the most confident rows."""

    coverage: float  # share of rows
    confidence: float  # smallest confidence among them
    accuracy: float
    trades: int  # rows that are traded
    pnl: float  # sum of the returns of the traded rows, net of cost
    pnl_a_trade: float  # 0 without a trade


class ForecasterPlots(msgspec.Struct, frozen=True, kw_only=True):
    """Data of all plots of one forecaster on one span."""

    reliability: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows true HOLD, BUY, SELL; columns predicted
    coverage: tuple[CoveragePoint, ...]


def figures(
    probabilities: Float64Array,
    confidence: Float64Array,
    classes: NDArray[np.int64],
    returns: Float64Array,
    *,
    cost: float,
) -> ForecasterPlots:
    """Figures of rows with probabilities (n, 3), confidence (n,), true classes (n,) and next returns (n,).

    Only a predicted BUY is traded: the desk does not sell short.

    Args:
        cost: of one trade there and back, as a fraction of its value.
    """
    predicted = probabilities.argmax(axis=1)
    bought, right = predicted == BUY, predicted == classes
    return ForecasterPlots(
        reliability=reliability(probabilities.max(axis=1), right),
        confusion=confusion(predicted, classes),
        coverage=coverage(confidence, right, np.where(bought, returns - cost, 0.0), bought),
    )


def reliability(confidence: Float64Array, right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width that hold a row, of the calibrated probability of the predicted class."""
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    points = []
    for index in np.unique(place).tolist():
        ours = place == index
        rows, hits = int(ours.sum()), int(right[ours].sum())
        low, high = wilson(hits, rows)
        points.append(
            ReliabilityBin(
                begin=index / BINS,
                end=(index + 1) / BINS,
                rows=rows,
                confidence=float(confidence[ours].mean()),
                right=hits / rows,
                low=low,
                high=high,
            )
        )
    return tuple(points)


def confusion(predicted: NDArray[np.int64], classes: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Counts: a row for each true class, a column for each predicted one."""
    width = len(CLASSES)
    counts = np.bincount(classes * width + predicted, minlength=width * width).reshape(width, width)
    return tuple(tuple(row) for row in counts.tolist())


def coverage(
    confidence: Float64Array, right: NDArray[np.bool_], pnl: Float64Array, acted: NDArray[np.bool_]
) -> tuple[CoveragePoint, ...]:
    """Accuracy and profit of the most confident rows: from a twentieth of them to all."""
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    hits, money, trades = (np.cumsum(values[order]) for values in (right.astype(np.float64), pnl, acted))
    counts = [math.ceil(len(sure) * point / POINTS) for point in range(1, POINTS + 1)] if len(sure) else []
    lasts = sorted({int(np.searchsorted(-sure, -sure[count - 1], side="right")) - 1 for count in counts})
    return tuple(
        CoveragePoint(
            coverage=(last + 1) / len(sure),
            confidence=float(sure[last]),
            accuracy=float(hits[last]) / (last + 1),
            trades=int(trades[last]),
            pnl=float(money[last]),
            pnl_a_trade=float(money[last]) / max(1, int(trades[last])),
        )
        for last in lasts
    )
