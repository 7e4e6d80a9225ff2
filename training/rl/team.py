"""Several processes that train one network together: each has its share of environments, all have the same weights.

They meet in shared memory (`training.rl.exchange`), in the same order every time, so a run repeats itself byte for byte
for the same number of processes. Each process computes with one thread: on two cores two threads of one process wait
for each other longer than two processes do.
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

from training.rl.exchange import Exchange, LeftError
from training.rl.pool import ENDED, HEARD, Stopped, children_born_deaf, end_with_parent, hear

T = TypeVar("T")
LEAVING_S = 10.0
MEMORY = Path("/dev") / "shm"  # where files are memory; elsewhere the folder for temporary files serves, more slowly


class Team:
    """This process among `size`, by `rank`; a team of one needs no other."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self.rank = exchange.rank if exchange else 0
        self.size = exchange.size if exchange else 1
        self._exchange = exchange

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the team, in place."""
        if self._exchange is not None:
            self._exchange.average(gradients)

    def decided(self, value: int) -> int:
        """What the first of the team says; the value of the others does not matter."""
        return value if self._exchange is None else self._exchange.decided(value)

    def gathered(self, item: T) -> list[T]:
        """The items (tensors and plain values) of all, by rank, at the first; an empty list at the others."""
        if self._exchange is None:
            return [item]
        packed = io.BytesIO()
        torch.save(item, packed)
        found = self._exchange.gathered(packed.getvalue())
        return [torch.load(io.BytesIO(each), weights_only=True) for each in found]


def together(size: int, first: Callable[[Team], T], others: Callable[..., Any], *arguments: Any) -> T:
    """Run `first(team)` in this process and `others(team, *arguments)` in `size` - 1 new ones; returns the former's.

    `others` and its arguments are picklable. Who fails takes the others along: their next meeting raises.

    Raises:
        RuntimeError: a member ended before the work was done.
        Exception: what `first` raised, or what took it along: an error of a member.
    """
    if size == 1:
        return first(Team())
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rltrader-team-", dir=where) as folder:
        pool = ProcessPoolExecutor(size - 1, context, initializer=_begin)
        with children_born_deaf():
            members = [pool.submit(_member, Path(folder), rank, size, others, arguments) for rank in range(1, size)]
        started = set(multiprocessing.active_children()) - before
        exchange = Exchange(Path(folder), 0, size, gone=lambda: any(member.done() for member in members))
        try:
            return first(Team(exchange))
        except LeftError as error:
            wait(members, LEAVING_S)
            raise _reason(members, error) from error
        finally:
            exchange.leave()
            wait(members, LEAVING_S)
            for process in started:
                process.kill()
            pool.shutdown()


def _reason(members: Sequence[Future[Any]], error: BaseException) -> BaseException:
    """What a member ended with, if it did; else `error`."""
    for member in members:
        found = member.exception() if member.done() else None
        if isinstance(found, BrokenProcessPool):
            return RuntimeError(ENDED)
        if found is not None and not isinstance(found, Stopped):
            return found
    return error


def _begin() -> None:
    end_with_parent()
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)  # the first of the team hears it and decides
    hear()


def _member(folder: Path, rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A further member; what it raises reaches the first."""
    exchange = Exchange(folder, rank, size)
    try:
        with contextlib.suppress(Stopped):
            work(Team(exchange), *arguments)
    finally:
        exchange.leave()
