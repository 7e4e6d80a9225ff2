"""Implied volatilities of many quotes at once, for the option market's own formula (r = q = 0, on the forward)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Float64Array = npt.NDArray[np.float64]
HIGHEST = 5.0  # annualised
_HALVINGS = 40  # of [0, HIGHEST]: 5e-12


def implied_volatility(
    mid: Float64Array, forward: Float64Array, strike: Float64Array, years: Float64Array, right: npt.NDArray[np.int64]
) -> Float64Array:
    """Return (n,) the annualised volatility at which Black-Scholes gives `mid` (USD a share), by bisection.

    NaN where there is none: no time left, a price at or below the intrinsic value, or above what `HIGHEST` gives.
    """
    low, high = np.zeros(mid.size), np.full(mid.size, HIGHEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = _price(forward, strike, years, high, right)
        good = (years > 0) & (mid > np.maximum(right * (forward - strike), 0.0)) & (mid < reach)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = _price(forward, strike, years, middle, right) < mid
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(good, (low + high) / 2, np.nan)


def _price(
    forward: Float64Array,
    strike: Float64Array,
    years: Float64Array,
    volatility: Float64Array,
    right: npt.NDArray[np.int64],
) -> Float64Array:
    deviation = volatility * np.sqrt(years)
    d1 = np.log(forward / strike) / deviation + deviation / 2
    value: Float64Array = right * (forward * ndtr(right * d1) - strike * ndtr(right * (d1 - deviation)))
    return value
