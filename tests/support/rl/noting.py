"""A learner that notes what it was given, and versions of it that were made by hand.

The network moves a little with each update, so that a version is taken; what is published trades as the momentum policy
does. Nothing here computes an expected value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from daemon.experience.experience import Experience
from strategies.kit.card import Card
from strategies.kit.contract import AnyStrategy, Float32Array
from tests.support.models.climbing import vouch
from tests.support.models.online_models import NAME, put_momentum
from training.evidence.off_policy import OffPolicy
from training.export.reference import Watched
from training.online.candidates import Candidates, Origin
from training.rl.dqn.networks import QNetwork

Taken = list[Any]  # lane, action, digest of the observation
HORIZON, DISCOUNT = 2, 0.9
NUDGE = 1e-4


class Noting:
    """A learner that notes what it was given, of observations with so many numbers."""

    def __init__(self, numbers: int) -> None:
        self.taken: list[Taken] = []
        self.network = QNetwork(numbers, (4, 4), actions=3, seed=0)

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
        """Note it."""
        self.taken.append([lane, action, _digest(observation)])

    @torch.no_grad()
    def learn(self) -> dict[str, float]:
        """Move the network by a little."""
        next(self.network.parameters()).add_(NUDGE)
        return {"loss": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """All that was noted, and the network."""
        return {"taken": [list(item) for item in self.taken], "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.taken = [list(item) for item in state["taken"]]
        self.network.load_state_dict(state["network"])


class ByHand:
    """Publishes momentum policies. `cards` has the card of each by the session after which it was taken; no others."""

    def __init__(self, store: Path, maker: AnyStrategy, cards: Mapping[str, Card]) -> None:
        self._store, self._maker, self._cards = store, maker, cards

    def __call__(self, network: QNetwork, result: OffPolicy, origin: Origin, parent: str, watched: Watched) -> bool:
        """Put it into the store, where it may be already: its trainer was killed before the checkpoint."""
        card, version = self._cards.get(origin.session), f"after-{origin.session}"
        folder = self._store / NAME / version
        if card is not None and not folder.exists():
            put_momentum(self._store, self._maker, slope=0.5, version=version, current=False)
            vouch(folder, replace(card, version=version, parent=parent, stream=origin.stream))
        return True


def candidates_of(learner: Noting, publish: ByHand, maker: AnyStrategy, *, every: int, sessions: int) -> Candidates:
    """The watcher of a trainer with this learner."""
    spec: Any = maker.spec
    return Candidates(
        learner.network,
        publish,
        every=every,
        sessions=sessions,
        horizon=HORIZON,
        discount=DISCOUNT,
        features=len(spec.features),
        portfolio=5,
    )


def takes(experience: Experience) -> list[Taken]:
    """What the learner is to be given of one experience."""
    states = np.frombuffer(experience.state, dtype="<f4").reshape(len(experience.chosen), -1)
    return [[lane, chosen.action, _digest(states[lane])] for lane, chosen in enumerate(experience.chosen)]


def _digest(observation: Float32Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(observation, dtype="<f4").tobytes(), digest_size=8).hexdigest()
