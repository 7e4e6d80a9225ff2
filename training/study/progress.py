"""Progress of long work: phases and their pieces, reported to the run.

Long work names its phases (`phase`) and iterates with `counted`. `reported` sets the listener. Without a listener
nothing is emitted. Results never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """Progress of a task's phase: `done` of `total` pieces that take about equally long.

    `total` 0: the length is unknown. `ended` is true in the last report of a phase.
    """

    task: str  # "" for the run itself
    phase: str
    done: int = 0
    total: int = 0
    unit: str = ""  # name of the pieces
    ended: bool = False


class _Reporter:
    """A task's listener, and its present phase."""

    def __init__(self, task: str, emit: Callable[[Any], None], check_stop: Callable[[], None]) -> None:
        self.task, self.emit, self.check_stop = task, emit, check_stop
        self.phase = ""
        self.counting = False  # True within a counted loop: only a phase's outermost loop counts


_REPORTER: ContextVar[_Reporter | None] = ContextVar("reporter", default=None)


def never_stop() -> None:
    """A `check_stop` that never stops."""


@contextmanager
def reported(task: str, emit: Callable[[Any], None], check_stop: Callable[[], None] = never_stop) -> Iterator[None]:
    """Within the context, report phases to `emit` as those of `task`, and call `check_stop` after each piece."""
    token = _REPORTER.set(_Reporter(task, emit, check_stop))
    try:
        yield
    finally:
        _REPORTER.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Report begin and end of a phase. A nested phase replaces the outer one until it ends."""
    reporter = _REPORTER.get()
    if reporter is None or reporter.counting:
        yield
        return
    outer, reporter.phase = reporter.phase, name
    reporter.emit(PhaseProgress(reporter.task, name))
    try:
        yield
        reporter.emit(PhaseProgress(reporter.task, name, ended=True))
    finally:
        reporter.phase = outer


@contextmanager
def reading(bars: Path, emit: Callable[[Any], None]) -> Iterator[None]:
    """The phase in which a run or a study reads its bars, reported to `emit`."""
    with reported("", emit), phase(f"reading {bars.name}"):
        yield


def report_piece(done: int, total: int, unit: str) -> None:
    """Report progress in the present phase, for loops that cannot use `counted`."""
    reporter = _REPORTER.get()
    if reporter is not None and reporter.phase and not reporter.counting:
        reporter.emit(PhaseProgress(reporter.task, reporter.phase, done, total, unit))
        reporter.check_stop()


def counted(pieces: Sequence[T], unit: str) -> Iterator[T]:
    """Yield the pieces, and report each one done in the present phase; a nested loop does not report."""
    reporter = _REPORTER.get()
    if reporter is None or reporter.counting or not reporter.phase:
        yield from pieces
        return
    reporter.counting = True
    try:
        for count, piece in enumerate(pieces):
            reporter.emit(PhaseProgress(reporter.task, reporter.phase, count, len(pieces), unit))
            yield piece
            reporter.check_stop()
        reporter.emit(PhaseProgress(reporter.task, reporter.phase, len(pieces), len(pieces), unit))
    finally:
        reporter.counting = False
