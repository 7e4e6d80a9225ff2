"""The search space, the trials of a search, and their Optuna storage."""

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
from optuna.trial import BaseTrial, TrialState

from training.desks.trial import Request
from training.evidence.statistics import sharpe
from training.rl.coefficients import SCHEDULES, Coefficients
from training.rl.pool import Flag
from training.rl.process_group import ProcessGroup
from training.runs.ledger import Ledger, Line, ledger_path, settings_digest, utc_now
from training.runs.settings import Settings
from training.runs.tasks import CheckpointTimer, Prepared, prepare
from training.runs.trial import run_trial
from training.search.coefficients_file import differences
from training.study.folds import HistoryError
from training.study.study import Fold

STUDY_LOG = "study.log"
UNPRUNED = 5  # trials before any is given up: there is no median worth the name yet


@dataclass(frozen=True, slots=True)
class Dimension:
    """One searched field of `Coefficients`: a number from `low` to `high`, or one of `choices`."""

    name: str
    why: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str | int | float, ...] = ()
    optional: bool = False  # may also be switched off: 0 or None, as in the defaults

    @property
    def switch(self) -> str:
        """The name of the choice between off and on."""
        return f"{self.name}_on"

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that this trial is to have."""
        if self.optional and not trial.suggest_categorical(self.switch, (False, True)):
            return getattr(Coefficients(), self.name)
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def fixed(self, value: Any) -> dict[str, Any]:
        """What makes `suggest` answer `value`. Raises `ValueError` for a value outside."""
        if self.optional and value == getattr(Coefficients(), self.name):
            return {self.switch: False}
        within = value in self.choices if self.choices else self.low <= value <= self.high
        if not within:
            among = self.choices or f"{self.low:g} to {self.high:g}"
            raise ValueError(f"{self.name} begins at {value!r}: expected {among}, which is searched")
        return {self.name: value} | ({self.switch: True} if self.optional else {})


SPACE = (
    Dimension("learning_rate", "the one that matters most; a factor, not a difference", 5e-5, 2e-3, log=True),
    Dimension("schedule", "whether the last steps are small", choices=SCHEDULES),
    Dimension("discount", "0.97 looks 30 decisions ahead, 0.999 a thousand", 0.97, 0.999),
    Dimension("gae_lambda", "trusts the critic or what was earned", 0.8, 0.99),
    Dimension("clip", "how far one rollout may move the policy", 0.1, 0.3),
    Dimension("entropy", "keeps trying when fees punish every trade", 1e-4, 3e-2, log=True, optional=True),
    Dimension("value_clip", "steadies the critic where rewards jump", 0.1, 0.4, optional=True),
    Dimension("target_kl", "ends an update that has moved far enough", 0.01, 0.05, log=True, optional=True),
    Dimension("epochs", "how often a rollout is learned from", 4, 10, whole=True),
    Dimension("batch", "noise of a gradient against the number of them", choices=(512, 1024, 2048, 4096)),
    Dimension("rollout_steps", "how much is collected between two updates", choices=(32, 64, 128)),
)
"""What is searched, and why; the first trial has the defaults."""


def space_around(start: Coefficients) -> tuple[Dimension, ...]:
    """`SPACE`, with choices around the first trial's batch and rollout where they are not among those there.

    Such choices are half, once and twice the number; a rollout stays a multiple of `start.sequence`.
    """
    return tuple(_around(dimension, start) for dimension in SPACE)


def _around(dimension: Dimension, start: Coefficients) -> Dimension:
    multiples = {"batch": 1, "rollout_steps": start.sequence}
    value = getattr(start, dimension.name)
    if dimension.name not in multiples or value in dimension.choices:
        return dimension
    near = [n for n in (value // 2, value * 2) if n > 0 and n % multiples[dimension.name] == 0]
    return replace(dimension, choices=tuple(sorted({value, *near})))


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search. `run` describes one training; its coefficients are those of the first trial."""

    run: Settings  # `run_folder` is the study's folder, `processes` share the trials
    trials: int = 50
    seed: int = 1  # of the suggestions
    space: tuple[Dimension, ...] = SPACE
    ray: str = ""  # "auto", "local", an address; "" is Optuna in this machine's processes

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides which trials there are; more of them may be asked for later."""
        space = [{**asdict(dimension), "why": ""} for dimension in self.space]
        run = replace(self.run, processes=1).identity(bars_sha256)
        normal: dict[str, Any] = json.loads(json.dumps({**run, "suggestions_seed": self.seed, "space": space}))
        return normal

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Fold and seed of each training of a trial, in their order."""
        return tuple((fold, seed) for seed in self.run.seeds for fold in range(self.run.folds))


