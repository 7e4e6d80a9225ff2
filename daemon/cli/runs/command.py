"""`rltrader runs`: list, show, compare, tag, delete, start and watch dry runs and trainings.

Without a command it lists. `daemon.library` reads; commands that change something are in `change` and `start`.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import JournalConsole, NotFound, a_date, print_table
from daemon.cli.runs import change, compare, start
from daemon.host.own_files import StateDirError
from daemon.host.printable import printable
from daemon.host.version import CommandLine, add_version
from daemon.journal.rows import JournalError
from daemon.library.compare import figure_rows
from daemon.library.library import PLACES_HELP, Library, LibraryError, chosen_run, course, library_of, usual_places
from daemon.library.listed import KINDS, NONE, RUNNING, UNREADABLE, ListedRun
from daemon.operator.summary import sparkline

DONE, USAGE_ERROR, INTERRUPTED = 0, 2, 130
LESS = ("code", "model", "parameters", "trades", "when (UTC)", "data", "strategy", "Sharpe")  # omitted if narrow
CHANGED_SHOWN = 4  # most changed settings in a row


def _figure(name: str) -> Callable[[ListedRun], float]:
    """Return a sort key by a figure, the highest first; runs without it come last."""

    def value(run: ListedRun) -> float:
        figure = None if run.figures is None else getattr(run.figures, name)
        return float("-inf") if figure is None else float(figure)

    return value


SORTS: dict[str, tuple[Callable[[ListedRun], Any], bool]] = {
    "when": (lambda run: run.began_s, True),
    "name": (lambda run: run.id, False),
    "strategy": (lambda run: (run.strategy, run.id), False),
    "return": (_figure("share"), True),
    "sharpe": (_figure("sharpe"), True),
    "drawdown": (lambda run: run.figures.max_drawdown if run.figures is not None else float("inf"), False),
    "trades": (_figure("trades"), True),
}
"""Name -> sort key, and whether the largest comes first."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    line = CommandLine(
        prog="rltrader runs",
        description="The library of dry runs and trainings: without a command it lists them, the newest first.",
        epilog="ID is a run's name in the list, or its folder.",
    )
    add_version(line)
    _add_places(line, [])
    line.add_argument("--strategy", metavar="NAME", help="runs of this strategy alone")
    line.add_argument("--kind", choices=KINDS, help="of this kind alone")
    line.add_argument("--since", type=a_date, metavar="DATE", help="that began on this day or later (UTC)")
    line.add_argument("--tag", action="append", default=[], metavar="TAG", help="with this tag; with several: with all")
    line.add_argument("--sort", choices=tuple(SORTS), default="when", help="by what the list is sorted (%(default)s)")
    line.add_argument("--json", action="store_true", help="one JSON object with everything")
    line.set_defaults(run=_list, command="")
    commands = line.add_subparsers(dest="command")

    def command(name: str, text: str, run: Callable[[argparse.Namespace, Console], int]) -> argparse.ArgumentParser:
        options = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _add_places(options, argparse.SUPPRESS)
        options.set_defaults(run=run)
        return options

    show_options = command("show", "one run: data, parameters, figures, and its equity", _show)
    show_options.add_argument("id", metavar="ID")
    show_options.add_argument("--json", action="store_true", help="one JSON object with everything")
    compare.add_options(
        command("compare", "two to five runs over each other: equity, drawdown, differences", compare.run)
    )
    change.add_tag(command("tag", "give a run tags, or take them away", change.tag))
    change.add_delete(command("delete", "delete a run's folder, after a question", change.delete))
    start.add_start(command("start", "start a dry run or a training in a folder of the library", start.start))
    start.add_watch(command("watch", "the progress of a run until it ends", start.watch))
    return line


