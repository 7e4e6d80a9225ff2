"""Data-parallel training: several processes train one network, each on its share of the environments.

The processes average gradients over shared memory (`training.rl.collectives`), always in the order of ranks, so a run
with the same number of processes repeats byte for byte. Each process computes with one thread: on two cores, two
threads of one process wait for each other longer than two processes do.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.rl.collectives import Collectives, MemberLeftError
from training.rl.pool import ENDED, STOP_SIGNALS, Stopped, end_with_parent, stop_signals_blocked, unblock_stop_signals

T = TypeVar("T")
LEAVING_S = 10.0
MEMORY = Path("/dev") / "shm"  # where files are memory; elsewhere the folder for temporary files serves, more slowly


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
        found = self._collectives.gather(packed.getvalue())
        return [torch.load(io.BytesIO(each), weights_only=True) for each in found]


def run_group(size: int, first: Callable[[ProcessGroup], T], others: Callable[..., Any], *arguments: Any) -> T:
    """Run `first(group)` here and `others(group, *arguments)` in `size` - 1 new processes; return what `first` returns.

    `others` and its arguments must be picklable. When one process fails, the next collective call of the others raises.

    Raises:
        RuntimeError: a process ended before the work was done.
        Exception: the error that `first` raised, or the error of another process that ended it.
    """
    if size == 1:
        return first(ProcessGroup())
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rltrader-group-", dir=where) as folder:
        pool = ProcessPoolExecutor(size - 1, context, initializer=_begin)
        with stop_signals_blocked():
            members = [pool.submit(_member, Path(folder), rank, size, others, arguments) for rank in range(1, size)]
        started = set(multiprocessing.active_children()) - before
        collectives = Collectives(Path(folder), 0, size, gone=lambda: any(member.done() for member in members))
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
        found = member.exception() if member.done() else None
        if isinstance(found, BrokenProcessPool):
            return RuntimeError(ENDED)
        if found is not None and not isinstance(found, Stopped):
            return found
    return error


def _begin() -> None:
    end_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 handles it and decides
    unblock_stop_signals()


def _member(folder: Path, rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run `work` as one further member; its errors reach rank 0."""
    collectives = Collectives(folder, rank, size)
    try:
        with contextlib.suppress(Stopped):
            work(ProcessGroup(collectives), *arguments)
    finally:
        collectives.leave()
