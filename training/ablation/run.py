"""An ablation from its bars to its verdicts: every setting trained on every fold and seed, compared on validation.

Invariant: no session from the first test on is used, and each setting is a line of the store's ledger. Nothing is
written into a preset or a configuration.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.host.whole_files import write_whole
from training.ablation.arms import Ablation
from training.ablation.cells import Cell, Measured, Ready, make_ready, train_cell
from training.ablation.judge import Verdict, judged
from training.evidence.statistics import sharpe
from training.rl.pool import Flag, stop_on_signals, work_through
from training.runs.folder import code_version, held, machine, open_run
from training.runs.ledger import Ledger, Line, ledger_path, settings_digest, utc_now
from training.study.progress import phase, reported

RUNS = Path("runs")
RESULT_FILE = "ablation.json"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`ablation.json`."""

    strategy: str
    settings: dict[str, Any]
    validation: tuple[str, str]  # first and last session that was looked at
    first_test: str  # no session from here on was used
    folds: int
    seeds: int
    verdicts: tuple[Verdict, ...]
    trainings: tuple[Measured, ...]


def run_ablation(ablation: Ablation, listen: Callable[[Any], None], flag: Flag | None = None) -> tuple[Result, Path]:
    """Train and compare, or go on with what the same ablation began; the result, also written, and its folder.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        ValueError, HistoryError, RunFolderError, LedgerError, OSError, Diverged: the text has the cure.
    """
    stop, run = flag or threading.Event(), ablation.run
    version = code_version(run.strategy)
    with stop_on_signals(stop):
        with reported("", listen), phase(f"reading {run.bars.name}"):
            ready = make_ready((ablation, Path(), version))
        identity = ablation.identity(ready.prepared.data.info.sha256)
        digest = settings_digest(identity)
        folder = (run.run_folder or RUNS / f"ablation-{run.strategy}-{digest[:8]}").absolute()
        with held(folder):
            open_run(folder, identity, {"code": version, **machine(run.device, run.processes)})
            measured = _measured(ablation, folder, version, listen, stop)
            _record(ready, measured, digest)
            result = Result(
                strategy=run.strategy,
                settings=identity,
                validation=(ready.folds[0].validate[0], ready.folds[-1].validate[-1]),
                first_test=ready.prepared.folds[0].test[0],
                folds=len(ready.folds),
                seeds=len(run.seeds),
                verdicts=judged(measured, ablation.all),
                trainings=tuple(measured),
            )
            write_whole(folder / RESULT_FILE, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return result, folder


def _measured(
    ablation: Ablation, folder: Path, version: str, listen: Callable[[Any], None], stop: Flag
) -> list[Measured]:
    run = ablation.run
    cells = [Cell(arm, fold, seed) for arm in ablation.all for fold in range(run.folds) for seed in run.seeds]
    listen(f"{len(cells)} trainings of {run.steps:,} steps: {len(ablation.all)} settings; folder {folder}")
    return work_through(
        train_cell,
        cells,
        prepare=make_ready,
        argument=(ablation, folder, version),
        processes=run.processes,
        flag=stop,
        emit=listen,
    )


def _record(ready: Ready, measured: Sequence[Measured], digest: str) -> None:
    """A line of the ledger for each setting: its Sharpe ratio on validation, up to the tests that it is chosen for."""
    run = ready.ablation.run
    ledger = Ledger(ledger_path(run.out, run.strategy))
    for name in ready.ablation.all:
        returns = [value for one in measured if one.arm == name for value in one.returns]
        line = Line(
            kind="trial",
            utc=utc_now(),
            strategy=run.strategy,
            data_sha256=ready.prepared.data.info.sha256,
            first=ready.folds[0].validate[0],
            last=ready.prepared.folds[-1].test[-1],
            study=f"ablation-{run.strategy}-{digest[:8]}",
            sharpe=sharpe(np.array(returns)),
            settings_sha256=digest,
            note=f"ablation, {name}: Sharpe ratio on validation sessions; the span reaches to the tests it is for",
        )
        ledger.record(line)
