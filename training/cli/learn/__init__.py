"""`train-and-export learn`: watch a policy learn a made-up market whose rule is known, then trade it in the dry run."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from daemon.host.version import CommandLine
from rltrader import called
from training.cli.main import DONE, ERRORS, wrong

STEPS = 400_000
NOT_LEARNED = 1


def parser() -> argparse.ArgumentParser:
    """The options of `learn`."""
    options = CommandLine(prog=f"{called('train-and-export')} learn", description=__doc__)
    options.add_argument(
        "--out", type=Path, metavar="DIR", help="an empty folder for all that is made (a temporary one)"
    )
    options.add_argument("--steps", type=int, default=STEPS, help="of each of the two networks (%(default)s)")
    options.add_argument("--seed", type=int, default=1, help="of the market and the networks (%(default)s)")
    return options


def main(arguments: Sequence[str]) -> int:
    """Show it; returns the exit code: 0, 1 where the policy did not learn it, 2 a fault."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.steps < 1:
            raise ValueError(f"--steps is {chosen.steps}: expected at least 1")
        folder = chosen.out or Path(tempfile.mkdtemp(prefix="rltrader-learn."))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"--out is {folder}, which is not empty: name a new folder")
        from training.cli.learn.command import learn

        return DONE if learn(folder, chosen.steps, chosen.seed) else NOT_LEARNED
    except ERRORS as error:
        return wrong(error)
