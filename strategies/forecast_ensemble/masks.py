"""Which rows of a symbol can be forecast, and why the others cannot: nothing bad is ever silently zero.

Pure functions of the bars of sessions by symbols. A row is judged by its own bar and those before it alone; only the
name that is given to a missing bar ("ended" or "gap") looks at what comes after.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

REASONS = ("", "not listed", "ended", "bad bar", "gap", "jump", "no volume", "short history", "features")
"""Why a row is masked, by code; the first that holds counts."""
GOOD, NOT_LISTED, ENDED, BAD_BAR, GAP, JUMP, NO_VOLUME, SHORT, FEATURES = range(len(REASONS))
SPLITS = (1.5, *(float(ratio) for ratio in range(2, 11)), 15.0, 20.0)
NEAR = 0.02  # of a split's ratio
MASKING = (
    "of the last 60 sessions, on which any symbol has a bar, the symbol has a good bar and settled features on all",
    "and a volume above 0 on one; and on none an open off the close before by the ratio of a split, either way",
    SPLITS,
    NEAR,
)
"""The rule in words and numbers, for contract hashes."""


def jumps(bars: Float64Array) -> BoolArray:
    """Where open / last close is the ratio of a split or its inverse, within 2 %; bool (d, n).

    Such a price was most likely not adjusted. A true fall by a half is masked as well, which costs its rows.
    """
    last = _carry_forward(bars[3])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = bars[0, 1:] / last[:-1]
        ratio = np.maximum(ratio, 1.0 / ratio)
        near = np.stack([np.abs(ratio / split - 1.0) < NEAR for split in SPLITS])
    marks = np.zeros(bars.shape[1:], dtype=np.bool_)
    marks[1:] = np.logical_or.reduce(near, axis=0)
    return marks


def reasons(
    bars: Float64Array, refusals: BoolArray, features: NDArray[np.float32], window: int, silent: int = 60
) -> NDArray[np.uint8]:
    """The reason of every row, a code of `REASONS`, uint8 (d, n); `GOOD` where there is a whole sequence.

    A gap or a jump masks the rows of `window` sessions, beginning with its own. A session on which no symbol has a bar
    is none: its row repeats the one before, as a desk then decides on the bars that it has.

    Args:
        bars: float64 (5, d, n), NaN where there is no good bar.
        refusals: bool (d, n), true where the file has a bad bar, such as one with a NaN.
        features: float32 (d, n, f), not finite where they have not settled.
        silent: sessions without any volume after which a symbol cannot be traded.
    """
    newest = newest_session(bars)
    counted = np.unique(newest[newest >= 0])
    if len(counted) < len(newest):
        codes = reasons(bars[:, counted], refusals[counted], features[counted], window, silent)
        before = np.full((1, bars.shape[2]), NOT_LISTED, dtype=np.uint8)
        return np.concatenate([before, codes])[np.searchsorted(counted, newest, side="right")]
    present: BoolArray = np.logical_and.reduce(np.isfinite(bars), axis=0)
    ever = np.logical_or.accumulate(present, axis=0)
    later = np.logical_or.accumulate(present[::-1], axis=0)[::-1]
    holes = ever & ~present
    is_incomplete: BoolArray = ~np.logical_and.reduce(np.isfinite(features), axis=2)
    traded = np.where(present, bars[4], 0.0) > 0.0
    conditions = {
        NOT_LISTED: ~ever,
        ENDED: holes & ~later,
        BAD_BAR: _lately(holes & refusals, window),
        GAP: _lately(holes, window),
        JUMP: _lately(jumps(bars), window),
        NO_VOLUME: _rows_of(ever, silent) & ~_lately(traded, silent),
        SHORT: _lately(~ever, window) | ~_rows_of(ever, window),
        FEATURES: _lately(is_incomplete, window),
    }
    return np.select(list(conditions.values()), list(conditions), GOOD).astype(np.uint8)


def newest_session(bars: Float64Array) -> NDArray[np.int64]:
    """The newest session up to each on which any symbol has a bar, int64 (d,); -1 before the first.

    `bars`: float64 (5, d, n), NaN where there is no good bar.
    """
    has_bars = np.logical_or.reduce(np.logical_and.reduce(np.isfinite(bars), axis=0), axis=1)
    newest: NDArray[np.int64] = np.maximum.accumulate(np.where(has_bars, np.arange(len(has_bars)), -1))
    return newest


def _lately(where: BoolArray, rows: int) -> BoolArray:
    """Whether `where` is true in one of the last `rows` sessions, this one included."""
    total = np.cumsum(where, axis=0, dtype=np.int64)
    earlier_total = np.concatenate([np.zeros((min(rows, len(where)), where.shape[1]), dtype=np.int64), total[:-rows]])
    recent: BoolArray = total > earlier_total
    return recent


def _rows_of(ever: BoolArray, rows: int) -> BoolArray:
    """Whether there are `rows` sessions since the first bar."""
    enough: BoolArray = np.cumsum(ever, axis=0) >= rows
    return enough


def _carry_forward(close: Float64Array) -> Float64Array:
    """The last known close of each row; NaN before the first."""
    row = np.where(np.isfinite(close), np.arange(len(close))[:, None], -1)
    last = np.maximum.accumulate(row, axis=0)
    return np.where(last >= 0, np.take_along_axis(close, np.maximum(last, 0), axis=0), np.nan)
