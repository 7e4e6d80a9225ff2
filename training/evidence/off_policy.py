"""The card's off-policy figures: a challenger against the champion on logged decisions, or why there are none.

Three estimators with intervals over sessions; the lead of the challenger is paired, by the same resampled sessions. No
figure is given where the log has no exploration, where a policy takes actions that the log does not, or where the
effective sample is too small. `card_of` puts the figures into the card of a version.

The estimators are weighted importance sampling (WIS), doubly robust and fitted Q evaluation. Each is a function of sums
over the decisions of a session, so resampling sessions resamples the whole estimator. All three estimate the mean, over
episodes, of the discounted rewards of at most `horizon` decisions of the policy, followed by the log's rewards to the
end of the run. Without that tail a policy without costs would seem better than one whose costs pay off later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from strategies.kit.card import DEVIATIONS_MOST, FORMAT, STAKES, Card, Lead
from training.evidence.resampling import Interval, pooled_intervals
from training.evidence.statistics import Series, checked

FOLDS = 5  # folds of sessions: Q of the doubly robust estimate is never fitted on the episode that it corrects
RIDGE = 1e-6  # ridge, as part of the mean diagonal: a resample without some state-action pair stays solvable

Integers = NDArray[np.intp]
Figure = Callable[[Series], Series]
"""Maps sums over sessions, float64 (draws, k), to a figure, (draws,)."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Decisions in order of time, with rewards and the behaviour policy's probabilities."""

    sessions: Integers  # (n,), ascending
    actions: Integers  # (n,)
    rewards: Series  # (n,)
    behaviour: Series  # (n, actions), after the mask of the gates
    features: Series  # (n, features) of the state, a constant among them; Q is linear in them for each action
    ends: NDArray[np.bool_]  # (n,), true where no decision follows; always at a session's last decision


@dataclass(frozen=True, slots=True)
class EpisodeRows:
    """Decisions in runs of at most `horizon`: row numbers (m, horizon), and which of them are real."""

    rows: Integers
    inside: NDArray[np.bool_]


def episodes_of(logged: Logged, horizon: int) -> EpisodeRows:
    """Cut each unbroken run of decisions into episodes of `horizon`; the last one of a run may be shorter."""
    count = len(logged.actions)
    run = np.concatenate([[0], np.cumsum(last_ones(logged)[:-1])])
    position = np.arange(count) - np.searchsorted(run, run)
    starts = np.flatnonzero(position % horizon == 0)
    rows = starts[:, None] + np.arange(horizon)
    inside = rows < np.append(starts[1:], count)[:, None]
    return EpisodeRows(np.where(inside, rows, starts[:, None]), inside)


def last_ones(logged: Logged) -> NDArray[np.bool_]:
    """Return for each decision whether none follows, bool (n,)."""
    turns = np.append(logged.sessions[1:] != logged.sessions[:-1], True)
    return np.asarray(logged.ends | turns)


def ratios(logged: Logged, target: Series) -> Series:
    """Return the target's probability of each action taken over the behaviour's, float64 (n,)."""
    nth = np.arange(len(logged.actions))
    return np.asarray(target[nth, logged.actions] / logged.behaviour[nth, logged.actions])


def weights(logged: Logged, target: Series, episodes: EpisodeRows) -> Series:
    """Return the product of the ratios up to each decision, (m, horizon); after an episode's end it stays."""
    steps = np.where(episodes.inside, ratios(logged, target)[episodes.rows], 1.0)
    return np.asarray(np.cumprod(steps, axis=1), dtype=np.float64)


def by_session(values: Series, sessions: Integers) -> Series:
    """Sum rows of the same session: (m, k) to (sessions, k)."""
    starts = np.flatnonzero(np.append(True, sessions[1:] != sessions[:-1]))
    return np.asarray(np.add.reduceat(values, starts, axis=0), dtype=np.float64)


# --- the value of an episode's end ------------------------------------------------------------------------------------


def tail(logged: Logged, target: Series, episodes: EpisodeRows, discount: float) -> tuple[Series, Figure]:
    """The log's rewards after an episode of the target to the end of the run: sums by session, and the figure.

    The value of a state is linear in its features and in these times the share of the run that is still to come, by
    LSTD (Bradtke & Barto 1996) on the log's own decisions, refitted in each resample. States are weighted by how much
    the target changes their frequency, so that states reached alike add no variance. An episode that ends with its run
    has no tail.
    """
    states, goes_on = state_features(logged), ~last_ones(logged)
    following = np.where(goes_on[:, None], np.roll(states, -1, axis=0), 0.0)
    slope = (states[:, :, None] * (states - discount * following)[:, None, :]).reshape(len(states), -1)
    fitted = by_session(np.concatenate([slope, states * logged.rewards[:, None]], axis=1), logged.sessions)
    first, length = episodes.rows[:, 0], episodes.inside.sum(axis=1)
    last_rows = episodes.rows[np.arange(len(length)), length - 1]
    weight = weights(logged, target, episodes)[:, -1:]
    change = discount ** length[:, None] * following[last_rows] - states[first]
    counted = [weight * change, states[first], weight, np.ones_like(weight)]
    parts = np.append(fitted, by_session(np.concatenate(counted, axis=1), logged.sessions[first]), axis=1)
    width = states.shape[1]
    cuts = np.cumsum([width * width, width, width, width, 1])

    def figure(sums: Series) -> Series:
        slopes, earned, changed, began, weighed, count = np.split(sums, cuts, axis=1)
        values = _solve(slopes.reshape(-1, width, width), earned[:, :, None])[:, :, 0]
        changes = _ratio((changed * values).sum(axis=1), weighed[:, 0])
        return np.asarray(changes + (began * values).sum(axis=1) / count[:, 0])

    return parts, figure


