"""Whether a policy's confidence predicts how often its trades earn: bins, Brier score, calibration error.

Pure functions over the trades that were entered. Confidence is the probability of an action and was never trained to
be that of a win.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evidence.resampling import LEVEL
from training.evidence.statistics import Series, checked


class ConfidenceBin(msgspec.Struct, frozen=True, kw_only=True):
    """Trades of similar confidence; `low` and `high` are the Wilson interval of `won`."""

    trades: int
    confidence: float  # mean
    won: float  # fraction
    low: float
    high: float


class ConfidenceCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """Confidence against the fraction of trades that won. None without a trade."""

    trades: int
    bins: tuple[ConfidenceBin, ...]
    brier: float | None
    expected_error: float | None
    note: str


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927, JASA 22); (0, 1) without a trial."""
    if trials == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0), successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - half) / (1 + z * z / trials)), min(1.0, (centre + half) / (1 + z * z / trials))


def calibration(confidence: Series, won: NDArray[np.bool_], bins: int = 10) -> ConfidenceCalibration:
    """Confidence against wins: equal-count bins (equal confidences stay together), Brier score, calibration error.

    Brier 1950; expected calibration error = the bins' |mean confidence - fraction won| weighted by their trades (Naeini
    et al. 2015). `confidence` float64 (n,) in 0..1, `won` bool (n,): closed with a profit after fees.
    """
    note = "Confidence is the probability of the action, not of a win; it was never trained to be one."
    if len(confidence) == 0:
        return ConfidenceCalibration(trades=0, bins=(), brier=None, expected_error=None, note=f"No trade. {note}")
    order = np.argsort(checked(confidence), kind="stable")
    sure, wins = np.asarray(confidence, dtype=np.float64)[order], np.asarray(won, dtype=np.float64)[order]
    edges = np.arange(1, min(bins, len(sure))) * len(sure) // min(bins, len(sure))
    below, right = np.searchsorted(sure, sure[edges], side="left"), np.searchsorted(sure, sure[edges], side="right")
    cuts = np.unique(np.where(edges - below <= right - edges, below, right))  # nearest boundary of unequal values
    parts = [_bin(a, b) for a, b in zip(np.split(sure, cuts), np.split(wins, cuts), strict=True) if len(a)]
    error = math.fsum(part.trades * abs(part.confidence - part.won) for part in parts) / len(sure)
    return ConfidenceCalibration(
        trades=len(sure),
        bins=tuple(parts),
        brier=float(np.square(sure - wins).mean()),
        expected_error=error,
        note=note,
    )


def _bin(sure: Series, wins: Series) -> ConfidenceBin:
    low, high = wilson(int(wins.sum()), len(wins))
    return ConfidenceBin(trades=len(wins), confidence=float(sure.mean()), won=float(wins.mean()), low=low, high=high)
