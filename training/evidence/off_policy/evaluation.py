"""The card's off-policy figures: a challenger against the champion on logged decisions, or why there are none.

Three estimators with intervals over sessions; the lead of the challenger is paired, by the same resampled sessions. No
figure is given where the log has no exploration, where a policy takes actions that the log does not, or where the
effective sample is too small. `card_of` puts the figures into the card of a version.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from strategies.kit.card import DEVIATIONS_MOST, FORMAT, STAKES, Card, Lead
from training.evidence.off_policy.estimators import (
    EpisodeRows,
    Figure,
    Logged,
    doubly_robust,
    episodes_of,
    fqe,
    moments,
    tail,
    together,
    weights,
    wis,
)
from training.evidence.resampling import Interval, pooled_intervals
from training.evidence.statistics import Series, checked

DRAWS = 2_000
SUM_OFF_MOST = 1e-6  # of the probabilities of one decision


class Least(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements on a log."""

    overlap: float = 0.8  # least share of the policies' probability on actions that the log also takes
    effective: float = 300.0  # episodes that remain after weighting
    sessions: int = 8
    probability: float = 0.001  # probability below which the log counts as not taking an action


class EpisodeValue(msgspec.Struct, frozen=True, kw_only=True):
    """One estimator: value of an episode under both policies, and the paired lead of the challenger."""

    name: str  # wis, dr, fqe
    challenger: Interval
    champion: Interval
    lead: Interval


class OffPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The off-policy evaluation of two policies. `cannot_be_said` is why there are no estimates, else ""."""

    decisions: int
    sessions: int
    episodes: int
    horizon: int  # decisions of an episode at most
    discount: float
    exploration: float  # exploration: mean probability of actions other than the likeliest
    overlap: float  # the smaller one of both policies
    effective: float  # Kish's sample size in episodes, the smaller one of both policies
    estimates: tuple[EpisodeValue, ...] = ()
    cannot_be_said: str = ""


def evaluate(
    logged: Logged,
    challenger: Series,
    champion: Series,
    *,
    horizon: int,
    discount: float = 1.0,
    least: Least | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> OffPolicy:
    """Estimate both policies' values with 95 % intervals over sessions, or give the reason why it is impossible.

    `challenger` and `champion` are their probabilities of the actions at each decision, float64 (n, actions), resolved
    and masked as the behaviour's.

    Raises:
        ValueError: shapes differ, or probabilities are none.
    """
    _check(logged, challenger, champion)
    episodes, limits = episodes_of(logged, horizon), least or Least()
    policies = (challenger, champion)
    result = OffPolicy(
        decisions=len(logged.actions),
        sessions=len(np.unique(logged.sessions)),
        episodes=len(episodes.rows),
        horizon=horizon,
        discount=discount,
        exploration=float(1.0 - logged.behaviour.max(axis=1).mean()),
        overlap=min(overlap_of(logged, target, limits.probability) for target in policies),
        effective=min(effective_of(logged, target, episodes) for target in policies),
    )
    if reason := _missing(result, limits):
        return msgspec.structs.replace(result, cannot_be_said=reason)
    estimates = _estimates(logged, policies, episodes, discount, seed, draws)
    return msgspec.structs.replace(result, estimates=estimates)


def overlap_of(logged: Logged, target: Series, least: float) -> float:
    """Return the mean probability that the target puts on actions which the log takes with `least` or more."""
    return float(np.where(logged.behaviour >= least, target, 0.0).sum(axis=1).mean())


def effective_of(logged: Logged, target: Series, episodes: EpisodeRows) -> float:
    """Return Kish's effective number of episodes by their last weights."""
    final_weights = weights(logged, target, episodes)[:, -1]
    squares = float(np.square(final_weights).sum())
    return float(final_weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def _missing(result: OffPolicy, least: Least) -> str:
    """Return words for what the log lacks; "" if it meets all requirements."""
    if result.exploration <= 0.0:
        return "nothing was explored: the log holds no other action than the champion's"
    if result.sessions < least.sessions:
        return f"{result.sessions} sessions, expected at least {least.sessions}"
    if result.overlap < least.overlap:
        return f"overlap {result.overlap:.2f}, expected at least {least.overlap:.2f}"
    if result.effective < least.effective:
        return f"effective sample of {result.effective:,.0f} episodes, expected at least {least.effective:,.0f}"
    return ""


def _estimates(
    logged: Logged, policies: tuple[Series, Series], episodes: EpisodeRows, discount: float, seed: int, draws: int
) -> tuple[EpisodeValue, ...]:
    fitted = [moments(logged, target, episodes) for target in policies]
    pairs = {
        "wis": [wis(logged, target, episodes, discount) for target in policies],
        "dr": [
            doubly_robust(logged, target, episodes, part, discount)
            for target, part in zip(policies, fitted, strict=True)
        ],
        "fqe": [fqe(part, discount) for part in fitted],
    }
    ends = [tail(logged, target, episodes, discount) for target in policies]
    pairs = {name: [together(*parts) for parts in zip(pair, ends, strict=True)] for name, pair in pairs.items()}
    earned = session_means(logged)
    return tuple(_estimate(name, pair, earned, seed, draws) for name, pair in pairs.items())


def session_means(logged: Logged) -> Series:
    """Return the mean reward of each session's decisions, float64 (sessions,)."""
    number = np.unique(logged.sessions, return_inverse=True)[1]
    return np.asarray(np.bincount(number, logged.rewards) / np.bincount(number))


def _estimate(name: str, pair: list[tuple[Series, Figure]], blocks_of: Series, seed: int, draws: int) -> EpisodeValue:
    """Resample the sums of both policies by the same sessions."""
    (ours, of_ours), (theirs, of_theirs) = pair
    width = ours.shape[1]
    of = (
        lambda sums: of_ours(sums[:, :width]),
        lambda sums: of_theirs(sums[:, width:]),
        lambda sums: of_ours(sums[:, :width]) - of_theirs(sums[:, width:]),
    )
    parts = np.concatenate([ours, theirs], axis=1)
    challenger, champion, lead = pooled_intervals(parts, of, blocks_of=blocks_of, seed=seed, draws=draws, expanded=True)
    return EpisodeValue(name=name, challenger=challenger, champion=champion, lead=lead)


def _check(logged: Logged, *targets: Series) -> None:
    """Check shapes and probabilities. Raises ValueError."""
    count, shape = len(logged.actions), logged.behaviour.shape
    lengths = {len(part) for part in (logged.sessions, logged.rewards, logged.features, logged.ends)}
    if not count or lengths != {count} or {target.shape for target in targets} | {shape} != {(count, shape[-1])}:
        raise ValueError(f"{count} decisions, behaviour {shape}: expected arrays of as many decisions and actions")
    for probabilities in (logged.behaviour, *targets):
        if probabilities.min() < 0.0 or np.abs(probabilities.sum(axis=1) - 1.0).max() > SUM_OFF_MOST:
            raise ValueError("probabilities of the actions of a decision do not add up to 1")
    action_probabilities = logged.behaviour[np.arange(count), logged.actions]
    if not action_probabilities.min() > 0.0 or not math.isfinite(float(logged.rewards.sum() + logged.features.sum())):
        raise ValueError("an action of the log has the probability 0, or a reward or feature is not finite")


def card_of(
    result: OffPolicy,
    session_returns: Series,
    *,
    version: str,
    parent: str,
    trainer: str,
    stream: str = "",
    rows: tuple[int, int] = (0, 0),
) -> Card:
    """Return the card. `session_returns` are the version's on sessions kept apart, parts of the equity at full size.

    Raises:
        ValueError: fewer than two session returns, or one that is not finite.
    """
    returns = checked(session_returns)
    if len(returns) < 2:
        raise ValueError(f"{len(returns)} session returns, expected at least 2: their deviation sets the band")
    return Card(
        format=FORMAT,
        version=version,
        parent=parent,
        trainer=trainer,
        stream=stream,
        first_row=rows[0],
        last_row=rows[1],
        decisions=result.decisions,
        sessions=result.sessions,
        exploration=result.exploration,
        overlap=result.overlap,
        effective=result.effective,
        leads={
            estimate.name: Lead(estimate=estimate.lead.estimate, low=estimate.lead.low, high=estimate.lead.high)
            for estimate in result.estimates
        },
        cannot_be_said=result.cannot_be_said,
        session_mean=float(returns.mean()),
        session_deviation=float(returns.std(ddof=1)),
        band=_band(returns),
    )


def _band(returns: Series) -> tuple[float, ...]:
    """Return for each stake b the log of the mean of exp(-b z) over the sessions, at least its value for a normal z."""
    deviation = float(returns.std(ddof=1))
    if deviation <= 0.0:
        return ()
    z = np.clip((returns - returns.mean()) / deviation, -DEVIATIONS_MOST, DEVIATIONS_MOST)
    return tuple(max(float(np.log(np.exp(-stake * z).mean())), stake * stake / 2.0) for stake in STAKES)