class Training(msgspec.Struct, frozen=True):
    """One training of a trial, by what its chosen checkpoint did on the validation sessions."""

    fold: int
    seed: int
    returns: tuple[float, ...]  # net, over the capital with which the session began
    net_return: float  # over all of them: the sum, or of one account through all of them compounded
    chosen_steps: int
    steps: int
    seconds: float


class Found(msgspec.Struct, frozen=True):
    """One trial and what it earned on validation sessions."""

    number: int
    state: str  # "complete", "pruned" (worse than the median so far) or "diverged"
    validation_return: float  # the mean of its trainings
    sharpe: float  # a session, over the sessions of all its trainings
    steps_per_s: float
    trainings: int
    coefficients: dict[str, Any]  # those that differ from the defaults
    reason: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found: `search.json`. Complete trials first, best first."""

    study: str
    settings: dict[str, Any]
    trainings_per_trial: int
    validation: tuple[str, str]  # first and last session that was looked at
    first_test: str  # no session from here on was used
    trials: tuple[Found, ...]
    importances: dict[str, float]  # shares, of few trials nothing
    expected_maximum_sharpe: float  # a session: of the best of as many trials without skill
    caution: str
    command: str

    @property
    def best(self) -> Found | None:
        """The best complete trial."""
        return next((found for found in self.trials if found.state == "complete"), None)


def search_folds(folds: Sequence[Fold], dates: Sequence[str]) -> tuple[Fold, ...]:
    """As many spans to validate on as `folds`, one after the other, all before the first test session of any fold.

    The last is the first fold's own; each earlier one ends where the next begins, and trains on as many sessions less.
    They have no test sessions. Raises `HistoryError` where nothing is left to train on.
    """
    first = folds[0]
    size, train, begin = len(first.validate), len(first.train), dates.index(first.validate[0])
    least = (len(folds) - 1) * size + 1
    if train < least:
        raise HistoryError(
            f"too little history: {train} sessions to train on before the first fold's validation; a search with "
            f"{len(folds)} spans of {size} to validate on needs {least}: give a longer file, or fewer or shorter spans"
        )
    shifts = [index * size for index in reversed(range(len(folds)))]
    return tuple(Fold(first.train[: train - s], tuple(dates[begin - s : begin - s + size]), ()) for s in shifts)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a process needs to train a trial."""

    search: Search
    prepared: Prepared
    folds: tuple[Fold, ...]

    def train(self, coefficients: Coefficients, fold: int, seed: int, flag: Flag) -> Training:
        """One training. Raises `Stopped` when `flag` is set, `Diverged` when a loss is not finite."""
        run, p = self.search.run, self.prepared
        request = Request(
            fold, seed, run.rewards[0], run.network, run.steps, run.precision, run.device, run.patience, coefficients
        )
        control = CheckpointTimer(flag, math.inf)
        trained = run_trial(ProcessGroup(), request, p.data, self.folds[fold], p.trading, None, control, lambda _: None)
        capital = float(p.trading.paper.cash_usd)
        returns = tuple(result.pnl_usd / (result.capital_usd or capital) for result in trained.validate)
        earned = p.data.figures(trained.validate).net_return
        return Training(fold, seed, returns, earned, trained.chosen_steps, trained.steps, round(trained.seconds, 3))


def make_ready(search: Search, version: str) -> Ready:
    """Read the bars. Raises what `training.runs.tasks.prepare` and `search_folds` do."""
    prepared = prepare((search.run, Path(), version))
    return Ready(search, prepared, search_folds(prepared.folds, tuple(prepared.data.days)))