def state_features(logged: Logged) -> Series:
    """Return the features, and the features times the share of the run still to come, float64 (n, 2 x features)."""
    last_rows = np.flatnonzero(last_ones(logged))
    rows = np.arange(len(logged.actions))
    to_come = last_rows[np.searchsorted(last_rows, rows)] - rows + 1.0
    return np.append(logged.features, logged.features * (to_come / to_come.max())[:, None], axis=1)


def together(first: tuple[Series, Figure], second: tuple[Series, Figure]) -> tuple[Series, Figure]:
    """Return the sum of two figures, over the sums of both."""
    (parts, of_one), (more_parts, of_other) = first, second
    width = parts.shape[1]
    return np.append(parts, more_parts, axis=1), lambda sums: of_one(sums[:, :width]) + of_other(sums[:, width:])


# --- weighted importance sampling -------------------------------------------------------------------------------------


def wis(logged: Logged, target: Series, episodes: EpisodeRows, discount: float) -> tuple[Series, Figure]:
    """Per-decision weighted importance sampling (Precup, Sutton & Singh 2000): sums by session, and the figure."""
    weight = weights(logged, target, episodes)
    rewards = np.where(episodes.inside, logged.rewards[episodes.rows], 0.0)
    parts = by_session(np.concatenate([weight * rewards, weight], axis=1), logged.sessions[episodes.rows[:, 0]])
    powers = discount ** np.arange(rewards.shape[1])

    def figure(sums: Series) -> Series:
        earned, weighed = np.split(sums, 2, axis=1)
        return _ratio(earned, weighed) @ powers

    return parts, figure


# --- fitted Q evaluation ----------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Sums over decisions for fitted Q evaluation, for each session or draw; d = actions x features."""

    gram: Series  # (…, d, d), of all decisions
    earned: Series  # (…, d)
    gram_followed: Series  # (…, d, d), of the decisions that another one follows
    earned_followed: Series  # (…, d)
    cross: Series  # (…, d, d), these with what follows them
    starts: Series  # (…, horizon, d), first decisions of the episodes, by their length
    episodes: Series  # (…), how many

    def flat(self) -> Series:
        """Return (…, k)."""
        return np.concatenate([part.reshape(len(self.episodes), -1) for part in self], axis=1)

    def of_sums(self, sums: Series) -> Moments:
        """Return sums, (draws, k), as moments."""
        cuts = np.cumsum([part[0].size for part in self])[:-1]
        parts = np.split(sums, cuts, axis=1)
        return Moments(*(part.reshape(-1, *former.shape[1:]) for part, former in zip(parts, self, strict=True)))


def moments(logged: Logged, target: Series, episodes: EpisodeRows) -> Moments:
    """Gather the moments of linear fitted Q evaluation by session."""
    one_hot = np.zeros_like(target)
    one_hot[np.arange(len(one_hot)), logged.actions] = 1.0
    features, aimed = _pair_features(one_hot, logged.features), _pair_features(target, logged.features)
    firsts, lengths = episodes.rows[:, 0], episodes.inside.sum(axis=1)
    began = aimed[firsts][:, None, :] * (lengths[:, None] == np.arange(1, episodes.rows.shape[1] + 1))[:, :, None]
    is_last, by_session_moments = last_ones(logged), []
    for rows in np.split(np.arange(len(one_hot)), np.flatnonzero(np.diff(logged.sessions)) + 1):
        goes_on = rows[~is_last[rows]]
        at_rows, at_followed = features[rows], features[goes_on]
        by_session_moments.append((
            at_rows.T @ at_rows,
            at_rows.T @ logged.rewards[rows],
            at_followed.T @ at_followed,
            at_followed.T @ logged.rewards[goes_on],
            at_followed.T @ aimed[goes_on + 1],
        ))  # fmt: skip
    starts = by_session(began.reshape(len(firsts), -1), logged.sessions[firsts]).reshape(
        len(by_session_moments), *began.shape[1:]
    )
    count = by_session(np.ones((len(firsts), 1)), logged.sessions[firsts])[:, 0]
    gram, earned, gram_followed, earned_followed, cross = (
        np.stack(part) for part in zip(*by_session_moments, strict=True)
    )
    return Moments(gram, earned, gram_followed, earned_followed, cross, starts, count)


