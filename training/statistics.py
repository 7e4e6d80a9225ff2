"""What a series of session returns says, and within which bounds: figures, intervals, seeds, calibration.

Pure functions over float64 arrays of returns per session, as fractions of the capital with which every session begins;
nothing compounds. Always a defined answer: where a figure has no meaning it is 0 or None and a note says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evaluation import SessionResult
from training.study import Study

Series = NDArray[np.float64]
"""float64 (sessions,): one return per session, in the order of time."""

SESSIONS_A_YEAR = 252
LEVEL = 0.95
DRAWS = 10_000
FEW_SESSIONS = 30  # below, percentile intervals are known to be too narrow
FEWEST = 16  # sessions, below which an interval tells nothing apart and nothing about choosing is told
FEW_SEEDS = 10  # Henderson et al. 2018, Agarwal et al. 2021
AT_ONCE = 2_000_000  # resampled numbers held in memory together
NOTHING = 1e-12  # a deviation below this part of the largest return is rounding


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one player over its sessions. Annual figures: 252 sessions a year."""

    sessions: int
    net_return: float  # the sum
    mean: float  # a session
    deviation: float  # sample deviation of a session
    sharpe: float  # mean / deviation, a session
    sharpe_annual: float
    sortino_annual: float
    calmar: float  # mean of a year / largest drawdown
    max_drawdown: float  # of the running sum
    worst_session: float
    skewness: float
    kurtosis: float  # raw: 3 for a normal distribution
    hit_rate_sessions: float  # sessions that earned / sessions that earned or lost
    hit_rate_trades: float
    trades: int
    fees_usd: float
    turnover: float  # premium paid / capital, a session
    exposure: float  # minutes with a position / minutes
    notes: tuple[str, ...] = ()


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and the percentile interval of its resamples."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL
    block: float = 1.0  # mean block length in sessions; 1 resamples them one by one
    note: str = ""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Trades of similar confidence; `low` and `high` are the Wilson interval of `won`."""

    trades: int
    confidence: float  # mean
    won: float  # fraction
    low: float
    high: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Confidence beside the fraction of trades that won. None without a trade."""

    trades: int
    bins: tuple[Bin, ...]
    brier: float | None
    expected_error: float | None
    note: str


def session_returns(results: Sequence[SessionResult], capital_usd: float) -> Series:
    """Returns per session, float64 (sessions,), as fractions of the capital."""
    return np.array([result.pnl_usd for result in results], dtype=np.float64) / capital_usd


def headline(study: Study) -> tuple[SessionResult, ...]:
    """What the procedure itself earned: the chosen trial of each fold on its test sessions, in the order of time."""
    return tuple(result for index in study.chosen for result in study.trials[index].test.sessions)


def trial_matrix(study: Study) -> tuple[tuple[str, ...], Series]:
    """Names and test returns, float64 (sessions, N), of each reward and seed that was trained in every fold.

    Raises:
        ValueError: a trial's test sessions are not those of its fold.
    """
    runs: dict[str, list[list[Series]]] = {}
    for trial in study.trials:
        wanted, found = study.folds[trial.fold].test, tuple(result.date for result in trial.test.sessions)
        if found != wanted:
            raise ValueError(
                f"the trial of fold {trial.fold}, reward {trial.reward} and seed {trial.seed} has {len(found)} test "
                f"sessions {found[:1]}…; expected the fold's {len(wanted)} {wanted[:1]}…: run the study again"
            )
        folds = runs.setdefault(f"{trial.reward}, seed {trial.seed}", [[] for _ in study.folds])
        folds[trial.fold].append(session_returns(trial.test.sessions, study.capital_usd))
    columns = {
        f"{name}, run {nth + 1}" if nth else name: np.concatenate(parts)
        for name, folds in runs.items()
        for nth, parts in enumerate(zip(*folds, strict=False))  # runs that some fold lacks are left out
    }
    sessions = sum(len(fold.test) for fold in study.folds)
    matrix = np.column_stack(list(columns.values())) if columns else np.empty((sessions, 0))
    return tuple(columns), matrix


