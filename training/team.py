"""Several processes that train one network together: each has its share of environments, all have the same weights.

Gradients are averaged over gloo on the loopback interface, in the same order every time, so a run repeats itself byte
for byte for the same number of processes. Each process computes with one thread: on two cores two threads of one
process wait for each other longer than two processes do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from training.pool import ENDED, HEARD, Stopped, children_born_deaf, end_with_parent, hear

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # for the others, at every meeting
LEAVING_S, AWAIT_S = 10.0, 0.05


class Team:
    """This process among `size`, by `rank`; a team of one needs no other."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._flat: Tensor | None = None

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the team, in place."""
        if self.size == 1:
            return
        total = sum(gradient.numel() for gradient in gradients)
        if self._flat is None or self._flat.numel() != total:
            self._flat = torch.empty(total)
        views = torch.split(self._flat, [gradient.numel() for gradient in gradients])
        for view, gradient in zip(views, gradients, strict=True):
            view.copy_(gradient.flatten())
        dist.all_reduce(self._flat)
        self._flat /= self.size
        for view, gradient in zip(views, gradients, strict=True):
            gradient.copy_(view.view_as(gradient))

    def decided(self, value: int) -> int:
        """What the first of the team says; the value of the others does not matter."""
        if self.size == 1:
            return value
        told = torch.tensor([value])
        dist.broadcast(told, 0)
        return int(told)

    def gathered(self, item: T) -> list[T]:
        """The items of all, by rank, at the first; an empty list at the others."""
        if self.size == 1:
            return [item]
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(item, found, 0)
        return list(found) if found is not None else []


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
    with tempfile.TemporaryDirectory(prefix="rltrader-team-") as folder:
        meeting = Path(folder) / "meeting"
        pool = ProcessPoolExecutor(size - 1, context, initializer=_begin)
        with children_born_deaf():
            members = [pool.submit(_member, rank, size, meeting, others, arguments) for rank in range(1, size)]
        started = set(multiprocessing.active_children()) - before
        try:
            _await(meeting, size, members)
            return _joined(0, size, meeting, first)
        except RuntimeError as error:  # of gloo, when somebody left
            wait(members, LEAVING_S)
            raise _reason(members, error) from error
        finally:
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


def _await(meeting: Path, size: int, members: Sequence[Future[Any]]) -> None:
    """Wait until all members are there, so that nobody waits at the meeting for one who died on the way."""
    while not all(_present(meeting, rank).exists() for rank in range(1, size)):
        if wait(members, AWAIT_S, FIRST_COMPLETED).done:
            raise RuntimeError("a training process ended before the work began")


def _present(meeting: Path, rank: int) -> Path:
    return meeting.with_name(f"present-{rank}")


def _begin() -> None:
    end_with_parent()
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)  # the first of the team hears it and decides
    hear()


def _member(rank: int, size: int, meeting: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A further member; what it raises reaches the first."""
    _present(meeting, rank).touch()
    with contextlib.suppress(Stopped):
        _joined(rank, size, meeting, work, *arguments)


def _joined(rank: int, size: int, meeting: Path, work: Callable[..., T], *arguments: Any) -> T:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=PATIENCE)
    try:
        return work(Team(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
