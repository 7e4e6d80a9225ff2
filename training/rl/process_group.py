"""Data-parallel training: several processes train one network, each on its share of the environments.

The processes average gradients over shared memory: each writes into its own slot, increments its round counter and
waits until all counters are there. Two sets of slots are used in turn, so no process overwrites what another may still
read. Sums run in the order of ranks, so a run with the same number of processes repeats byte for byte. Each process
computes with one thread: on two cores, two threads of one process wait for each other longer than two processes do.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from training.rl.pool import (
    ENDED,
    STOP_SIGNALS,
    Stopped,
    end_with_parent,
    spawning,
    stop_signals_blocked,
    unblock_stop_signals,
)
from training.rl.scratch import scratch

EAGER = 2_000  # polls, each after a yield of the processor, before a waiting process starts to sleep
NAP_S = 0.0002
LOOK_AFTER_S = 0.25  # how often a waiting process checks that the others are still running
SLOT_BYTES = 8


class MemberLeftError(RuntimeError):
    """Another process left before it reached this collective call."""


class Collectives:
    """Collective operations of `size` processes. All create one on the same folder, best in a memory file system."""

    def __init__(self, folder: Path, rank: int, size: int, is_gone: Callable[[], bool] = lambda: False) -> None:
        """Join.

        Args:
            folder: empty before the first process joins; its creator removes it.
            is_gone: polled while waiting; returns true once another process of the group has ended.
        """
        self.rank = rank
        self.size = size
        self._folder = folder
        self._gone = is_gone
        self._round = 0
        shared = _map_shared(folder / "words", 4 * size * SLOT_BYTES)
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
        items = [(self._folder / f"item-{rank}").read_bytes() for rank in range(self.size)] if self.rank == 0 else []
        self._barrier()  # no rank replaces an item before rank 0 has read it
        return items

    def leave(self) -> None:
        """Leave the group: processes that wait for this one raise `MemberLeftError`."""
        self._slots[3 * self.size + self.rank] = 1

    def _room(self, total: int) -> Tensor:
        """Map shared memory for `total` numbers of each process; all processes do so in the same call."""
        room = _map_shared(self._folder / f"numbers-{total}", 2 * self.size * total * 4)
        return torch.from_numpy(np.frombuffer(room, dtype=np.float32).reshape(2, self.size, total))

    def _barrier(self) -> None:
        """Wait until all processes are in this round.

        Raises:
            MemberLeftError: a process has left.
        """
        self._round += 1
        self._slots[self.rank] = self._round
        looks, asked_at, ended = 0, time.monotonic(), False
        while True:
            leaving = self._slots[3 * self.size :].tolist()  # read before the rounds: a process may arrive, then leave
            rounds = self._slots[: self.size].tolist()
            if min(rounds) >= self._round:
                return
            if any(leaves and round_number < self._round for round_number, leaves in zip(rounds, leaving, strict=True)):
                raise MemberLeftError("a training process left before the others")
            if ended:
                raise MemberLeftError("a training process ended before the others")
            looks += 1
            if looks < EAGER:
                os.sched_yield()
                continue
            time.sleep(NAP_S)
            if time.monotonic() - asked_at > LOOK_AFTER_S:
                asked_at, ended = time.monotonic(), self._gone()


def _map_shared(path: Path, size: int) -> mmap.mmap:
    """Map `size` bytes that all processes share, zero at first. The first process creates the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


T = TypeVar("T")
LEAVING_S = 10.0
MEMORY = Path("/dev") / "shm"  # a memory file system; elsewhere the temporary folder serves, more slowly
SHARED = "rltrader-group-"


class ProcessGroup:
    """This process, number `rank` of `size`. A group of one has no shared memory."""

    def __init__(self, collectives: Collectives | None = None) -> None:
        self.rank = collectives.rank if collectives else 0
        self.size = collectives.size if collectives else 1
        self._collectives = collectives

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the group, in place."""
        if self._collectives is not None:
            self._collectives.average(gradients)

    def broadcast(self, value: int) -> int:
        """Return the value that rank 0 passed; the values of the others are ignored."""
        return value if self._collectives is None else self._collectives.broadcast(value)

    def gather(self, item: T) -> list[T]:
        """Return the items (tensors and plain values) of all ranks at rank 0, an empty list elsewhere."""
        if self._collectives is None:
            return [item]
        packed = io.BytesIO()
        torch.save(item, packed)
        items = self._collectives.gather(packed.getvalue())
        return [torch.load(io.BytesIO(item), weights_only=True) for item in items]


def run_group(size: int, first: Callable[[ProcessGroup], T], member_work: Callable[..., Any], *arguments: Any) -> T:
    """Run `first(group)` here and `member_work(group, *arguments)` in `size` - 1 new processes.

    Returns what `first` returns. `member_work` and its arguments must be picklable. When a process fails, the next
    collective call of each other process raises.

    Raises:
        RuntimeError: a process ended before the work was done.
        Exception: the error that `first` raised, or the error of another process that ended it.
    """
    if size == 1:
        return first(ProcessGroup())
    context = spawning()
    children_before = set(multiprocessing.active_children())
    with scratch(MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()), SHARED) as folder:
        pool = ProcessPoolExecutor(size - 1, context, initializer=_begin)
        with stop_signals_blocked():
            members = [pool.submit(_member, folder, rank, size, member_work, arguments) for rank in range(1, size)]
        started = set(multiprocessing.active_children()) - children_before
        collectives = Collectives(folder, 0, size, is_gone=lambda: any(member.done() for member in members))
        try:
            return first(ProcessGroup(collectives))
        except MemberLeftError as error:
            wait(members, LEAVING_S)
            raise _reason(members, error) from error
        finally:
            collectives.leave()
            wait(members, LEAVING_S)
            for process in started:
                process.kill()
            pool.shutdown()


def _reason(members: Sequence[Future[Any]], error: BaseException) -> BaseException:
    """Return the error that a member ended with, else `error`."""
    for member in members:
        error_of_member = member.exception() if member.done() else None
        if isinstance(error_of_member, BrokenProcessPool):
            return RuntimeError(ENDED)
        if error_of_member is not None and not isinstance(error_of_member, Stopped):
            return error_of_member
    return error


def _begin() -> None:
    end_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 handles it and decides
    unblock_stop_signals()


def _member(folder: Path, rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run `work` as a further member; rank 0 receives its exceptions."""
    collectives = Collectives(folder, rank, size)
    try:
        with suppress(Stopped):
            work(ProcessGroup(collectives), *arguments)
    finally:
        collectives.leave()
