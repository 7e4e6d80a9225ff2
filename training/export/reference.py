"""Reference distributions: the inputs and answers of a policy on its training sessions.

Every number comes from one play of the training sessions by the policy itself. The strategy
chooses which inputs are compared (`training.desks.kind.TrainingKind.inputs`): not raw prices and money, whose level
never comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from strategies.kit.contract import Float32Array, Spec
from strategies.kit.manifest import Reference
from strategies.kit.reference import histogram


class Input(NamedTuple):
    """A quantity to compare: the columns of the recorded row (the newest of a window) whose values are pooled."""

    name: str
    columns: tuple[int, ...]
    of_the_desk: bool = False  # it depends on the policy's own actions


class Watched(NamedTuple):
    """One play in the order of time: recorded rows, float32 (n, columns), and raw answers, float32 (n, actions)."""

    rows: Float32Array
    answers: Float32Array


def each_column(spec: Spec, columns: range, of_the_desk: Sequence[str] = ()) -> tuple[Input, ...]:
    """One input for each column, named after its feature.

    Names that start with one of `of_the_desk` follow from the policy's own actions.
    """
    names = [(column, spec.features[column]) for column in columns]
    return tuple(Input(name, (column,), name.startswith(tuple(of_the_desk))) for column, name in names)


def reference_of(inputs: Sequence[Input], watched: Watched, spec: Spec) -> Reference:
    """The distributions of the inputs and of the chosen actions, or of a continuous policy's values."""
    rows, answers = watched.rows, watched.answers
    if spec.continuous:
        actions = histogram("actions", answers)
    else:
        borders = [number + 0.5 for number in range(len(spec.actions) - 1)]
        actions = histogram("actions", answers.argmax(axis=1)[:, None], edges=borders)
    features = [
        histogram(name, rows[:, list(columns)], columns=columns, of_the_desk=of_the_desk)
        for name, columns, of_the_desk in inputs
    ]
    return Reference(len(rows), tuple(features), actions)


class AnswerRecorder:
    """Records a policy's observations and answers, in their order."""

    def __init__(self) -> None:
        self._rows: list[Float32Array] = []
        self._answers: list[Float32Array] = []

    def before(self, policy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The policy, from observations to answers, with recording."""

        def recorded(observations: Tensor) -> Tensor:
            answers = policy(observations)
            self.keep(observations, answers)
            return answers

        return recorded

    def keep(self, observations: Tensor, answers: Tensor) -> None:
        """Keep the newest row of each observation, (n, ..., columns), and its answer, (n, actions)."""
        newest = observations.reshape(len(observations), -1, observations.shape[-1])[:, -1]
        self._rows.append(newest.cpu().numpy().copy())
        self._answers.append(answers.detach().cpu().numpy().copy())

    def watched(self) -> Watched:
        """The rows and answers of all questions, in their order."""
        return Watched(np.concatenate(self._rows), np.concatenate(self._answers))
