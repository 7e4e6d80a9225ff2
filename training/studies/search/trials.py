"""The trials of a search: the settings of the search, one training of a trial, and their Optuna storage."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from daemon.library.run_files import TRAINING_LOCK, TRIALS_FOLDER
from training.desks.trial import Control, Request, Trained
from training.evidence.statistics import session_returns, sharpe
from training.rl.coefficients import SPACE
from training.rl.dimensions import Dimension, Plan, value_of, with_values
from training.rl.pool import Flag
from training.runs.folder import TrialFolder, alone
from training.runs.ledger import Ledger, LedgerLine, ledger_path, settings_digest, utc_now
from training.runs.prepared import Prepared, prepare
from training.runs.settings import Settings
from training.runs.tasks import CheckpointTimer
from training.studies.runner import trial_line
from training.study.study import Fold


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search. `run` describes one training; its plan is that of the first trial."""

    run: Settings  # `run_folder` is the study's folder; `processes` work on the trials
    trials: int = 50
    seed: int = 1  # seed of the suggestions
    space: tuple[Dimension, ...] = SPACE
    ray: str = ""  # "auto", "local", an address; "" is Optuna in this machine's processes
    preset: str = ""  # preset whose plan the first trial has; "": the strategy's first

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """The settings that determine the trials. Their number is left out: more may be added later."""
        space = [
            {name: value for name, value in asdict(dimension).items() if name != "off"} | {"why": ""}
            for dimension in self.space
        ]
        run = replace(self.run, processes=1).identity(bars_sha256)
        normal: dict[str, Any] = json.loads(json.dumps({**run, "suggestions_seed": self.seed, "space": space}))
        return normal

    @property
    def usual(self) -> Plan:
        """The preset's plan, to which a file of coefficients is applied."""
        training_kind = self.run.kind
        return training_kind.preset(self.preset or next(iter(training_kind.presets))).plan.at(self.run.precision)

    @property
    def start(self) -> Plan:
        """The plan of the first trial."""
        return self.run.plan

    def recipe(self, values: Mapping[str, Any]) -> Plan:
        """The first trial's plan with these values of searched fields."""
        return with_values(self.start, values)

    def encoded(self, recipe: Plan) -> dict[str, Any]:
        """The searched fields of a plan, as JSON, for `recipe`."""
        return {dimension.name: value_of(recipe, dimension.name) for dimension in self.space}

    def described(self, recipe: Plan) -> dict[str, Any]:
        """The fields of a recipe that differ from the preset's, as JSON."""
        return recipe.differences(self.usual)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Fold and seed of each training of a trial, in their order."""
        return tuple((fold, seed) for seed in self.run.seeds for fold in range(self.run.folds))


class TrialTraining(msgspec.Struct, frozen=True):
    """The result of one training: that of its chosen checkpoint on the validation sessions."""

    fold: int
    seed: int
    returns: tuple[float, ...]  # net, over the capital with which the session began
    net_return: float  # over all of them: the sum, or of one account through all of them compounded
    chosen_steps: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """What a process needs to train a trial."""

    search: Search
    prepared: Prepared
    folds: tuple[Fold, ...]
    folder: Path = Path()  # of the search

    def train(self, recipe: Plan, fold: int, seed: int, flag: Flag) -> TrialTraining:
        """Run one training. Raises `Stopped` when `flag` is set, `Diverged` when a loss is not finite."""
        run, p = self.search.run, self.prepared
        request = Request(
            fold, seed, run.rewards[0], run.network, run.steps, run.precision, run.device, run.patience, recipe,
            begins=run.begins,
        )  # fmt: skip
        trained = self._trained(request, self.folds[fold], CheckpointTimer(flag, math.inf))
        capital = float(p.trading.paper.cash_usd)
        returns = tuple(session_returns(trained.validate, capital).tolist())
        earned = p.data.figures(trained.validate).net_return
        return TrialTraining(
            fold, seed, returns, earned, trained.chosen_steps, trained.steps, round(trained.seconds, 3)
        )

    def _trained(self, request: Request, span: Fold, control: Control) -> Trained:
        """Run one training; the tasks that trials share are done once."""
        procedure, plan = self.prepared.kind.procedure, request.plan

        def result_of(task: str) -> dict[str, Any]:
            return self._kept(task, plan.common).checkpoint() or {}

        decided = [msgspec.to_builtins(plan), request.steps, request.precision, span.validate[0]]
        keeper = self._kept(request.name, decided)
        task = replace(self.prepared.task(request, keeper), done=result_of, control=control)
        for name in procedure.needed(plan, span):
            files = self._kept(name, plan.common)
            with alone(files.path / TRAINING_LOCK):
                procedure.prior(name, replace(task, keeper=files))
        return procedure.trial(task, span)

    def _kept(self, task: str, decided: Any) -> TrialFolder:
        """The files of a task whose outcome depends on `decided` (JSON), the bars and the code."""
        identity = settings_digest(
            {"decided": decided, "bars": self.prepared.data.info.sha256, "code": self.prepared.version}
        )
        return TrialFolder(self.folder / TRIALS_FOLDER / f"{task}-{identity[:12]}", identity)


def make_ready(search: Search, version: str) -> TrialSetup:
    """Read the bars. Raises what `training.runs.prepared.prepare` and the procedure's `search_folds` do."""
    prepared = prepare((search.run, Path(), version))
    run, days = search.run, tuple(prepared.data.days)
    folds = prepared.kind.procedure.search_folds(days, run.plan, prepared.folds, run.folds)
    return TrialSetup(search, prepared, folds, run.run_folder or Path())


STUDY_LOG = "study.log"
UNPRUNED = 5  # least number of trials before pruning, because a median of fewer is unreliable