def checked(returns: Series) -> Series:
    """The same numbers as float64. Raises `ValueError` when there is none or one is not finite."""
    values = np.asarray(returns, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ValueError(f"{values.size} returns of which {bad} are not finite; expected at least one, all finite")
    return values


def deviations(samples: Series) -> Series:
    """Sample deviation over the last axis; exactly 0 for one session or where only rounding differs."""
    if samples.shape[-1] < 2:
        return np.zeros(samples.shape[:-1])
    found = samples.std(axis=-1, ddof=1)
    return np.where(found > NOTHING * np.abs(samples).max(axis=-1), found, 0.0)


def sharpes(samples: Series) -> Series:
    """Sharpe ratios per session over the last axis: mean / sample deviation, 0 without deviation (Sharpe 1994)."""
    deviation = deviations(samples)
    mean = samples.mean(axis=-1)
    found: Series = np.where(deviation > 0.0, mean / np.where(deviation > 0.0, deviation, 1.0), 0.0)
    return found


def sharpe(returns: Series) -> float:
    """Sharpe ratio per session, not annualised; 0 without deviation."""
    return float(sharpes(checked(returns)))


def annual(session_sharpe: float) -> float:
    """A ratio per session as one per year: times the root of 252 (independent sessions; Lo 2002)."""
    return session_sharpe * math.sqrt(SESSIONS_A_YEAR)


def sortino(returns: Series) -> float:
    """Sortino ratio per session: mean / root of the mean of min(r, 0)² over all sessions; 0 without a loss.

    Sortino & Price 1994, J. Investing 3(3), with target 0.
    """
    values = checked(returns)
    downside = math.sqrt(float(np.square(np.minimum(values, 0.0)).mean()))
    return float(values.mean()) / downside if downside > 0.0 else 0.0


def max_drawdown(returns: Series) -> float:
    """Largest fall of the running sum from its peak (0 at first): capital is fixed per session, nothing compounds."""
    running = np.concatenate(([0.0], np.cumsum(checked(returns))))
    return float((np.maximum.accumulate(running) - running).max())


def calmar(returns: Series) -> float:
    """Mean return of a year (252 sessions, not compounded) / largest drawdown; 0 without a drawdown (Young 1991)."""
    drawdown = max_drawdown(returns)
    return float(np.mean(returns)) * SESSIONS_A_YEAR / drawdown if drawdown > 0.0 else 0.0


def skewness(returns: Series) -> float:
    """Third standardised moment (divided by n); 0 without deviation."""
    return _moment(returns, 3, 0.0)


def kurtosis(returns: Series) -> float:
    """Fourth standardised moment (divided by n), raw: 3 for a normal distribution and without deviation."""
    return _moment(returns, 4, 3.0)


def _moment(returns: Series, power: int, without: float) -> float:
    values = checked(returns)
    if float(deviations(values)) <= 0.0:
        return without
    centred = values - values.mean()
    return float((centred**power).mean() / np.square(centred).mean() ** (power / 2))


def summarise(results: Sequence[SessionResult], capital_usd: float) -> Summary:
    """All figures of at least one session. Raises `ValueError` without any."""
    returns = checked(session_returns(results, capital_usd))
    trades, moved = sum(result.trades for result in results), int(np.count_nonzero(returns))
    minutes = sum(result.minutes for result in results)
    deviation, drawdown = float(deviations(returns)), max_drawdown(returns)
    notes = (
        (deviation <= 0.0, "no deviation between sessions: the Sharpe ratio has no meaning and counts as 0"),
        (not (returns < 0.0).any(), "no losing session: the Sortino ratio has no meaning and counts as 0"),
        (drawdown <= 0.0, "no drawdown: the Calmar ratio has no meaning and counts as 0"),
        (trades == 0, "not one trade: hit rates have no meaning and count as 0"),
    )
    return Summary(
        sessions=len(returns),
        net_return=math.fsum(returns.tolist()),
        mean=float(returns.mean()),
        deviation=deviation,
        sharpe=sharpe(returns),
        sharpe_annual=annual(sharpe(returns)),
        sortino_annual=annual(sortino(returns)),
        calmar=calmar(returns),
        max_drawdown=drawdown,
        worst_session=float(returns.min()),
        skewness=skewness(returns),
        kurtosis=kurtosis(returns),
        hit_rate_sessions=float((returns > 0.0).sum()) / moved if moved else 0.0,
        hit_rate_trades=sum(result.wins for result in results) / trades if trades else 0.0,
        trades=trades,
        fees_usd=math.fsum(result.fees_usd for result in results),
        turnover=math.fsum(result.premium_usd for result in results) / capital_usd / len(returns),
        exposure=sum(result.held_min for result in results) / minutes if minutes else 0.0,
        notes=tuple(text for applies, text in notes if applies),
    )


STATISTICS: dict[str, Callable[[Series], Series]] = {
    "mean": lambda samples: np.asarray(samples.mean(axis=-1)),
    "sum": lambda samples: np.asarray(samples.sum(axis=-1)),
    "sharpe": sharpes,
}
"""What can be resampled: each maps (…, sessions) to (…); the Sharpe ratio is per session."""


def block_length(returns: Series) -> float:
    """Mean block length in sessions for the stationary bootstrap, at least 1.

    Politis & White 2004 with the correction of Patton, Politis & White 2009, by `arch`; the cube root of the number of
    sessions where there are fewer than 16 of them, too few for autocorrelations; 1 without deviation.
    """
    from arch.bootstrap import optimal_block_length

    values = checked(returns)
    if float(deviations(values)) <= 0.0:
        return 1.0
    fallback = math.cbrt(len(values))
    if len(values) < 16:
        return fallback
    with np.errstate(all="ignore"):
        found = float(optimal_block_length(values).loc[0, "stationary"])
    return max(found, 1.0) if math.isfinite(found) else fallback


def resamples(sessions: int, block: float, draws: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Indices, (draws, sessions), of the stationary bootstrap: circular blocks of geometric lengths around `block`.

    Politis & Romano 1994, JASA 89, section 2.
    """
    begins = random.random((draws, sessions)) < 1.0 / block
    begins[:, 0] = True
    start = random.integers(sessions, size=(draws, sessions))
    position = np.arange(sessions)
    latest = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    index: NDArray[np.intp] = (np.take_along_axis(start, latest, axis=1) + position - latest) % sessions
    return index


def interval(returns: Series, statistic: str = "mean", *, seed: int = 0) -> Interval:
    """Stationary-bootstrap percentile interval, 95 %, of a statistic of `STATISTICS`. The same seed gives the same."""
    values = checked(returns)
    return _resampled([values], values, lambda parts: STATISTICS[statistic](parts[0]), seed)


def paired_difference(returns: Series, baseline: Series, statistic: str = "mean", *, seed: int = 0) -> Interval:
    """The interval of a statistic's difference, policy less baseline, when both are resampled by the same sessions.

    Raises:
        ValueError: the two do not have the same number of sessions.
    """
    ours, theirs = checked(returns), checked(baseline)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} sessions against {len(theirs)} of the baseline; expected the same sessions")
    of = STATISTICS[statistic]
    return _resampled([ours, theirs], ours - theirs, lambda parts: of(parts[0]) - of(parts[1]), seed)


def _resampled(series: list[Series], blocks_of: Series, of: Callable[[list[Series]], Series], seed: int) -> Interval:
    estimate, count = float(of(series)), len(blocks_of)
    if all(float(deviations(values)) <= 0.0 for values in series):
        note = "one session says nothing of others" if count == 1 else "all sessions are the same: nothing to resample"
        return Interval(estimate=estimate, low=estimate, high=estimate, note=note)
    random, block, found = np.random.default_rng(seed), block_length(blocks_of), []
    for rows in np.array_split(np.arange(DRAWS), -(-DRAWS * count // AT_ONCE)):
        index = resamples(count, block, len(rows), random)
        found.append(of([values[index] for values in series]))
    note = f"{count} sessions are few: the true interval is wider" if count < FEW_SESSIONS else ""
    return _percentiles(estimate, np.concatenate(found), block, note)


def _percentiles(estimate: float, found: Series, block: float, note: str) -> Interval:
    low, high = np.quantile(found, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Interval(estimate=estimate, low=float(low), high=float(high), block=block, note=note)


def interquartile_mean(scores: Series) -> float:
    """Mean of the middle half: a quarter of the scores, rounded down, is cut at each end (Agarwal et al. 2021)."""
    return float(_middle(np.sort(checked(scores).ravel())))


def _middle(ascending: Series) -> Series:
    cut = ascending.shape[-1] // 4
    middle: Series = ascending[..., cut : ascending.shape[-1] - cut].mean(axis=-1)
    return middle


def seeds_interval(scores: Sequence[Series], *, seed: int = 0) -> Interval:
    """Interquartile mean over all seeds and folds with a stratified bootstrap interval, 95 %.

    `scores` holds for each fold one score per seed. Seeds are resampled within each fold (Agarwal et al., NeurIPS 2021,
    section 4.3), so the interval speaks of other seeds, not of other sessions.
    """
    folds, random = [checked(part) for part in scores], np.random.default_rng(seed)
    samples = np.concatenate([_within(part, random) for part in folds], axis=1)
    estimate = interquartile_mean(np.concatenate(folds))
    return _percentiles(estimate, _middle(np.sort(samples, axis=1)), 1.0, _few_seeds(folds))


def improvement_probability(scores: Sequence[Series], others: Sequence[Series], *, seed: int = 0) -> Interval:
    """How often a run of `scores` beats one of `others` in the same fold; ties count half; the mean over folds.

    Agarwal et al. 2021, section 4.3. Stratified bootstrap as in `seeds_interval`.

    Raises:
        ValueError: the numbers of folds differ.
    """
    if len(scores) != len(others):
        raise ValueError(f"{len(scores)} folds against {len(others)}; expected scores in the same folds")
    random = np.random.default_rng(seed)
    estimates, samples = [], []
    for part, other in zip(scores, others, strict=True):
        ours, theirs = checked(part), checked(other)
        estimates.append(float(_wins(ours[None], theirs[None])[0]))
        samples.append(_wins(_within(ours, random), _within(theirs, random)))
    return _percentiles(float(np.mean(estimates)), np.mean(samples, axis=0), 1.0, _few_seeds([*scores, *others]))


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
        return f"1 seed says nothing of others; at least {FEW_SEEDS} are advised"
    return f"{fewest} seeds are few: the true interval is wider; at least {FEW_SEEDS} are advised" * (
        fewest < FEW_SEEDS
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927, JASA 22); (0, 1) without a trial."""
    if trials == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0), successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - half) / (1 + z * z / trials)), min(1.0, (centre + half) / (1 + z * z / trials))


