"""What a run shows: totals and speed with trials that are fresh, gone on with, finished before and stopped early."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from training.desks.trial import TRIALS, News, Stage
from training.runs.display import Display
from training.study.progress import PhaseProgress
from training.study.study import PlayResult, Trial, ValidationCheck


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake_clock = Clock()
    monkeypatch.setattr("training.runs.display.time", fake_clock)
    return fake_clock


def trial(seed: int, steps: int, **other: Any) -> Trial:
    """A finished trial."""
    return Trial(
        fold=0, seed=seed, reward="potential", steps=steps, seconds=1.0, chosen_steps=steps, stopped="", curve=(),
        validate=(), test=PlayResult(()), **other,
    )  # fmt: skip


def news(seed: int, steps: int, began: int = 0) -> News:
    """Of a trial of 1,000 steps."""
    return News(f"fold1-potential-seed{seed}", steps, 1000, began=began)


def test_speed_is_of_what_is_done_now_by_all_processes_together(clock: Clock) -> None:
    show = Display(3, 1000)
    show(news(1, 100))  # whose first hundred took nobody knows how long
    clock.now_s += 2.0
    show(news(1, 300))
    show(news(2, 700, began=500))  # an earlier run had done 500
    assert show.speed == (200 + 200) / 2.0
    assert (show.done, show.total) == (1000, 3000)


def test_a_trial_that_was_there_already_counts_as_done_but_not_for_the_speed(clock: Clock) -> None:
    show = Display(2, 1000)
    show(trial(1, 1024))
    assert (show.done, show.total, show.speed) == (1024, 2024, 0.0)
    show(news(2, 100))
    clock.now_s += 1.0
    show(news(2, 200))
    assert show.speed == 100.0


def test_a_trial_that_stops_early_leaves_nothing_to_wait_for(clock: Clock) -> None:
    show = Display(1, 1000)
    show(news(1, 100))
    clock.now_s += 1.0
    show(news(1, 400))
    show(trial(1, 400))
    assert (show.done, show.total) == (400, 400)
    assert show.speed == 300.0


def test_a_trial_that_goes_on_says_so_once_with_the_steps_it_had(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Display(2, 1000)
    show(news(1, 600, began=500))
    show(news(1, 700, began=500))
    show(news(2, 100))
    assert capsys.readouterr().err.splitlines() == ["fold1-potential-seed1 goes on after 500 steps"]


def test_each_task_of_a_stage_has_one_line_with_the_time_that_the_others_take(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Display(1, 8192)
    show(Stage("forecaster folds", 3))
    show(News("forecaster-2014-1", 100, 100, began=100))  # of an earlier run
    show(News("forecaster-2015-1", 50, 100))
    clock.now_s += 5.0
    for _ in range(2):
        show(News("forecaster-2015-1", 100, 100))
    show(Stage(TRIALS, 1, 8192))
    show(News("fold1-bonus-seed1", 8192, 8192))
    lines = capsys.readouterr().err.splitlines()
    # 100 steps in 5 seconds; the third is taken to be as long as the others: 100 steps
    assert lines == [
        "forecaster folds: 3", "   1/3  forecaster-2014-1", "   2/3  forecaster-2015-1  0:00:05 left", "trials: 1"
    ]  # fmt: skip


def test_a_look_of_an_agent_with_a_replay_shows_its_own_figures(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"gain": 0.001, "cost": -2e-4, "bonus": 1e-4, "critic loss": 1.25, "Q mean": 3.0, "update_to_data": 0.002}
    point = ValidationCheck(
        steps=100, reward=9e-4, entropy=0.5, kl=0.0, clip_fraction=0.0, explained_variance=0.0, validate_return=0.01,
        validate_trades=7, agent="sac", figures=figures,
    )  # fmt: skip
    show = Display(1, 200)
    show(News("fold1-bonus-seed1", 100, 200, point, best=True))
    line = capsys.readouterr().err
    assert "sac  gain 0.001  cost -0.0002  bonus 0.0001  critic loss 1.25  Q mean 3  updates/step 0.002" in line
    assert "explained" not in line


def test_a_phase_leaves_a_line_when_it_lasted_and_one_now_and_then_with_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Display(1, 1000)
    show(PhaseProgress("fold 1", "random traders"))
    for count, pause_s in ((0, 50.0), (1, 10.0), (2, 10.0), (3, 10.0), (4, 10.0)):
        show(PhaseProgress("fold 1", "random traders", count, 5, "draws"))
        clock.now_s += pause_s  # the first piece takes longer, as it prepares what the others find done
    show(PhaseProgress("fold 1", "random traders", ended=True))
    show(PhaseProgress("", "export"))
    show(PhaseProgress("", "export", ended=True))  # over at once
    assert capsys.readouterr().err.splitlines() == [
        "fold 1: random traders: 1/5 draws",  # the speed of one piece alone is unknown
        "fold 1: random traders: 4/5 draws  0:00:10 left",
        "fold 1: random traders: 0:01:30",
    ]


def test_a_phase_of_one_trial_among_others_leaves_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show = Display(2, 1000)
    for news_s, part in (
        (40.0, PhaseProgress("fold1-potential-seed1", "test sessions", 1, 9)),
        (40.0, PhaseProgress("", "reading")),
    ):
        show(part)
        clock.now_s += news_s
        show(replace(part, ended=True))
    assert capsys.readouterr().err.splitlines() == ["reading: 0:00:40"]


def test_what_was_trained_has_no_time_left(clock: Clock) -> None:
    show = Display(1, 1000)
    show(news(1, 100))
    clock.now_s += 1.0
    show(news(1, 1000))
    (bar,) = show._bar.tasks
    assert bar.fields["speed"] == "900 steps/s  "
