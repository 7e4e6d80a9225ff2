"""What a decision chose, and by which probabilities, as its step records it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from daemon.core.records import ChoiceRow, DecisionRow
from daemon.experience.experience import Chosen
from strategies.kit.contract import Spec

UNANSWERED = frozenset(("failed", "expired"))  # outcomes of a question without an answer: the desk holds
DENIED = "denied"
HOLD = 0


def chosen(spec: Spec, row: DecisionRow, choices: Sequence[ChoiceRow]) -> tuple[Chosen, ...]:
    """Return the choice of each row of the batch; a question without an answer, or denied, chose to hold, surely."""
    if choices and row.outcome != DENIED:
        return tuple(
            Chosen(
                spec.actions.index(choice.drawn),
                spec.actions.index(choice.greedy),
                msgspec.json.decode(choice.behaviour, type=tuple[float, ...]),
            )
            for choice in choices
        )
    if row.outcome in UNANSWERED or row.probabilities is None or row.action is None:
        sure = tuple(float(index == HOLD) for index in range(len(spec.actions)))
        return (Chosen(HOLD, HOLD, sure),) * spec.rows
    probabilities = msgspec.json.decode(row.probabilities, type=tuple[float, ...])
    greedy = max(range(len(probabilities)), key=probabilities.__getitem__)
    return (Chosen(spec.actions.index(row.action), greedy, probabilities),)
