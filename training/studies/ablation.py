"""Ablations: named settings of a training, every one trained on every fold and seed, compared on validation.

Invariant: no session from the first test on is used, and each setting is a line of the store's ledger. Nothing is
written into a preset or a configuration. A setting is worth keeping if both lower bounds of its difference from the
requested run are above 0: that over seeds, and that over sessions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.library.run_files import TRIALS_FOLDER
from training.desks.kind import Arm, Span
from training.desks.ppo import later_starts, mean_growth
from training.desks.trial import Request
from training.evidence.resampling import FEWEST, Interval, paired_difference, seeds_interval
from training.evidence.statistics import session_returns, sharpe
from training.rl.pool import Emit, Flag, stop_on_signals
from training.rl.presets import checked
from training.runs.folder import RUNS, TrialFolder, code_version
from training.runs.ledger import Ledger, ledger_path, settings_digest
from training.runs.prepared import Prepared, prepare
from training.runs.settings import Settings, bars_notes, trading_of
from training.runs.tasks import CheckpointTimer
from training.studies.runner import Cells, Listen, locked, opened, study_name, trial_line, write_result
from training.study.folds import trained_from
from training.study.progress import reading
from training.study.study import SESSIONS_A_YEAR, Fold

BASE = "as asked"


@dataclass(frozen=True, slots=True)
class Ablation:
    """The requested run, and the settings that each change it."""

    run: Settings
    arms: Mapping[str, Arm]

    @property
    def all(self) -> dict[str, Arm]:
        """The requested run, then the others."""
        return {BASE: Arm("the run as it is asked for"), **self.arms}

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides the result, as JSON."""
        return {**self.run.identity(bars_sha256), "arms": {name: asdict(arm) for name, arm in self.arms.items()}}


STARTS = 20  # validation accounts of a policy, where a result depends on the day on which it begins


@dataclass(frozen=True, slots=True)
class AblationSetup:
    """What a process needs to train."""

    ablation: Ablation
    prepared: Prepared
    folds: tuple[Fold, ...]  # folds without tests, all before the first test session

    @property
    def judged_by(self) -> int:
        """How many accounts a policy is judged by."""
        return STARTS if self.prepared.kind.procedure.starts > 1 else 1


def make_ready(arguments: tuple[Ablation, Path, str]) -> AblationSetup:
    """Read everything. Raises what `training.runs.prepared.prepare` and the procedure's `search_folds` do."""
    ablation, folder, version = arguments
    prepared = prepare((ablation.run, folder, version))
    run, days = ablation.run, tuple(prepared.data.days)
    return AblationSetup(
        ablation, prepared, prepared.kind.procedure.search_folds(days, run.plan, prepared.folds, run.folds)
    )


@dataclass(frozen=True, slots=True)
class ArmTraining:
    """One training."""

    arm: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.arm.replace(' ', '-')}-fold{self.fold + 1}-seed{self.seed}"


class Measured(msgspec.Struct, frozen=True):
    """What a training's chosen checkpoint earned on the validation sessions of its fold."""

    arm: str
    fold: int
    seed: int
    growth: tuple[float, ...]  # by account: mean log growth a session; accounts begin on different days
    returns: tuple[float, ...]  # returns by session of the account that begins on the first day
    chosen_steps: int


