"""The lead of a policy over the best baseline, paired by session: its bound, its deflated Sharpe ratio, its halves.

Promotion decides by it. A rising market lifts a policy and its baselines alike, and the difference removes that. Pure
functions of float64 arrays of returns per session, without random numbers: the same series give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from training.evidence.overfitting import deflated_sharpe, loss_probability, unskilled
from training.evidence.resampling import FEWEST
from training.evidence.statistics import Series, annual, checked, deviations, sharpes, total

LEVEL = 0.99  # one-sided, of the lower bound


class BaselineLead(msgspec.Struct, frozen=True, kw_only=True):
    """The policy less the baseline that earned most on the test sessions. None: too few sessions, or no deviation."""

    baseline: str
    mean: float  # a session
    low: float | None  # of the mean, one-sided
    level: float = LEVEL
    block: float = 1.0  # mean block length in sessions: the cube root of their number
    ratio_annual: float = 0.0  # mean / deviation x sqrt(252): the information ratio
    deflated: float | None = None  # of the lead's Sharpe ratio, among the headline's trials and all earlier ones
    trials: int = 0
    loss: float | None = None  # share of splits in which the best trial of one half trails in the other


def lead_of(
    policy: Series, baselines: Mapping[str, Series], trials: Series, *, earlier: int = 0, compounds: bool = False
) -> BaselineLead | None:
    """The lead over the baseline with the largest net return; None without baselines.

    Args:
        policy: its returns, float64 (sessions,).
        baselines: theirs, (sessions,) each, by name.
        trials: returns, (sessions, N), a column for each run of the headline's reward.
        earlier: number of trials of earlier studies on these sessions. Their leads are unknown, so the standard
            deviation of all ratios is taken as at least that of trials without skill: agreeing seeds do not show that
            earlier settings agreed.
        compounds: whether returns compound.

    Raises:
        ValueError: a baseline has other sessions.
    """
    if not baselines:
        return None
    name = max(baselines, key=lambda name: total(baselines[name], compounds=compounds))
    best, values = checked(baselines[name]), checked(policy)
    if best.shape != values.shape:
        raise ValueError(f"{len(values)} sessions against {len(best)} of {name}; expected the same sessions")
    gap, gaps = values - best, trials - best[:, None]
    mean, deviation = float(gap.mean()), float(deviations(gap))
    if len(gap) < FEWEST or deviation <= 0.0:
        return BaselineLead(baseline=name, mean=mean, low=None)
    block = math.cbrt(len(gap))
    ratios = sharpes(gaps.T).tolist()
    count, least = max(len(ratios) + earlier, 1), unskilled(len(gap)) if earlier else 0.0
    return BaselineLead(
        baseline=name,
        mean=mean,
        low=lower_bound(gap, block),
        block=block,
        ratio_annual=annual(mean / deviation),
        deflated=deflated_sharpe(gap, ratios, trials=count, least_deviation=least).deflated,
        trials=count,
        loss=loss_probability(gaps),
    )


def lower_bound(values: Series, block: float) -> float:
    """The one-sided lower bound of the mean at `LEVEL`, from Student's quantile and the bootstrap's standard deviation.

    The deviation is that of the stationary bootstrap, widened by sqrt(n / (n - 1)) as resamples are too narrow by it
    (Hesterberg 2015, The American Statistician 69(4), section 5.3).
    """
    from scipy.stats import t

    count = len(values)
    wide = math.sqrt(count / (count - 1))
    return float(values.mean()) - float(t.ppf(LEVEL, count - 1)) * wide * resampled_deviation(values, block)


def resampled_deviation(values: Series, block: float) -> float:
    """The deviation of the mean over all stationary bootstrap resamples with this mean block length, in closed form.

    Politis & Romano 1994, JASA 89, lemma 1: circular autocovariances at lag k, times (1 - k/n)(1 - 1/block)^k.
    """
    count = len(values)
    centred = values - values.mean()
    power = np.square(np.abs(np.fft.rfft(centred)))
    circular = np.fft.irfft(power, count) / count  # circular autocovariance at each lag
    lags = np.arange(count)
    weights = (1.0 - lags / count) * (1.0 - 1.0 / block) ** lags
    variance = float(circular[0] + 2.0 * (weights[1:] @ circular[1:])) / count
    return math.sqrt(max(variance, 0.0))
