"""What do a memory and each kind of input earn `regime_switcher` on a market whose rule needs them?

`python -m bench.planted.without [--market N] [--seeds N] [--processes N] [--into DIR]` trains on one planted market
(`bench.planted.markets`) as `bench.planted.study --short` does, and without memory, market or account
(`train-and-export ablate`: the same seeds and spans, judged on validation). A stopped one goes on in its folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.planted.markets import write
from bench.planted.study import SHORT, settings_of
from training.cli.studies.ablate import table
from training.studies.ablation import Ablation, AblationResult, run_ablation

STRATEGY = "regime_switcher"
WITHOUT = ("no_memory", "no_market", "no_account")


def without(folder: Path, market: int, seeds: int, processes: int) -> AblationResult:
    """Train all on this market."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(STRATEGY, folder, presets=SHORT)
    if not settings.bars.exists():
        write(STRATEGY, settings.bars, market, edge=True)
    run = replace(settings, seeds=tuple(range(1, seeds + 1)), processes=processes)
    arms = run.kind.procedure.arms
    return run_ablation(Ablation(run, {name: arms[name] for name in WITHOUT}), _tell)[0]


def _tell(news: Any) -> None:
    if isinstance(news, str):
        sys.stderr.write(f"{news}\n")


def main(arguments: list[str] | None = None) -> AblationResult:
    """Train what is missing, and print the verdicts."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--market", type=int, default=0, metavar="SEED", help="(%(default)s)")
    line.add_argument("--seeds", type=int, default=2, help="(%(default)s)")
    line.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    line.add_argument("--into", type=Path, metavar="DIR", help="of this market: it is kept and gone on with there")
    options = line.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        result = without(options.into or Path(home), options.market, options.seeds, options.processes)
    print(table(result))
    return result


if __name__ == "__main__":
    main()