def _add_places(command: argparse.ArgumentParser, default: Any) -> None:
    command.add_argument(
        "--runs-dir", type=Path, action="append", default=default, metavar="DIR", help=PLACES_HELP, dest="places"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader runs …`; returns 0, 2 for an impossible request, 130 after Ctrl-C, or a started run's exit code."""
    options = parser().parse_args(arguments)
    console = JournalConsole(250)
    try:
        options.places = options.places or usual_places()
        code: int = options.run(options, console)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (LibraryError, NotFound, StateDirError, JournalError, sqlite3.Error, OSError, ValueError) as error:
        sys.stderr.write(f"rltrader runs: {' '.join(str(error).split())}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _list(options: argparse.Namespace, console: Console) -> int:
    library = library_of(options.places)
    value, largest = SORTS[options.sort]
    runs = sorted((run for run in library.runs if _fits(run, options)), key=value, reverse=largest)
    if options.json:
        _write_json(Library(tuple(runs), library.remarks))
        return DONE
    for remark in library.remarks:
        sys.stderr.write(f"rltrader runs: {printable(remark)}\n")
    if not runs:
        places = ", ".join(map(str, options.places))
        left_out = f": {len(library.runs)} do not fit the filters" if library.runs else f" in {places}"
        sys.stderr.write(f"rltrader runs: no run{left_out}; `rltrader runs start dry-run --help` starts one\n")
        return DONE
    print_table(console, _table(runs), *LESS)
    return DONE


def _fits(run: ListedRun, options: argparse.Namespace) -> bool:
    began = when(run.began_s)[:10]
    return (
        (options.strategy is None or run.strategy == options.strategy or run.state == UNREADABLE)
        and (options.kind is None or run.kind == options.kind)
        and (options.since is None or began >= options.since or run.state == UNREADABLE)
        and set(options.tag) <= set(run.tags)
    )


def _table(runs: Sequence[ListedRun]) -> Table:
    table = Table()
    for name in ("ID", "run", "strategy", "model", "data", "when (UTC)"):
        table.add_column(name, no_wrap=name == "ID")
    for name in ("return", "Sharpe", "drawdown", "trades"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("parameters")
    for run in runs:
        table.add_row(*map(printable, _row(run)))
    return table


def _row(run: ListedRun) -> list[str]:
    """Return the run's cells as text."""
    name = f"{run.id} {' '.join(f'#{tag}' for tag in run.tags)}".strip()
    if run.state == UNREADABLE:
        return [name, f"{run.kind}, {UNREADABLE}", run.problem, *[NONE] * 9]
    figures = [values[0] for label, *values in figure_rows([run]) if label not in ("sessions", "a year")]
    more = f" and {len(run.brief) - CHANGED_SHOWN} more" if len(run.brief) > CHANGED_SHOWN else ""
    return [
        name,
        f"{run.kind}, {state_words(run)}{' !' * bool(run.problem)}",
        run.strategy,
        run.version or NONE,
        f"{run.data}{' (made up)' if run.synthetic else ''}",
        when(run.began_s),
        *figures,
        run.code or NONE,
        " ".join(run.brief[:CHANGED_SHOWN]) + more or "defaults",
    ]


def state_words(run: ListedRun) -> str:
    """Return the state, with the progress of a running one."""
    share = run.progress.share if run.progress is not None else None
    return f"{run.state}, {share:.0%}" if run.state == RUNNING and share is not None else run.state


def when(time_s: float) -> str:
    """Return a time of the run's files, UTC, to the minute."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M") if time_s else NONE
    except (ValueError, OverflowError, OSError):  # a file's time may be out of range
        return NONE


def _show(options: argparse.Namespace, console: Console) -> int:
    run = chosen_run(library_of(options.places), options.id)
    run_course = course(run)
    if options.json:
        _write_json({"run": run, "course": run_course})
        return DONE
    facts = [
        ("folder", run.folder),
        ("state", state_words(run) + (f": {run.problem}" if run.problem else "")),
        ("strategy", run.strategy or NONE),
        ("model version", run.version or NONE),
        ("data", f"{run.data or NONE}{' (made up)' if run.synthetic else ''} {run.data_sha256[:12]}".strip()),
        ("began, last written", f"{when(run.began_s)}, {when(run.ended_s)} UTC"),
        ("code", run.code or NONE),
        ("tags", " ".join(run.tags) or NONE),
        *((name, values[0]) for name, *values in figure_rows([run])),
        ("verdict" if run.kind != KINDS[0] else "kind", run.verdict or run.kind),
        *((key, value) for key, value in sorted(run.changed.items())),
    ]
    table = Table(title=printable(run.id), show_header=False, title_justify="left")
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for name, value in facts:
        table.add_row(name, printable(value))
    if run_course.shares:
        table.add_row("equity", sparkline(run_course.shares))
    console.print(table)
    return DONE


def _write_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
