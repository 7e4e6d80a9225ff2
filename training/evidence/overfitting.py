"""Corrections for choosing among many trials: deflated Sharpe ratio, minimum track record, probability of overfitting.

Pure functions over float64 arrays of returns per session; of trials a matrix (sessions, N), a column for each.
Invariant: every Sharpe ratio here is per session, never annualised, and every kurtosis raw (3 for a normal
distribution).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from training.evidence.resampling import FEW_SESSIONS, FEWEST
from training.evidence.statistics import NOTHING, Series, checked, deviations, kurtosis, sharpe, sharpes, skewness
from training.evidence.wording import sessions_are

BLOCKS = 16  # of the cross-validation; C(16, 8) = 12,870 splits
LOGIT_BINS = 12  # an even number, so that zero is an edge


class Overfitting(msgspec.Struct, frozen=True, kw_only=True):
    """The result of combinatorial cross-validation. Where undefined, all fields are None and `note` has the reason."""

    trials: int
    sessions: int
    splits: int
    probability: float | None  # PBO: the best in sample is in the worse half out of sample
    probability_of_loss: float | None  # the best in sample has a Sharpe ratio below 0 out of sample
    degradation_slope: float | None  # slope of out-of-sample on in-sample Sharpe ratio; below 1: decay
    logits: tuple[tuple[float, float, float], ...] = ()  # bins over splits: (from, to, share); PBO is the share up to 0
    note: str = ""


def backtest_overfitting(matrix: Series, blocks: int = BLOCKS) -> Overfitting:
    """PBO by combinatorially symmetric cross-validation over float64 (sessions, N): a column for each trial.

    Bailey, Borwein, López de Prado & Zhu 2017, J. Computational Finance 20(4): nearly even blocks, all splits into
    halves; performance is the Sharpe ratio; ω = rank out of sample of the best in sample / (N + 1), rank 1 the worst,
    ties averaged; PBO = share of splits with ln(ω / (1 - ω)) ≤ 0. Trials that tie for the best in sample share a split.
    """
    values = np.asarray(matrix, dtype=np.float64)
    sessions, trials = values.shape
    reason = _untellable(values, blocks)
    if reason:
        return Overfitting(
            trials=trials,
            sessions=sessions,
            splits=0,
            probability=None,
            probability_of_loss=None,
            degradation_slope=None,
            note=reason,
        )
    inside, outside = _halves(checked(values), blocks)
    best = inside == inside.max(axis=1, keepdims=True)
    shares = best / best.sum(axis=1, keepdims=True)
    logits, weights = [], []
    for column in np.flatnonzero(best.any(axis=0)):
        rows = best[:, column]
        mine, rivals = outside[rows, column], outside[rows]
        rank = (rivals < mine[:, None]).sum(axis=1) + ((rivals == mine[:, None]).sum(axis=1) + 1) / 2
        logits.append(np.log(rank / (trials + 1 - rank)))
        weights.append(shares[rows, column])
    logit, weight = np.concatenate(logits), np.concatenate(weights)
    chosen_inside, chosen_outside = inside.max(axis=1), (outside * shares).sum(axis=1)
    spread = chosen_inside - chosen_inside.mean()
    moved = float(np.square(spread).sum())
    return Overfitting(
        trials=trials,
        sessions=sessions,
        splits=len(inside),
        probability=float(weight[logit <= 0.0].sum()) / len(inside),
        probability_of_loss=float((shares * (outside < 0.0)).sum()) / len(inside),
        degradation_slope=float(spread @ chosen_outside) / moved if moved > 0.0 else None,
        logits=_histogram(logit, weight / len(inside), trials),
    )


def loss_probability(matrix: Series) -> float | None:
    """The share of splits in which the best trial of one half earns less than nothing in the other; None: undefined.

    `probability_of_loss` of `backtest_overfitting` alone. Adding trials that are never the best of a half does not
    change it.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape[1] == 0 or len(values) < max(BLOCKS, FEWEST):
        return None
    inside, outside = _halves(checked(values), BLOCKS)
    best = inside == inside.max(axis=1, keepdims=True)
    return float((best / best.sum(axis=1, keepdims=True) * (outside < 0.0)).sum()) / len(inside)


def _histogram(logit: Series, weight: Series, trials: int) -> tuple[tuple[float, float, float], ...]:
    """Bins (above, up to, share of splits); zero is an edge and belongs to the bin below it."""
    edges = np.linspace(-1.0, 1.0, LOGIT_BINS + 1) * (math.log(trials) + 1e-9)  # ln(N / 1) is the largest
    shares = np.histogram(-logit, edges, weights=weight)[0][::-1]
    return tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True))