class TrialResult(msgspec.Struct, frozen=True):
    """One trial and what it earned on validation sessions."""

    number: int
    state: str  # "complete", "pruned" (worse than the median so far) or "diverged"
    validation_return: float  # the mean of its trainings
    sharpe: float  # a session, over the sessions of all its trainings
    steps_per_s: float
    trainings: int
    coefficients: dict[str, Any]  # those that differ from the preset's
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrialBook:
    """The trials of a search, stored in its folder: asks for them, keeps each training's result, closes them."""

    search: Search
    study: optuna.Study
    ledger: Ledger
    line: LedgerLine  # of a trial in the ledger, without its own figures

    def ask(self, position: int) -> tuple[optuna.Trial, Plan]:
        """The next trial, number `position`; with one process it follows from the seed and the position."""
        state = np.random.SeedSequence([self.search.seed, position]).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
        trial = self.study.ask()
        values = {dimension.name: dimension.suggest(trial) for dimension in self.search.space}
        for step, worth in enumerate(_running(trainings_of(trial.user_attrs)), start=1):
            trial.report(worth, step)
        return trial, self.search.recipe(values)

    def add(self, trial: optuna.Trial, training: TrialTraining) -> bool:
        """Keep a training's result; returns True if the trial should be pruned."""
        trainings = [*trainings_of(trial.user_attrs), training]
        trial.set_user_attr("trainings", msgspec.to_builtins(trainings))
        trial.report(_running(trainings)[-1], len(trainings))
        return len(trainings) < len(self.search.pairs) and trial.should_prune()

    def close(self, trial: optuna.Trial, recipe: Plan, reason: str = "") -> TrialResult:
        """Close a trial: write it to the ledger, then to the study, so that the ledger lacks none."""
        trial.set_user_attr("coefficients", self.search.described(recipe))
        trial.set_user_attr("reason", reason)
        trainings = trainings_of(trial.user_attrs)
        complete = not reason and len(trainings) == len(self.search.pairs)
        result = _result_of(trial.number, trial.user_attrs, complete=complete)
        note = (
            f"search, trial {result.number}, {result.state}: Sharpe ratio on validation sessions, {len(trainings)} "
            "trainings; the span reaches to the tests it was chosen for"
        )
        if (self.line.study, note) not in {(line.study, line.note) for line in self.ledger.read().lines}:
            digest = settings_digest({"search": self.line.settings_sha256, "coefficients": msgspec.to_builtins(recipe)})
            line = msgspec.structs.replace(
                self.line, utc=utc_now(), sharpe=result.sharpe, settings_sha256=digest, note=note
            )
            self.ledger.append(line)
        if complete:
            self.study.tell(trial, result.validation_return)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
        return result

    def finished(self) -> list[TrialResult]:
        """All trials that have ended, complete ones first, best first."""
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        results = [_result_of(t.number, t.user_attrs, complete=t.state is TrialState.COMPLETE) for t in finished]
        return sorted(results, key=lambda f: (f.state != "complete", -f.validation_return, f.number))

    def take_up(self) -> None:
        """Enqueue the defaults in a new search; in a resumed one the trials that were unfinished."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            start = self.search.start
            fixed = [dimension.fixed(value_of(start, dimension.name)) for dimension in self.search.space]
            self.study.enqueue_trial({name: value for part in fixed for name, value in part.items()})
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                attributes = {
                    "repeats": trial.user_attrs.get("repeats", trial.number),
                    "trainings": [],
                } | trial.user_attrs
                self.study.enqueue_trial(trial.params, user_attrs=attributes)
                self.study.tell(trial.number, state=TrialState.FAIL)


def open_book(search: Search, folder: Path, ready: TrialSetup) -> TrialBook:
    """The trials in this folder, with a line of the ledger that holds what all of them have in common."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY_LOG))),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        load_if_exists=True,
    )
    data = ready.prepared.data.info.sha256
    line = trial_line(
        name_of(search, data),
        search.run.strategy,
        data,
        (ready.folds[0].validate[0], ready.prepared.folds[-1].test[-1]),
        sharpe=0.0,
        digest=settings_digest(search.identity(data)),
        note="",
    )
    return TrialBook(search, study, Ledger(ledger_path(search.run.out, search.run.strategy)), line)


def name_of(search: Search, bars_sha256: str) -> str:
    """The search's name: in the ledger, and of its folder."""
    digest = settings_digest(search.identity(bars_sha256))
    return f"search-{search.run.strategy}-{search.run.network}-{digest[:8]}"


def trainings_of(attributes: Mapping[str, Any]) -> list[TrialTraining]:
    """The finished trainings of a trial."""
    return msgspec.convert(attributes.get("trainings", []), list[TrialTraining])


def _running(trainings: Sequence[TrialTraining]) -> list[float]:
    """The mean net return after each training."""
    return [
        statistics.fmean(training.net_return for training in trainings[:count])
        for count in range(1, len(trainings) + 1)
    ]


def _result_of(number: int, attributes: Mapping[str, Any], *, complete: bool) -> TrialResult:
    """The result of a trial; 0 returns for one that diverged in its first training."""
    trainings, reason = trainings_of(attributes), attributes.get("reason", "")
    returns = [value for training in trainings for value in training.returns]
    seconds = math.fsum(training.seconds for training in trainings)
    return TrialResult(
        number=attributes.get("repeats", number),
        state="complete" if complete else "diverged" if reason.startswith("diverged") else "pruned",
        validation_return=_running(trainings)[-1] if trainings else 0.0,
        sharpe=sharpe(np.array(returns)) if len(returns) > 1 else 0.0,
        steps_per_s=sum(training.steps for training in trainings) / seconds if seconds else 0.0,
        trainings=len(trainings),
        coefficients=attributes.get("coefficients", {}),
        reason=reason,
    )
