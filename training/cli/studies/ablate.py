"""`train-and-export ablate`: named settings of a training, compared on validation with paired intervals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.host.version import CommandLine
from daemon.tapes.span_options import add_span
from rltrader import called
from strategies.registry import STRATEGIES, add
from training.cli.main import COMMANDS, DONE, ERRORS, STOPPED, STOPPED_TEXT, add_models_dir, wrong
from training.cli.options import add_option_quotes, add_symbols, quote_source, symbols_of, with_span
from training.desks.registry import kind
from training.evidence.resampling import Interval
from training.evidence.wording import aligned
from training.rl.pool import Stopped
from training.rl.presets import practice_of
from training.runs.settings import settings_for

if TYPE_CHECKING:
    from training.desks.kind import Arm
    from training.studies.ablation import Ablation, AblationResult, ArmVerdict

HEAD = ("setting", "growth a year", "over starts", "difference, seeds", "difference, sessions", "")


def parser() -> argparse.ArgumentParser:
    """The options of `ablate`."""
    options = CommandLine(prog=f"{called('train-and-export')} ablate", description=COMMANDS["ablate"])
    options.add_argument(
        "--strategy", required=True, metavar="NAME", help=f"one of {', '.join(STRATEGIES)}, or its file"
    )
    options.add_argument("--bars", required=True, type=Path, metavar="FILE", help="file or folder of bars")
    add_symbols(options)
    add_span(options)
    names = "which of the strategy's settings (all; an unknown name lists them)"
    options.add_argument("--settings", default="", metavar="A,B,...", help=names)
    add_models_dir(options, "model store, whose ledger counts the settings", "--store")
    options.add_argument("--preset", metavar="NAME", help="what all settings change (the strategy's first)")
    options.add_argument("--practice", action="append", default=[], metavar="KEY=VALUE", help="of all settings")
    options.add_argument("--reward", metavar="NAME", help="(the strategy's first)")
    options.add_argument("--network", metavar="NAME", help="(the strategy's first)")
    options.add_argument("--steps", type=int, help="transitions of each training (the preset's)")
    options.add_argument("--seeds", type=int, default=10, help="of each setting and fold (%(default)s)")
    options.add_argument("--folds", type=int, default=3, help="validation spans, all before the tests (%(default)s)")
    options.add_argument("--config", type=Path, metavar="FILE", help="of the desk: its rules (the strategy's)")
    add_option_quotes(options)
    options.add_argument("--processes", type=int, default=2, help="that share the trainings (%(default)s)")
    options.add_argument("--out", type=Path, metavar="DIR", help="(runs/ablation-<strategy>-<digest>)")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command: 0, 2 for a file or an argument at fault, 130 stopped."""
    options = parser()
    chosen = options.parse_args(arguments)
    for name in ("seeds", "folds", "processes", "steps"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            options.error(f"--{name} is {getattr(chosen, name)}: expected at least 1")
    from training.studies.ablation import RESULT_FILE, run_ablation

    try:
        result, folder = run_ablation(ablation_of(chosen), _listen)
    except Stopped:
        sys.stderr.write(f"train-and-export ablate: {STOPPED_TEXT}\n")
        return STOPPED
    except ERRORS as error:
        return wrong(error)
    sys.stderr.write(f"\n{table(result)}\n")
    sys.stdout.write(f"{folder / RESULT_FILE}\n")
    return DONE


def ablation_of(chosen: argparse.Namespace) -> Ablation:
    """The ablation that the options describe.

    Raises OSError, ValueError: a name that the strategy does not have, or option quotes that cannot be used.
    """
    from training.studies.ablation import Ablation

    strategy = add(chosen.strategy)
    training_kind = kind(strategy)
    training_kind.check_trained("ablate")
    arms = training_kind.procedure.arms
    if not arms:
        raise ValueError(f"ablate is not for {strategy}: its procedure names no settings to compare")
    usual = settings_for(strategy, chosen.bars.absolute(), chosen.models_dir.absolute(), preset=chosen.preset)
    run = replace(
        usual,
        steps=chosen.steps or usual.steps,
        seeds=tuple(range(1, chosen.seeds + 1)),
        folds=chosen.folds,
        rewards=(chosen.reward or usual.rewards[0],),
        network=chosen.network or usual.network,
        practice=practice_of(chosen.practice, training_kind.procedure.practised, strategy),
        config=chosen.config.absolute() if chosen.config is not None else None,
        processes=chosen.processes,
        run_folder=chosen.out,
        base=chosen.preset or "",
        quotes=quote_source(chosen),
        symbols=symbols_of(chosen),
    )
    return Ablation(with_span(run, chosen), _arms_of(chosen.settings, arms, strategy))


def _arms_of(text: str, arms: Mapping[str, Arm], strategy: str) -> dict[str, Arm]:
    names = text.split(",") if text else [*arms]
    for name in names:
        if name not in arms:
            offered = "; ".join(f"{arm_name} ({arm.why})" for arm_name, arm in arms.items())
            raise ValueError(f"--settings {text}: {strategy} has no {name!r}: expected some of {offered}")
    return {name: arms[name] for name in names}


def _listen(news: Any) -> None:
    if isinstance(news, str):
        sys.stderr.write(f"{news}\n")


def table(result: AblationResult) -> str:
    """All settings as lines of text, and what the verdicts rest on."""
    rows = [HEAD, *(_row(verdict) for verdict in result.verdicts)]
    first, last = result.validation
    note = (
        f"Validation from {first} to {last}, {result.folds} spans, {result.seeds} seeds; no session from "
        f"{result.first_test} on was used. Intervals are of 95 % each: of many settings some pass by luck."
    )
    return "\n".join((*aligned(rows), note))


def _row(verdict: ArmVerdict) -> tuple[str, ...]:
    return (
        verdict.arm, f"{verdict.growth:+.2%}", f"{verdict.over_starts:.2%}", _interval_text(verdict.seeds),
        _interval_text(verdict.sessions), verdict.words,
    )  # fmt: skip


def _interval_text(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.2%} ({interval.low:+.2%} to {interval.high:+.2%})"
