"""What a run shows: totals and speed with trials that are fresh, gone on with, finished before and stopped early."""

from __future__ import annotations

from typing import Any

import pytest

from training.desks.trial import News
from training.runs.display import Display
from training.study.study import PlayResult, Trial


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("training.runs.display.time", found)
    return found


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
