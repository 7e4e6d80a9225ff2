"""Phases of long work and their pieces: what is reported, what is not counted twice, and how work is stopped."""

from __future__ import annotations

import pytest

from training.study.progress import PhaseProgress, counted, phase, report_piece, reported


class Asked(Exception):
    """A stop was asked for."""


def test_each_piece_of_a_phase_is_reported_and_a_loop_inside_a_piece_is_not() -> None:
    messages: list[object] = []
    with reported("fold 1", messages.append), phase("baselines"):
        pairs = [(outer, inner) for outer in counted("ab", "players") for inner in counted(range(2), "sessions")]
    assert pairs == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert messages == [
        PhaseProgress("fold 1", "baselines"),
        *(PhaseProgress("fold 1", "baselines", count, 2, "players") for count in (0, 1, 2)),
        PhaseProgress("fold 1", "baselines", ended=True),
    ]


def test_where_nobody_listens_the_work_is_done_all_the_same() -> None:
    with phase("baselines"):
        report_piece(1, 2, "sessions")
        assert list(counted([1, 2], "sessions")) == [1, 2]


def test_a_stop_ends_the_work_after_the_piece_under_way_and_the_phase_does_not_end() -> None:
    messages: list[PhaseProgress] = []
    pieces: list[int] = []

    def check_stop() -> None:
        if len(pieces) == 2:
            raise Asked

    def look(piece: int) -> None:
        pieces.append(piece)

    def play() -> None:
        for piece in counted(range(5), "sessions"):
            look(piece)

    with reported("fold 1", messages.append, check_stop), pytest.raises(Asked), phase("sessions"):
        play()
    assert pieces == [0, 1]
    assert not any(part.ended for part in messages)


def test_a_loop_that_is_left_early_counts_no_longer() -> None:
    messages: list[PhaseProgress] = []
    with reported("", messages.append), phase("a random trader"):
        for _ in counted(range(3), "tries"):
            break
        assert list(counted(range(1), "runs")) == [0]
    assert [(part.done, part.total, part.unit) for part in messages if part.unit == "runs"] == [
        (0, 1, "runs"),
        (1, 1, "runs"),
    ]
