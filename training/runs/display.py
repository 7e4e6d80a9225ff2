"""Progress of a run on standard error: a bar with steps a second and the time left, and lines of results.

Shows, and decides nothing. The bar is for terminals; elsewhere the lines stand alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from training.desks.trial import TRIALS, News, Stage, trial_name
from training.study.evaluation import SessionResult
from training.study.study import Point, Trial


class Display:
    """Shows a run of `trials` trials. Its speed counts what is trained now, not what an earlier run had done."""

    def __init__(self, trials: int, steps: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[speed]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._title = "training"
        self._in_lines: set[str] | None = None  # tasks of this stage that are done; None where trials have lines
        self._trials = trials
        self._totals: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._given = steps
        self._task: TaskID | None = None
        self._began_s = 0.0
        self._earlier: dict[str, int] = {}  # steps that do not count for the speed
        self._done = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, news: News | Stage | Trial | str) -> None:
        """Show one piece of news."""
        if isinstance(news, str):
            self._print(news)
        elif isinstance(news, Trial):
            self._trial(news)
        elif isinstance(news, Stage):
            self._stage(news)
        else:
            self._news(news)

    def _stage(self, stage: Stage) -> None:
        """Begin to count anew: the steps of one stage are not those of another."""
        self._print(f"{stage.name}: {stage.tasks}")
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._trials, self._given, self._task, self._began_s, self._done = stage.tasks, stage.steps, None, 0.0, 0
        self._title, self._in_lines = stage.name, None if stage.name == TRIALS else set()
        for counted in (self._totals, self._steps, self._earlier):
            counted.clear()

    def _news(self, news: News) -> None:
        if 0 < news.began < news.total and news.name not in self._earlier:
            self._print(f"{news.name} goes on after {news.began:,} steps")
        if not self._began_s:
            self._began_s = time.monotonic()
            self._earlier[news.name] = news.steps  # the duration of its first update is unknown
        self._earlier.setdefault(news.name, news.began)
        self._counted(news.name, news.steps, news.total)
        if self._in_lines is not None and news.steps >= news.total and news.name not in self._in_lines:
            self._task_done(news.name, self._in_lines)
        point = news.point
        if point is not None and self._trials == 1:
            self._print(
                f"{news.steps:>12,} steps  {self.speed:8,.0f} steps/s  validation {point.validate_return:+8.2%}  "
                f"{point.validate_trades:5d} trades  {_learnt(point)}{' best so far' if news.best else ''}"
            )

    def _task_done(self, name: str, done: set[str]) -> None:
        """A line for each task of a stage that is done, with the time that the others will take."""
        done.add(name)
        left = f"  {self.left} left" if len(done) < self._trials and self.left else ""
        self._print(f"{len(done):>4}/{self._trials}  {name}{left}")

    def _trial(self, trial: Trial) -> None:
        self._done += 1
        name = trial_name(trial.fold, trial.reward, trial.seed)
        self._earlier.setdefault(name, trial.steps)  # without news it was there already
        self._counted(name, trial.steps, trial.steps)  # it may have stopped early
        if self._trials == 1:
            return
        self._print(
            f"{self._done:>4}/{self._trials}  fold {trial.fold + 1}  {trial.reward:<9}  seed {trial.seed:<3} "
            f"{trial.steps:>9,} steps in {trial.seconds:5.0f} s  validation {_net(trial.validate)}  "
            f"test {_net(trial.test.sessions)}  {sum(s.trades for s in trial.test.sessions):4d} trades"
            f"{'  ' + trial.stopped if trial.stopped else ''}"
        )

    def _counted(self, name: str, steps: int, total: int) -> None:
        """Bring the bar up to date with one trial."""
        self._steps[name], self._totals[name] = steps, total
        if self._task is None:
            self._task = self._bar.add_task(self._title, speed="")
        speed = self.speed
        left = f"{self.left} left" if speed else ""
        self._bar.update(
            self._task,
            completed=self.done,
            total=self.total,
            speed=f"{speed:,.0f} steps/s  {left}" if speed else "",
        )

    @property
    def done(self) -> int:
        """Steps of all trials, those of earlier starts included."""
        return sum(self._steps.values())

    @property
    def total(self) -> int:
        """Steps that the run will have, as far as one knows; tasks of unknown size count as those that are known."""
        known = sum(self._totals.values())
        each = self._given or (known // len(self._totals) if self._totals else 0)
        return known + each * (self._trials - len(self._totals))

    @property
    def left(self) -> str:
        """The time that the rest of this stage will take at this speed, "" where that is unknown."""
        return str(timedelta(seconds=round((self.total - self.done) / self.speed))) if self.speed else ""

    @property
    def speed(self) -> float:
        """Steps a second since the first news, of all trials together; 0 before the second."""
        elapsed = time.monotonic() - self._began_s
        done = self.done - sum(self._earlier.values())
        return done / elapsed if self._began_s and elapsed > 0.0 and done > 0 else 0.0

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _learnt(point: Point) -> str:
    """How the learning went at a look: of PPO, or of the agent with a replay that is under way."""
    if not point.agent:
        return f"entropy {point.entropy:.3f}  explained {point.explained_variance:+.2f}"
    named = ("gain", "cost", "bonus", "critic loss", "Q mean", "update_to_data")
    figures = "  ".join(f"{name} {point.figures[name]:.3g}" for name in named if name in point.figures)
    return f"{point.agent}  {figures}".replace("update_to_data", "updates/step")


def _net(sessions: Sequence[SessionResult]) -> str:
    """The net P&L of sessions in USD."""
    return f"{math.fsum(session.pnl_usd for session in sessions):+9,.2f} USD"
