"""`train-and-export search`: coefficients that earn more on validation sessions, by Optuna, here or through Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.host.version import CommandLine
from daemon.tapes.span_options import add_span
from rltrader import called
from strategies.registry import STRATEGIES, add
from training.cli.main import DONE, ERRORS, STOPPED, STOPPED_TEXT, USAGE_ERROR, add_models_dir
from training.cli.options import (
    add_computing,
    add_model_config,
    add_option_quotes,
    add_symbols,
    quote_source,
    symbols_of,
    with_model_config,
    with_parameters,
    with_span,
)
from training.desks.registry import kind
from training.rl.coefficients import SEARCH_ROLLOUTS, SEARCH_STEPS
from training.rl.pool import Stopped
from training.runs.settings import settings_for

if TYPE_CHECKING:
    from training.studies.search.trials import Search, TrialResult

SHOWN = 10  # trials in the table
FOLDS = 3  # of a strategy that is not tested by years, and has no folds of its own


def row(trial: TrialResult) -> str:
    """Return one line of the table."""
    values = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.coefficients.items()
    )
    return (
        f"trial {trial.number:>3}  {trial.state:<8}  validation {trial.validation_return:+8.3%}  "
        f"Sharpe {trial.sharpe:+.3f}  {trial.steps_per_s:7,.0f} steps/s  {values or 'those of the preset'}"
    )


def parser() -> argparse.ArgumentParser:
    """The options of `search`."""
    options = CommandLine(prog=f"{called('train-and-export')} search", description=__doc__.partition("\n")[0])
    options.add_argument("--strategy", required=True, metavar="NAME", help=f"one of {', '.join(STRATEGIES)}")
    options.add_argument("--bars", required=True, type=Path, help="CSV, CSV.gz or Parquet file of bars, or a folder")
    add_symbols(options)
    add_span(options)
    add_models_dir(options, "model store: its ledger counts the trials", "--out")
    config = (
        "of the desk that will use the policy: train by its limits, costs, gates and sizes (the strategy's defaults)"
    )
    options.add_argument("--config", type=Path, metavar="FILE", help=config)
    add_model_config(options)
    add_option_quotes(options)
    options.add_argument("--trials", type=int, default=50, help="in all; give more later to go on (%(default)s)")
    steps = f"transitions of each training ({SEARCH_STEPS:,}, or {SEARCH_ROLLOUTS} rollouts)"
    options.add_argument("--steps", type=int, help=steps)
    options.add_argument("--seed", type=int, default=1, help="of the suggestions and the first training (%(default)s)")
    options.add_argument("--seeds", type=int, default=2, help="trainings of each trial and fold (%(default)s)")
    options.add_argument(
        "--preset", metavar="NAME", help="whose coefficients the first trial has (the strategy's first)"
    )
    options.add_argument(
        "--network", metavar="NAME", help="(the strategy's first: train-and-export --strategy NAME --help lists them)"
    )
    options.add_argument("--reward", metavar="NAME", help="or size of an action (the strategy's first)")
    add_computing(options)
    folds = "folds of the run to come, and spans to validate on before its first test"
    options.add_argument("--folds", type=int, help=f"{folds} ({FOLDS}; 1 for a strategy that is tested by years)")
    options.add_argument("--train-sessions", type=int, help="the fewest that a fold of that run trains on")
    options.add_argument("--validate-sessions", type=int, help="that a fold validates on (the strategy's)")
    options.add_argument("--test-sessions", type=int, help="that a fold tests on (the strategy's)")
    options.add_argument("--purge-sessions", type=int, help="left out between spans (the strategy's)")
    options.add_argument("--processes", type=int, default=2, help="of one thread each, one trial each (%(default)s)")
    options.add_argument("--study-dir", type=Path, help="(runs/search-<strategy>-<network>-<digest of the settings>)")
    options.add_argument("--restart", action="store_true", help="throw away what an earlier search left there")
    only = "search those whose names begin so, such as sac or forecaster (all)"
    options.add_argument("--only", default="", metavar="PREFIX", help=only)
    ray = "through Ray: 'auto' joins the running cluster, 'local' starts one on this machine, or a cluster's address"
    options.add_argument("--ray", default="", metavar="auto|local|ADDRESS", help=ray)
    return options


def search_from(chosen: argparse.Namespace) -> Search:
    """Return the search of these options, with the strategy's defaults.

    Raises:
        OSError, ValueError: the strategy, or its preset, is unknown, or the model configuration, or the option quotes,
            cannot be used.
    """
    chosen.strategy = add(chosen.strategy)
    training_kind, usual = (
        kind(chosen.strategy),
        settings_for(chosen.strategy, chosen.bars, chosen.models_dir, preset=chosen.preset),
    )
    training_kind.check_trained("search")
    plan = usual.plan.at(chosen.precision)
    several = not training_kind.walk.years and "folds" not in training_kind.procedure.lacks()
    run = replace(
        usual,
        steps=chosen.steps or plan.search_steps(usual.steps),
        seeds=tuple(range(chosen.seed, chosen.seed + chosen.seeds)),
        rewards=(chosen.reward or usual.rewards[0],),
        network=chosen.network or usual.network,
        precision=chosen.precision,
        plan=plan,
        device=chosen.device,
        config=chosen.config,
        folds=chosen.folds or (FOLDS if several else 1),
        train_sessions=chosen.train_sessions,
        validate_sessions=chosen.validate_sessions,
        test_sessions=chosen.test_sessions,
        purge_sessions=chosen.purge_sessions,
        processes=chosen.processes,
        run_folder=chosen.study_dir,
        restart=chosen.restart,
        quotes=quote_source(chosen),
        symbols=symbols_of(chosen),
    )
    run = with_span(with_parameters(with_model_config(run, chosen.model_config), chosen.parameters), chosen)
    space = tuple(dimension for dimension in plan.searched if dimension.name.startswith(chosen.only))
    if not space:
        raise ValueError(f"--only is {chosen.only!r}: no coefficient of {chosen.strategy} begins like that")
    from training.studies.search.trials import Search  # loads torch

    return Search(run, trials=chosen.trials, seed=chosen.seed, space=space, ray=chosen.ray, preset=chosen.preset or "")


def main(arguments: Sequence[str]) -> int:
    """Run the command: 0, 2 for a file or an argument at fault, 130 stopped."""
    options = parser()
    chosen = options.parse_args(arguments)
    least = {"seed": 0} | dict.fromkeys(
        ("trials", "steps", "seeds", "folds", "validate_sessions", "test_sessions", "processes"), 1
    )
    for name, bound in least.items():
        if getattr(chosen, name) is not None and getattr(chosen, name) < bound:
            options.error(f"--{name.replace('_', '-')} is {getattr(chosen, name)}: expected at least {bound}")

    from training.rl.kernels import slow_products
    from training.studies.search.search import SEARCH_FILE, run_search

    def listen(news: str | TrialResult) -> None:
        sys.stderr.write(f"{news if isinstance(news, str) else row(news)}\n")

    try:
        search = search_from(chosen)
        if warning := slow_products(search.run.precision, search.run.device):
            sys.stderr.write(f"train-and-export search: {warning}\n")
        results, folder = run_search(search, listen)
    except Stopped:
        sys.stderr.write(f"train-and-export search: {STOPPED_TEXT}\n")
        return STOPPED
    except ERRORS as error:
        sys.stderr.write(f"train-and-export search: {error}\n")
        return USAGE_ERROR
    sys.stderr.write("\n" + "".join(f"{row(trial)}\n" for trial in results.trials[:SHOWN]))
    for name, share in results.importances.items():
        sys.stderr.write(f"{name:<16} decides {share:.0%}\n")
    sys.stderr.write(f"{results.caution}\n{results.command}\n")
    sys.stdout.write(f"{folder / SEARCH_FILE}\n")
    return DONE
