"""Replay for discrete actions: n-step transitions in a ring buffer, drawn by priority; in memory or in a file.

`DiskReplay` is bounded, larger than memory, and whole after its process was killed. The file holds transitions alone;
their priorities, and which rows are valid, are part of the learner's state. A learner that resumes from its last state
finds the same transitions: rows written after that state lie in spare rows, which are not drawn from.

Knows no network and no loss. The sources are those of `training.rl.dqn.coefficients`.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.rl.off_policy.replay import Ring

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
SMALLEST = 1e-6
"""Added to an error, so that every transition is drawn at times: [4], section 3.3."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What DQN learns from. Observations are prepared."""

    observations: Tensor  # float32 (rows, inputs)
    following: Tensor  # float32 (rows, inputs): the observation after the last summed step, before any reset
    actions: Tensor  # int64 (rows,)
    rewards: Tensor  # float32 (rows,): the sum of the steps' rewards, each discounted
    discounts: Tensor  # float32 (rows,): discount of the value of `following`; 0 where the episode truly ended
    labels: Tensor  # float32 (rows, heads): what the heads should have answered, NaN where it is not known
    weights: Tensor | None = None  # float32 (rows,): importance, of those drawn by priority
    places: Tensor | None = None  # int64 (rows,): places in the replay of drawn rows


