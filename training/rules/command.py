"""`train-and-export`, its `sweep` and its `search` for a rule; they need only numpy, and Optuna for the search."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from daemon.config.load import ConfigError
from daemon.core.desks.guarded import blame
from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.library.run_files import REPORT_PAGE
from daemon.models.pointer import CURRENT, ModelError, point
from daemon.tapes.files import TapeError
from daemon.tapes.span_options import add_span, chosen_bars
from rltrader import called
from strategies.registry import add, entry, strategy
from training.evidence.wording import number
from training.export.shelf import ExportError
from training.rules.desk import is_rule
from training.rules.export import export_rule
from training.rules.trials import (
    RuleStudy,
    RuleTask,
    folds_of,
    search,
    study_of_trials,
    tried,
    values_text,
    write_study,
)
from training.runs.ledger import LedgerError
from training.studies.grid import axis_of, cells_of
from training.study.folds import HistoryError

SEARCH, SWEEP = "search", "sweep"
PROGRAM = "train-and-export"
DONE, USAGE_ERROR, STOPPED, SHOWN = 0, 2, 130, 15
ERRORS = (
    TapeError, CalendarError, HistoryError, LedgerError, ConfigError, ModelError, ExportError, OSError, ValueError,
)  # fmt: skip


def of_rule(words: Sequence[str]) -> bool:
    """Whether this command line is for a rule; imports the named strategy to find out. Raises ValueError as `add`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--strategy")
    chosen, remaining = parser.parse_known_args(list(words))
    commands = [word for word in remaining[:1] if not word.startswith("-")]
    if chosen.strategy is None or (commands and commands[0] not in (SEARCH, SWEEP)):
        return False
    return is_rule(add(chosen.strategy))


def _parser(what: str) -> argparse.ArgumentParser:
    program = f"{called(PROGRAM)} {what}".strip()
    parser = CommandLine(prog=program, description="A rule: nothing is trained.", allow_abbrev=False)
    parser.add_argument("--strategy", required=True, metavar="NAME", help="a rule of yours, or its file")
    parser.add_argument("--bars", required=True, type=Path, metavar="FILE", help="file or folder of bars")
    add_span(parser)
    parser.add_argument("--models-dir", type=Path, default=Path("onnx_models"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="of the desk: its rules and parameters (defaults)")
    parser.add_argument("--parameters", default="", metavar="NAME=VALUE,…", help="in place of the configuration's")
    parser.add_argument("--folds", type=int, default=3, help="walk-forward tests at the end of the file (%(default)s)")
    if what == SEARCH:
        parser.add_argument("--trials", type=int, default=50, help="sets of values (%(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="of the suggestions (%(default)s)")
    if what == SWEEP:
        axis = "also KEY=VALUE,VALUE: parameters.NAME, or a key of the desk's rules; several times for all combinations"
        parser.add_argument(
            "--set", required=True, action="append", metavar="KEY=LOW:HIGH:COUNT", dest="axes", help=axis
        )
    if what:
        parser.add_argument("--out", type=Path, metavar="DIR", help=f"(runs/{what}-<strategy>)")
    else:
        parser.add_argument("--feed", default="sip", help="the feed the bars come from (%(default)s)")
        parser.add_argument("--activate", action="store_true", help="let the store's `current` name the version")
    return parser


def main(words: Sequence[str]) -> int:
    """Run the command: 0, 2 for a file or an argument at fault, 130 stopped."""
    what = words[0] if words and not words[0].startswith("-") else ""
    options = _parser(what)
    chosen = options.parse_args(list(words[1:] if what else words))
    for name in ("folds", "trials"):
        if getattr(chosen, name, 1) < 1:
            options.error(f"--{name} is {getattr(chosen, name)}: expected at least 1")
    try:
        name = add(chosen.strategy)
        bars = chosen_bars(chosen, chosen.bars, strategy(name).spec) or chosen.bars
        sweep_axes = tuple(word for word in chosen.parameters.split(",") if word.strip())
        task = RuleTask(name, bars, chosen.models_dir, chosen.config, sweep_axes, chosen.folds)
        return _COMMANDS[what](task, chosen)
    except KeyboardInterrupt:
        _say(f"{PROGRAM}: stopped; the same command begins anew")
        return STOPPED
    except ERRORS as error:
        if blame(error)[1]:  # the program's entry names the line
            raise
        sys.stderr.write(f"train-and-export: {' '.join(str(error).split())}\n")
        return USAGE_ERROR


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _export(task: RuleTask, chosen: argparse.Namespace) -> int:
    version, verdict = export_rule(task, chosen.feed, _say)
    _say(f"\n{verdict}\nreport: {version / REPORT_PAGE}")
    sys.stdout.write(f"{version}\n")
    if chosen.activate:
        point(version.parent, CURRENT, version.name, author=PROGRAM, why="exported: a rule", now_ns=time.time_ns())
        _say(f"exported and active: `current` in {version.parent} names it, and running desks follow it")
    return DONE


def _search(task: RuleTask, chosen: argparse.Namespace) -> int:
    return _print_study(search(task, chosen.trials, chosen.seed, _say), SEARCH, chosen)


def _swept(task: RuleTask, chosen: argparse.Namespace) -> int:
    axes = [axis_of(text, entry(task.strategy).parameters) for text in chosen.axes]
    dates, folds = folds_of(task, _say)
    trials = []
    for place, values in enumerate(({}, *cells_of(axes))):
        trial, why = tried(task, values, dates)
        if trial is not None:
            trials.append(trial)
        _say(f"{place:>5}  {values_text(values)} {why}".rstrip())
    return _print_study(study_of_trials(task, SWEEP, dates, folds, trials), SWEEP, chosen)


def _print_study(study: RuleStudy, what: str, chosen: argparse.Namespace) -> int:
    """Print the best trials and their statistics; write the study."""
    path = write_study(study, chosen.out or Path("runs") / f"{what}-{study.strategy}")
    for trial, ratio in study.ranked[:SHOWN]:
        _say(f"Sharpe ratio {number(ratio)}  trades {trial.trades:>5,}  {values_text(trial.values)}")
    _say(study.words)
    sys.stdout.write(f"{path}\n")
    return DONE


_COMMANDS = {"": _export, SEARCH: _search, SWEEP: _swept}
