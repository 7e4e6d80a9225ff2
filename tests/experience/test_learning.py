"""What the trainer shows of its work: whole, bounded, and refused where it is something else."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.events import Event
from daemon.core.step import Step
from daemon.experience.learning import (
    BYTES_MOST,
    LEARNING_FILE,
    POINTS_MOST,
    Learning,
    LearningFile,
    LearningUnreadable,
    LearningWatch,
    read_learning,
)
from tests.support.desks.share_bar_run import Toy
from tests.support.outside.stream import walked

STREAM = "rltrader:online:abc:experience"


def test_a_shelf_without_a_trainer_has_nothing_to_show(tmp_path: Path) -> None:
    assert read_learning(tmp_path) is None


def test_what_the_trainer_wrote_is_read_and_its_course_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = LearningFile(tmp_path)
    first.write(now_ns=5, stream=STREAM, row=10, updates=3, figures={"loss": 0.25}, waiting=7, pending=2)
    first.write(now_ns=6, stream=STREAM, row=10, updates=3, figures={"loss": 0.25})  # idle: no new point
    first.write(now_ns=7, stream=STREAM, row=11)  # nothing learned: no point either
    LearningFile(tmp_path).write(
        now_ns=8,
        stream=STREAM,
        row=20,
        updates=6,
        figures={"loss": 1 / 3, "error": math.nan},
        rewards={"gain": -2.0},
        replay=4,
        replay_most=9,
        version="v3",
        frozen=True,
        problem="x" * 600,
    )
    course = read_learning(tmp_path)
    assert course is not None
    assert [(point.time_ns, point.row, point.updates) for point in course.course] == [(5, 10, 3), (8, 20, 6)]
    assert course.figures == {"loss": 0.333333}  # JSON has no NaN
    assert (course.waiting, course.pending) == (None, None)
    assert (course.replay, course.replay_most, course.version, course.frozen) == (4, 9, "v3", True)
    assert (course.rewards, course.problem, course.written_ns) == ({"gain": -2.0}, "x" * 500, 8)


def test_a_course_of_another_journal_begins_anew(tmp_path: Path) -> None:
    file = LearningFile(tmp_path)
    for row in (5, 9, 2):
        file.write(now_ns=row, stream=STREAM, row=row, figures={"loss": 1.0})
    course = read_learning(tmp_path)
    assert course is not None
    assert [point.row for point in course.course] == [2]


def test_a_long_course_is_thinned_and_keeps_its_first_stretch_and_its_newest_point(tmp_path: Path) -> None:
    file, rows = LearningFile(tmp_path), 5 * POINTS_MOST
    figures = {f"figure {index}": index / 7 for index in range(50)}
    for row in range(1, rows + 1):
        file.write(now_ns=row, stream=STREAM, row=row, figures=figures if row % 100 == 0 else {"loss": 1.0})
    course = read_learning(tmp_path)
    assert course is not None
    assert POINTS_MOST // 2 <= len(course.course) <= POINTS_MOST
    assert (course.course[-1].row, course.course[0].row < rows // 10) == (rows, True)
    assert len(course.figures) == 16
    assert (tmp_path / LEARNING_FILE).stat().st_size < BYTES_MOST
    assert [path.name for path in tmp_path.iterdir()] == [LEARNING_FILE]


def test_the_largest_file_that_is_written_can_be_read(tmp_path: Path) -> None:
    figures = {f"{index:02}{'é' * 38}": -1.23456e-7 for index in range(32)}
    file = LearningFile(tmp_path)
    for row in range(POINTS_MOST):
        file.write(now_ns=2**62, stream=STREAM, row=row, updates=2**40, figures=figures, problem="p" * 500)
    assert read_learning(tmp_path) is not None


NESTED = '{"format": 1, "written_ns": 1, "stream": "", "row": 1, "more": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2, "written_ns": 1, "stream": "", "row": 1}',
        "\udcff",
        "x" * (BYTES_MOST + 1),
        pytest.param(NESTED, id="nested deep"),
    ],
)
def test_another_content_is_refused_by_its_name_and_written_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LEARNING_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LearningUnreadable, match=LEARNING_FILE):
        read_learning(tmp_path)
    LearningFile(tmp_path).write(now_ns=1, stream=STREAM, row=1)
    assert json.loads((tmp_path / LEARNING_FILE).read_text())["row"] == 1


def test_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    (tmp_path / LEARNING_FILE).symlink_to("other")
    with pytest.raises(LearningUnreadable):
        read_learning(tmp_path)
    (tmp_path / LEARNING_FILE).unlink()
    os.mkfifo(tmp_path / LEARNING_FILE)
    with pytest.raises(LearningUnreadable, match="no plain file"):
        read_learning(tmp_path)


class SeenWatch(LearningWatch):
    """Tells when it has looked."""

    def __init__(self, shelf: Path, alarm: Callable[[str, int, str], None]) -> None:
        super().__init__(shelf, alarm, every_s=0.001)
        self._looks: asyncio.Queue[None] = asyncio.Queue()

    def look(self, learning: Learning | None) -> None:
        """Tell it when it is done."""
        super().look(learning)
        self._looks.put_nowait(None)

    async def see(self) -> None:
        """Wait for the end of a look that began after this call: the next one may have read before."""
        while not self._looks.empty():
            self._looks.get_nowait()
        for _ in range(2):
            await self._looks.get()


def test_refused_entries_are_told_once_for_each_rise_and_again_by_a_trainer_that_began_anew(tmp_path: Path) -> None:
    alarms: list[tuple[str, int, str]] = []
    watch = SeenWatch(tmp_path, lambda name, refused, stream: alarms.append((name, refused, stream)))

    async def run_watch() -> None:
        watching = asyncio.create_task(watch.run())
        for refused, count in ((0, 0), (2, 1), (2, 1), (3, 2), (1, 2), (2, 3)):
            LearningFile(tmp_path).write(now_ns=5, stream=STREAM, row=10, refused_count=refused)
            await watch.see()
            assert len(alarms) == count
        (tmp_path / LEARNING_FILE).write_text("no JSON")
        await watch.see()
        watching.cancel()

    asyncio.run(run_watch())
    assert alarms == [("trainer_refused", 2, STREAM), ("trainer_refused", 3, STREAM), ("trainer_refused", 2, STREAM)]


BEGAN_NS = 1_700_000_000 * 10**9


class Watched:
    """A watch whose minutes pass at once, and what it told."""

    def __init__(self, shelf: Path, wanted: str = "", epoch: str = "abc") -> None:
        self.shelf, self._now_s = shelf, 0.0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._watch = LearningWatch(
            shelf,
            lambda name, **fields: self.told.append((name, fields)),
            desk="online",
            epoch=epoch,
            wanted=wanted,
            steady=lambda: self._now_s,
            now_ns=lambda: BEGAN_NS + int(self._now_s * 1e9),
        )

    def observe(self, event: Event, step: Step) -> None:
        """A step of the desk."""
        self._watch.observe(event, step)

    @property
    def sign(self) -> tuple[float, int]:
        """Minutes since the watch began at which the newest sign came, and its row."""
        signed_ns, row = self._watch.newest_sign()
        return ((signed_ns - BEGAN_NS) / 60e9 if signed_ns else math.nan, row)

    def minutes(self, count: int, write: Callable[[], object] = lambda: None) -> list[str]:
        """What is told of problems within so many minutes, in each of which `write` is called."""
        before = len(self.told)
        for _ in range(count):
            write()
            self._watch.look(self._watch.read())
            self._now_s += 60.0
        return [fields["problem"] for name, fields in self.told[before:] if name == "trainer_problem"]


def writes(file: LearningFile, **more: Any) -> Callable[[], None]:
    times = iter(range(10**6, 0, -1))  # its clock goes back: what counts is that something new stands there
    shown: dict[str, Any] = {"stream": STREAM, "row": 3} | more
    return lambda: file.write(**{"now_ns": next(times)} | shown)


def test_a_trainer_that_never_started_is_told_where_there_has_to_be_one(tmp_path: Path) -> None:
    assert Watched(tmp_path).minutes(600) == []
    watched = Watched(tmp_path, 'policy.answers = "served": each decision is a HOLD')
    assert watched.minutes(30) == []
    assert watched.minutes(600) == [
        'no trainer gave a sign since the daemon began, and policy.answers = "served": each decision is a HOLD'
    ]


def test_a_trainer_that_falls_silent_is_told_whatever_its_clock_says_and_again_after_it_came_back(
    tmp_path: Path,
) -> None:
    watched, file = Watched(tmp_path), LearningFile(tmp_path)
    assert watched.minutes(60, writes(file)) == []
    silent = ["it has given no sign for half an hour"]
    assert watched.minutes(40) == silent
    assert watched.minutes(600) == []
    assert watched.minutes(5, writes(file, now_ns=2**62, row=4)) == []
    assert watched.minutes(40) == silent


def test_when_a_trainer_gave_its_newest_sign_goes_by_this_host_s_clock(tmp_path: Path) -> None:
    """Its own is a day ahead, a day behind, or stands: the alert counts from when its file was seen to change."""
    day_ns = 86_400 * 10**9
    for number, skew_ns in enumerate((day_ns, -day_ns)):
        shelf = tmp_path / str(number)
        shelf.mkdir()
        watched, file = Watched(shelf), LearningFile(shelf)
        watched.minutes(3, writes(file, now_ns=BEGAN_NS + skew_ns, updates=number))
        for minute in range(3, 6):
            watched.minutes(1, writes(file, now_ns=BEGAN_NS + skew_ns, row=minute))
        watched.minutes(60)
        assert watched.sign == (5.0, 5)


def test_a_sign_from_before_the_daemon_began_is_as_old_as_it_says_and_never_newer_than_now(tmp_path: Path) -> None:
    LearningFile(tmp_path).write(now_ns=BEGAN_NS - 90 * 60 * 10**9, stream=STREAM, row=7)
    watched = Watched(tmp_path)
    watched.minutes(20)
    assert watched.sign == (-90.0, 7)
    LearningFile(tmp_path).write(now_ns=2**62, stream=STREAM, row=7)
    ahead = Watched(tmp_path)
    ahead.minutes(20)
    assert ahead.sign == (0.0, 7)


def test_a_trainer_that_is_no_more_has_no_sign_and_one_that_has_to_be_is_missed(tmp_path: Path) -> None:
    watched, wanted, file = Watched(tmp_path), Watched(tmp_path, "it explores"), LearningFile(tmp_path)
    assert [each.sign[1] for each in (watched, wanted)] == [0, 0]
    assert math.isnan(watched.sign[0])
    assert wanted.sign[0] == 0
    for each in (watched, wanted):
        each.minutes(5, writes(file))
        (tmp_path / LEARNING_FILE).write_text("{")
        each.minutes(5)
    assert [each.sign for each in (watched, wanted)] == [(4.0, 3), (4.0, 3)]
    (tmp_path / LEARNING_FILE).unlink()
    assert [each.minutes(60) for each in (watched, wanted)] == [[], ["it has given no sign for half an hour"]]
    assert math.isnan(watched.sign[0])
    assert wanted.sign == (4.0, 3)


def test_another_desk_s_trainer_in_the_same_store_is_no_sign(tmp_path: Path) -> None:
    watched, file = Watched(tmp_path), LearningFile(tmp_path)
    watched.minutes(1, writes(file))
    other = writes(file, stream="rltrader:other:abc:experience", problem="of the other", refused_count=7)
    assert watched.minutes(60, other) == ["it has given no sign for half an hour"]
    assert [name for name, _ in watched.told] == ["trainer_problem"]


def test_a_problem_that_lasts_is_told_once_and_one_that_passes_is_not(tmp_path: Path) -> None:
    watched, file = Watched(tmp_path), LearningFile(tmp_path)
    assert watched.minutes(9, writes(file, problem="Redis is away")) == []
    assert watched.minutes(9, writes(file)) == []
    numbers = iter(range(100))

    def counting() -> None:
        writes(file, problem=f"no version since {next(numbers)} sessions")()

    assert watched.minutes(60, counting) == ["no version since 10 sessions"]


def test_one_that_ends_again_and_again_before_a_checkpoint_is_told_though_each_gives_a_sign(tmp_path: Path) -> None:
    def killed() -> None:
        file = LearningFile(tmp_path)
        file.sign(1)
        writes(file)()

    def going_on() -> None:
        writes(LearningFile(tmp_path), saved=True)()

    watched = Watched(tmp_path)
    assert watched.minutes(2, killed) == []
    assert watched.minutes(10, going_on) == []  # a checkpoint was written
    (told,) = watched.minutes(30, killed)
    assert told.endswith("x since its last checkpoint): killed, or its memory ran out: the system's log says which")
    failing = LearningFile(tmp_path)
    writes(failing, saved=True)()
    failing.note_end("OSError: no space left")
    (told,) = watched.minutes(15)
    assert told == "it ended by itself (1 x since its last checkpoint): OSError: no space left"
    stopped = LearningFile(tmp_path)
    writes(stopped, saved=True)()
    stopped.note_end("")
    assert watched.minutes(25) == []
    assert LearningFile(tmp_path)._ends == 0


@pytest.mark.parametrize(
    ("epoch", "stream", "sessions", "wanted", "told"),
    [
        ("abc", STREAM, 2, "", 0),
        ("abc", STREAM, 1, "", 1),  # no publisher, a Redis that is full or refuses, or a trainer that is far behind
        ("new", STREAM, 2, "", 1),  # it never came to the journal that runs now
        ("abc", "", 0, "it explores", 1),
        ("abc", "", 0, "", 0),  # of another desk, perhaps
    ],
)
def test_a_trainer_that_lacks_the_decisions_of_a_session_is_told_half_an_hour_after_its_end(
    tmp_path: Path, toy: Toy, epoch: str, stream: str, sessions: int, wanted: str, told: int
) -> None:
    """The rows are those of the experience that a publisher would have sent: of no session, of the first, of both."""
    (tmp_path / "shelf").mkdir()
    watched = Watched(tmp_path / "shelf", wanted, epoch)
    assert toy.run(tmp_path / "state", observe=watched.observe)
    ends = [0, *(experience.row for experience in walked(tmp_path / "state") if experience.terminal)]
    behind = writes(LearningFile(watched.shelf), stream=stream, row=ends[sessions])
    assert watched.minutes(30, behind) == []
    problems = watched.minutes(600, behind)
    assert len(problems) == told
    assert all("rltrader-publisher" in problem for problem in problems)
    own = f"rltrader:online:{epoch}:experience"
    assert watched.minutes(60, writes(LearningFile(watched.shelf), stream=own, row=ends[2])) == []


def test_a_desk_that_asked_nothing_has_no_decision_that_a_trainer_could_lack(tmp_path: Path, toy: Toy) -> None:
    (tmp_path / "shelf").mkdir()
    watched = Watched(tmp_path / "shelf")

    def without_questions(event: Event, step: Step) -> None:
        watched.observe(event, msgspec.structs.replace(step, effects=()))

    assert toy.run(tmp_path / "state", observe=without_questions)
    assert watched.minutes(60, writes(LearningFile(watched.shelf), row=0)) == []
