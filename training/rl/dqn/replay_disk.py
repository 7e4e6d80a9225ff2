"""A replay in a memory-mapped file: bounded, larger than memory, and whole after its process was killed.

The file holds transitions alone; their priorities, and which rows are valid, are part of the learner's state. A learner
that resumes from its last state finds the same transitions: rows written after that state lie in spare rows, which are
not drawn from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.rl.dqn.replay import ChoiceReplay, Choices, SumTree, row_widths

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
    """Make the file with all its space; a partial one is left under another name."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    partial.replace(path)
