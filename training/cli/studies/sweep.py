"""`train-and-export sweep`: one policy of the store under many desk rules, as a table and a heat map."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.host.version import CommandLine
from daemon.tapes.span_options import add_span, chosen_bars
from rltrader import called
from strategies.registry import STRATEGIES, add, entry, strategy
from training.cli.main import COMMANDS, DONE, ERRORS, STOPPED, STOPPED_TEXT, add_models_dir, wrong
from training.evidence.wording import aligned
from training.rl.pool import Stopped
from training.studies.grid import TOGETHER, GridCell, Swept, axis_of

SHOWN = 15  # cells in the table


def parser() -> argparse.ArgumentParser:
    """The options of `sweep`."""
    options = CommandLine(prog=f"{called('train-and-export')} sweep", description=COMMANDS["sweep"])
    options.add_argument(
        "--strategy", required=True, metavar="NAME", help=f"one of {', '.join(STRATEGIES)}, or its file"
    )
    options.add_argument("--bars", required=True, type=Path, metavar="FILE", help="file or folder of bars")
    add_span(options)
    axis = "a rule and its values, also KEY=VALUE,VALUE; several times for all combinations"
    options.add_argument("--set", required=True, action="append", metavar="KEY=LOW:HIGH:COUNT", dest="axes", help=axis)
    add_models_dir(options, "model store, whose ledger counts the sweep", "--store")
    options.add_argument("--version", default="current", metavar="NAME", help="of the store (%(default)s)")
    options.add_argument("--config", type=Path, metavar="FILE", help="of the desk: its other rules (the strategy's)")
    dates = "New York date; without both: the policy's test sessions, or all after its training"
    options.add_argument("--first", default="", metavar="DATE", help=f"first session, {dates}")
    options.add_argument("--last", default="", metavar="DATE", help="last session")
    options.add_argument("--processes", type=int, default=2, help="that share the cells (%(default)s)")
    together = "cells that a process plays together at most: the same cells sooner; 1: each by itself (%(default)s)"
    options.add_argument("--together", type=int, default=TOGETHER, metavar="COUNT", help=together)
    ray = "through Ray: 'auto' joins the running cluster, 'local' starts one on this machine, or a cluster's address"
    options.add_argument("--ray", default="", metavar="auto|local|ADDRESS", help=ray)
    options.add_argument("--out", type=Path, metavar="DIR", help="(runs/sweep-<strategy>-<digest>)")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command: 0, 2 for a file or an argument at fault, 130 stopped."""
    options = parser()
    chosen = options.parse_args(arguments)
    for option, count in (("--processes", chosen.processes), ("--together", chosen.together)):
        if count < 1:
            options.error(f"{option} is {count}: expected at least 1")
    from training.studies.sweep import PAGE_FILE, SweepRequest, run_sweep

    cells_played = 0

    def listen(news: Any) -> None:
        nonlocal cells_played
        if isinstance(news, GridCell):
            cells_played += 1
            rules = ", ".join(f"{key} {value}" for key, value in news.rules.items()) or "as configured"
            sys.stderr.write(f"{cells_played:>5}  {rules}: Sharpe ratio {news.sharpe_annual:+.2f}\n")
        elif isinstance(news, str):
            sys.stderr.write(f"{news}\n")

    try:
        name = add(chosen.strategy)
        bars = chosen_bars(chosen, chosen.bars, strategy(name).spec)
        assert bars is not None, "--bars is required"
        request = SweepRequest(
            name, bars.absolute(), chosen.models_dir.absolute(),
            tuple(axis_of(text, entry(name).parameters) for text in chosen.axes), chosen.version,
            chosen.config.absolute() if chosen.config is not None else None, chosen.first, chosen.last,
            chosen.processes, chosen.together, chosen.ray, chosen.out,
        )  # fmt: skip
        swept, folder = run_sweep(request, listen)
    except Stopped:
        sys.stderr.write(f"train-and-export sweep: {STOPPED_TEXT}\n")
        return STOPPED
    except ERRORS as error:
        return wrong(error)
    sys.stderr.write(f"\n{_table(swept)}\n{swept.words}\n")
    sys.stdout.write(f"{folder / PAGE_FILE}\n")
    return DONE


def _table(swept: Swept) -> str:
    from training.studies.sweep import head_of, rows_of

    return "\n".join(aligned([head_of(swept), *rows_of(swept)[: SHOWN + 1]], right=True))