def coefficients(sums: Moments, discount: float) -> Series:
    """Return Q with 1 to `horizon` decisions to go, linear in the features of each action: (horizon, draws, d).

    With one decision to go all decisions count, with more only those that have a successor: the end of a session is
    known ahead, so it must not enter as a random end.
    """
    fitted = [_solve(sums.gram, sums.earned[:, :, None])[:, :, 0]]
    more = _solve(sums.gram_followed, np.append(sums.earned_followed[:, :, None], discount * sums.cross, axis=2))
    for _ in range(1, sums.starts.shape[1]):
        fitted.append(more[:, :, 0] + np.einsum("bij,bj->bi", more[:, :, 1:], fitted[-1]))
    return np.stack(fitted)


def fqe(moments: Moments, discount: float) -> tuple[Series, Figure]:
    """Fitted Q evaluation (Le, Voloshin & Yue 2019), linear, refitted in each resample: sums, and the figure."""

    def figure(sums: Series) -> Series:
        resampled = moments.of_sums(sums)
        return np.asarray(
            np.einsum("bhd,hbd->b", resampled.starts, coefficients(resampled, discount)) / resampled.episodes
        )

    return moments.flat(), figure


def _solve(gram: Series, right: Series) -> Series:
    """Solve the normal equations of each draw, with a ridge."""
    diagonal = np.einsum("bii->bi", gram).mean(axis=1)
    ridge = (RIDGE * diagonal + np.finfo(np.float64).tiny)[:, None, None] * np.eye(gram.shape[1])
    return np.asarray(np.linalg.solve(gram + ridge, right))


# --- doubly robust ----------------------------------------------------------------------------------------------------


def doubly_robust(
    logged: Logged, target: Series, episodes: EpisodeRows, moments: Moments, discount: float
) -> tuple[Series, Figure]:
    """Weighted doubly robust (Jiang & Li 2016, Thomas & Brunskill 2016): sums by session, and the figure.

    Q is fitted on the sessions of the other folds.
    """
    values, action_values = _cross_fitted(logged, target, episodes, moments, discount)
    return corrected(logged, target, episodes, values, action_values, discount)


def corrected(
    logged: Logged, target: Series, episodes: EpisodeRows, values: Series, action_values: Series, discount: float
) -> tuple[Series, Figure]:
    """Correct given values of the states, and Q of the actions taken, (m, horizon) each, by weighted rewards."""
    weight = weights(logged, target, episodes)
    previous_weight = np.append(np.ones((len(weight), 1)), weight[:, :-1], axis=1)
    rewards, inside = logged.rewards[episodes.rows], episodes.inside
    columns = [
        weight * np.where(inside, rewards - action_values, 0.0),
        weight,
        previous_weight * np.where(inside, values, 0.0),
        previous_weight,
    ]
    parts = by_session(np.concatenate(columns, axis=1), logged.sessions[episodes.rows[:, 0]])
    powers = discount ** np.arange(weight.shape[1])

    def figure(sums: Series) -> Series:
        missed, weighed, expected, weighed_before = np.split(sums, 4, axis=1)
        return (_ratio(missed, weighed) + _ratio(expected, weighed_before)) @ powers

    return parts, figure


def _cross_fitted(
    logged: Logged, target: Series, episodes: EpisodeRows, moments: Moments, discount: float
) -> tuple[Series, Series]:
    """Return V of each decision and Q of its action, (m, horizon), by the coefficients of the other folds."""
    count, inside = len(moments.episodes), episodes.inside
    fold = np.arange(count) % min(FOLDS, count)
    flat = moments.flat()
    without_fold = np.stack([flat[fold != nth].sum(axis=0) for nth in range(fold.max() + 1)])
    fitted = coefficients(moments.of_sums(without_fold), discount)
    number = np.unique(logged.sessions, return_inverse=True)[1][episodes.rows[:, 0]]
    to_go = np.where(inside, inside.sum(axis=1)[:, None] - np.arange(inside.shape[1]), 1)
    row_coefficients = fitted[to_go - 1, fold[number][:, None]].reshape(*inside.shape, target.shape[1], -1)
    q = np.einsum("mtaf,mtf->mta", row_coefficients, logged.features[episodes.rows])
    action_values = np.take_along_axis(q, logged.actions[episodes.rows][:, :, None], axis=2)[:, :, 0]
    return np.einsum("mta,mta->mt", q, target[episodes.rows]), action_values


def _pair_features(probabilities: Series, features: Series) -> Series:
    """Return each action's probability times the features, (n, actions x features)."""
    return np.asarray((probabilities[:, :, None] * features[:, None, :]).reshape(len(features), -1))


def _ratio(above: Series, below: Series) -> Series:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0.0)


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