@dataclass(frozen=True, slots=True)
class Book:
    """The trials of a search, on file in its folder: asked for, with what each training earned, and closed."""

    search: Search
    study: optuna.Study
    ledger: Ledger
    line: Line  # of a trial in the ledger, without its own figures

    def ask(self, position: int) -> tuple[optuna.Trial, Coefficients]:
        """The next trial, which is the `position`-th: with one process the seed and the position decide it."""
        state = np.random.SeedSequence([self.search.seed, position]).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
        trial = self.study.ask()
        values = {dimension.name: dimension.suggest(trial) for dimension in self.search.space}
        for step, worth in enumerate(_running(trainings_of(trial.user_attrs)), start=1):
            trial.report(worth, step)
        return trial, replace(self.search.run.coefficients, **values)

    def add(self, trial: optuna.Trial, training: Training) -> bool:
        """Keep what a training earned; true when the trial is to be given up."""
        done = [*trainings_of(trial.user_attrs), training]
        trial.set_user_attr("trainings", msgspec.to_builtins(done))
        trial.report(_running(done)[-1], len(done))
        return len(done) < len(self.search.pairs) and trial.should_prune()

    def close(self, trial: optuna.Trial, coefficients: Coefficients, reason: str = "") -> Found:
        """The trial has ended: first into the ledger, then the study, so that none is missing there."""
        trial.set_user_attr("coefficients", differences(coefficients))
        trial.set_user_attr("reason", reason)
        done = trainings_of(trial.user_attrs)
        complete = not reason and len(done) == len(self.search.pairs)
        found = _found(trial.number, trial.user_attrs, complete=complete)
        note = (
            f"search, trial {found.number}, {found.state}: Sharpe ratio on validation sessions, {len(done)} trainings; "
            "the span reaches to the tests it was chosen for"
        )
        if (self.line.study, note) not in {(line.study, line.note) for line in self.ledger.read().lines}:
            digest = settings_digest({"search": self.line.settings_sha256, "coefficients": asdict(coefficients)})
            line = msgspec.structs.replace(
                self.line, utc=utc_now(), sharpe=found.sharpe, settings_sha256=digest, note=note
            )
            self.ledger.append(line)
        if complete:
            self.study.tell(trial, found.validation_return)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
        return found

    def finished(self) -> list[Found]:
        """All trials that have ended, complete ones first, best first."""
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        found = [_found(t.number, t.user_attrs, complete=t.state is TrialState.COMPLETE) for t in ended]
        return sorted(found, key=lambda f: (f.state != "complete", -f.validation_return, f.number))

    def take_up(self) -> None:
        """Enqueue the defaults of a new search; of an old one what was under way when it ended."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            start = asdict(self.search.run.coefficients)
            fixed = [dimension.fixed(start[dimension.name]) for dimension in self.search.space]
            self.study.enqueue_trial({name: value for each in fixed for name, value in each.items()})
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                known = {"repeats": trial.user_attrs.get("repeats", trial.number), "trainings": []} | trial.user_attrs
                self.study.enqueue_trial(trial.params, user_attrs=known)
                self.study.tell(trial.number, state=TrialState.FAIL)


def open_book(search: Search, folder: Path, ready: Ready) -> Book:
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
    digest = settings_digest(search.identity(data))
    line = Line(
        kind="trial",
        utc=utc_now(),
        strategy=search.run.strategy,
        data_sha256=data,
        first=ready.folds[0].validate[0],
        last=ready.prepared.folds[-1].test[-1],
        study=name_of(search, data),
        sharpe=0.0,
        settings_sha256=digest,
    )
    return Book(search, study, Ledger(ledger_path(search.run.out, search.run.strategy)), line)


def name_of(search: Search, bars_sha256: str) -> str:
    """The search's name: in the ledger, and of its folder."""
    digest = settings_digest(search.identity(bars_sha256))
    return f"search-{search.run.strategy}-{search.run.network}-{digest[:8]}"


def trainings_of(attributes: Mapping[str, Any]) -> list[Training]:
    """The trainings that a trial has behind it."""
    return msgspec.convert(attributes.get("trainings", []), list[Training])


def _running(done: Sequence[Training]) -> list[float]:
    """The mean net return after each training."""
    return [statistics.fmean(training.net_return for training in done[:count]) for count in range(1, len(done) + 1)]


def _found(number: int, attributes: Mapping[str, Any], *, complete: bool) -> Found:
    """A trial's figures; one that diverged in its first training has earned nothing."""
    done, reason = trainings_of(attributes), attributes.get("reason", "")
    returns = [value for training in done for value in training.returns]
    seconds = math.fsum(training.seconds for training in done)
    return Found(
        number=attributes.get("repeats", number),
        state="complete" if complete else "diverged" if reason.startswith("diverged") else "pruned",
        validation_return=_running(done)[-1] if done else 0.0,
        sharpe=sharpe(np.array(returns)) if len(returns) > 1 else 0.0,
        steps_per_s=sum(training.steps for training in done) / seconds if seconds else 0.0,
        trainings=len(done),
        coefficients=attributes.get("coefficients", {}),
        reason=reason,
    )