def train_cell(ready: AblationSetup, cell: ArmTraining, flag: Flag, emit: Emit) -> Measured:
    """Train, or read what is done. Raises `Stopped` when `flag` is set, `Diverged` for a loss that is not finite."""
    p, run, arm = ready.prepared, ready.ablation.run, ready.ablation.all[cell.arm]
    decided = {"run": run.identity(p.data.info.sha256), "arm": asdict(arm), "code": p.version}
    keeper = TrialFolder(p.folder / TRIALS_FOLDER / cell.name, settings_digest(decided))
    checkpoint = keeper.checkpoint() or {}
    if "measured" in checkpoint:
        return msgspec.json.decode(checkpoint["measured"], type=Measured)
    practice = checked({**run.practice.changes, **arm.practice})
    request = Request(
        cell.fold, cell.seed, run.rewards[0], arm.network or run.network, run.steps, run.precision, run.device,
        run.patience, run.plan.changed(arm.coefficients, cell.arm), begins=run.begins, practice=practice,
        burn_in=arm.burn_in, starts=arm.starts,
    )  # fmt: skip
    (fold,) = trained_from((ready.folds[cell.fold],), practice.from_date)
    trading, control = trading_of(run.strategy, run.config, arm.rules), CheckpointTimer(flag, run.checkpoint_s)
    task = replace(p.task(request, keeper), trading=trading, control=control, listen=emit)
    trained = p.kind.procedure.trial(task, fold)
    policy, growth = p.policy(request, trained.weights), []
    returns: tuple[float, ...] = ()
    for dates in (fold.validate, *later_starts(fold.validate, ready.judged_by)):
        results = p.data.evaluator(Span(dates, request.reward, trading, arm.burn_in), "cpu")(policy)
        growth.append(mean_growth([(p.data.figures(results).net_return, len(results))]))
        capital = float(trading.paper.cash_usd)
        returns = returns or tuple(session_returns(results, capital).tolist())
    result = Measured(cell.arm, cell.fold, cell.seed, tuple(growth), returns, trained.chosen_steps)
    keeper.save({"measured": msgspec.json.encode(result).decode()})
    emit(f"{cell.name}: {sum(growth) / len(growth) * SESSIONS_A_YEAR:+.2%} a year")
    return result


class ArmVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. Growth is logarithmic, a year, on the validation sessions."""

    arm: str
    why: str
    growth: float  # the mean of its trainings
    over_starts: float  # deviation between a training's accounts, mean over trainings
    seeds: Interval | None = None  # of the difference, over seeds: interquartile mean; None of the run as asked
    sessions: Interval | None = None  # of the mean difference of returns, over sessions
    keep: bool = False
    words: str = ""


def verdicts_of(measured: Sequence[Measured], arms: Mapping[str, Arm]) -> tuple[ArmVerdict, ...]:
    """The verdict on each setting, the run as asked first."""
    return tuple(_verdict(name, arm, measured) for name, arm in arms.items())


def _verdict(name: str, arm: Arm, measured: Sequence[Measured]) -> ArmVerdict:
    trainings, base = (_of(which, measured) for which in (name, BASE))
    growth = float(np.mean([np.mean(training.growth) for training in trainings])) * SESSIONS_A_YEAR
    deviation = float(np.mean([np.std(training.growth) for training in trainings])) * SESSIONS_A_YEAR
    plain = ArmVerdict(arm=name, why=arm.why, growth=growth, over_starts=deviation)
    if name == BASE:
        return plain
    gaps: dict[int, list[float]] = {}
    for ours, theirs in zip(trainings, base, strict=True):
        gaps.setdefault(ours.fold, []).append(
            (float(np.mean(ours.growth)) - float(np.mean(theirs.growth))) * SESSIONS_A_YEAR
        )
    seeds = seeds_interval([np.array(fold_gaps) for fold_gaps in gaps.values()])
    sessions = paired_difference(_returns(trainings), _returns(base)).times(SESSIONS_A_YEAR)
    if min(map(len, gaps.values())) < 2 or len(_returns(trainings)) < FEWEST:
        words = f"drop: not known from one seed, or from fewer than {FEWEST} sessions"
        return msgspec.structs.replace(plain, seeds=seeds, sessions=sessions, words=words)
    keep = seeds.low > 0.0 and sessions.low > 0.0
    worse = seeds.high < 0.0 or sessions.high < 0.0
    words = "keep: better over seeds and over sessions" if keep else "drop: worse" if worse else "drop: not proven"
    return msgspec.structs.replace(plain, seeds=seeds, sessions=sessions, keep=keep, words=words)


def _of(name: str, measured: Sequence[Measured]) -> list[Measured]:
    """A setting's trainings, by fold and seed."""
    return sorted(
        (training for training in measured if training.arm == name), key=lambda training: (training.fold, training.seed)
    )


