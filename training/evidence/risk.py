"""A stated risk: whether a policy keeps a target volatility and a greatest drawdown, by its returns on test sessions.

The comparison is the passive policy without a risk overlay, at the same mean exposure: its returns times a constant. A
constant share of cash cannot pass by itself, because it leaves the relative spread of volatility unchanged. Pure
functions over float64 arrays of returns per session, all sessions of all tests joined in the order of time, and a fixed
seed: the same series give the same figures.

The statement is made before the tests: the target, an interval of `TOLERANCE` around it for each stretch of `WINDOW`
sessions, a greatest drawdown within a year. Intervals are from resampled blocks, and widen with the number of trials on
the same sessions (Šidák 1967, JASA 62), so that the probability that any of these claims passes falsely is 0.05.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from strategies.kit.manifest import RISK, StatedClaim
from training.evidence.lead import resampled_deviation
from training.evidence.resampling import AT_ONCE, Interval, resamples
from training.evidence.statistics import Series, annual, checked, deviations, sharpes
from training.evidence.wording import number, percent, share
from training.study.study import SESSIONS_A_YEAR

WINDOW = 60  # sessions of a stretch, over which volatility is measured
BLOCK = 2.0 * WINDOW  # mean block length of the bootstrap over stretches, because neighbours overlap
TOLERANCE = 0.25  # half-width of the stated interval, as a part of the target
DRAWDOWN = 2.5  # default greatest drawdown as a multiple of the target
DRAWDOWN_PROBABILITY = 0.95
DRAWDOWN_SESSIONS = SESSIONS_A_YEAR
LOW, HIGH = 0.1, 0.9  # the spread is the distance of these quantiles
EVERY = 5  # sessions between two stretches that are resampled: neighbours share 55 of 60 sessions
DRAWS = 2_000
CONFIDENCE = 0.95
POWER = 0.8
FEWEST_WINDOWS = 4  # with fewer separate stretches nothing is known


class RiskStatement(NamedTuple):
    """What is stated before the tests: annual volatility, and the deepest drawdown of a year as a fraction."""

    target: float
    drawdown: float


class RiskSeries(NamedTuple):
    """Returns per session and exposures at the close, float64 (sessions,), fractions of the equity."""

    policy: Series
    exposure: Series
    passive: Series  # the passive policy without the overlay
    passive_exposure: Series
    twice: Series  # the policy at twice the costs
    turnover: float  # value traded over equity, a session


class KeptRisk(msgspec.Struct, frozen=True, kw_only=True):
    """The tests' result for a stated risk. Volatilities are annual, over `WINDOW` sessions; all are fractions."""

    target: float
    stated_low: float
    stated_high: float
    sessions: int
    trials: int
    level: Interval  # the mean volatility over all stretches
    passive_level: float  # the same of the passive policy at the same mean exposure
    inside: float  # the part of all stretches within the stated interval
    probability: float  # its one-sided lower bound
    spread: Interval | None  # relative change of the spread of volatility against the passive policy; None: unknown
    drawdown_stated: float
    drawdown_seen: float  # the largest on all test sessions
    drawdown_kept: float  # share of resampled years without a drawdown deeper than the stated one
    drawdown_probability: float = DRAWDOWN_PROBABILITY  # stated
    sharpe_change: float  # annual Sharpe ratio less the passive policy's
    sharpe_change_high: float  # upper end of its 95 % interval; below 0 a loss is proven
    sharpe_change_twice_high: float  # the same at twice the costs
    sharpe_loss_seen: float  # the smallest loss that the test detects with probability 0.8
    exposure: float
    turnover: float  # times the equity, a year
    cost: float  # fraction of the equity, a year


def rolling_volatility(returns: Series, window: int = WINDOW) -> Series:
    """Annual sample deviation of each stretch of `window` returns, float64 (sessions - window + 1,)."""
    stretches = np.lib.stride_tricks.sliding_window_view(checked(returns), window)
    return np.asarray(annual(1.0) * deviations(stretches), dtype=np.float64)


def kept_risk(series: RiskSeries, stated: RiskStatement, *, trials: int = 1, seed: int = 0) -> KeptRisk | None:
    """All figures of a stated risk; None where there are too few sessions, or nothing moved.

    Raises:
        ValueError: a target or drawdown that is not above 0, or series of different lengths.
    """
    policy, passive, twice = checked(series.policy), checked(series.passive), checked(series.twice)
    _check(series, stated)
    exposure, theirs = float(series.exposure.mean()), float(series.passive_exposure.mean())
    separate = len(policy) / WINDOW
    if (
        separate < FEWEST_WINDOWS
        or theirs <= 0.0
        or min(float(deviations(returns)) for returns in (policy, passive)) <= 0.0
    ):
        return None
    beside = passive * (exposure / theirs)
    volatility, beside_volatility = rolling_volatility(policy), rolling_volatility(beside)
    confidence = deflated_confidence(trials)
    low, high = stated.target * (1.0 - TOLERANCE), stated.target * (1.0 + TOLERANCE)
    level = _level(volatility, confidence)
    inside = float(((volatility >= low) & (volatility <= high)).mean())
    change, upper, deviation = _sharpe_change(policy, beside)
    return KeptRisk(
        target=stated.target,
        stated_low=low,
        stated_high=high,
        sessions=len(policy),
        trials=trials,
        level=level,
        passive_level=float(beside_volatility.mean()),
        inside=inside,
        probability=share_bound(inside, separate, confidence),
        spread=_spread_change(volatility, beside_volatility, confidence, seed),
        drawdown_stated=stated.drawdown,
        drawdown_seen=float(deepest(policy[None])[0]),
        drawdown_kept=_kept_years(policy, stated.drawdown, level, seed),
        sharpe_change=change,
        sharpe_change_high=upper,
        sharpe_change_twice_high=_sharpe_change(twice, beside)[1],
        sharpe_loss_seen=(_normal((1.0 + CONFIDENCE) / 2.0) + _normal(POWER)) * deviation,
        exposure=exposure,
        turnover=series.turnover * SESSIONS_A_YEAR,
        cost=float(policy.mean() - twice.mean()) * SESSIONS_A_YEAR,
    )


