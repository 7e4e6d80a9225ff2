"""A pool of work buffers, allocated once for each shape and reused by later runs.

Nothing is computed here. Invariant: a workspace belongs to one run until that run gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch


class Room(Protocol):
    """What a pool holds."""

    @property
    def bytes(self) -> int:
        """How much memory it takes."""


Shape = TypeVar("Shape", bound=Hashable)
Made = TypeVar("Made", bound=Room)


class Pool(Generic[Shape, Made]):
    """Workspaces that no run holds at the moment."""

    def __init__(self, make: Callable[[Shape], Made]) -> None:
        self._make = make
        self._free: list[tuple[Shape, Made]] = []

    def take(self, shape: Shape) -> Made:
        """A workspace of this shape, filled with whatever was left there; it is the caller's until `give_back`."""
        for index in range(len(self._free) - 1, -1, -1):
            if self._free[index][0] == shape:
                return self._free.pop(index)[1]
        with torch.inference_mode(mode=False):  # whose tensors could not be written to elsewhere
            return self._make(shape)

    def give_back(self, shape: Shape, workspace: Made, most_bytes: int) -> None:
        """Keep a workspace for the next run, and let go of the oldest ones beyond `most_bytes`."""
        self._free.append((shape, workspace))
        while sum(free.bytes for _, free in self._free) > most_bytes:
            del self._free[0]
