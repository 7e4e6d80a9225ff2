"""What the trainer asks of a learner, and of one who watches it learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from daemon.experience.experience import Experience
from strategies.kit.contract import Float32Array


class Part(Protocol):
    """Something whose state belongs to the trainer's checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """All that what follows depends on, generators too: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class Learner(Part, Protocol):
    """Takes transitions one at a time, in the stream's order. What it becomes depends on them and on its seed alone."""

    def take(
        self,
        lane: int,
        observation: Float32Array,
        action: int,
        reward: float,
        following: Float32Array,
        *,
        ended: bool,
        goes_on: bool,
        labels: Sequence[float] = (),
    ) -> None:
        """Keep a transition of a lane (a symbol).

        `ended`: the lane's next one does not follow from this. `goes_on`: what follows has a value. `labels`: what each
        head should have answered, NaN where it is not known.
        """

    def learn(self) -> dict[str, float]:
        """Make the updates that are due by its own counts, none by time; their figures, empty where none was."""


class Watcher(Part, Protocol):
    """Sees each decision after the learner took it, once as far as checkpoints go."""

    def look(
        self, experience: Experience, rewards: Sequence[float], *, stream: str, follows: bool, frozen: bool
    ) -> bool:
        """See a decision with the reward of each row; returns whether a checkpoint should be written now.

        `follows`: the next decision of the same session was given too. `frozen`: nothing was learned from it.
        """
