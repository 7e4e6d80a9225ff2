"""The probability of backtest overfitting, by combinatorially symmetric cross-validation.

Combinatorially symmetric cross-validation over a float64 (sessions, N) matrix of returns, a column for each trial.
Every Sharpe ratio here is per session.
"""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np

from training.evidence.resampling import FEWEST
from training.evidence.statistics import Series, checked
from training.evidence.wording import sessions_are

BLOCKS = 16  # of the cross-validation; C(16, 8) = 12,870 splits
LOGIT_BINS = 12  # even, so that zero is an edge


class Overfitting(msgspec.Struct, frozen=True, kw_only=True):
    """Cross-validated choosing. All None, with the reason in `note`, where it is undefined."""

    trials: int
    sessions: int
    splits: int
    probability: float | None  # PBO: the best in sample is in the worse half out of sample
    probability_of_loss: float | None  # the best in sample has a Sharpe ratio below 0 out of sample
    degradation_slope: float | None  # of its Sharpe ratio out of sample on that in sample; below 1 it decays
    logits: tuple[tuple[float, float, float], ...] = ()  # of the splits: bins from, to, share; PBO is the part up to 0
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
        mine, others = outside[rows, column], outside[rows]
        rank = (others < mine[:, None]).sum(axis=1) + ((others == mine[:, None]).sum(axis=1) + 1) / 2
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


def loss_probability(matrix: Series, blocks: int = BLOCKS) -> float | None:
    """The share of splits in which the best trial of one half earns less than nothing in the other; None: undefined.

    `probability_of_loss` of `backtest_overfitting` without all else. A trial that trails never raises it, and a bad one
    never lowers it, as it is not the best of a half.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape[1] == 0 or len(values) < max(blocks, FEWEST):
        return None
    inside, outside = _halves(checked(values), blocks)
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

    def ratios(taken: Series) -> Series:
        count, total = (taken @ counts)[:, None], taken @ sums
        mean = centre + total / count
        deviation = np.sqrt(np.maximum(taken @ squares - total * total / count, 0.0) / (count - 1.0))
        usable = deviation > 1e-9 * scale  # below it the difference of two large numbers is rounding
        values: Series = np.where(usable, mean / np.where(usable, deviation, 1.0), 0.0)
        return values.round(10)  # so that equal trials tie

    inside = ratios(member)
    return inside, inside[::-1]  # in the order of combinations the n-th half from the end is the rest of the n-th
