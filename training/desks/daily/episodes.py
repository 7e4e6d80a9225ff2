"""Episodes of many accounts on one daily history: where each begins and ends, and their state as plain tensors.

The markets define accounts, observations and trades. Nothing here waits for a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from training.rl.draws import uniform
from training.rl.protocols import Step

_SPAN = ("_first", "_last")


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """The number of accounts, and the sessions (indices into the table) of their episodes."""

    first: int
    last: int
    count: int
    seed: int
    device: torch.device | str
    episode: int | None  # sessions at most; None: to the last one
    draws: bool  # False: every episode begins at the first session
    whole: bool = False  # begin only where `episode` sessions are left, if the span has as many


class Episodes(ABC):
    """`count` accounts that decide once a session. Their tensors have a row for each account.

    A session to begin with is drawn from the seed, the account's place and the number of its episodes alone. The end
    of an episode is a time limit. `CHANGING` names the tensors that a step changes.
    """

    CHANGING: ClassVar[tuple[str, ...]]

    def __init__(self, course: EpisodePlan) -> None:
        self.device = torch.device(course.device)
        self._looks = self.device.type == "cpu"  # on a CPU the code may look at a result without waiting
        self._course = course
        self._first, self._last, self._count, self._seed = course.first, course.last, course.count, course.seed
        self._everyone = torch.arange(course.count, device=self.device)

    def _begin_episodes(self) -> None:
        self._age = torch.zeros_like(self._everyone)  # sessions of this episode so far
        self._episode = torch.zeros_like(self._everyone)
        self._day = self._starts()  # row of the tables

    def _table(self, values: np.ndarray[Any, Any]) -> Tensor:
        """The same values as a tensor of this device, contiguous."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    @abstractmethod
    def observe(self) -> Tensor:
        """Raw observations, float32 (n, columns), a new tensor."""

    @abstractmethod
    def _open_again(self, over: Tensor) -> None:
        """Open new accounts where `over` is true; the others stay."""

    @property
    def day(self) -> Tensor:
        """The session (index into the table) before whose open each account decides, int64 (n,)."""
        day: Tensor = self._day + self._first
        return day

    def _next_day(self) -> None:
        self._day, self._age = self._day + 1, self._age + 1

    def _stepped(self, rewards: Tensor) -> Step:
        """The step's result; accounts whose episode is over begin a new one."""
        over = self._day > self._last - self._first
        if self._course.episode is not None:
            over |= self._age >= self._course.episode
        terminals = torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
        if self._looks and not bool(over.any()):
            return Step(rewards, terminals)
        observations = self.observe()
        self._episode = self._episode + over
        self._age = self._age.masked_fill(over, 0)
        self._day = torch.where(over, self._starts(), self._day)
        self._open_again(over)
        return Step(rewards, terminals, over.repeat_interleave(len(rewards) // self._count), observations)

    def begin_again(self) -> None:
        """Open new accounts everywhere, before the next session."""
        self._age = torch.zeros_like(self._age)
        self._open_again(torch.ones_like(self._age, dtype=torch.bool))

    def _starts(self) -> Tensor:
        """The row at which each account's present episode begins, int64 (n,)."""
        if not self._course.draws:
            return torch.zeros_like(self._episode)
        rows = self._last - self._first + 1
        if self._course.whole and self._course.episode is not None:
            rows = max(rows - self._course.episode + 1, 1)
        return (uniform(self._seed, 0, self._everyone, self._episode) * rows).floor().to(torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """All state that the next steps depend on, apart from the arguments of the constructor; tensors are copies."""
        state = {name.strip("_"): getattr(self, name).clone() for name in self.CHANGING}
        return state | {name.strip("_"): getattr(self, name) for name in ("_seed", *_SPAN)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` of a market with the same arguments, on whatever device.

        Raises:
            ValueError: the state is of another number of environments or another span.
        """
        expected = {"environments": self._count, **{name.strip("_"): getattr(self, name) for name in _SPAN}}
        rows = state[self.CHANGING[0].strip("_")].shape[0]
        given_state = {"environments": rows, **{name.strip("_"): state[name.strip("_")] for name in _SPAN}}
        if expected != given_state:
            raise ValueError(
                f"the market's state is of {given_state}, this one has {expected}: give the same file and count"
            )
        self._seed = int(state["seed"])
        for name in self.CHANGING:
            setattr(self, name, state[name.strip("_")].to(self.device, copy=True))
