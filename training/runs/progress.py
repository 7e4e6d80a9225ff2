"""The progress of a run, counted from its news and written into its folder for other programs.

The terminal (`training.runs.display`) and the file show the same count. A failure to write the file does not stop the
run.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from daemon.library.run_files import Progress, write_progress
from training.desks.trial import News, Stage, trial_name
from training.study.progress import PhaseProgress
from training.study.study import Trial

EVERY_S = 2.0  # least seconds between two writes, except at a new stage


class StepCount:
    """The steps of a stage's tasks: those that are done, and all of them as far as one knows."""

    def __init__(self, tasks: int, steps: int) -> None:
        self.tasks, self.given = tasks, steps
        self.steps: dict[str, int] = {}  # task -> done, those of earlier starts included
        self._totals: dict[str, int] = {}

    def count(self, name: str, steps: int, total: int) -> None:
        """Note how far a task is."""
        self.steps[name], self._totals[name] = steps, total

    @property
    def done(self) -> int:
        """Steps of all tasks, those of earlier starts included."""
        return sum(self.steps.values())

    @property
    def total(self) -> int:
        """Steps that the stage will have; tasks of unknown size count as those that are known."""
        counted_steps = sum(self._totals.values())
        steps_per_task = self.given or (counted_steps // len(self._totals) if self._totals else 0)
        return counted_steps + steps_per_task * (self.tasks - len(self._totals))


class ProgressFile:
    """Writes `progress.json` of a run's folder from what its listener is told."""

    def __init__(self, folder: Path, trials: int, steps: int) -> None:
        self._folder, self._began_s = folder, time.time()
        self._stage, self._unit, self._count = "training", "steps", StepCount(trials, steps)
        self._written_s = 0.0
        self._write("begins", 0.0, 0.0, "")

    def __call__(self, news: News | Stage | Trial | PhaseProgress | str) -> None:
        """Note one piece of news."""
        match news:
            case Stage():
                self._stage, self._unit, self._count = news.name, news.unit, StepCount(news.tasks, news.steps)
                self._write_stage()
            case Trial():
                name = trial_name(news.fold, news.reward, news.seed)
                self._count.count(name, news.steps, news.steps)
                self._write_stage()
            case News():
                self._count.count(news.name, news.steps, news.total)
                if self._due():
                    self._write_stage()
            case PhaseProgress() if not news.task or self._count.done >= self._count.total:
                if not news.ended and (self._due() or not news.done):
                    self._write(news.phase, news.done, news.total, news.unit)

    def ended(self, version: str) -> None:
        """Note that the run came to its end, and which version it exported."""
        self._write("ended", 1.0, 1.0, "", version)

    def _write_stage(self) -> None:
        self._write(self._stage, self._count.done, self._count.total, self._unit)

    def _due(self) -> bool:
        return time.time() - self._written_s >= EVERY_S

    def _write(self, stage: str, done: float, total: float, unit: str, version: str | None = None) -> None:
        self._written_s = time.time()
        progress = Progress(
            stage=stage,
            done=done,
            total=total,
            unit=unit,
            began_s=self._began_s,
            written_s=self._written_s,
            ended_s=0.0 if version is None else self._written_s,
            process=os.getpid(),
            version=version or "",
        )
        with contextlib.suppress(OSError):
            write_progress(self._folder, progress)
