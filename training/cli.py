"""`train-and-export`: train a strategy's policy on a bars file and put it into the model store.

Parses, shows progress, and turns every error of the file or the arguments into one line and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from daemon.shell.calendar import CalendarError
from daemon.shell.tape_file import TapeError
from training import ppo
from training.history import HistoryError
from training.reward import REWARDS
from training.run import Checked, Settings, train_and_export

USAGE_ERROR = 2


class Display:
    """Shows a run: a bar with steps a second and the time left on a terminal, a line for each checkpoint elsewhere."""

    def __init__(self, total_steps: int) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._total = total_steps
        self._task: TaskID | None = None
        self._began = 0.0
        self._speed = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, news: ppo.Progress | Checked | str) -> None:
        """Show one piece of news."""
        if isinstance(news, str):
            self._began = time.monotonic()
            self._console.print(news, highlight=False)
        elif isinstance(news, Checked):
            mark = " best so far" if news.best else ""
            self._console.print(
                f"{news.progress.steps:>12,} steps  {self._speed:8,.0f} steps/s  validation "
                f"{news.validate.net_return:+8.2%}  {news.validate.trades:5d} trades  entropy "
                f"{news.progress.entropy:.3f}  explained {news.progress.explained_variance:+.2f}{mark}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            self._speed = news.steps / (time.monotonic() - self._began)
            if self._task is None:
                self._task = self._bar.add_task("training", total=self._total, speed="")
            total = max(self._total, news.steps)
            self._bar.update(self._task, completed=news.steps, total=total, speed=f"{self._speed:,.0f} steps/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 when a file or an argument is at fault."""
    defaults = Settings("", Path(), Path())
    parser = argparse.ArgumentParser(prog="train-and-export", description=__doc__.partition("\n")[0])
    parser.add_argument("--strategy", required=True, help="name in the registry, such as option_scalper")
    parser.add_argument("--bars", required=True, type=Path, help="CSV, CSV.gz or Parquet file of bars")
    parser.add_argument("--out", required=True, type=Path, help="model store, such as onnx_models")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="transitions to train on (%(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of weights, episodes, actions (%(default)s)")
    parser.add_argument("--reward", choices=REWARDS, default=defaults.reward, help="(%(default)s)")
    parser.add_argument("--feed", default=defaults.feed, help="the feed the bars come from (%(default)s)")
    parser.add_argument("--device", choices=("cpu",), default="cpu", help="where to train (%(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1 or chosen.seed < 0:
        parser.error(f"--steps is {chosen.steps} and --seed {chosen.seed}: expected at least 1 and at least 0")
    settings = Settings(chosen.strategy, chosen.bars, chosen.out, chosen.steps, chosen.seed, chosen.reward, chosen.feed)
    try:
        with Display(settings.steps) as display:
            folder = train_and_export(settings, display)
    except (TapeError, CalendarError, HistoryError, OSError, ValueError) as error:
        sys.stderr.write(f"train-and-export: {error}\n")
        return USAGE_ERROR
    sys.stdout.write(f"{folder}\n")
    return 0
