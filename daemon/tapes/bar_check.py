"""What makes a bar bad, in one place: recorded and live bars are judged by the same rules before anything sees them.

Values are judged alone; whether a bar is a duplicate or out of order depends on what came before and is its source's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FAULTS = ("", "not_finite", "not_positive", "high_below_low", "negative_volume", "off_grid")
"""Names of what `faults` finds, by index. `high_below_low` also stands for an open or close outside of [low, high]."""


def faults(prices: npt.NDArray[np.float64], off_grid: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) index into FAULTS of each bar's first fault, 0 for a good one.

    `prices` is (5, n): open, high, low, close in USD and volume in shares; `off_grid` (n,) is how far each start lies
    behind a start on the session's grid of bars, in nanoseconds.
    """
    opened, high, low, close, volume = prices
    return np.select(
        [
            ~np.isfinite(prices).all(axis=0),
            (prices[:4] <= 0).any(axis=0),
            (high < low) | (np.minimum(opened, close) < low) | (np.maximum(opened, close) > high),
            volume < 0,
            off_grid != 0,
        ],
        [1, 2, 3, 4, 5],
    )


def faults_told(rows: Sequence[Sequence[float]]) -> list[str]:
    """The name of each bar's first fault, "" for a good one, of bars on the grid; rows are as in `fault`."""
    if not rows:
        return []
    found = faults(np.array(rows, dtype=np.float64).T, np.zeros(len(rows), dtype=np.int64))
    return [FAULTS[index] for index in found.tolist()]


def fault(prices: Sequence[float], off_grid_ns: int) -> str:
    """The name of one bar's first fault, "" for a good one. `prices`: open, high, low, close, volume."""
    found = faults(np.array(prices, dtype=np.float64).reshape(5, 1), np.array([off_grid_ns], dtype=np.int64))
    return FAULTS[int(found[0])]


def values_told(prices: Sequence[float]) -> str:
    """Open, high, low, close, volume as a person reads them in a refusal."""
    opened, high, low, close, volume = prices
    return f"open={opened} high={high} low={low} close={close} volume={volume}"
