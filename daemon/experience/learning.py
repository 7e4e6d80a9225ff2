"""The trainer's progress: one small file on the shelf of the strategy's models, for the dashboard.

The trainer writes it whole; the daemon reads it for two alarms, and bases no decision on it. Its size is bounded: a
long course keeps every second point. Alarms do not depend on the trainer's clock. What it learned is compared with the
desk's own decisions: a trainer that gets none of them reports no trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from daemon.core.draft import wording
from daemon.core.effects import AskPolicy
from daemon.core.events import Event, SessionEnded
from daemon.core.step import Step
from daemon.experience.experience import stream_name
from daemon.host.whole_files import write_whole

LEARNING_FILE = "learning.json"
FORMAT = 1
POINTS_MOST = 300
NAMES_MOST = 16  # most figures, and most rewards
BYTES_MOST = 2**20
EVERY_S = 60.0
LASTS_S = 600.0  # shorter problems raise no alarm: a restart of Redis, a late version
SILENT_S = 1800.0  # a card may take as long
ENDS_MOST = 2  # a reboot, and one more end
KILLED = "killed, or its memory ran out: the system's log says which"


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
    row: int  # the journal's row up to which it learned
    transitions: int = 0
    updates: int = 0
    waiting: int | None = None  # not read yet
    pending: int | None = None  # read, and in no checkpoint yet
    replay: int = 0  # transitions kept in the replay memory
    replay_most: int = 0
    figures: dict[str, float] = {}  # of the newest update: "loss", "error" (mean absolute TD error), "Q mean", ...
    rewards: dict[str, float] = {}  # sum of each term since the last checkpoint
    version: str = ""  # newest one that it published
    frozen: bool = False
    refused: int = 0  # entries of the stream, since the trainer began
    problem: str = ""
    course: tuple[LearningPoint, ...] = ()  # oldest first
    runs: bool = False  # still set at a start: the previous process was killed
    ends: int = 0  # ends other than by a signal to stop, since the last checkpoint
    ended: str = ""  # reason of the last end

    @property
    def trouble(self) -> str:
        """The problem that keeps it from its work, "" if none is known."""
        if self.ends > ENDS_MOST or (self.ends and not self.runs):
            return f"it ended by itself ({self.ends} x since its last checkpoint): {self.ended}"
        return self.problem

    def is_of(self, desk: str) -> bool:
        """Return whether it learns from this desk, or from none yet."""
        return not self.stream or self.stream.split(":")[1:2] == [desk]


class LearningUnreadable(Exception):
    """The file exists but does not have this format."""


class LearningFile:
    """The file on one shelf, written by one trainer. Continues the course of an existing file."""

    def __init__(self, shelf: Path) -> None:
        self._path = shelf / LEARNING_FILE
        self._course: tuple[LearningPoint, ...] = ()
        self._newest = Learning(FORMAT, 0, "", 0)
        self._ends, self._ended = 0, ""
        with contextlib.suppress(LearningUnreadable):
            if (former := read_learning(shelf)) is not None:
                self._newest, self._course = former, former.course
                self._ends, self._ended = former.ends + former.runs, KILLED if former.runs else former.ended

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
        saved: bool = False,
    ) -> None:
        """Replace the file; figures of a later row become a point of the course. Raises OSError.

        `saved`: this process wrote a checkpoint, so what ended the ones before is over.
        """
        if saved:
            self._ends, self._ended = 0, ""
        finite = _finite(figures)
        last = self._course[-1].row if self._course else -1
        if row < last:
            self._course = ()  # another journal, or the learner fell back to an earlier row
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
            runs=True,
            ends=self._ends,
            ended=self._ended,
        )
        self._put(learning)

    def sign(self, now_ns: int) -> None:
        """Give a sign of life, with the last figures. Raises OSError."""
        ends, ended = self._ends, self._ended
        self._put(msgspec.structs.replace(self._newest, written_ns=now_ns, runs=True, ends=ends, ended=ended))

    def note_end(self, reason: str) -> None:
        """Record that the process ends, and the reason: "" for a signal to stop. Raises OSError."""
        ends, ended = (self._ends + 1, reason[:500]) if reason else (self._ends, self._ended)
        self._put(msgspec.structs.replace(self._newest, runs=False, ends=ends, ended=ended))

    def _put(self, learning: Learning) -> None:
        self._newest = learning
        write_whole(self._path, msgspec.json.encode(learning) + b"\n", 0o644)


class LearningWatch:
    """Watches the trainer on this shelf: `trainer_refused` for further entries, `trainer_problem` for a lasting one.

    `log(name, **fields)` logs an event of the vocabulary and raises its alarm; it is called on the loop of `run`.
    """

    def __init__(
        self,
        shelf: Path,
        log: Callable[..., None],
        every_s: float = EVERY_S,
        *,
        desk: str = "",
        epoch: str = "",
        wanted: str = "",
        steady: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Ignore trainers of other desks than `desk`, of none if "".

        Args:
            epoch: of the journal whose steps `observe` sees.
            wanted: why a trainer is required; "": silence is reported only of one that wrote something once.
        """
        self._epoch = epoch
        self._asked_row = self._due_row = 0  # of the newest question; of the last one of the session that ended last
        self._due_s = 0.0
        self._shelf, self._log, self._every_s = shelf, log, every_s
        self._desk, self._wanted, self._steady, self._now_ns = desk, wanted, steady, now_ns
        self._reported_count = 0
        self._newest: Learning | None = None
        self._signed_s = steady()
        self._sign = (now_ns() if wanted else 0, 0)
        self._problem, self._since_s, self._told = "", 0.0, False

    async def run(self) -> None:
        """Check at intervals until cancelled."""
        while True:
            self.look(await asyncio.to_thread(self.read))
            await asyncio.sleep(self._every_s)

    def observe(self, event: Event, step: Step) -> None:
        """Note at a session's end up to which row a trainer has to learn: a question completes the decision before."""
        if any(type(effect) is AskPolicy for effect in step.effects):
            self._asked_row = step.state.seq
        if type(event) is SessionEnded and self._asked_row > self._due_row:
            self._due_row, self._due_s = self._asked_row, self._steady()

    def newest_sign(self) -> tuple[int, int]:
        """Return the time of its newest sign, by this host's clock, and the row up to which it had learned.

        A sign older than the first look has the trainer's own time, at most the time of that look. Without a sign: the
        time since when a required trainer is missing, else (0, 0).
        """
        return self._sign

    def look(self, learning: Learning | None) -> None:
        """Compare the trainer's file with the last report. None: the file was removed, or does not exist yet."""
        now_s = self._steady()
        if learning is not None and self._desk and not learning.is_of(self._desk):
            learning = self._newest
        if learning is None and not self._wanted:
            self._newest, self._sign = None, (0, 0)
        if learning is not None and learning != self._newest:
            now_ns = self._now_ns()
            signed_ns = min(learning.written_ns, now_ns) if self._newest is None else now_ns
            self._newest, self._signed_s, self._sign = learning, now_s, (signed_ns, learning.row)
        refused_count = 0 if learning is None else learning.refused
        if learning is not None and refused_count > self._reported_count:
            self._log("trainer_refused", refused=refused_count, stream=learning.stream[:200])
        self._reported_count = refused_count  # a restarted trainer counts from 0
        self._look_for_problem(now_s)

    def _look_for_problem(self, now_s: float) -> None:
        """Report a problem once it has been there at every look for `LASTS_S`."""
        problem = self._problem_now(now_s)
        if wording(problem) != wording(self._problem):
            self._since_s, self._told = now_s, False
        self._problem = problem
        if problem and not self._told and now_s - self._since_s >= LASTS_S:
            self._log("trainer_problem", problem=problem)
            self._told = True

    def _problem_now(self, now_s: float) -> str:
        learning = self._newest
        trouble = "" if learning is None else learning.trouble
        if now_s - self._signed_s < SILENT_S - LASTS_S:
            return trouble or ("" if learning is None else self._backlog(learning, now_s))
        if learning is None:
            return f"no trainer gave a sign since the daemon began, and {self._wanted}" if self._wanted else ""
        return f"it has given no sign for half an hour{f': {trouble}' if trouble else ''}"

    def _backlog(self, learning: Learning, now_s: float) -> str:
        """Return what of the session that ended last it has not learned, "" for nothing, or where it still may."""
        if not self._due_row or now_s - self._due_s < SILENT_S - LASTS_S or not (learning.stream or self._wanted):
            return ""
        stream = stream_name(self._desk, self._epoch)
        ours = learning.stream == stream
        if ours and learning.row >= self._due_row:
            return ""
        learned = f"up to row {learning.row}" if ours else f"from {learning.stream or 'no stream'}"
        return (
            f"it learned {learned}, and the session that ended last has decisions up to row {self._due_row} of "
            f"{stream}: start rltrader-publisher where it is dead; else its log, that of Redis and the trainer's "
            "say what keeps them back"
        )

    def read(self) -> Learning | None:
        """Return the trainer's file; the previous content if it cannot be read now."""
        try:
            return read_learning(self._shelf)
        except LearningUnreadable:
            return self._newest  # the trainer's page reports it


def read_learning(shelf: Path) -> Learning | None:
    """Return the trainer's file, None if there is none.

    Raises: | LearningUnreadable: it is no plain file, too large, or of another format.
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


def _finite(figures: Mapping[str, float] | None) -> dict[str, float]:
    """Return the figures that JSON can hold, rounded to six digits."""
    figure_items = list((figures or {}).items())[:NAMES_MOST]
    return {name[:40]: float(f"{value:.6g}") for name, value in figure_items if math.isfinite(value)}


def _thin_out(course: tuple[LearningPoint, ...]) -> tuple[LearningPoint, ...]:
    """Drop every second older point if there are too many; keep the newest."""
    return course if len(course) <= POINTS_MOST else course[1::2] if len(course) % 2 == 0 else course[::2]
