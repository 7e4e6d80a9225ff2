"""Candidate versions: taken from the learner at a session's end, judged on later sessions, then published.

A version never learned from the sessions of its card. The candidates depend on the order of experience alone and are
part of the trainer's checkpoint, so a killed trainer publishes the same versions.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from daemon.experience.experience import Experience
from training.evidence.off_policy import OffPolicy
from training.evidence.statistics import Series
from training.export.reference import Watched
from training.online.judging import FEATURES, MODEL, compare_with_champion, rows_of
from training.rl.dqn.networks import QNetwork


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a version: its newest session, and its range of rows of the stream."""

    session: str
    stream: str
    rows: tuple[int, int]


@dataclass(slots=True)
class Candidate:
    """Weights that wait for their card. `begin` is its first row of the log, `seen` the sessions since it was taken."""

    network: QNetwork
    origin: Origin
    begin: int
    seen: int = 0
    values: list[list[float]] = field(default_factory=list)  # Q values at each row of the log from `begin` on


class Publish(Protocol):
    """Puts a version into the store; False: not now, try again at the next session's end."""

    def __call__(self, network: QNetwork, result: OffPolicy, origin: Origin, parent: str, watched: Watched) -> bool: ...


class Candidates:
    """The `Watcher` of a trainer whose learner owns `network`."""

    def __init__(
        self,
        network: QNetwork,
        publish: Publish,
        *,
        every: int,
        sessions: int,
        horizon: int,
        discount: float,
        features: int,
        portfolio: int,
    ) -> None:
        """Take a version every `every` sessions if the learner has changed, and publish it `sessions` sessions later.

        Args:
            horizon, discount: of the card's episodes.
            features: how many of an observation's last numbers are its newest row of features.
            portfolio: how many of these, the last ones, describe the portfolio.
        """
        self._network, self._publish = network, publish
        self._every, self._sessions = every, sessions
        self._horizon, self._discount = horizon, discount
        self._features, self._portfolio = features, portfolio
        self._waiting: list[Candidate] = []
        self._log: list[list[float]] = []
        self._models: list[str] = []  # by their numbers in the log
        self._stream, self._session = "", ""
        self._first_row = self._row = 0
        self._ended = 0  # sessions so far
        self._place = 0.0
        self._newest = weights_digest(network)  # digest of the version taken last, at first of the cold start's

    def look(
        self, experience: Experience, rewards: Sequence[float], *, stream: str, follows: bool, frozen: bool
    ) -> bool:
        """See a decision; returns whether a version was taken or published."""
        if stream != self._stream:
            self._stream, self._first_row = stream, experience.row
        moved = bool(self._session) and experience.session != self._session and self._session_ended(frozen=frozen)
        self._session, self._row = experience.session, experience.row
        self._note(experience, rewards, follows=follows)
        return (experience.terminal and self._session_ended(frozen=frozen)) or moved

    def state_dict(self) -> dict[str, Any]:
        """The part of the log that waiting versions need, and these versions."""
        return {
            "log": torch.tensor(self._log, dtype=torch.float64),
            "models": list(self._models),
            "stream": self._stream,
            "session": self._session,
            "rows": (self._first_row, self._row),
            "ended": self._ended,
            "place": self._place,
            "newest": self._newest,
            "waiting": [
                {
                    "network": copy.deepcopy(candidate.network.state_dict()),
                    "session": candidate.origin.session,
                    "stream": candidate.origin.stream,
                    "rows": candidate.origin.rows,
                    "begin": candidate.begin,
                    "seen": candidate.seen,
                    "values": torch.tensor(candidate.values, dtype=torch.float64),
                }
                for candidate in self._waiting
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._log, self._models = state["log"].tolist(), list(state["models"])
        self._stream, self._session = state["stream"], state["session"]
        self._first_row, self._row = state["rows"]
        self._ended, self._place, self._newest = state["ended"], state["place"], state["newest"]
        self._waiting = []
        for candidate in state["waiting"]:
            network = copy.deepcopy(self._network)
            network.load_state_dict(candidate["network"])
            origin = Origin(candidate["session"], candidate["stream"], tuple(candidate["rows"]))
            self._waiting.append(
                Candidate(network, origin, candidate["begin"], candidate["seen"], candidate["values"].tolist())
            )

    # --- one decision -------------------------------------------------------------------------------------------------

    def _note(self, experience: Experience, rewards: Sequence[float], *, follows: bool) -> None:
        """Log each symbol's decision, and the Q values of each waiting version for it."""
        if not self._waiting:
            return
        if experience.model not in self._models:
            self._models.append(experience.model)
        self._log += rows_of(
            experience,
            rewards,
            session=self._ended,
            place=self._place,
            model=self._models.index(experience.model),
            features=self._features,
        )
        state = np.frombuffer(experience.state, dtype="<f4").reshape(len(experience.chosen), -1)
        self._place += 1.0 if follows else 2.0
        for candidate in self._waiting:
            candidate.values.extend(_values(candidate.network, state))

    # --- a session's end ----------------------------------------------------------------------------------------------

    def _session_ended(self, *, frozen: bool) -> bool:
        """Count the session, publish versions that are due, and take a new one if due; True if any was due."""
        session, self._session = self._session, ""
        self._ended += 1
        for candidate in self._waiting:
            candidate.seen += 1
        if frozen:
            return False
        due = [candidate for candidate in self._waiting if candidate.seen >= self._sessions]
        for candidate in due:
            if self._judge(candidate):
                self._waiting.remove(candidate)
        digest = weights_digest(self._network)
        takes = self._ended % self._every == 0 and digest != self._newest
        if takes:
            self._newest = digest
            origin = Origin(session, self._stream, (self._first_row, self._row))
            self._waiting.append(Candidate(copy.deepcopy(self._network), origin, len(self._log)))
        self._forget()
        return bool(due) or takes

    def _judge(self, candidate: Candidate) -> bool:
        """Publish a version with its off-policy card; its parent is the version that answered last. False: not now."""
        log: Series = np.array(self._log[candidate.begin :], dtype=np.float64)
        values: Series = np.array(candidate.values, dtype=np.float64)
        answered = [number for number in log[:, MODEL].astype(int).tolist() if self._models[number]]
        champion = answered[-1] if answered else -1
        result = compare_with_champion(
            log, values, champion, portfolio=self._portfolio, horizon=self._horizon, discount=self._discount
        )
        watched = Watched(log[:, FEATURES].astype(np.float32), values.astype(np.float32))
        parent = self._models[champion] if answered else ""
        return self._publish(candidate.network, result, candidate.origin, parent, watched)

    def _forget(self) -> None:
        """Drop the part of the log that no waiting version needs."""
        first = min((candidate.begin for candidate in self._waiting), default=len(self._log))
        del self._log[:first]
        for candidate in self._waiting:
            candidate.begin -= first


def weights_digest(network: QNetwork) -> str:
    """Return the SHA-256 of all numbers of a network, as hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0" + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _values(network: QNetwork, state: np.ndarray[Any, Any]) -> list[list[float]]:
    values: list[list[float]] = network.values(network.prepare(torch.from_numpy(state.copy()))).tolist()
    return values
