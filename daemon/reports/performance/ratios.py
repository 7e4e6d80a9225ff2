"""Ratios and drawdowns of a series of daily returns.

Sharpe and Sortino are annual, from 252 days a year and without a risk-free rate, as in `quantstats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import msgspec
import numpy as np
import numpy.typing as npt

YEAR = 252  # sessions
Series = npt.NDArray[np.float64]


class Drawdown(msgspec.Struct, frozen=True):
    """A fall of the returns' index below its highest value at the ends of days. Lengths are in sessions."""

    start: str  # the first day below
    trough: str
    end: str  # the day on which it was made up, "" while it lasts
    depth: float  # 0.1 is 10 %
    length: int  # from the start to the last day below
    to_trough: int


def compound(returns: Series) -> Series:
    """Return the compounded return up to each day: 0.1 is 10 % above the begin."""
    index: Series = np.cumprod(1.0 + returns, dtype=np.float64)
    return index - 1.0


def sharpe(returns: Series) -> float | None:
    """Return mean / standard deviation, annual; None below two days, or without any movement."""
    spread = float(returns.std(ddof=1)) if returns.size > 1 else 0.0
    return float(returns.mean()) / spread * math.sqrt(YEAR) if spread > 1e-12 else None


def sharpe_error(returns: Series) -> float | None:
    """Return the annual Sharpe ratio's standard error for independent returns.

    Lo, "The statistics of Sharpe ratios", Financial Analysts Journal 58(4), 2002, equation 10.
    """
    ratio = sharpe(returns)
    if ratio is None:
        return None
    return math.sqrt((1.0 + ratio**2 / YEAR / 2.0) / returns.size * YEAR)


def sortino(returns: Series) -> float | None:
    """Return mean / downside deviation from zero over all days, annual; None without a losing day."""
    if returns.size < 2:
        return None
    below = math.sqrt(float(np.square(np.minimum(returns, 0.0)).sum()) / returns.size)
    return float(returns.mean()) / below * math.sqrt(YEAR) if below > 0 else None


def falls(returns: Series) -> Series:
    """Return the drawdown from the highest index so far (at least that of the begin) at each day; 0 is none."""
    index = np.cumprod(1.0 + returns)
    peaks = np.maximum(np.maximum.accumulate(index), 1.0)
    below: Series = 1.0 - np.divide(index, peaks)
    return below


def drawdowns(names: Sequence[str], returns: Series) -> tuple[Drawdown, ...]:
    """Return all drawdowns, the deepest first."""
    below, drops = falls(returns), []
    for under, group in groupby(range(len(names)), key=lambda index: bool(below[index] > 1e-12)):
        places = list(group)
        if not under:
            continue
        trough = max(places, key=lambda index: below[index])
        end = places[-1] + 1
        drops.append(
            Drawdown(
                start=names[places[0]],
                trough=names[trough],
                end=names[end] if end < len(names) else "",
                depth=float(below[trough]),
                length=len(places),
                to_trough=trough - places[0] + 1,
            )
        )
    return tuple(sorted(drops, key=lambda fall: (-fall.depth, fall.start)))