@dataclass(frozen=True, slots=True)
class OneStep:
    """A step of all environments."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    goes_on: Tensor  # float32: 0 at a true end, 1 else
    ended: Tensor  # bool: the episode ended here, truly or by a time limit
    labels: Tensor


def state_of(step: OneStep) -> dict[str, Tensor]:
    """The tensors of a step by name: `OneStep(**state_of(step))` is the step again."""
    return {field.name: getattr(step, field.name) for field in fields(step)}


class Returns:
    """Makes n-step transitions: sums rewards over `steps` steps of each environment, fewer where an episode ends."""

    def __init__(self, steps: int, discount: float) -> None:
        self._discount = discount
        self._window: deque[OneStep] = deque(maxlen=steps)

    def add(self, step: OneStep) -> Choices | None:
        """Add a step; return the transitions that began `steps` - 1 steps ago, None while there are fewer steps."""
        self._window.append(step)
        return self._oldest() if len(self._window) == self._window.maxlen else None

    def state_dict(self) -> dict[str, Any]:
        """The steps whose transitions are not complete yet."""
        return {"window": [state_of(step) for step in self._window]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._window.clear()
        self._window.extend(OneStep(**step) for step in state["window"])

    def _oldest(self) -> Choices:
        first = self._window[0]
        rewards, following, discounts = first.rewards, first.following, self._discount * first.goes_on
        goes_on = ~first.ended
        for index, step in enumerate(list(self._window)[1:], 1):
            rewards = torch.where(goes_on, rewards + self._discount**index * step.rewards, rewards)
            discounts = torch.where(goes_on, self._discount ** (index + 1) * step.goes_on, discounts)
            following = torch.where(goes_on.unsqueeze(1), step.following, following)
            goes_on = goes_on & ~step.ended
        return Choices(first.observations, following, first.actions, rewards, discounts, first.labels)


class SumTree:
    """Nonnegative numbers, with a search for the place at which their running sum passes a given value."""

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(0, size - 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._nodes[1])

    def __getitem__(self, places: Int64Array | slice) -> Float64Array:
        """The numbers at these places."""
        priorities: Float64Array = self._nodes[self._leaves :][places]
        return priorities

    def __setitem__(self, places: Int64Array, numbers: Float64Array) -> None:
        """Change the numbers at these places."""
        if len(places) == 1:  # without arrays, in a tenth of the time
            self._set_one(int(places[0]) + self._leaves, float(numbers[0]))
            return
        nodes, at, level = self._nodes, places + self._leaves, self._leaves
        nodes[at] = numbers
        while level > 1 and len(at) < level:  # above that, most of a level's sums change
            at, level = at >> 1, level >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]
        while level > 1:
            level >>= 1
            nodes[level : 2 * level] = nodes[2 * level : 4 * level : 2] + nodes[2 * level + 1 : 4 * level : 2]

    def find(self, sums: Float64Array) -> Int64Array:
        """The places at which the running sum passes each of `sums`, which are below the total; never one with 0."""
        at = np.ones(len(sums), dtype=np.int64)
        while at[0] < self._leaves:
            left = 2 * at
            right = (sums >= self._nodes[left]) & (self._nodes[left + 1] > 0.0)
            sums = np.where(right, sums - self._nodes[left], sums)
            at = left + right
        return at - self._leaves

    def _set_one(self, at: int, number: float) -> None:
        nodes = self._nodes
        nodes[at] = number
        while at > 1:
            at >>= 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]


def row_widths(inputs: int, heads: int) -> list[int]:
    """Widths of the groups of numbers that make up a row of `ChoiceReplay`."""
    return [inputs, inputs, 1, 1, 1, heads]


class ChoiceReplay(Ring):
    """The newest transitions; with a `priority` above 0 they are drawn in proportion to their last errors, [4]."""

    def __init__(
        self,
        capacity: int,
        environments: int,
        inputs: int,
        *,
        heads: int = 0,
        priority: float = 0.0,
        device: torch.device | str = "cpu",
        memory: Tensor | None = None,
    ) -> None:
        """Take the memory, as `Ring` does."""
        super().__init__(capacity, environments, row_widths(inputs, heads), device, memory)
        self._priority = priority
        self._tree = SumTree(self._rows.shape[0]) if priority else None
        self._largest = 1.0

    def add(self, choices: Choices) -> None:
        """Keep one transition of each environment, with the highest priority so far."""
        c = choices
        columns = (c.actions.to(c.rewards.dtype), c.rewards, c.discounts)
        first = self.write((c.observations, c.following, *(column.unsqueeze(1) for column in columns), c.labels))
        if self._tree is None:
            return
        places, rows = np.arange(first, first + len(c.actions)), self._rows.shape[0]
        if rows > self._capacity:
            self._tree[(places - self._capacity) % rows] = np.zeros(len(places))  # kept no more
        self._tree[places] = np.full(len(places), self._largest)

    def sample(self, count: int, generator: torch.Generator, importance: float = 1.0) -> Choices:
        """Draw `count` transitions with replacement.

        Args:
            importance: beta: weights are (rows x probability)^-beta, over the batch's largest: [4], section 3.4.
        """
        if self._tree is None:
            ages = torch.randint(self.size, (count,), generator=generator, device=self._rows.device)
            places = (self._next - 1 - ages) % self._rows.shape[0]
            return self.at(places)
        numbers = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()
        indices = self._tree.find((np.arange(count) + numbers) / count * self._tree.total)  # stratified
        weights = (self.size * self._tree[indices] / self._tree.total) ** -importance
        places = torch.from_numpy(indices).to(self._rows.device)
        return self.at(places, torch.from_numpy((weights / weights.max()).astype(np.float32)).to(self._rows.device))

    def reprioritise(self, places: Tensor, errors: Tensor) -> None:
        """Remember the temporal-difference errors of drawn transitions."""
        if self._tree is None:
            return
        sizes = errors.detach().abs().double().cpu().numpy()
        priorities = (sizes + SMALLEST) ** self._priority
        if np.isfinite(priorities).all():  # the learner's guard reports errors that are not finite
            self._tree[places.cpu().numpy()] = priorities
            self._largest = max(self._largest, float(priorities.max()))

    def state_dict(self) -> dict[str, Any]:
        """The transitions that are there, where the next ones go, and the priorities."""
        state = super().state_dict() | {"largest": self._largest}
        return state if self._tree is None else state | {"priorities": torch.from_numpy(self._tree[: self.size].copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Ring`'s."""
        super().load_state_dict(state)
        self._largest = state["largest"]
        if self._tree is not None and self.size:
            self._tree = SumTree(self._rows.shape[0])
            self._tree[np.arange(self.size)] = state["priorities"].numpy()

    def all(self) -> Choices:
        """All transitions, the newest first."""
        places = (self._next - 1 - torch.arange(self.size, device=self._rows.device)) % self._rows.shape[0]
        return replace(self.at(places), places=None)

    def at(self, places: Tensor, weights: Tensor | None = None) -> Choices:
        """The transitions at these places, with these weights."""
        observations, following, actions, rewards, discounts, labels = self.read(places)
        return Choices(
            observations,
            following,
            actions.squeeze(1).long(),
            rewards.squeeze(1),
            discounts.squeeze(1),
            labels,
            weights,
            places,
        )