def _check(series: RiskSeries, stated: RiskStatement) -> None:
    if not (stated.target > 0.0 and stated.drawdown > 0.0):
        raise ValueError(f"a stated risk of {stated}; expected a target volatility and a drawdown above 0")
    lengths = [len(values) for values in series[:5]]
    if len(set(lengths)) > 1:
        raise ValueError(f"series of {lengths} sessions; expected the same sessions of the policy and the passive one")


def deflated_confidence(trials: int) -> float:
    """The confidence for each of `trials` independent trials that gives `CONFIDENCE` for all together (Šidák)."""
    return float(CONFIDENCE ** (1.0 / max(trials, 1)))


def share_bound(part: float, count: float, confidence: float) -> float:
    """The one-sided lower bound of a proportion of `count` independent stretches (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    came = part * count
    return float(beta.ppf(1.0 - confidence, came, count - came + 1.0)) if came > 0.0 else 0.0


def _quantile(sessions: float, confidence: float) -> float:
    """Student's two-sided quantile for so many separate stretches, widened as resamples are too narrow.

    By sqrt(n / (n - 1)): Hesterberg 2015, The American Statistician 69(4), section 5.3.
    """
    from scipy.stats import t

    return float(t.ppf((1.0 + confidence) / 2.0, sessions - 1.0)) * math.sqrt(sessions / (sessions - 1.0))


def _level(volatility: Series, confidence: float) -> Interval:
    """The mean volatility over all stretches, with Student's interval of its resampled deviation."""
    mean, separate = float(volatility.mean()), (len(volatility) + WINDOW - 1) / WINDOW
    half = _quantile(separate, confidence) * resampled_deviation(volatility, BLOCK)
    return Interval(estimate=mean, low=mean - half, high=mean + half, level=confidence, block=BLOCK)