def calibration(confidence: Series, won: NDArray[np.bool_], bins: int = 10) -> Calibration:
    """Confidence against wins: equal-count bins (equal confidences stay together), Brier score, calibration error.

    Brier 1950; expected calibration error = the bins' |mean confidence - fraction won| weighted by their trades (Naeini
    et al. 2015). `confidence` float64 (n,) in 0..1, `won` bool (n,): closed with a profit after fees.
    """
    note = "Confidence is the probability of the action, not of a win; it was never trained to be one."
    if len(confidence) == 0:
        return Calibration(trades=0, bins=(), brier=None, expected_error=None, note=f"No trade. {note}")
    order = np.argsort(checked(confidence), kind="stable")
    sure, wins = np.asarray(confidence, dtype=np.float64)[order], np.asarray(won, dtype=np.float64)[order]
    wanted = np.arange(1, min(bins, len(sure))) * len(sure) // min(bins, len(sure))
    left, right = np.searchsorted(sure, sure[wanted], side="left"), np.searchsorted(sure, sure[wanted], side="right")
    cuts = np.unique(np.where(wanted - left <= right - wanted, left, right))  # the nearer end of equal confidences
    parts = [_bin(a, b) for a, b in zip(np.split(sure, cuts), np.split(wins, cuts), strict=True) if len(a)]
    error = math.fsum(part.trades * abs(part.confidence - part.won) for part in parts) / len(sure)
    return Calibration(
        trades=len(sure),
        bins=tuple(parts),
        brier=float(np.square(sure - wins).mean()),
        expected_error=error,
        note=note,
    )


def _bin(sure: Series, wins: Series) -> Bin:
    low, high = wilson(int(wins.sum()), len(wins))
    return Bin(trades=len(wins), confidence=float(sure.mean()), won=float(wins.mean()), low=low, high=high)
