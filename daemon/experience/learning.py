"""What the trainer shows of its work: one small file on the shelf of the strategy's models, for the dashboard.

The trainer writes it whole; the daemon reads it for one alarm, and decides nothing by it. It is bounded: a long course
keeps every second point.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from daemon.host.whole_files import write_whole

LEARNING_FILE = "learning.json"
FORMAT = 1
POINTS_MOST = 300
NAMES_MOST = 16  # of figures, and of rewards
BYTES_MOST = 2**20
EVERY_S = 60.0


class LearningPoint(msgspec.Struct, frozen=True, array_like=True):
    """The figures of the newest updates by journal row `row`."""

    time_ns: int
    row: int
    updates: int
    figures: dict[str, float]


class Learning(msgspec.Struct, frozen=True):
    """A trainer's state as it last wrote it. `waiting` and `pending` are entries of the stream, None for unknown."""

    format: int
    written_ns: int  # the trainer's clock
    stream: str
    row: int  # of the journal, up to which it learned
    transitions: int = 0
    updates: int = 0
    waiting: int | None = None  # not read yet
    pending: int | None = None  # read, and in no checkpoint yet
    replay: int = 0  # transitions that it learned here and keeps
    replay_most: int = 0
    figures: dict[str, float] = {}  # of the newest update: "loss", "error" (mean absolute TD error), "Q mean", ...
    rewards: dict[str, float] = {}  # sum of each term since the last checkpoint
    version: str = ""  # newest one that it published
    frozen: bool = False
    refused: int = 0  # entries of the stream, since the trainer began
    problem: str = ""
    course: tuple[LearningPoint, ...] = ()  # oldest first


class LearningUnreadable(Exception):
    """The file is there and is not one of this format."""


class LearningFile:
    """The file on one shelf, written by one trainer. It goes on with the course that is there."""

    def __init__(self, shelf: Path) -> None:
        self._path = shelf / LEARNING_FILE
        self._course: tuple[LearningPoint, ...] = ()
        with contextlib.suppress(LearningUnreadable):
            former = read_learning(shelf)
            self._course = former.course if former is not None else ()

    def write(
        self,
        *,
        now_ns: int,
        stream: str,
        row: int,
        transitions: int = 0,
        updates: int = 0,
        waiting: int | None = None,
        pending: int | None = None,
        replay: int = 0,
        replay_most: int = 0,
        figures: Mapping[str, float] | None = None,
        rewards: Mapping[str, float] | None = None,
        version: str = "",
        frozen: bool = False,
        refused_count: int = 0,
        problem: str = "",
    ) -> None:
        """Replace the file; figures of a later row become a point of the course. Raises OSError."""
        finite = _finite(figures)
        last = self._course[-1].row if self._course else -1
        if row < last:
            self._course = ()  # another journal, or the learner went back
        if finite and row != last:
            self._course = _thin_out((*self._course, LearningPoint(now_ns, row, updates, finite)))
        learning = Learning(
            format=FORMAT,
            written_ns=now_ns,
            stream=stream,
            row=row,
            transitions=transitions,
            updates=updates,
            waiting=waiting,
            pending=pending,
            replay=replay,
            replay_most=replay_most,
            figures=finite,
            rewards=_finite(rewards),
            version=version,
            frozen=frozen,
            refused=refused_count,
            problem=problem[:500],
            course=self._course,
        )
        write_whole(self._path, msgspec.json.encode(learning) + b"\n", 0o644)


class LearningWatch:
    """Reports `trainer_refused` when the trainer on this shelf refused further entries of the stream.

    `log(name, **fields)` logs an event of the vocabulary and raises its alarm; it is called on the loop of `run`.
    """

    def __init__(self, shelf: Path, log: Callable[..., None], every_s: float = EVERY_S) -> None:
        self._shelf, self._log, self._every_s = shelf, log, every_s
        self._reported_count = 0

    async def run(self) -> None:
        """Look at intervals until cancelled."""
        while True:
            self.look(await asyncio.to_thread(self._read))
            await asyncio.sleep(self._every_s)

    def look(self, learning: Learning | None) -> None:
        """Compare what the trainer wrote with what was told."""
        refused_count = 0 if learning is None else learning.refused
        if learning is not None and refused_count > self._reported_count:
            self._log("trainer_refused", refused=refused_count, stream=learning.stream[:200])
        self._reported_count = refused_count  # a trainer that began again counts from 0

    def _read(self) -> Learning | None:
        try:
            return read_learning(self._shelf)
        except LearningUnreadable:
            return None  # the page of the trainer says so


def read_learning(shelf: Path) -> Learning | None:
    """Return what the trainer last wrote, None where it wrote nothing.

    Raises:
        LearningUnreadable: it is no plain file, too large, or of another format.
    """
    path = shelf / LEARNING_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LearningUnreadable(f"{LEARNING_FILE}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise LearningUnreadable(f"{LEARNING_FILE} is no plain file")
        data = file.read(BYTES_MOST + 1)
    if len(data) > BYTES_MOST:
        raise LearningUnreadable(f"{LEARNING_FILE} has more than {BYTES_MOST:,} bytes")
    try:
        learning = msgspec.json.decode(data, type=Learning)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # nested a thousand times
        raise LearningUnreadable(f"{LEARNING_FILE}: {error}") from None
    if learning.format != FORMAT:
        raise LearningUnreadable(f"{LEARNING_FILE} has the format {learning.format}, expected {FORMAT}")
    return learning


def newest_sign(shelf: Path) -> tuple[int, int]:
    """Return when the trainer last wrote, by its clock, and the row up to which it had learned; (0, 0) for unknown."""
    try:
        learning = read_learning(shelf)
    except LearningUnreadable:
        return 0, 0
    return (0, 0) if learning is None else (learning.written_ns, learning.row)


def _finite(figures: Mapping[str, float] | None) -> dict[str, float]:
    """Return the figures that JSON can hold, rounded to six digits."""
    figure_items = list((figures or {}).items())[:NAMES_MOST]
    return {name[:40]: float(f"{value:.6g}") for name, value in figure_items if math.isfinite(value)}


def _thin_out(course: tuple[LearningPoint, ...]) -> tuple[LearningPoint, ...]:
    """Leave out every second older point when there are too many; the newest stays."""
    return course if len(course) <= POINTS_MOST else course[1::2] if len(course) % 2 == 0 else course[::2]
