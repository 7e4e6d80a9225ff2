"""The off-policy figures of a version's card, from logged decisions of other versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.experience.experience import Experience
from training.evidence.off_policy import Logged, OffPolicy, evaluate
from training.evidence.statistics import Series

HOLD = 0
ACTIONS = 3
SESSION, LANE, PLACE, MODEL, ACTION, REWARD = range(6)
BEHAVIOUR = slice(6, 6 + ACTIONS)
FEATURES = slice(6 + ACTIONS, None)
"""Columns of a logged decision of one symbol: number of the session; place of the symbol; a number that grows by one
where the decision follows from the one before; number of the model; the action; its reward; the probabilities of the
actions; the newest row of features, those of the portfolio last."""


def rows_of(
    experience: Experience, rewards: Sequence[float], *, session: int, place: float, model: int, features: int
) -> list[list[float]]:
    """Return the rows of the log of one decision, one for each symbol.

    Args:
        rewards: one for each symbol.
        session, place, model: as in the columns above.
        features: how many of an observation's last numbers are its newest row of features.
    """
    state = np.frombuffer(experience.state, dtype="<f4").reshape(len(experience.chosen), -1)
    rows = []
    for lane, (chosen, reward) in enumerate(zip(experience.chosen, rewards, strict=True)):
        about = [float(session), float(lane), place, float(model), float(chosen.action), reward]
        rows.append([*about, *chosen.probabilities, *state[lane, state.shape[1] - features :].tolist()])
    return rows


def compare_with_champion(
    log: Series, values: Series, champion: int, *, portfolio: int, horizon: int, discount: float, seed: int = 0
) -> OffPolicy:
    """Compare a version with the champion on the decisions that the champion made.

    Both explore as the log does: the version swaps the champion's best action for its own. After an episode the
    champion continues.

    Args:
        log: float64 (n, columns), see above.
        values: float64 (n, actions), the version's Q values at these decisions.
        champion: its number in the log.
        portfolio: how many of the last columns describe the desk.
        horizon, discount: of an episode's value.
    """
    by_champion = log[:, MODEL] == champion
    log, values = log[by_champion], values[by_champion]
    if not len(log):
        return nothing_logged(horizon, discount, "no decision of the champion was logged since it was taken")
    order = np.lexsort((log[:, PLACE], log[:, LANE], log[:, SESSION]))
    log, values = log[order], values[order]
    behaviour = log[:, BEHAVIOUR] / log[:, BEHAVIOUR].sum(axis=1, keepdims=True)
    logged = Logged(
        sessions=log[:, SESSION].astype(np.intp),
        actions=log[:, ACTION].astype(np.intp),
        rewards=np.ascontiguousarray(log[:, REWARD]),
        behaviour=behaviour,
        features=_features(log[:, log.shape[1] - portfolio :], values, behaviour),
        ends=_ends(log),
    )
    return evaluate(logged, exchanged(behaviour, values), behaviour, horizon=horizon, discount=discount, seed=seed)


def nothing_logged(horizon: int, discount: float, reason: str) -> OffPolicy:
    """Return an empty evaluation with this reason."""
    return OffPolicy(
        decisions=0,
        sessions=0,
        episodes=0,
        horizon=horizon,
        discount=discount,
        exploration=0.0,
        overlap=0.0,
        effective=0.0,
        cannot_be_said=reason,
    )


def exchanged(behaviour: Series, values: Series) -> Series:
    """Return the behaviour probabilities for a policy with other Q values, float64 (n, actions).

    The best action by `values` and the likeliest one exchange their probabilities; a disallowed best action counts as
    HOLD.
    """
    nth, likeliest, best = np.arange(len(values)), behaviour.argmax(axis=1), values.argmax(axis=1)
    best = np.where(behaviour[nth, best] > 0.0, best, HOLD)
    probabilities = behaviour.copy()
    probabilities[nth, best], probabilities[nth, likeliest] = behaviour[nth, likeliest], behaviour[nth, best]
    return probabilities


def _ends(log: Series) -> NDArray[np.bool_]:
    """Return for each decision whether the next row does not follow from it."""
    places, lanes = log[:, PLACE], log[:, LANE]
    follows = (places[1:] == places[:-1] + 1) & (lanes[1:] == lanes[:-1])
    return np.append(~follows, True)


def _features(portfolio: Series, values: Series, behaviour: Series) -> Series:
    """Return the features for Q: a constant, the portfolio's columns, the version's advantages, the champion's choice.

    Each is standardised; one that does not change is left out.
    """
    likeliest = behaviour.argmax(axis=1)[:, None] == np.arange(1, ACTIONS)
    columns = np.concatenate([portfolio, values[:, 1:] - values[:, :1], likeliest], axis=1)
    spread = columns.std(axis=0)
    moving = spread > 1e-9 * np.abs(columns).max(axis=0, initial=0.0)
    columns = (columns[:, moving] - columns[:, moving].mean(axis=0)) / spread[moving]
    return np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
