"""Faults of a bar, in one place: recorded and live bars pass the same checks before use.

Values are checked alone; duplicates and order depend on earlier bars, and the source checks those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FAULTS = ("", "not_finite", "not_positive", "high_below_low", "negative_volume", "off_grid")
"""Names of what `faults` finds, by index. `high_below_low` also stands for an open or close outside of [low, high]."""


def faults(prices: npt.NDArray[np.float64], off_grid: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (n,) index into FAULTS of each bar's first fault, 0 for a good one.

    `prices` is (5, n): open, high, low, close in USD and volume in shares; `off_grid` (n,) is the distance in
    nanoseconds of each start behind the session's grid of bars.
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


def fault_names(rows: Sequence[Sequence[float]]) -> list[str]:
    """Return the name of each bar's first fault, "" for a good one, of bars on the grid; rows are as in `fault`."""
    if not rows:
        return []
    masks = faults(np.array(rows, dtype=np.float64).T, np.zeros(len(rows), dtype=np.int64))
    return [FAULTS[index] for index in masks.tolist()]


def fault(prices: Sequence[float], off_grid_ns: int) -> str:
    """Return the name of one bar's first fault, "" for a good one. `prices`: open, high, low, close, volume."""
    masks = faults(np.array(prices, dtype=np.float64).reshape(5, 1), np.array([off_grid_ns], dtype=np.int64))
    return FAULTS[int(masks[0])]


def values_text(prices: Sequence[float]) -> str:
    """Format open, high, low, close, volume for a refusal."""
    opened, high, low, close, volume = prices
    return f"open={opened} high={high} low={low} close={close} volume={volume}"
