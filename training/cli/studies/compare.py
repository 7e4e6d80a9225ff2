"""`train-and-export compare`: finished runs side by side, as a table and a page with a plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.host.version import CommandLine
from daemon.host.whole_files import write_whole
from rltrader import called
from training.cli.main import COMMANDS, DONE, wrong
from training.evidence.wording import aligned
from training.report.compare import comparable, page, read_runs, rows_of, updates_csv


def parser() -> argparse.ArgumentParser:
    """The options of `compare`."""
    options = CommandLine(prog=f"{called('train-and-export')} compare", description=COMMANDS["compare"])
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or of a version")
    page_help = "the page (%(default)s)"
    options.add_argument("--out", type=Path, default=Path("compare.html"), metavar="FILE", help=page_help)
    options.add_argument("--csv", type=Path, metavar="FILE", help="every update of every trial of these runs, as CSV")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, 2 for a folder that is no finished run's."""
    chosen = parser().parse_args(arguments)
    try:
        runs = read_runs(chosen.runs)
        write_whole(chosen.out, page(runs).encode())
        if chosen.csv is not None:
            write_whole(chosen.csv, updates_csv(runs).encode())
    except (OSError, ValueError) as error:
        return wrong(error)
    rows = [("", *(run.name for run in runs)), *rows_of(runs)]
    cells = [[text.replace("\n", ", ") for text in row] for row in rows]
    sys.stderr.write("\n".join((*aligned(cells), comparable(runs), "")))
    sys.stdout.write(f"{chosen.out}\n")
    return DONE