NUMBER_BYTES = 4


class DiskReplay(ChoiceReplay):
    """The last transitions of one series, in a file."""

    def __init__(
        self, path: Path, capacity: int, inputs: int, *, spare: int, heads: int = 0, priority: float = 0.0
    ) -> None:
        """Open the file, or create it at its full size, so that a full disk fails here.

        Args:
            capacity: transitions that are drawn from; the oldest are replaced.
            spare: transitions that may be added between two states.

        Raises:
            ValueError: the file is of other settings.
            OSError: it cannot be made, for want of space for example.
        """
        rows, width = capacity + spare, sum(row_widths(inputs, heads))
        expected_bytes = rows * width * NUMBER_BYTES
        if not path.exists():
            _make(path, expected_bytes)
        file_bytes = path.stat().st_size
        if file_bytes != expected_bytes:
            raise ValueError(
                f"{path} has {file_bytes} bytes: expected {expected_bytes}, {rows} rows of {width} numbers: use the "
                "settings it was made with and its whole file, or begin anew with an empty folder"
            )
        self._file = np.memmap(path, dtype="<f4", mode="r+", shape=(rows, width))
        memory = torch.from_numpy(self._file)
        super().__init__(capacity, 1, inputs, heads=heads, priority=priority, memory=memory)
        self._tree = SumTree(rows) if priority else None
        self._spare, self._since = spare, 0

    def add(self, choices: Choices) -> None:
        """Keep a transition.

        Raises:
            RuntimeError: more than `spare` additions since the last state, which could then not be resumed from.
        """
        if self._since == self._spare:
            raise RuntimeError(
                f"{self._spare} transitions were added since the last state: take a state before the next"
            )
        self._since += 1
        super().add(choices)

    def state_dict(self) -> dict[str, Any]:
        """Which rows are valid, and their priorities. The rows stay in the file, which is flushed first."""
        self._file.flush()
        self._since = 0
        state = {"size": self.size, "next": self._next, "largest": self._largest}
        return state if self._tree is None else state | {"priorities": torch.from_numpy(self._tree[:].copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, the last one that was taken of this file.

        Raises:
            ValueError: it is of more rows than there are.
        """
        rows = len(self._rows)
        if state["size"] > self._capacity or state["next"] >= rows:
            raise ValueError(f"the state is of {state['size']} transitions up to row {state['next']}, of {rows} here")
        self.size, self._next, self._largest = state["size"], state["next"], state["largest"]
        self._since = 0
        if self._tree is not None:
            priorities = state["priorities"].numpy()[:rows]
            self._tree = SumTree(rows)
            self._tree[np.arange(rows)] = priorities


def _make(path: Path, size: int) -> None:
    """Make the file with all its space; a killed one leaves it under another name, and a failed one leaves nothing.

    Raises:
        OSError: the disk is full or not writable; `filename` is `path`.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        room = f"{error.strerror}: {size:,} bytes are needed" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(error.errno, room, str(path)) from error
