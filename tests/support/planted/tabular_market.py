"""A market of four states whose values are known: a signal that is low or high, and shares held or not.

The signal walks by itself. Who holds after the action earns the signal's drift, a shock of the session that all its
decisions share, and noise; an order costs. Values follow from the probabilities by exact recursion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evidence.off_policy import Logged

Floats = NDArray[np.float64]

HOLD, BUY, SELL = range(3)
SIGNALS, STATES, ACTIONS = 2, 4, 3  # state = 2 x held + signal
DRIFT = np.array([-0.2, 1.0])
SHOCK = 0.3


@dataclass(frozen=True)
class TabularMarket:
    """`sessions` of `decisions` each, logged by the champion's actions with exploration `epsilon`.

    The signal stays with probability `stays`. With 0.95 and a cost of 2.5 a purchase pays off long after two decisions.
    """

    sessions: int = 40
    decisions: int = 60
    epsilon: float = 0.3
    stays: float = 0.8
    cost: float = 0.3
    noise: float = 1.0  # of each decision; the shock of a session is 0.3 of it

    @property
    def champion(self) -> Floats:
        """Probabilities of the actions by state: buys on the high signal, sells on the low one."""
        return _greedy([HOLD, BUY, SELL, HOLD])

    @property
    def challenger(self) -> Floats:
        """Keeps its shares on the low signal: worth more, because selling and buying again costs more than it loses."""
        return _greedy([HOLD, BUY, HOLD, HOLD])

    @property
    def idle(self) -> Floats:
        """Never buys, and sells as the champion does."""
        return _greedy([HOLD, HOLD, SELL, HOLD])

    @property
    def walk(self) -> Floats:
        return np.array([[self.stays, 1.0 - self.stays], [1.0 - self.stays, self.stays]])

    @property
    def behaviour(self) -> Floats:
        return self.explored(self.champion)

    def explored(self, policy: Floats) -> Floats:
        """The policy, exploring as the log does."""
        return (1.0 - self.epsilon) * policy + self.epsilon / ACTIONS

    def value(self, policy: Floats, horizon: int, discount: float = 1.0) -> float:
        """Return the mean value of the log's episodes under the policy and then the log's behaviour, exactly."""
        moves, _ = transitions(self)
        logged = self.to_go(self.behaviour, np.zeros(STATES), self.decisions, discount)
        at = np.zeros(STATES)
        at[:SIGNALS] = 1.0 / SIGNALS  # a session begins flat
        step = np.einsum("sa,sat->st", self.behaviour, moves)
        total, episodes = 0.0, range(0, self.decisions, horizon)
        for start in episodes:
            left = self.decisions - start
            length = min(horizon, left)
            total += float(at @ self.to_go(policy, logged[left - length], length, discount)[-1])
            at = at @ np.linalg.matrix_power(step, horizon)
        return total / len(episodes)

    def to_go(self, policy: Floats, end: Floats, decisions: int, discount: float = 1.0) -> list[Floats]:
        """Return the values of the states, (states,), with 0 to `decisions` to go; with 0 it is `end`."""
        moves, pays = transitions(self)
        values = [end]
        for _ in range(decisions):
            values.append((policy * (pays + discount * moves @ values[-1])).sum(axis=1))
        return values

    def session(self, policy: Floats) -> float:
        """Return what a whole session of the policy earns, exactly, without discount."""
        return float(self.to_go(policy, np.zeros(STATES), self.decisions)[-1][:SIGNALS].mean())

    def log(self, random: np.random.Generator) -> tuple[Logged, NDArray[np.intp]]:
        """Return the decisions of one draw of all sessions, and the state of each."""
        count, signal = self.sessions, random.integers(SIGNALS, size=self.sessions)
        held, shock = np.zeros(count, dtype=np.intp), random.normal(0.0, SHOCK * self.noise, count)
        states, taken, earned = (np.zeros((count, self.decisions), dtype=kind) for kind in (np.intp, np.intp, float))
        edges, walk = np.cumsum(self.behaviour, axis=1), np.cumsum(self.walk, axis=1)
        for nth in range(self.decisions):
            state = SIGNALS * held + signal
            action = (random.random(count)[:, None] > edges[state]).sum(axis=1)
            after = _after(held, action)
            states[:, nth], taken[:, nth] = state, action
            earned[:, nth] = after * (DRIFT[signal] + shock + self.noise * random.normal(size=count)) - self.cost * (
                after != held
            )
            held, signal = after, (random.random(count)[:, None] > walk[signal]).sum(axis=1)
        flat = states.ravel()
        logged = Logged(
            sessions=np.repeat(np.arange(count), self.decisions),
            actions=taken.ravel(),
            rewards=earned.ravel(),
            behaviour=self.behaviour[flat],
            features=np.eye(STATES)[flat],
            ends=np.zeros(flat.size, dtype=np.bool_),
        )
        return logged, flat


def transitions(market: TabularMarket) -> tuple[Floats, Floats]:
    """Return the probabilities of the next state, (states, actions, states), and the mean rewards."""
    moves, pays = np.zeros((STATES, ACTIONS, STATES)), np.zeros((STATES, ACTIONS))
    for state in range(STATES):
        held, signal = divmod(state, SIGNALS)
        for action in range(ACTIONS):
            after = int(_after(np.array([held]), np.array([action]))[0])
            moves[state, action, SIGNALS * after : SIGNALS * after + SIGNALS] = market.walk[signal]
            pays[state, action] = after * DRIFT[signal] - market.cost * (after != held)
    return moves, pays


def _after(held: NDArray[np.intp], action: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.where(action == BUY, 1, np.where(action == SELL, 0, held))


def _greedy(actions: list[int]) -> Floats:
    return np.eye(ACTIONS)[actions]
