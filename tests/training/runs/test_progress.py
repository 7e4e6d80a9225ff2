"""What a training leaves for the library: its progress, and figures that are its report's."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.library.library import course, library_of
from daemon.library.run_files import read_progress
from training.desks.trial import News, Stage
from training.evidence.findings import decode
from training.runs.progress import ProgressFile, StepCount
from training.runs.record import Outcome
from training.study.progress import PhaseProgress


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake_clock = Clock()
    monkeypatch.setattr("training.runs.progress.time", fake_clock)
    return fake_clock


def test_a_training_is_in_the_library_with_the_figures_of_its_report(whole: Outcome) -> None:
    (run,) = library_of([whole.run_folder]).runs
    findings = decode((whole.run_folder / "report.json").read_bytes())
    assert (run.kind, run.state, run.version) == ("training", "finished", whole.version.name)
    assert run.figures is not None
    figures = findings.policy.figures
    assert (run.figures.share, run.figures.sharpe) == (
        figures.net_return,
        figures.sharpe_annual or None,
    )  # it may never trade
    curve = course(run)
    assert curve.shares[-1] == pytest.approx(figures.net_return)
    assert max(curve.falls) == pytest.approx(figures.max_drawdown)
    assert len(curve.times) == figures.sessions + 1


def test_progress_counts_the_steps_of_all_trials_and_is_written_now_and_then(tmp_path: Path, clock: Clock) -> None:
    progress = ProgressFile(tmp_path, trials=2, steps=1000)
    progress(Stage("trials", 2, 1000))
    progress(News("fold1-a-seed1", 250, 1000))
    snapshot = read_progress(tmp_path)
    assert snapshot is not None
    assert (snapshot.stage, snapshot.done, snapshot.total) == ("trials", 0, 2000)  # no second has passed
    clock.now_s += 3.0
    progress(News("fold1-a-seed1", 500, 1000))
    snapshot = read_progress(tmp_path)
    assert snapshot is not None
    assert (snapshot.share, snapshot.unit, snapshot.began_s, snapshot.written_s, snapshot.ended_s) == (
        0.25,
        "steps",
        1000.0,
        1003.0,
        0.0,
    )
    progress(PhaseProgress("fold1-a-seed1", "test sessions"))  # the other trial is not done
    assert read_progress(tmp_path) == snapshot
    progress(PhaseProgress("", "figures for the report", 0, 7, "pieces"))
    snapshot = read_progress(tmp_path)
    assert snapshot is not None
    assert (snapshot.stage, snapshot.total) == ("figures for the report", 7)
    progress.ended("v1")
    snapshot = read_progress(tmp_path)
    assert snapshot is not None
    assert (snapshot.version, snapshot.ended_s) == ("v1", 1003.0)


def test_a_disk_that_refuses_the_progress_stops_no_run(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "gone", trials=1, steps=10)
    progress(Stage("trials", 1, 10))
    progress.ended("v1")
    assert not (tmp_path / "gone").exists()


def test_tasks_of_unknown_size_count_as_those_that_are_known() -> None:
    count = StepCount(3, 0)
    count.count("one", 50, 100)
    assert (count.done, count.total) == (50, 300)