def _spread_change(volatility: Series, beside_volatility: Series, confidence: float, seed: int) -> Interval | None:
    """The relative change of the distance between the 10 % and the 90 % quantile of all stretches, paired.

    Quantiles, because a single crash decides the standard deviation: on made-up markets of 756 to 2,016 sessions its
    resampled interval covers the true ratio in 75 to 88 % of cases, that of the quantiles in 87 to 98 %.
    """
    middle, thin, beside = (
        float(_ratio(volatility[None], beside_volatility[None])[0]),
        volatility[::EVERY],
        beside_volatility[::EVERY],
    )
    random, draws = np.random.default_rng(seed), []
    for rows in np.array_split(np.arange(DRAWS), -(-DRAWS * len(thin) // AT_ONCE)):
        index = resamples(len(thin), BLOCK / EVERY, len(rows), random)
        draws.append(_ratio(thin[index], beside[index]))
    resampled = np.concatenate(draws)
    if not (math.isfinite(middle) and np.isfinite(resampled).all()):
        return None
    half = _quantile((len(volatility) + WINDOW - 1) / WINDOW, confidence) * float(resampled.std(ddof=1))
    figures = [math.expm1(value) for value in (middle, middle - half, middle + half)]
    return Interval(estimate=figures[0], low=figures[1], high=figures[2], level=confidence, block=BLOCK)


def _ratio(volatility: Series, beside_volatility: Series) -> Series:
    """Logarithms, (n,), of the ratio of two spreads of stretches, (n, stretches); not finite where one is 0."""
    spreads = [
        np.diff(np.quantile(stretches, (LOW, HIGH), axis=1), axis=0)[0] for stretches in (volatility, beside_volatility)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(spreads[0]) - np.log(spreads[1]), dtype=np.float64)


def deepest(paths: Series) -> Series:
    """The largest drawdown of each account, (n,), by its compounded returns, (n, sessions); the start counts."""
    value = np.cumprod(1.0 + paths, axis=1)
    highest = np.maximum.accumulate(np.maximum(value, 1.0), axis=1)
    return np.asarray((1.0 - value / highest).max(axis=1), dtype=np.float64)


def _kept_years(policy: Series, drawdown: float, level: Interval, seed: int) -> float:
    """The part of resampled years whose largest drawdown is at most the stated one.

    A positive mean of the tests is subtracted, because it is no promise. Returns are scaled to the upper end of the
    level's interval, so that uncertainty counts against the claim.
    """
    moves = (policy - max(float(policy.mean()), 0.0)) * (level.high / level.estimate)
    random = np.random.default_rng(seed)
    index = resamples(len(moves), float(WINDOW), DRAWS, random, first=DRAWDOWN_SESSIONS)
    years = np.tile(index, (1, -(-DRAWDOWN_SESSIONS // len(moves))))[:, :DRAWDOWN_SESSIONS]
    return float((deepest(moves[years]) <= drawdown).mean())


def _sharpe_change(policy: Series, beside: Series) -> tuple[float, float, float]:
    """The annual Sharpe ratio less the other one's, the upper end of its interval and its deviation.

    Delta method over resampled sessions, paired (Ledoit & Wolf 2008, J. Empirical Finance 15(5)). A ratio does not
    change with a constant share of cash.
    """
    ratios = [float(sharpes(returns)) for returns in (policy, beside)]
    influences = [_influence(returns, ratio) for returns, ratio in zip((policy, beside), ratios, strict=True)]
    deviation = annual(resampled_deviation(influences[0] - influences[1], math.cbrt(len(policy))))
    change = annual(ratios[0] - ratios[1])
    return change, change + _normal((1.0 + CONFIDENCE) / 2.0) * deviation, deviation


def _influence(returns: Series, ratio: float) -> Series:
    """The influence of each session on a Sharpe ratio."""
    score = (returns - returns.mean()) / float(deviations(returns))
    return np.asarray(score - ratio * (score * score - 1.0) / 2.0, dtype=np.float64)


def _normal(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def risk_claim(risk: KeptRisk, failed: tuple[str, ...]) -> StatedClaim:
    """The claim for a manifest, with the sentence that a report begins with; `failed` names the criteria not met."""
    return StatedClaim(
        kind=RISK,
        proven=not failed,
        sentence=claim_sentence(risk, failed),
        volatility_target=risk.target,
        volatility_low=risk.stated_low,
        volatility_high=risk.stated_high,
        window_sessions=WINDOW,
        probability=risk.probability,
        drawdown_max=risk.drawdown_stated,
        drawdown_probability=risk.drawdown_probability,
        drawdown_sessions=DRAWDOWN_SESSIONS,
        exposure_mean=risk.exposure,
        sharpe_loss_seen=risk.sharpe_loss_seen,
        level=risk.level.estimate,
        level_low=risk.level.low,
        level_high=risk.level.high,
    )


def unknown_claim(stated: RiskStatement) -> StatedClaim:
    """The unproven claim of a risk without a result: too few sessions, or no volatility."""
    return StatedClaim(
        kind=RISK,
        proven=False,
        sentence=(
            f"Claims a risk, not proven: a volatility of {share(stated.target)} a year and no drawdown of a year "
            f"beyond {share(stated.drawdown)}; the tests are too short, or moved too little, to say anything of it."
        ),
        volatility_target=stated.target,
        volatility_low=stated.target * (1.0 - TOLERANCE),
        volatility_high=stated.target * (1.0 + TOLERANCE),
        drawdown_max=stated.drawdown,
        drawdown_probability=DRAWDOWN_PROBABILITY,
    )


def claim_sentence(risk: KeptRisk, failed: tuple[str, ...]) -> str:
    """A sentence that names the claimed risk and says whether it is proven."""
    proven = f"not proven (fails {', '.join(failed)})" if failed else "proven"
    return (
        f"Claims a risk, {proven}: a volatility of {share(risk.target)} a year, stretches of {WINDOW} sessions between "
        f"{share(risk.stated_low)} and {share(risk.stated_high)} with probability {number(risk.probability)}, and no "
        f"drawdown of a year beyond {share(risk.drawdown_stated)} with probability "
        f"{number(risk.drawdown_probability)}."
    )


def evidence_words(risk: KeptRisk) -> str:
    """A few sentences with the tests' figures on the risk."""
    spread = "not known"
    if risk.spread is not None:
        low, high = percent(risk.spread.low, 0), percent(risk.spread.high, 0)
        spread = f"{percent(risk.spread.estimate, 0)} against it ({low} to {high})"
    lost = "proven" if risk.sharpe_change_high < 0.0 else "not proven"
    return (
        f"Risk over {risk.sessions:,} test sessions at a mean exposure of {share(risk.exposure)}: volatility "
        f"{share(risk.level.estimate)} ({share(risk.level.low)} to {share(risk.level.high)}), of the passive policy "
        f"without overlay at that exposure {share(risk.passive_level)}; spread of volatility {spread}; "
        f"{share(risk.inside)} of the stretches inside; largest drawdown "
        f"{share(risk.drawdown_seen)}. Sharpe ratio {number(risk.sharpe_change)} a year against it: a loss is {lost}; "
        f"the smallest that this test would have found 4 times in 5 is {number(risk.sharpe_loss_seen)}. More Sharpe is "
        "not claimed."
    )
