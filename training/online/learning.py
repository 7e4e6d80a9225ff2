"""What the trainer asks of a learner."""

from __future__ import annotations

from typing import Any, Protocol

from strategies.kit.contract import Float32Array


class Learner(Protocol):
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
    ) -> None:
        """Keep a transition of a lane (a symbol).

        `ended`: the lane's next one does not follow from this. `goes_on`: what follows has a value.
        """

    def learn(self) -> dict[str, float]:
        """Make the updates that are due by its own counts, none by time; their figures, empty where none was."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next weights depend on, generators too: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
