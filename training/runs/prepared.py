"""The inputs of a run's tasks, read once in each process: settings, data, folds and folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from daemon.core.limits import Trading
from daemon.library.run_files import TRIALS_FOLDER
from strategies.kit.contract import AnyStrategy
from strategies.registry import strategy as registered
from training.desks.kind import Sources, Span, Task, TaskData, TrainingKind
from training.desks.trial import Request
from training.export.ensemble import together
from training.export.weights import Weights, warm_start
from training.rl.kernels import use_fast_float32
from training.rl.ppo import make_deterministic
from training.runs.folder import RunFolderError, TrialFolder, check_same_code
from training.runs.settings import Settings, folds_of, trading_of
from training.study.folds import explained
from training.study.study import Fold

UNTRAINED, UNTRAINED_WORDS = "untrained network", "the same network with the weights as they are drawn"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a process needs for any task of a run."""

    settings: Settings
    kind: TrainingKind
    machine: AnyStrategy
    trading: Trading
    data: TaskData
    folds: tuple[Fold, ...]
    folder: Path
    version: str
    warm: tuple[Weights, ...] = ()  # of the version that trials begin at, one for each of its seeds

    def span(self, dates: Sequence[str], variant: str | None = None) -> Span:
        """These sessions for a player of this variant, the headline's where none is given."""
        return Span(dates, variant or self.settings.rewards[0], self.trading)

    def passive_span(self, dates: Sequence[str], variant: str) -> Span:
        """These sessions for the passive policy: by its own variant if it has one, else by this one."""
        own_variant = "" if self.kind.passive is None else self.kind.passive.variant
        return self.span(dates, own_variant or variant)

    def policy(self, request: Request, weights: Mapping[str, Any]) -> nn.Module:
        """The module that is exported, raw observations to answers, with these weights of its network."""
        return self.kind.policy(request.network, request.seed, weights)

    def mean_policy(self, requests: Sequence[Request], weights: Sequence[Mapping[str, Any]]) -> nn.Module:
        """The ensemble of the policies of requests that differ in their seed."""
        members = [
            self.policy(request, member_weights) for request, member_weights in zip(requests, weights, strict=True)
        ]
        return together(members, self.machine.spec.recurrent_shape)

    def begin(self, request: Request) -> Callable[[Any], None] | None:
        """The function applied to a network before training, if any. Raises `ValueError` without a passive policy.

        With a warm start, seeds take the version's members in turn.
        """
        if self.warm:
            weights = self.warm[self.settings.seeds.index(request.seed) % len(self.warm)]
            return lambda network: network.load_state_dict(weights)
        return self.kind.beginning(request.begins)

    def untrained(self, network: str, seed: int, train: Sequence[str]) -> nn.Module | None:
        """The policy of an untrained network, scaled by these sessions; None where a policy has several networks."""
        learner: Any = self.kind.procedure.learner(self.data, network, seed, train)
        return None if learner is None else self.kind.policy(network, seed, learner.state_dict())

    def passive(self, network: str, train: Sequence[str], trained: nn.Module | None = None) -> nn.Module | None:
        """The kind's passive policy under the same contract, scaled by these sessions; None where it names none.

        That of a policy of several networks is made of a `trained` one.
        """
        if self.kind.passive is None:
            return None
        if self.kind.passive.of is not None:
            return None if trained is None else self.kind.passive.of(trained)
        if self.kind.passive.rule is not None:
            return self.kind.passive.rule(self.trading)
        learner: Any = self.kind.procedure.learner(self.data, network, 0, train)
        self.kind.passive.play(learner)
        return self.kind.policy(network, 0, learner.state_dict())

    def task(self, request: Request, keeper: TrialFolder | None = None) -> Task[Any, Any]:
        """The `Task` of this request; its files are `keeper`'s, or the trial's."""
        return Task(
            request,
            request.plan,
            self.data,
            self.trading,
            self.trial_folder(request) if keeper is None else keeper,
            self.done,
            self.begin(request),
        )

    def trial_folder(self, request: Request) -> TrialFolder:
        """The files of this trial."""
        return self.task_folder(request.name)

    def task_folder(self, name: str) -> TrialFolder:
        """The files of a task by name: of a trial, of a mean of trials, or of a task before or after all trials."""
        settings = self.settings.identity(self.data.info.sha256)
        identity = json.dumps([settings, name, self.version], sort_keys=True)
        return TrialFolder(self.folder / TRIALS_FOLDER / name, hashlib.sha256(identity.encode()).hexdigest())

    def done(self, task: str) -> dict[str, Any]:
        """The result of a task that came before the trials. Raises RunFolderError where its file is missing."""
        folder = self.task_folder(task)
        checkpoint = folder.checkpoint()
        if checkpoint is None:
            raise RunFolderError(f"{folder.path} holds no result of {task}: give the same command again")
        return checkpoint


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
    """Read everything. `arguments` end with the code's version.

    Raises `ValueError` for a name that is unknown or there twice, and as `check_same_code` and `TrainingKind.load`.
    """
    settings, folder, version = arguments
    make_deterministic()
    use_fast_float32()
    kind = settings.kind
    if problem := kind.refusal(settings.given):
        raise ValueError(problem)
    kind.check(settings.rewards, settings.network)
    if twice := sorted({symbol for symbol in settings.symbols if settings.symbols.count(symbol) > 1}):
        raise ValueError(f"--symbols names {', '.join(twice)} twice: expected each symbol once")
    strategy = registered(settings.strategy, settings.symbols, settings.model_config)
    check_same_code(settings.strategy, version)
    trading = trading_of(settings.strategy, settings.config)
    data = loaded(settings, trading)
    with explained(lambda: data.info.remark):
        folds = folds_of(settings, data)
    warm = (
        warm_start(settings.out, settings.warm_start, strategy, settings.network, folds) if settings.warm_start else ()
    )
    return Prepared(settings, kind, strategy, trading, data, folds, folder, version, warm)


def loaded(settings: Settings, trading: Trading) -> TaskData:
    """The bars made ready. Raises what the procedure's `load` raises."""
    sources = Sources(settings.more_bars, settings.symbols, settings.quotes)
    data: TaskData = settings.kind.procedure.load(settings.bars, trading, sources, settings.plan)
    return data


def prepare_same(arguments: tuple[Settings, Path, str], sha256: str) -> Prepared:
    """Read everything once more, in a further process.

    Raises:
        RunFolderError: the bars file is no longer the one that the run began with.
    """
    prepared = prepare(arguments)
    digest = prepared.data.info.sha256
    if digest != sha256:
        raise RunFolderError(
            f"{arguments[0].bars} changed while the run was at work: its SHA-256 is {digest[:12]}, expected "
            f"{sha256[:12]}; put the old file back and give the same command again"
        )
    return prepared
