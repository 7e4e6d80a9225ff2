"""`train-and-export report`: make the report of a run folder again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from daemon.host.version import CommandLine
from daemon.library.run_files import STUDY_FILE
from rltrader import called
from strategies.registry import add, entry
from training.cli.main import COMMANDS, DONE, wrong
from training.study.study import Study, decode


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, 2 no folder of a finished run."""
    options = CommandLine(prog=f"{called('train-and-export')} report", description=COMMANDS["report"])
    options.add_argument("run", type=Path, metavar="FOLDER", help="of a finished run, such as runs/<its name>")
    moved = "file of the run's strategy, where it is one of your own that is not installed"
    options.add_argument("--strategy", metavar="FILE.py", help=moved)
    chosen = options.parse_args(arguments)
    folder = chosen.run
    if not (folder / STUDY_FILE).is_file():
        return wrong(ValueError(f"{folder} holds no {STUDY_FILE}: give the folder of a run that has tested its trials"))
    from training.report.report import write_report

    try:
        if chosen.strategy:
            add(chosen.strategy)
        study = _study(folder / STUDY_FILE)
        entry(study.strategy)
        findings = write_report(study, folder)
    except (OSError, ValueError) as error:
        return wrong(error)
    sys.stderr.write(f"{findings.verdict}\n")
    sys.stdout.write(f"{folder / 'report.html'}\n")
    return DONE


def _study(path: Path) -> Study:
    """Raises OSError, and ValueError for a damaged one."""
    try:
        return decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): give the command of its run again, which makes it"
        ) from error
