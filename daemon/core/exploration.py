"""Exploration: which action a policy takes among those that are allowed, stated and replayable.

A draw depends on journal epoch, decision and place alone, so a replay draws the same. Nothing here keeps a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import fsum

from numpy.random import Philox

from daemon.core.limits import Exploration
from strategies.kit.sampling import softmax


def behaviour(values: Sequence[float], greedy: int, allowed: Sequence[bool], rules: Exploration) -> tuple[float, ...]:
    """Return the probability of each action, 0 for one that is not allowed.

    Args:
        values: of each action.
        greedy: the action with the largest value; where it is not allowed the first one stands for it.
        allowed: by action; the first one, which holds, always is.
        rules: `epsilon` is spread over the allowed actions, the rest is the greedy one's; `softmax` is that of the
            allowed values divided by the temperature.
    """
    best = greedy if allowed[greedy] else 0
    count = len(values)
    if rules.kind == "softmax":
        places = [place for place in range(count) if allowed[place]]
        shares = dict(zip(places, softmax([values[place] for place in places], rules.temperature), strict=True))
        return tuple([shares.get(place, 0.0) for place in range(count)])
    epsilon = rules.epsilon if rules.kind == "epsilon" else 0.0
    share = epsilon / sum(allowed)
    return tuple(
        [(share if allowed[place] else 0.0) + (1.0 - epsilon if place == best else 0.0) for place in range(count)]
    )


def draw(epoch: str, decision: int, place: int, probabilities: Sequence[float]) -> int:
    """Return the action that is drawn for a symbol at a decision.

    Args:
        epoch: of the journal.
        decision: its number.
        place: of the symbol in the spec's order.
        probabilities: of the actions; they sum to 1 but for rounding.
    """
    key = int.from_bytes(sha256(f"{epoch}|{decision}|{place}".encode()).digest()[:16], "little")
    point = (Philox(key=key).random_raw() >> 11) * 2.0**-53  # in [0, 1)
    for action, _ in enumerate(probabilities):
        if point < fsum(probabilities[: action + 1]):
            return action
    return max(range(len(probabilities)), key=probabilities.__getitem__)  # the sum was rounded below the point
