"""Significance: data snooping, random traders, and the smallest edge that the number of sessions could show.

Pure functions over float64 arrays of returns per session. With too few sessions a result is None, never a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from training.evidence.resampling import FEWEST, block_length
from training.evidence.statistics import Series, annual, checked, deviations
from training.evidence.wording import sessions_are

SNOOPING_DRAWS = 1_000
FEWEST_TESTED = 10  # with fewer sessions the approximation overstates a test's power
_NORMAL = NormalDist()


class Snooping(msgspec.Struct, frozen=True, kw_only=True):
    """p-values of "the best of all trials is no better than never trading"; None for too few sessions."""

    trials: int
    reality_check: float | None  # White 2000
    superior_ability: float | None  # Hansen 2005, consistent
    block: float  # sessions
    note: str = ""


class Detectable(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest effect that a test with this number of sessions would usually detect; None where unknown."""

    sessions: int
    mean: float | None  # a session
    sharpe_annual: float | None
    words: str


def snooping(matrix: Series, *, seed: int = 0) -> Snooping:
    """Tests of the best of all trials, float64 (sessions, N), against never trading (a return of 0 each session).

    White 2000, Econometrica 68(5), on returns as they are; Hansen 2005, J. Business & Economic Statistics 23(4), on
    each trial's returns over their deviation (`arch.bootstrap.SPA` does not standardise its statistic itself).
    Stationary bootstrap with the mean block length of the trials; p = (1 + resamples as good) / (1 + resamples). p is 1
    where no trial has a profit, and None with too few sessions.
    """
    values = checked(matrix)
    sessions, trials = values.shape
    moving = values[:, deviations(values.T) > 0.0]
    note = ""
    if sessions < FEWEST:
        note = f"{sessions_are(sessions)} too few for a test; at least {FEWEST} are needed"
        return Snooping(trials=trials, reality_check=None, superior_ability=None, block=1.0, note=note)
    if moving.shape[1] == 0 or moving.mean(axis=0).max() <= 0.0:
        note = "no trial earned more than nothing"
    if note:
        return Snooping(trials=trials, reality_check=1.0, superior_ability=1.0, block=1.0, note=note)
    from arch.bootstrap import SPA

    block = max(1, round(float(np.mean([block_length(column) for column in moving.T]))))

    def p_value(earned: Series, kind: str) -> float:
        test = SPA(np.zeros(sessions), -earned, block_size=block, reps=SNOOPING_DRAWS, studentize=False, seed=seed)
        test.compute()
        return (1.0 + SNOOPING_DRAWS * float(test.pvalues[kind])) / (1.0 + SNOOPING_DRAWS)

    return Snooping(
        trials=trials,
        reality_check=p_value(moving, "upper"),
        superior_ability=p_value(moving / deviations(moving.T), "consistent"),
        block=float(block),
    )


def random_p_value(earned: Sequence[float], draws: Sequence[Sequence[float]]) -> float:
    """The p-value against random trading over all folds together: (1 + draws as good) / (1 + draws).

    `earned` is the policy's total in each fold, `draws` the totals of random traders there, in the same unit; the i-th
    draws of the folds are one trader. The +1 counts the policy among the draws (Phipson & Smyth 2010).

    Raises:
        ValueError: the folds differ in number, or a fold has no draw.
    """
    if len(earned) != len(draws) or not draws or not all(len(part) for part in draws):
        raise ValueError(
            f"{len(earned)} folds of the policy, draws {[len(part) for part in draws]}; expected draws in each fold"
        )
    count = min(len(part) for part in draws)
    totals = np.sum([checked(np.array(part[:count])) for part in draws], axis=0)
    total = math.fsum(earned)
    as_good = int((totals >= total - 1e-9 * max(1.0, abs(total))).sum())  # sums in another order are still ties
    return (1 + as_good) / (1 + count)


def detectable(sessions: int, deviation: float, *, power: float = 0.8, level: float = 0.05) -> Detectable:
    """The smallest mean that a one-sided t-test against 0 finds with probability `power`, for independent sessions.

    mean / deviation = (z(1 - level) + z(power)) / sqrt(sessions - z(1 - level)² / 2): Guenther 1981, The American
    Statistician 35(4); the power is right within 0.01 from 10 sessions on, and not given for fewer. `deviation`
    is that of a session's return.
    """
    quantile = _NORMAL.inv_cdf
    if sessions < FEWEST_TESTED:
        words = f"{sessions_are(sessions)} too few for any test."
        return Detectable(sessions=sessions, mean=None, sharpe_annual=None, words=words)
    ratio = (quantile(1.0 - level) + quantile(power)) / math.sqrt(sessions - quantile(1.0 - level) ** 2 / 2.0)
    mean = ratio * deviation if deviation > 0.0 else None
    amount = "" if mean is None else f" (here a mean of {mean:+.2%} a session, {mean * sessions:+.0%} in sum)"
    words = (
        f"In {sessions:,} sessions a test at {level:.0%} finds an edge with {power:.0%} probability only if its "
        f"annual Sharpe ratio is at least {annual(ratio):.1f}{amount}; a smaller one, even a real one, "
        "mostly looks like luck."
    )
    return Detectable(sessions=sessions, mean=mean, sharpe_annual=annual(ratio), words=words)