def _untellable(values: Series, blocks: int) -> str:
    sessions, trials = values.shape
    if trials < 2:
        return "one trial: nothing was chosen among" if trials else "no trial was made in every fold"
    if sessions < max(blocks, FEWEST):
        return f"{sessions_are(sessions)} too few; at least {max(blocks, FEWEST)} are needed"
    if not (values != values[:, :1]).any():
        return "all trials earned the same in every session"
    return ""


def _halves(values: Series, blocks: int) -> tuple[Series, Series]:
    """Sharpe ratios of each trial in and out of sample, float64 (splits, N) each."""
    sides = np.array(list(itertools.combinations(range(blocks), blocks // 2)))
    member = np.zeros((len(sides), blocks))
    np.put_along_axis(member, sides, 1.0, axis=1)
    centre = values.mean(axis=0)
    parts = np.array_split(values - centre, blocks)
    counts = np.array([len(part) for part in parts], dtype=np.float64)
    sums = np.array([part.sum(axis=0) for part in parts])
    squares = np.array([np.square(part).sum(axis=0) for part in parts])
    scale = np.abs(values).max(axis=0)

    def ratios(masks: Series) -> Series:
        count, total = (masks @ counts)[:, None], masks @ sums
        mean = centre + total / count
        deviation = np.sqrt(np.maximum(masks @ squares - total * total / count, 0.0) / (count - 1.0))
        usable = deviation > 1e-9 * scale  # smaller differences of large numbers are rounding
        values: Series = np.where(usable, mean / np.where(usable, deviation, 1.0), 0.0)
        return values.round(10)  # so that equal trials tie

    inside = ratios(member)
    return inside, inside[::-1]  # the n-th combination from the end is the complement of the n-th


EULER = 0.5772156649015329
_NORMAL = NormalDist()


class Deflated(msgspec.Struct, frozen=True, kw_only=True):
    """The probability that the true Sharpe ratio exceeds 0, and that it exceeds the best of N trials without skill."""

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
    spread = math.sqrt(max(_sharpe_variance(session_sharpe, skew, kurt), NOTHING))
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
    return 1.0 + _sharpe_variance(session_sharpe, skew, kurt) * (quantile / (session_sharpe - threshold)) ** 2


def _sharpe_variance(session_sharpe: float, skew: float, kurt: float) -> float:
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
    return max(deviation * best, 0.0)  # for numbers just above 1 the approximation is below the value for one trial


def unskilled(sessions: int) -> float:
    """The deviation of the Sharpe ratios, a session, of independent trials without skill."""
    return 1.0 / math.sqrt(max(sessions - 1, 1))


def effective_trials(matrix: Series) -> float:
    """The effective number of uncorrelated trials in the columns of float64 (sessions, N): (Σλ)² / Σλ².

    It is the participation ratio of the eigenvalues λ of the correlations, between 1 and N; constant columns are left
    out. With few sessions it is below N even for independent trials.
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
    """The deflated Sharpe ratio of a series that was chosen among trials.

    `trial_sharpes` are those of all trials per session, the chosen one and those of earlier studies (the ledger's)
    included; N is their number, or `trials` where some trials have no ratio of a comparable span. `effective` is an
    effective number of trials, earlier ones included, to be reported with it. The deviation of the ratios counts as
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


def deflated_best(matrix: Series, best: int, prior: Sequence[float]) -> Deflated:
    """The deflated Sharpe ratio of a column of float64 (sessions, N), chosen among these N and earlier trials.

    `prior` are the session Sharpe ratios of the earlier ones. Raises as `deflated_sharpe`.
    """
    ratios = sharpes(matrix.T)
    return deflated_sharpe(
        matrix[:, best],
        [*ratios.tolist(), *prior],
        least_deviation=float(deviations(ratios)),  # agreeing earlier trials must not reduce the deflation
        trials=matrix.shape[1] + len(prior),
        effective=effective_trials(matrix) + len(prior),
    )


def luck_of(deflated: Deflated, overfitting: Overfitting) -> str:
    """A sentence on how much of the best trial's result is luck."""
    halves = (
        f"the best of one half of the sessions is in the worse half of the other in {overfitting.probability:.0%} of "
        "the splits (PBO)".replace("%", " %")
        if overfitting.probability is not None
        else f"PBO is not known: {overfitting.note}"
    )
    return (
        f"The best of many flatters: its deflated Sharpe ratio is {deflated.deflated:.2f} among {deflated.trials} "
        f"trials, and {halves}."
    )
