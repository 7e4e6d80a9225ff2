"""Processes of one machine that meet: average numbers, hear one word, bring bytes together; all over shared memory.

Each writes into a place of its own, says that it is there by counting a round on, and waits until all have. Places are
used in turn, so nobody overwrites what another may still read. Sums run in the order of the ranks: the same every time.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

EAGER = 2_000  # looks, each after giving the processor away, before a waiting process begins to sleep
NAP_S = 0.0002
LOOK_AFTER_S = 0.25  # how often a waiting process asks whether the others are still there
WORD_BYTES = 8


class LeftError(RuntimeError):
    """Another process left before the meeting."""


class Exchange:
    """One process's part. All of `size` processes make one with the same folder, which lies in memory at best."""

    def __init__(self, folder: Path, rank: int, size: int, gone: Callable[[], bool] = lambda: False) -> None:
        """Join.

        Args:
            folder: empty before the first joins; removed by whoever made it.
            gone: asked while waiting; true when a process that this one waits for has ended.
        """
        self.rank = rank
        self.size = size
        self._folder = folder
        self._gone = gone
        self._round = 0
        shared = _shared(folder / "words", 4 * size * WORD_BYTES)
        self._words = memoryview(shared).cast("q")  # each rank's round, then its word, twice, then whether it left
        self._places: Tensor | None = None  # float32 (2, size, numbers)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor by its mean over the processes, in place; everybody brings the same shapes."""
        total = sum(tensor.numel() for tensor in tensors)
        if self._places is None or self._places.shape[2] != total:
            self._places = self._room(total)
        place = self._places[(self._round + 1) % 2]
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=place[self.rank])
        self._meet()
        mean = place.sum(dim=0).div_(self.size)
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def decided(self, word: int) -> int:
        """What the first process says, a whole number of 64 bits."""
        index = self.size * (1 + (self._round + 1) % 2)
        self._words[index + self.rank] = word
        self._meet()
        return self._words[index]

    def gathered(self, item: bytes) -> list[bytes]:
        """What all bring, by rank, at the first; an empty list at the others."""
        (self._folder / f"item-{self.rank}").write_bytes(item)
        self._meet()
        found = [(self._folder / f"item-{rank}").read_bytes() for rank in range(self.size)] if self.rank == 0 else []
        self._meet()  # nobody replaces an item before it was read
        return found

    def leave(self) -> None:
        """Tell those who wait for this process not to."""
        self._words[3 * self.size + self.rank] = 1

    def _room(self, total: int) -> Tensor:
        """Room for `total` numbers of each process; every process asks for the same at the same meeting."""
        room = _shared(self._folder / f"numbers-{total}", 2 * self.size * total * 4)
        return torch.from_numpy(np.frombuffer(room, dtype=np.float32).reshape(2, self.size, total))

    def _meet(self) -> None:
        """Wait until all are in this round.

        Raises:
            LeftError: somebody has left.
        """
        self._round += 1
        self._words[self.rank] = self._round
        looks, asked = 0, time.monotonic()
        while True:
            rounds = self._words[: self.size].tolist()
            if min(rounds) >= self._round:
                return
            left = self._words[3 * self.size :].tolist()
            if any(gone and there < self._round for there, gone in zip(rounds, left, strict=True)):
                raise LeftError("a training process left before the others")
            looks += 1
            if looks < EAGER:
                os.sched_yield()
                continue
            time.sleep(NAP_S)
            if time.monotonic() - asked > LOOK_AFTER_S:
                asked = time.monotonic()
                if self._gone():
                    raise LeftError("a training process ended before the others")


def _shared(path: Path, size: int) -> mmap.mmap:
    """`size` bytes that all processes see, zero at first. Whoever comes first makes them."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
