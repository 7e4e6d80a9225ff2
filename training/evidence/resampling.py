"""Confidence intervals: stationary bootstrap over sessions, stratified bootstrap over seeds.

Pure functions of float64 arrays and a seed: the same seed gives the same interval. An interval over sessions
does not cover other seeds, nor one over seeds other sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evidence.statistics import Series, checked, deviations, sharpes

LEVEL = 0.95
DRAWS = 10_000
FEW_SESSIONS = 30  # with fewer sessions percentile intervals are too narrow
FEWEST = 16  # with fewer sessions neither intervals nor corrections for choosing are reported
FEW_SEEDS = 10  # Henderson et al. 2018, Agarwal et al. 2021
AT_ONCE = 2_000_000  # resampled numbers held in memory together


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and the percentile interval of its resamples."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL
    block: float = 1.0  # mean block length in sessions; 1 resamples them one by one
    note: str = ""

    def times(self, factor: float) -> Interval:
        """The interval of the statistic times a factor above 0."""
        return msgspec.structs.replace(
            self, estimate=self.estimate * factor, low=self.low * factor, high=self.high * factor
        )


STATISTICS: dict[str, Callable[[Series], Series]] = {
    "mean": lambda samples: np.asarray(samples.mean(axis=-1)),
    "sum": lambda samples: np.asarray(samples.sum(axis=-1)),
    "sharpe": sharpes,
}
"""Statistics for resampling: each maps (…, sessions) to (…); the Sharpe ratio is per session."""


def block_length(returns: Series) -> float:
    """Mean block length in sessions for the stationary bootstrap, at least 1.

    Politis & White 2004 with the correction of Patton, Politis & White 2009, by `arch`; the cube root of the number of
    sessions where there are fewer than 16 of them, too few for autocorrelations; 1 without deviation.
    """
    values = checked(returns)
    if float(deviations(values)) <= 0.0:
        return 1.0
    fallback = math.cbrt(len(values))
    if len(values) < 16:
        return fallback
    from arch.bootstrap import optimal_block_length  # a second of the processor

    with np.errstate(all="ignore"):
        length = float(optimal_block_length(values).loc[0, "stationary"])
    return max(length, 1.0) if math.isfinite(length) else fallback


def resamples(
    sessions: int, block: float, draws: int, random: np.random.Generator, *, first: int | None = None
) -> NDArray[np.intp]:
    """Indices, (draws, sessions), of the stationary bootstrap: circular blocks of geometric length with mean `block`.

    Politis & Romano 1994, JASA 89, section 2. With `first`, only the first `first` sessions of each draw: the same
    random numbers, so the same indices.
    """
    begins = random.random((draws, sessions))[:, :first] < 1.0 / block
    begins[:, 0] = True
    start = random.integers(sessions, size=(draws, sessions))[:, :first]
    position = np.arange(begins.shape[1])
    latest = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    index: NDArray[np.intp] = np.take_along_axis(start, latest, axis=1)
    index += position
    index -= latest
    np.subtract(index, sessions, out=index, where=index >= sessions)  # cheaper than a remainder
    return index


def interval(returns: Series, statistic: str = "mean", *, seed: int = 0) -> Interval:
    """Stationary-bootstrap percentile interval, 95 %, of a statistic of `STATISTICS`. The same seed gives the same."""
    values = checked(returns)
    return _resample([values], values, lambda parts: STATISTICS[statistic](parts[0]), seed)


def paired_difference(returns: Series, baseline: Series, statistic: str = "mean", *, seed: int = 0) -> Interval:
    """The interval of a statistic's difference, policy less baseline, when both are resampled by the same sessions.

    Raises:
        ValueError: the two do not have the same number of sessions.
    """
    ours, theirs = checked(returns), checked(baseline)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} sessions against {len(theirs)} of the baseline; expected the same sessions")
    of = STATISTICS[statistic]
    return _resample([ours, theirs], ours - theirs, lambda parts: of(parts[0]) - of(parts[1]), seed)


def pooled_intervals(
    parts: Series,
    of: Sequence[Callable[[Series], Series]],
    *,
    blocks_of: Series,
    seed: int = 0,
    draws: int = DRAWS,
    expanded: bool = False,
) -> list[Interval]:
    """Stationary-bootstrap percentile intervals, 95 %, of figures over all rows of the drawn sessions.

    All rows of a session, such as those of its symbols, are drawn together, and all figures use the same draws, so
    differences are paired.

    Args:
        parts: float64 (sessions, k), sums over the rows of each session.
        of: functions from sums over sessions, (draws, k), to a figure, (draws,).
        blocks_of: float64 (sessions,), the series whose autocorrelation sets the block length.
        expanded: widen the percentiles for few sessions (see `_expanded_level`).
    """
    values = np.asarray(parts, dtype=np.float64)
    count, estimates = len(values), [float(figure(values.sum(axis=0, keepdims=True))[0]) for figure in of]
    if count < 2 or not (values != values[:1]).any():
        note = "all sessions are the same, or there is one alone: nothing to resample"
        return [Interval(estimate=estimate, low=estimate, high=estimate, note=note) for estimate in estimates]
    random, block = np.random.default_rng(seed), block_length(blocks_of)
    draws_by_part: list[Series] = []
    for rows in np.array_split(np.arange(draws), -(-draws * count // AT_ONCE)):
        index = resamples(count, block, len(rows), random)
        flat = (index + np.arange(len(rows))[:, None] * count).ravel()
        times = np.bincount(flat, minlength=len(rows) * count).reshape(len(rows), count)
        draws_by_part.append(times.astype(np.float64) @ values)
    sums, note = np.concatenate(draws_by_part), _few_sessions(count)
    level = _expanded_level(count) if expanded else LEVEL
    return [
        _percentiles(estimate, figure(sums), block, note, level) for estimate, figure in zip(estimates, of, strict=True)
    ]


def _expanded_level(count: int) -> float:
    """Return the percentile level with which an interval of `count` resampled values has a coverage near `LEVEL`.

    It corrects a resample's deviation, too small by sqrt((n - 1) / n), and replaces the normal quantile by Student's
    (Hesterberg 2015, The American Statistician 69(4), section 5.3).
    """
    from scipy.stats import t

    quantile = float(t.ppf((1.0 + LEVEL) / 2.0, count - 1)) * math.sqrt(count / (count - 1))
    return 2.0 * NormalDist().cdf(quantile) - 1.0


def _resample(series: list[Series], blocks_of: Series, of: Callable[[list[Series]], Series], seed: int) -> Interval:
    estimate, count = float(of(series)), len(blocks_of)
    if all(float(deviations(values)) <= 0.0 for values in series):
        note = (
            "one session is no evidence about others"
            if count == 1
            else "all sessions are the same: nothing to resample"
        )
        return Interval(estimate=estimate, low=estimate, high=estimate, note=note)
    random, block, parts = np.random.default_rng(seed), block_length(blocks_of), []
    for rows in np.array_split(np.arange(DRAWS), -(-DRAWS * count // AT_ONCE)):
        index = resamples(count, block, len(rows), random)
        parts.append(of([values[index] for values in series]))
    return _percentiles(estimate, np.concatenate(parts), block, _few_sessions(count))


def _few_sessions(count: int) -> str:
    return f"{count} sessions are few: the true interval is wider" if count < FEW_SESSIONS else ""


def _percentiles(estimate: float, draws: Series, block: float, note: str, level: float = LEVEL) -> Interval:
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(estimate=estimate, low=float(low), high=float(high), block=block, note=note)


def interquartile_mean(scores: Series) -> float:
    """Mean of the middle half: a quarter of the scores, rounded down, is cut at each end (Agarwal et al. 2021)."""
    return float(_middle(np.sort(checked(scores).ravel())))


def typical(scores: Sequence[float]) -> int:
    """The index of the score nearest to the interquartile mean; the first on a tie."""
    middle = interquartile_mean(np.array(scores, dtype=np.float64))
    return min(range(len(scores)), key=lambda place: abs(scores[place] - middle))


def _middle(ascending: Series) -> Series:
    cut = ascending.shape[-1] // 4
    middle: Series = ascending[..., cut : ascending.shape[-1] - cut].mean(axis=-1)
    return middle


def seeds_interval(scores: Sequence[Series], *, seed: int = 0) -> Interval:
    """Interquartile mean over all seeds and folds with a stratified bootstrap interval, 95 %.

    `scores` holds for each fold one score per seed. Seeds are resampled within each fold (Agarwal et al., NeurIPS 2021,
    section 4.3), so the interval covers other seeds, not other sessions.
    """
    folds, random = [checked(part) for part in scores], np.random.default_rng(seed)
    samples = np.concatenate([_within(part, random) for part in folds], axis=1)
    estimate = interquartile_mean(np.concatenate(folds))
    return _percentiles(estimate, _middle(np.sort(samples, axis=1)), 1.0, _few_seeds(folds))


def improvement_probability(scores: Sequence[Series], rival_scores: Sequence[Series], *, seed: int = 0) -> Interval:
    """How often a run of `scores` beats one of `rival_scores` in the same fold; ties count half; the mean over folds.

    Agarwal et al. 2021, section 4.3. Stratified bootstrap as in `seeds_interval`.

    Raises:
        ValueError: the numbers of folds differ.
    """
    if len(scores) != len(rival_scores):
        raise ValueError(f"{len(scores)} folds against {len(rival_scores)}; expected scores in the same folds")
    random = np.random.default_rng(seed)
    estimates, samples = [], []
    for part, rival in zip(scores, rival_scores, strict=True):
        ours, theirs = checked(part), checked(rival)
        estimates.append(float(_wins(ours[None], theirs[None])[0]))
        samples.append(_wins(_within(ours, random), _within(theirs, random)))
    return _percentiles(float(np.mean(estimates)), np.mean(samples, axis=0), 1.0, _few_seeds([*scores, *rival_scores]))


def _within(part: Series, random: np.random.Generator) -> Series:
    return part[random.integers(len(part), size=(DRAWS, len(part)))]


def _wins(ours: Series, theirs: Series) -> Series:
    wins = np.zeros(len(ours))
    for nth in range(theirs.shape[1]):
        wins += np.sign(ours - theirs[:, [nth]]).mean(axis=1)
    return np.asarray((wins / theirs.shape[1] + 1.0) / 2.0)


def _few_seeds(parts: Sequence[Series]) -> str:
    fewest = min(len(part) for part in parts)
    if fewest == 1:
        return f"1 seed is no evidence about others; at least {FEW_SEEDS} are advised"
    return f"{fewest} seeds are few: the true interval is wider; at least {FEW_SEEDS} are advised" * (
        fewest < FEW_SEEDS
    )
