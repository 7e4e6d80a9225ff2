"""The trials of a search, and their Optuna storage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from training.evidence.statistics import sharpe
from training.rl.dimensions import Plan, value_of
from training.runs.ledger import Ledger, Line, ledger_path, settings_digest, utc_now
from training.studies.runner import trial_line
from training.studies.search.space import Search
from training.studies.search.trainings import TrialSetup, TrialTraining

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
    line: Line  # of a trial in the ledger, without its own figures

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
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        results = [_result_of(t.number, t.user_attrs, complete=t.state is TrialState.COMPLETE) for t in ended]
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
