"""Collective operations of processes on one machine over shared memory: average, broadcast, gather.

Each process writes into its own slot, increments its round counter and waits until all counters are there. Two sets of
slots are used in turn, so no process overwrites what another may still read. Sums run in the order of ranks.
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

EAGER = 2_000  # polls, each after a yield of the processor, before a waiting process starts to sleep
NAP_S = 0.0002
LOOK_AFTER_S = 0.25  # how often a waiting process checks that the others are still running
SLOT_BYTES = 8


class MemberLeftError(RuntimeError):
    """Another process left before it reached this collective call."""


class Collectives:
    """One process's end. All `size` processes create one with the same folder, best on a memory file system."""

    def __init__(self, folder: Path, rank: int, size: int, gone: Callable[[], bool] = lambda: False) -> None:
        """Join.

        Args:
            folder: empty before the first process joins; its creator removes it.
            gone: polled while waiting; returns true when another process of the group has ended.
        """
        self.rank = rank
        self.size = size
        self._folder = folder
        self._gone = gone
        self._round = 0
        shared = _shared(folder / "words", 4 * size * SLOT_BYTES)
        self._slots = memoryview(shared).cast("q")  # each rank's round, then its value, twice, then whether it left
        self._places: Tensor | None = None  # float32 (2, size, numbers)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor by its mean over the processes, in place; all pass the same shapes."""
        total = sum(tensor.numel() for tensor in tensors)
        if self._places is None or self._places.shape[2] != total:
            self._places = self._room(total)
        place = self._places[(self._round + 1) % 2]
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=place[self.rank])
        self._barrier()
        mean = place.sum(dim=0).div_(self.size)
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def broadcast(self, value: int) -> int:
        """Return the value that rank 0 passed, a signed integer of 64 bits."""
        index = self.size * (1 + (self._round + 1) % 2)
        self._slots[index + self.rank] = value
        self._barrier()
        return self._slots[index]

    def gather(self, item: bytes) -> list[bytes]:
        """Return the bytes of all ranks at rank 0, an empty list elsewhere."""
        (self._folder / f"item-{self.rank}").write_bytes(item)
        self._barrier()
        found = [(self._folder / f"item-{rank}").read_bytes() for rank in range(self.size)] if self.rank == 0 else []
        self._barrier()  # no rank replaces an item before rank 0 has read it
        return found

    def leave(self) -> None:
        """Leave the group: processes that wait for this one raise `MemberLeftError`."""
        self._slots[3 * self.size + self.rank] = 1

    def _room(self, total: int) -> Tensor:
        """Map shared memory for `total` numbers of each process; all processes do so in the same call."""
        room = _shared(self._folder / f"numbers-{total}", 2 * self.size * total * 4)
        return torch.from_numpy(np.frombuffer(room, dtype=np.float32).reshape(2, self.size, total))

    def _barrier(self) -> None:
        """Wait until all processes are in this round.

        Raises:
            MemberLeftError: a process has left.
        """
        self._round += 1
        self._slots[self.rank] = self._round
        looks, asked, ended = 0, time.monotonic(), False
        while True:
            left = self._slots[3 * self.size :].tolist()  # before the rounds: who leaves may have been here just now
            rounds = self._slots[: self.size].tolist()
            if min(rounds) >= self._round:
                return
            if any(gone and there < self._round for there, gone in zip(rounds, left, strict=True)):
                raise MemberLeftError("a training process left before the others")
            if ended:
                raise MemberLeftError("a training process ended before the others")
            looks += 1
            if looks < EAGER:
                os.sched_yield()
                continue
            time.sleep(NAP_S)
            if time.monotonic() - asked > LOOK_AFTER_S:
                asked, ended = time.monotonic(), self._gone()


def _shared(path: Path, size: int) -> mmap.mmap:
    """Map `size` bytes that all processes share, zero at first. The first process creates the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