def _returns(trainings: Sequence[Measured]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Returns of all sessions, fold by fold, each the mean over seeds."""
    folds = sorted({training.fold for training in trainings})
    means = [np.mean([training.returns for training in trainings if training.fold == fold], axis=0) for fold in folds]
    return np.concatenate(means)


RESULT_FILE = "ablation.json"


class AblationResult(msgspec.Struct, frozen=True, kw_only=True):
    """`ablation.json`."""

    strategy: str
    settings: dict[str, Any]
    validation: tuple[str, str]  # first and last session that was looked at
    first_test: str  # first session that was not used
    folds: int
    seeds: int
    verdicts: tuple[ArmVerdict, ...]
    trainings: tuple[Measured, ...]


def run_ablation(ablation: Ablation, listen: Listen, flag: Flag | None = None) -> tuple[AblationResult, Path]:
    """Train and compare, or go on with what the same ablation began; the result, also written, and its folder.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        ValueError, HistoryError, RunFolderError, LedgerError, OSError, Diverged: the text has the cure.
    """
    run, version = ablation.run, code_version(ablation.run.strategy)
    with stop_on_signals(flag) as stop:
        with reading(run.bars, listen):
            ready = make_ready((ablation, Path(), version))
        for note in bars_notes(run, ready.prepared.data):
            listen(note)
        identity = ablation.identity(ready.prepared.data.info.sha256)
        digest = settings_digest(identity)
        folder = (run.run_folder or RUNS / study_name("ablation", run.strategy, digest)).absolute()
        with locked(folder, "ablation", "--out"):
            opened(folder, identity, run, version, "--out")
            ready = replace(ready, prepared=replace(ready.prepared, folder=folder))
            measured = _measurements(ready, version, listen, stop)
            _record(ready, measured, digest)
            result = AblationResult(
                strategy=run.strategy,
                settings=identity,
                validation=(ready.folds[0].validate[0], ready.folds[-1].validate[-1]),
                first_test=ready.prepared.folds[0].test[0],
                folds=len(ready.folds),
                seeds=len(run.seeds),
                verdicts=verdicts_of(measured, ablation.all),
                trainings=tuple(measured),
            )
            write_result(folder / RESULT_FILE, result)
    return result, folder


def _measurements(ready: AblationSetup, version: str, listen: Listen, stop: Flag) -> list[Measured]:
    ablation, folder = ready.ablation, ready.prepared.folder
    run = ablation.run
    cells = [ArmTraining(arm, fold, seed) for arm in ablation.all for fold in range(run.folds) for seed in run.seeds]
    listen(f"{len(cells)} trainings of {run.steps:,} steps: {len(ablation.all)} settings; folder {folder}")
    again = functools.partial(make_ready, (ablation, folder, version))
    return Cells(train_cell, ready, again, run.processes).through(cells, listen, stop)


def _record(ready: AblationSetup, measured: Sequence[Measured], digest: str) -> None:
    """Write a line of the ledger for each setting, with its Sharpe ratio on validation."""
    run = ready.ablation.run
    ledger = Ledger(ledger_path(run.out, run.strategy))
    for name in ready.ablation.all:
        returns = [value for training in measured if training.arm == name for value in training.returns]
        line = trial_line(
            study_name("ablation", run.strategy, digest),
            run.strategy,
            ready.prepared.data.info.sha256,
            (ready.folds[0].validate[0], ready.prepared.folds[-1].test[-1]),
            sharpe=sharpe(np.array(returns)),
            digest=digest,
            note=f"ablation, {name}: Sharpe ratio on validation sessions; the span reaches to the tests it is for",
        )
        ledger.record(line)
