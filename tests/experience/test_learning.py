"""What the trainer shows of its work: whole, bounded, and refused where it is something else."""

from __future__ import annotations

import asyncio
import json
import math
import os
from pathlib import Path

import pytest

from daemon.experience.learning import (
    BYTES_MOST,
    LEARNING_FILE,
    POINTS_MOST,
    LearningFile,
    LearningUnreadable,
    LearningWatch,
    read_learning,
)

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


def test_refused_entries_are_told_once_for_each_rise_and_again_by_a_trainer_that_began_anew(tmp_path: Path) -> None:
    alarms: list[tuple[str, int, str]] = []
    watch = LearningWatch(tmp_path, lambda name, refused, stream: alarms.append((name, refused, stream)), every_s=0.001)

    async def run_watch() -> None:
        watching = asyncio.create_task(watch.run())
        for refused, count in ((0, 0), (2, 1), (2, 1), (3, 2), (1, 2), (2, 3)):
            LearningFile(tmp_path).write(now_ns=5, stream=STREAM, row=10, refused_count=refused)
            await asyncio.sleep(0.1)
            assert len(alarms) == count
        (tmp_path / LEARNING_FILE).write_text("no JSON")
        await asyncio.sleep(0.1)
        watching.cancel()

    asyncio.run(run_watch())
    assert alarms == [("trainer_refused", 2, STREAM), ("trainer_refused", 3, STREAM), ("trainer_refused", 2, STREAM)]
