"""`rltrader runs start` and `rltrader runs watch`: begin a run in a folder of the library, and follow its progress.

This process becomes the started program, with its own options, output and exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from daemon.engine.desks_file import NAME
from daemon.host.printable import printable
from daemon.library.library import RUNS, LibraryError, chosen_run, library_of, look_again
from daemon.library.listed import FINISHED, RUNNING, ListedRun
from rltrader import module_command

DRY_RUN, TRAINING = "dry-run", "training"
OWN_FOLDER = {DRY_RUN: "--state-dir", TRAINING: "--run-dir"}
MODULES = {DRY_RUN: ("daemon", "--dry-run"), TRAINING: ("training",)}
EVERY_S = 1.0


def add_start(command: argparse.ArgumentParser) -> None:
    """Add the options of `start`."""
    command.add_argument(
        "--name", metavar="NAME", help="of its folder, below the first folder of runs (made of the time)"
    )
    command.add_argument("what", choices=tuple(MODULES), help="a dry run, or a training")
    more = "options of `rltrader run --dry-run`, or of `rltrader train`: they stand behind the word"
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="OPTION", help=more)


def start(options: argparse.Namespace, console: Console) -> int:
    """Replace this process by the program. Raises LibraryError for a name that is taken or wrong, OSError."""
    own_folder = OWN_FOLDER[options.what]
    if any(word == own_folder or word.startswith(f"{own_folder}=") for word in options.rest):
        raise LibraryError(f"{own_folder} is chosen by --name and --runs-dir here: leave it out")
    module, *words = MODULES[options.what]
    folder = _folder(options)
    if folder is not None:
        words += [own_folder, str(folder)]
        console.print(f"run {folder.name} in {folder}; `rltrader runs watch {folder.name}` shows it elsewhere too")
    sys.stdout.flush()
    line = module_command(module, *words, *options.rest)
    os.execv(line[0], line)  # noqa: S606  our own interpreter and module


def _folder(options: argparse.Namespace) -> Path | None:
    """Return the run's folder; None if a training names its own, so that the same command resumes it."""
    place: Path = options.places[0]
    if options.name is None and options.what == TRAINING and place == RUNS:
        return None
    name = options.name or f"{options.what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if NAME.fullmatch(name) is None:
        raise LibraryError(f"--name is {name!r}: expected a name such as first-try: a to z, digits, . _ -")
    folder = place / name
    if folder.is_symlink() or (folder.exists() and not _goes_on(options, folder)):
        raise LibraryError(f"{folder} is there already: choose another --name, or delete that run first")
    return folder


def _goes_on(options: argparse.Namespace, folder: Path) -> bool:
    """Return whether the folder holds such a run; the program resumes it, or refuses it by itself."""
    kind = options.what.replace("-", " ")
    return any(Path(run.folder) == folder.resolve() and run.kind == kind for run in library_of(options.places).runs)


def add_watch(command: argparse.ArgumentParser) -> None:
    """Add the options of `watch`."""
    command.add_argument("id", metavar="ID")


def watch(options: argparse.Namespace, console: Console) -> int:
    """Show a run's progress until it ends; returns 0, or 1 if it did not finish. Raises LibraryError."""
    run = chosen_run(library_of(options.places), options.id)
    last = _watch(run, console, time.sleep)
    figures = last.figures
    came_to = "" if figures is None else f": return {figures.share:+.2%}, drawdown {figures.max_drawdown:.2%}"
    console.print(f"{printable(last.id)} {last.state}{came_to}")
    return int(last.state not in (RUNNING, FINISHED))


def _watch(run: ListedRun, console: Console, sleep: Callable[[float], None]) -> ListedRun:
    """Return the run in its final state; without a terminal print a line for each new stage."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
    )
    last_stage = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(run.id), total=None, count="")
        while run.state == RUNNING:
            progress = run.progress
            if progress is not None:
                count = f"{progress.done:,.0f}/{progress.total:,.0f} {progress.unit}" if progress.total else ""
                bar.update(
                    task,
                    description=printable(progress.stage),
                    completed=progress.done,
                    total=progress.total or None,
                    count=count,
                )
                if bar.disable and progress.stage != last_stage:
                    last_stage = progress.stage
                    console.print(f"{printable(last_stage)} {count}".strip())
            sleep(EVERY_S)
            run = look_again(run)
    return run
