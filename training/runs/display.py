"""Progress of a run on standard error: bars with the speed and the time left, and lines of results.

Shows, and decides nothing. Progress bars are for terminals; elsewhere there are only lines, with one at intervals in
long phases.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from training.desks.trial import TRIALS, News, Stage, trial_name
from training.runs.progress import StepCount
from training.study.progress import PhaseProgress
from training.study.study import SessionResult, Trial, ValidationCheck

LINE_EVERY_S = 30.0  # seconds between lines of a long phase, without a bar
SHORT_S = 1.0  # a phase shorter than this prints no line


@dataclass(slots=True)
class _Phase:
    """A running phase. Its first piece is left out of the speed, because it may do work that the others reuse."""

    began_s: float
    counted_s: float = 0.0  # when the first piece was done
    counted: int = 0  # pieces that were done then
    line_s: float = 0.0
    bar: TaskID | None = field(default=None)

    def left(self, part: PhaseProgress, now_s: float) -> str:
        """The estimated time for the remaining pieces; "" where unknown."""
        if part.done == 0:
            self.counted_s, self.counted = 0.0, 0
        elif not self.counted:
            self.counted_s, self.counted = now_s, part.done
        count = part.done - self.counted
        if count <= 0 or part.done >= part.total:
            return ""
        seconds = (now_s - self.counted_s) / count * (part.total - part.done)
        return f"{_duration(seconds)} left" if seconds >= 1.0 else ""  # never "0:00:00 left" while work goes on


class Display:
    """Shows a run of `trials` trials. Its speed counts what is trained now, not what an earlier run had done."""

    def __init__(self, trials: int, steps: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[speed]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._title, self._unit = "training", "steps"
        self._in_lines: set[str] | None = None  # finished tasks of this stage; None where trials print their own lines
        self._trials = trials
        self._count = StepCount(trials, steps)
        self._task: TaskID | None = None
        self._began_s = 0.0
        self._earlier: dict[str, int] = {}  # steps that are left out of the speed
        self._done = 0
        self._phases: dict[tuple[str, str], _Phase] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, news: News | Stage | Trial | PhaseProgress | str) -> None:
        """Show one piece of news."""
        match news:
            case str():
                self._print(news)
            case Trial():
                self._trial(news)
            case Stage():
                self._stage(news)
            case PhaseProgress():
                self._part(news)
            case _:
                self._news(news)

    # --- the steps of a stage ---------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> None:
        """Restart the count for a new stage."""
        self._print(f"{stage.name}: {stage.tasks}")
        self._without_bar()
        self._trials, self._began_s, self._done = stage.tasks, 0.0, 0
        self._count = StepCount(stage.tasks, stage.steps)
        self._title, self._unit, self._in_lines = stage.name, stage.unit, None if stage.name == TRIALS else set()
        self._earlier.clear()

    def _without_bar(self) -> None:
        """Remove the stage's bar: what follows is not training."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None

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
            speed = f"{self.speed:8,.0f} steps/s  " if self.speed else ""
            self._print(
                f"{news.steps:>12,} steps  {speed}validation {point.validate_return:+8.2%}  "
                f"{point.validate_trades:5d} trades  {_learnt(point)}{' best so far' if news.best else ''}"
            )

    def _task_done(self, name: str, finished: set[str]) -> None:
        """A line for each task of a stage that is done, with the time that the others will take."""
        finished.add(name)
        time_left = f"  {self.left} left" if len(finished) < self._trials and self.left else ""
        self._print(f"{len(finished):>4}/{self._trials}  {name}{time_left}")

    def _trial(self, trial: Trial) -> None:
        self._done += 1
        name = trial_name(trial.fold, trial.reward, trial.seed)
        self._earlier.setdefault(name, trial.steps)  # without news it was there already
        self._counted(name, trial.steps, trial.steps)  # it may have stopped early
        if self._done >= self._trials:
            self._without_bar()
        if self._trials == 1:
            return
        self._print(
            f"{self._done:>4}/{self._trials}  fold {trial.fold + 1}  {trial.reward:<9}  seed {trial.seed:<3} "
            f"{trial.steps:>9,} steps in {trial.seconds:5.0f} s  validation {_net(trial.validate)}  "
            f"test {_net(trial.test.sessions)}  {sum(s.trades for s in trial.test.sessions):4d} trades"
            f"{'  ' + trial.stopped if trial.stopped else ''}"
        )

    def _counted(self, name: str, steps: int, total: int) -> None:
        """Update the bar with one trial's progress."""
        self._count.count(name, steps, total)
        if self._task is None:
            self._task = self._bar.add_task(self._title, count="", speed="")
        speed = f"{self.speed:,.0f} {self._unit}/s  " if self.speed and self._unit == "steps" else ""
        time_left = f"{self.left} left" if self.left not in {"", _duration(0.0)} and self.done < self.total else ""
        count = f"{self.done:,.0f}/{self.total:,.0f} {self._unit}"
        self._bar.update(self._task, completed=self.done, total=self.total, count=count, speed=speed + time_left)

    @property
    def done(self) -> int:
        """Steps of all trials, those of earlier starts included."""
        return self._count.done

    @property
    def total(self) -> int:
        """The total steps of the run, as far as known."""
        return self._count.total

    @property
    def left(self) -> str:
        """The time that the rest of this stage will take at this speed, "" where that is unknown."""
        return _duration((self.total - self.done) / self.speed) if self.speed else ""

    @property
    def speed(self) -> float:
        """Steps a second since the first news, of all trials together; 0 before the second."""
        elapsed = time.monotonic() - self._began_s
        steps = self.done - sum(self._earlier.values())
        return steps / elapsed if self._began_s and elapsed > 0.0 and steps > 0 else 0.0

    # --- phases -----------------------------------------------------------------------------------------------------

    def _part(self, part: PhaseProgress) -> None:
        """Bring a phase's own bar up to date; one of several trials under way has the stage's bar alone."""
        if part.task and self._in_lines is None and self._done < self._trials > 1:
            return
        key, now_s = (part.task, part.phase), time.monotonic()
        phase = self._phases.setdefault(key, _Phase(now_s, line_s=now_s))
        title = f"{part.task}: {part.phase}" if part.task else part.phase
        if part.ended:
            del self._phases[key]
            if phase.bar is not None:
                self._bar.remove_task(phase.bar)
            has_line = bool(part.task) and self._in_lines is not None  # its task has a bar
            if now_s - phase.began_s >= SHORT_S and not has_line:
                self._print(f"{title}: {_duration(now_s - phase.began_s)}")
            return
        time_left = phase.left(part, now_s)
        count = f"{part.done:,}/{part.total:,} {part.unit}" if part.total else ""
        if self._bar.disable:
            if part.total and now_s - phase.line_s >= LINE_EVERY_S:
                phase.line_s = now_s
                self._print("  ".join(filter(None, (f"{title}: {count}", time_left))))
            return
        if phase.bar is None:
            phase.bar = self._bar.add_task(title, total=None, count="", speed="")
        self._bar.update(phase.bar, completed=part.done, total=part.total or None, count=count, speed=time_left)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _learnt(point: ValidationCheck) -> str:
    """Words on the training at a validation check, for PPO or for the off-policy agent in training."""
    if not point.agent:
        return f"entropy {point.entropy:.3f}  explained {point.explained_variance:+.2f}"
    shown_names = ("gain", "cost", "bonus", "critic loss", "Q mean", "update_to_data")
    figures = "  ".join(f"{name} {point.figures[name]:.3g}" for name in shown_names if name in point.figures)
    return f"{point.agent}  {figures}".replace("update_to_data", "updates/step")


def _net(sessions: Sequence[SessionResult]) -> str:
    """The net P&L of sessions in USD."""
    return f"{math.fsum(session.pnl_usd for session in sessions):+9,.2f} USD"
