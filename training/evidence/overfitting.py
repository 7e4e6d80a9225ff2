"""Sharpe ratios after a choice among many trials: probabilistic and deflated ratio, minimum track record.

Pure functions over float64 arrays of returns per session. Invariant: every Sharpe ratio here is per session, never
annualised, and every kurtosis raw (3 for a normal distribution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from training.evidence.resampling import FEW_SESSIONS
from training.evidence.statistics import NOTHING, Series, checked, deviations, kurtosis, sharpe, skewness
from training.evidence.wording import sessions_are

EULER = 0.5772156649015329
_NORMAL = NormalDist()


class Deflated(msgspec.Struct, frozen=True, kw_only=True):
    """The probability that the true Sharpe ratio is above 0, and above what the best of so many trials has by luck."""

    sharpe: float  # a session
    probabilistic: float  # PSR(0)
    deflated: float  # DSR: PSR(threshold)
    threshold: float  # SR0, a session
    trials: int  # N
    deviation: float  # of the trials' Sharpe ratios, a session
    deflated_effective: float | None  # DSR with the effective number of trials in place of N
    effective_trials: float | None
    minimum_sessions: float | None  # for PSR(0) of 95 %; None where the Sharpe ratio is not above 0
    note: str = ""


def probabilistic_sharpe(
    session_sharpe: float, sessions: int, skew: float = 0.0, kurt: float = 3.0, threshold: float = 0.0
) -> float:
    """PSR: the probability that the true Sharpe ratio is above `threshold`, both per session; `kurt` is raw.

    Bailey & López de Prado 2012, J. Risk 15(2), equation 11. One session gives 0.5: no evidence.
    """
    spread = math.sqrt(max(_spread(session_sharpe, skew, kurt), NOTHING))
    return _NORMAL.cdf((session_sharpe - threshold) * math.sqrt(max(sessions - 1, 0)) / spread)


def minimum_track_record(
    session_sharpe: float, skew: float = 0.0, kurt: float = 3.0, threshold: float = 0.0, level: float = 0.95
) -> float | None:
    """Sessions needed until PSR(`threshold`) reaches `level`; None where the ratio is not above the threshold.

    Bailey & López de Prado 2012, equation 13.
    """
    if session_sharpe <= threshold:
        return None
    quantile = _NORMAL.inv_cdf(level)
    return 1.0 + _spread(session_sharpe, skew, kurt) * (quantile / (session_sharpe - threshold)) ** 2


def _spread(session_sharpe: float, skew: float, kurt: float) -> float:
    """The variance of an estimated Sharpe ratio times (sessions - 1): Mertens 2002."""
    return 1.0 - skew * session_sharpe + (kurt - 1.0) / 4.0 * session_sharpe**2


def expected_maximum(deviation: float, trials: float) -> float:
    """SR0: the expected best Sharpe ratio of independent trials without skill; 0 for one trial.

    `deviation` is that of the trials' Sharpe ratios. Bailey & López de Prado 2014, J. Portfolio Management 40(5).
    """
    if trials <= 1.0:
        return 0.0
    quantile = _NORMAL.inv_cdf
    best = (1.0 - EULER) * quantile(1.0 - 1.0 / trials) + EULER * quantile(1.0 - 1.0 / (trials * math.e))
    return max(deviation * best, 0.0)  # just above one trial the approximation falls below what one trial has


def unskilled(sessions: int) -> float:
    """The deviation of the Sharpe ratios, a session, of independent trials without skill."""
    return 1.0 / math.sqrt(max(sessions - 1, 1))


def effective_trials(matrix: Series) -> float:
    """How many uncorrelated trials the columns of float64 (sessions, N) amount to: (Σλ)² / Σλ² of their correlations.

    The participation ratio of the eigenvalues λ, between 1 and N; columns without deviation are left out. It falls
    short of N for few sessions even when trials are independent.
    """
    moving = matrix[:, deviations(matrix.T) > 0.0]
    if moving.shape[1] < 2:
        return 1.0
    correlations = np.corrcoef(moving, rowvar=False)
    count = float(moving.shape[1])
    return count * count / float(np.square(correlations).sum())


def deflated_sharpe(
    returns: Series,
    trial_sharpes: Sequence[float],
    *,
    trials: int | None = None,
    effective: float | None = None,
    least_deviation: float = 0.0,
) -> Deflated:
    """The deflated Sharpe ratio of a series that came out of choosing.

    `trial_sharpes` are those of all trials per session, the chosen one and those of earlier studies (the ledger's)
    included; N is their number, or `trials` where more were made than have a ratio of a comparable span. `effective` is
    an effective number of trials, earlier ones included, to be reported with it. The deviation of the ratios counts as
    `least_deviation` where it is smaller. With one trial it is PSR(0).

    Raises:
        ValueError: `trials` is below the number of ratios, or a return or ratio is not finite.
    """
    values, ratios = checked(returns), checked(np.array([*trial_sharpes] or [sharpe(returns)]))
    count = len(ratios) if trials is None else trials
    if count < len(ratios):
        raise ValueError(f"{count} trials with {len(ratios)} Sharpe ratios; expected at least as many trials as ratios")
    ratio, skew, kurt = sharpe(values), skewness(values), kurtosis(values)
    lone = len(ratios) < 2 <= count
    deviation = max(unskilled(len(values)) if lone else float(deviations(ratios)), least_deviation)
    notes = (
        (float(deviations(values)) <= 0.0, "no deviation between sessions: the Sharpe ratio is taken as 0"),
        (len(values) < FEW_SESSIONS, f"{sessions_are(len(values))} few: the formula is for many"),
        (lone, "one ratio for several trials: their deviation is taken as that of trials without skill"),
    )

    def above(threshold: float) -> float:
        return probabilistic_sharpe(ratio, len(values), skew, kurt, threshold)

    threshold = expected_maximum(deviation, count)
    return Deflated(
        sharpe=ratio,
        probabilistic=above(0.0),
        deflated=above(threshold),
        threshold=threshold,
        trials=count,
        deviation=deviation,
        deflated_effective=None if effective is None else above(expected_maximum(deviation, effective)),
        effective_trials=effective,
        minimum_sessions=minimum_track_record(ratio, skew, kurt),
        note="; ".join(text for applies, text in notes if applies),
    )
