"""The tasks of a run's processes: train and test one trial, or compare a fold's chosen policy with baselines.

Every function takes what `prepare` made, so that it works alike in this process and in a worker.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies.kit.contract import Strategy
from strategies.registry import strategy as registered
from training.desks.kind import POLICY, Compared, Played, Sources, Span, TaskData, TrainingKind
from training.desks.registry import kind
from training.desks.trial import News, Request, Trained
from training.rl.kernels import use_fast_float32
from training.rl.pool import Emit, Flag, Stopped
from training.rl.ppo import make_deterministic
from training.rl.process_group import ProcessGroup
from training.runs.folder import TRIALS_FOLDER, RunFolderError, TrialFolder
from training.runs.settings import Settings, folds_of, requests_of
from training.runs.trial import run_trial
from training.study.study import Fold, PlayResult, Trial


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a process needs for any task of a run."""

    settings: Settings
    kind: TrainingKind
    machine: Strategy
    trading: Trading
    data: TaskData
    folds: tuple[Fold, ...]
    folder: Path
    version: str

    def span(self, dates: Sequence[str], variant: str | None = None) -> Span:
        """These sessions for a player of this variant, the headline's where none is given."""
        return Span(dates, variant or self.settings.rewards[0], self.trading)

    def policy(self, request: Request, weights: Mapping[str, Any]) -> nn.Module:
        """The module that is exported, raw observations to answers, with these weights of its network."""
        return self.kind.policy(request.network, request.seed, weights)

    def trial_folder(self, request: Request) -> TrialFolder:
        """The files of this trial."""
        return self.task_folder(request.name)

    def task_folder(self, name: str) -> TrialFolder:
        """The files of a trial, or of a task that comes before all trials."""
        settings = self.settings.identity(self.data.info.sha256)
        identity = json.dumps([settings, name, self.version], sort_keys=True)
        return TrialFolder(self.folder / TRIALS_FOLDER / name, hashlib.sha256(identity.encode()).hexdigest())

    def done(self, task: str) -> dict[str, Any]:
        """What a task before the trials ended with. Raises RunFolderError where its file is gone."""
        folder = self.task_folder(task)
        found = folder.checkpoint()
        if found is None:
            raise RunFolderError(f"{folder.path} holds no result of {task}: give the same command again")
        return found


