"""Whether an actor counts as dead: its answers do not depend on the observation, or its critic explains nothing.

For all strategies: seeds that are averaged, agents of an ensemble, own policies. A dead actor is named in report and
manifest, and counts for nothing beside a living one: a seed is left out of the mean, an agent's weight is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evidence.wording import number
from training.study.study import Trial

STEADY = 0.01  # answers that deviate less over observations count as constant; as in the criterion `moved`


def why_dead(variation: float, explained: float | None = None) -> str:
    """The reason why an actor counts as dead; "" for a living one.

    Args:
        variation: deviation over observations of an action within [-1, 1], or of its probability.
        explained: explained variance of its critic, at most 1; None where it has none or nobody measured it.
    """
    reasons = []
    if variation < STEADY:
        reasons.append(f"its answers deviate by {number(variation, 4)} over what it sees (below {STEADY}: one answer)")
    if explained is not None and explained <= 0.0:
        reasons.append(f"its critic explains nothing (explained variance {number(explained, 3)})")
    return "; ".join(reasons)


def dead_trial(trial: Trial) -> str:
    """Why a trial's chosen checkpoint counts as dead; "" for a living one, or where it was not measured.

    An explained variance of exactly 0 means not measured.
    """
    learnt = trial.learnt
    return "" if learnt is None else why_dead(learnt.variation, learnt.explained_variance or None)


AT_A_BOUND = 0.999  # an action beyond counts as at its bound: there tanh has almost no gradient


def saturation_of(answers: NDArray[np.float32]) -> float:
    """The share of answers in [-1, 1] that are at a bound. A saturated actor may still distinguish observations."""
    return float((np.abs(answers) > AT_A_BOUND).mean()) if answers.size else 0.0


def variation_of(answers: NDArray[np.float32]) -> float:
    """The deviation over observations of answers (n, actions), the mean over actions; 0 of fewer than two."""
    return float(answers.astype(np.float64).std(axis=0).mean()) if len(answers) > 1 else 0.0


def with_weight(dead: Sequence[bool]) -> tuple[int, ...]:
    """Indices of the members that may have a weight: the living, or all where all are dead."""
    return tuple(place for place, is_dead in enumerate(dead) if not is_dead or all(dead))


def counted(weights: Sequence[float], dead: Sequence[bool]) -> bool:
    """Whether all members that may have no weight have weight 0."""
    return {place for place, weight in enumerate(weights) if weight > 0.0} <= {*with_weight(dead)}