def check_device(name: str) -> None:
    """Raises ValueError where there is no such device, before anything long has begun."""
    kind, _, number = name.partition(":")
    if name == "cpu":
        return
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise ValueError(f"device {name!r} is not known: expected cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise ValueError(f"device {name!r} is not there: torch sees {count} CUDA devices here; use --device cpu")


def prepare(arguments: tuple[Settings, Path, str]) -> Prepared:
    """Read everything. Raises `ValueError` for an unknown variant or network, and what `TrainingKind.load` raises."""
    settings, folder, version = arguments
    make_deterministic()
    use_fast_float32()
    known = kind(settings.strategy)
    known.check(settings.rewards, settings.network)
    strategy, trading = registered(settings.strategy, settings.symbols), trading_for(settings.strategy)
    data = _loaded(known, settings, trading)
    return Prepared(settings, known, strategy, trading, data, folds_of(settings, data), folder, version)


def _loaded(known: TrainingKind, settings: Settings, trading: Trading) -> TaskData:
    """The bars made ready. Raises `ValueError` for what only a strategy with an open universe is asked."""
    if known.procedure is not None and settings.plan is not None:
        sources = Sources(settings.more_bars, settings.symbols)
        found: TaskData = known.procedure.load(settings.bars, trading, sources, settings.plan)
        return found
    if settings.more_bars or settings.symbols:
        raise ValueError(f"{settings.strategy} has its own symbols, all in one file: give --bars once and no --symbols")
    return known.load(settings.bars, trading)


def prepare_same(arguments: tuple[Settings, Path, str], sha256: str) -> Prepared:
    """Read everything once more, in a further process.

    Raises:
        RunFolderError: the bars file is no longer the one that the run began with.
    """
    prepared = prepare(arguments)
    found = prepared.data.info.sha256
    if found != sha256:
        raise RunFolderError(
            f"{arguments[0].bars} changed while the run was at work: its SHA-256 is {found[:12]}, expected "
            f"{sha256[:12]}; put the old file back and give the same command again"
        )
    return prepared


def prior_one(prepared: Prepared, task: str, flag: Flag, emit: Emit) -> None:
    """Do a task that comes before all trials, or go on with it."""
    own = prepared.kind.procedure
    assert own is not None, f"{prepared.kind.strategy} has no procedure of its own"
    request = requests_of(prepared.settings)[0]
    control = CheckpointTimer(flag, prepared.settings.checkpoint_s)
    folder = prepared.task_folder(task)
    own.prior(task, request, prepared.data, folder, prepared.done, control, emit)


def train_one(prepared: Prepared, request: Request, flag: Flag, emit: Emit, group: ProcessGroup | None = None) -> Trial:
    """Train one trial and let its chosen checkpoint play the fold's test sessions; a finished one is read again."""
    folder = prepared.trial_folder(request)
    group = group or ProcessGroup()
    done = folder.finished()
    if done is not None:
        if not group.rank:
            emit(done)
        return done
    if folder.outdated and not group.rank:
        emit(f"{request.name} begins anew: what is there was made by other code")
    control = CheckpointTimer(flag, prepared.settings.checkpoint_s)
    fold = prepared.folds[request.fold]
    own = prepared.kind.procedure
    if own is None:
        trained = run_trial(group, request, prepared.data, fold, prepared.trading, folder, control, emit)
    else:
        trained = own.trial(request, prepared.data, fold, folder, prepared.done, control, emit)
    if group.rank:
        return _trial(request, trained, PlayResult(()))
    folder.save_weights(trained.weights)
    policy, tested = prepared.policy(request, trained.weights), prepared.span(fold.test, request.reward)
    trial = _trial(request, trained, prepared.data.test(policy, tested))
    folder.finish(trial)
    emit(trial)
    return trial


class CheckpointTimer:
    """A trial's control: a checkpoint every so many seconds of wall clock, and the stop that was asked for."""

    def __init__(self, flag: Flag, every_s: float) -> None:
        self._flag = flag
        self._every_s = every_s
        self._last = time.monotonic()

    def stop(self) -> bool:
        """See `training.runs.trial.Control`."""
        return self._flag.is_set()

    def checkpoint_due(self) -> bool:
        """See `training.runs.trial.Control`."""
        now = time.monotonic()
        due = now - self._last >= self._every_s
        self._last = now if due else self._last
        return due


@dataclass(frozen=True, slots=True)
class Chosen:
    """A fold's chosen policy, raw observations to answers, and what it did on the fold's test sessions."""

    fold: int
    seed: int
    policy: nn.Module
    played: PlayResult


def compare(prepared: Prepared, chosen: Chosen, flag: Flag, emit: Emit) -> Compared:
    """The baselines, the random traders and the scenarios of one fold. Raises `Stopped` when `flag` is set."""

    def check_stop() -> None:
        if flag.is_set():
            raise Stopped(f"fold {chosen.fold + 1}")

    check_stop()
    tested = prepared.span(prepared.folds[chosen.fold].test)
    found = prepared.data.compare(chosen.policy, chosen.played, tested, chosen.seed, check_stop)
    emit(f"compared fold {chosen.fold + 1}")
    return found


@dataclass(frozen=True, slots=True)
class Player:
    """One of a procedure's players, and the chosen policy of each fold."""

    name: str
    policies: Sequence[nn.Module]
    seed: int

    @property
    def task(self) -> str:
        """The name of its folder."""
        return f"account-{self.name.replace(' ', '-')}"


def play_one(prepared: Prepared, player: Player, flag: Flag, emit: Emit) -> Played:
    """Let one player go through the tests of all folds; what is done already is read. Raises `Stopped`."""

    def check_stop() -> None:
        if flag.is_set():
            raise Stopped(player.task)

    own, folder = prepared.kind.procedure, prepared.task_folder(player.task)
    assert own is not None, f"{prepared.kind.strategy} has no procedure of its own"
    kept = folder.checkpoint()
    if kept is not None:
        return msgspec.json.decode(kept["played"], type=Played)
    check_stop()
    spans = [prepared.span(fold.test) for fold in prepared.folds]
    played = own.play(player.name, player.policies, prepared.data, spans, player.seed, check_stop)
    folder.save({"played": msgspec.json.encode(played).decode()})
    emit(News(player.task, 1, 1))
    return played


def by_fold(played: Mapping[str, Played], baselines: Collection[str]) -> list[Compared]:
    """What all players did, fold by fold; who could not play is left out."""
    found = []
    for fold in range(len(played[POLICY].folds)):
        there = {name: each.folds[fold] for name, each in played.items() if each.folds and name != POLICY}
        draws = [each.random_pnl_usd[fold] for each in played.values() if each.random_pnl_usd]
        found.append(
            Compared(
                {name: result for name, result in there.items() if name in baselines},
                draws[0] if draws else (),
                {name: result for name, result in there.items() if name not in baselines},
            )
        )
    return found


def run_member(group: ProcessGroup, prepare: Callable[[], Prepared], request: Request) -> None:
    """Train as a further member of a group: it reports nothing, and rank 0 decides when to stop."""
    train_one(prepare(), request, threading.Event(), lambda _: None, group)


def _trial(request: Request, trained: Trained, test: PlayResult) -> Trial:
    return Trial(
        fold=request.fold,
        seed=request.seed,
        reward=request.reward,
        steps=trained.steps,
        seconds=round(trained.seconds, 3),
        chosen_steps=trained.chosen_steps,
        stopped=trained.stopped,
        curve=trained.curve,
        validate=trained.validate,
        test=test,
    )
