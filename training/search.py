"""`train-and-export search`: coefficients that earn more on validation sessions, by Optuna, here or through Ray.

A trial is trained once for each fold and seed, and is worth the mean net return of the chosen checkpoints on the
validation sessions. Invariant: only sessions before the first test session of a training run with the same folds are
trained on or looked at, and every trial, given up or not, is counted in the store's ledger.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import shlex
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from daemon.shell.calendar import CalendarError
from daemon.shell.tape_file import TapeError
from strategies.registry import STRATEGIES
from training.coefficients_file import COEFFICIENTS_FILE, differences, write_coefficients
from training.kinds import kind
from training.ledger import Ledger, LedgerError, Line, ledger_path, settings_digest, utc_now
from training.overfitting import expected_maximum
from training.pool import Flag, Stopped, Tell, stop_on_signals, work_through
from training.ppo import SCHEDULES, Coefficients
from training.run_folder import RunFolderError, code_version, machine, open_run, write_whole
from training.scalper.history import HistoryError
from training.settings import Settings, settings_for, split_note
from training.statistics import annual, sharpe
from training.study import Fold
from training.tasks import Clockwork, Prepared, prepare
from training.team import Team
from training.trial import Diverged, Request, run_trial

SEARCH_FILE, STUDY_LOG, LOCK_FILE = "search.json", "study.log", "lock"
RUNS = Path("runs")
SHOWN = 10  # trials in the table
DONE, USAGE_ERROR, STOPPED = 0, 2, 130
ERRORS = (TapeError, CalendarError, HistoryError, RunFolderError, LedgerError, OSError, ValueError, RuntimeError)
UNPRUNED = 5  # trials before any is given up: there is no median worth the name yet
TELLING = 10  # complete trials, below which importances say nothing
STEPS, UPDATES = 150_000, 4  # of a training where nothing else is asked for: so many, or so many rollouts
FOLDS = 3  # where a strategy has no years of its own


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
    """What a search is asked for. `run` says what one training is; its coefficients are those of the first trial."""

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
        control = Clockwork(flag, math.inf)
        trained = run_trial(Team(), request, p.data, self.folds[fold], p.trading, None, control, lambda _: None)
        capital = float(p.trading.paper.cash_usd)
        returns = tuple(result.pnl_usd / (result.capital_usd or capital) for result in trained.validate)
        earned = p.data.figures(trained.validate).net_return
        return Training(fold, seed, returns, earned, trained.chosen_steps, trained.steps, round(trained.seconds, 3))


def make_ready(search: Search, version: str) -> Ready:
    """Read the bars. Raises what `training.tasks.prepare` and `search_folds` do."""
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


@dataclass(frozen=True, slots=True)
class Desk:
    """A process that works on a search without Ray."""

    ready: Ready
    book: Book
    train: Callable[[Coefficients, int, int, Flag], Training] = field(repr=False)


def make_desk(arguments: tuple[Search, Path, str]) -> Desk:
    """Once in each process."""
    search, folder, version = arguments
    ready = make_ready(search, version)
    return Desk(ready, open_book(search, folder, ready), ready.train)


def one_trial(desk: Desk, position: int, flag: Flag, tell: Tell) -> Found:
    """Ask for a trial, train it to its end or until it is worse than the median, and close it.

    Raises:
        Stopped: `flag` was set; the trial is left open, and the next search takes it up again.
    """
    if flag.is_set():
        raise Stopped(f"trial {position}")
    trial, coefficients = desk.book.ask(position)
    reason = ""
    for fold, seed in desk.book.search.pairs[len(trainings_of(trial.user_attrs)) :]:
        try:
            training = desk.train(coefficients, fold, seed, flag)
        except Diverged as error:
            reason = f"diverged: {error}"
            break
        if desk.book.add(trial, training):
            reason = "pruned: worse than the median"
            break
    found = desk.book.close(trial, coefficients, reason)
    tell(found)
    return found


def run_search(search: Search, listen: Callable[[str | Found], None], flag: Flag | None = None) -> tuple[Results, Path]:
    """Search, or go on with what the same search began; the results, also written, and the folder they are in.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        TapeError, CalendarError, HistoryError, RunFolderError, LedgerError, ValueError, OSError, RuntimeError: the
            text names what was found and what helps.
    """
    stop = flag or threading.Event()
    with stop_on_signals(stop):
        listen(f"reading {search.run.bars.name}")
        version = code_version(search.run.strategy)
        ready = make_ready(search, version)
        if note := split_note(search.run, ready.prepared.data):
            listen(note)
        sha256 = ready.prepared.data.info.sha256
        folder = search.run.run_folder or RUNS / name_of(search, sha256)
        try:
            made_with = {"code": version, **machine(search.run.device, search.run.processes)}
            open_run(folder, search.identity(sha256), made_with, restart=search.run.restart)
        except RunFolderError as error:
            raise RunFolderError(str(error).replace("--run-dir", "--study-dir")) from error
        with _alone(folder):
            book = open_book(search, folder, ready)
            book.take_up()
            done = len(book.finished())
            counted = "1 trial" if search.trials == 1 else f"{search.trials} trials"
            listen(f"{counted} of {len(search.pairs)} trainings, {done} of them done; folder {folder}")
            _go_on(search, Desk(ready, book, ready.train), folder, range(done, search.trials), listen, stop)
            results = results_of(ready, book, folder)
            write_whole(folder / SEARCH_FILE, msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
            if results.best is not None:
                found = replace(Coefficients(), **results.best.coefficients)
                write_coefficients(folder / COEFFICIENTS_FILE, found)
            return results, folder


def _go_on(
    search: Search, desk: Desk, folder: Path, positions: range, listen: Callable[[str | Found], None], stop: Flag
) -> None:
    """The trials that are left."""
    if search.ray and positions:
        from training.search_ray import search_through_ray

        search_through_ray(desk.book, desk.ready.prepared.version, folder, positions, listen, stop)
        return
    alone = search.run.processes == 1 or len(positions) <= 1
    work_through(
        one_trial,
        positions,
        prepare=(lambda _: desk) if alone else make_desk,
        argument=(search, folder, desk.ready.prepared.version),
        processes=search.run.processes,
        flag=stop,
        tell=listen,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else searches in this folder while this lasts; a line that a full disk cut off is taken away."""
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"{folder} is being searched by another process: wait for it, or use --study-dir"
            ) from error
        log = folder / STUDY_LOG
        if log.exists():
            log.with_name(f"{STUDY_LOG}.lock").unlink(missing_ok=True)  # of a process that was killed
            whole = log.read_bytes().rpartition(b"\n")
            if whole[2]:
                os.truncate(log, len(whole[0]) + len(whole[1]))
        yield


def results_of(ready: Ready, book: Book, folder: Path) -> Results:
    """What the trials say so far."""
    trials = book.finished()
    deviation = statistics.stdev(found.sharpe for found in trials) if len(trials) > 1 else 0.0
    luck = expected_maximum(deviation, len(trials))
    best = trials[0].sharpe if trials else 0.0
    caution = (
        f"The best of {len(trials)} trials flatters: of as many without any skill, whose Sharpe ratios scatter as "
        f"these do, the best would have {luck:+.3f} a session ({annual(luck):+.1f} a year); this one has {best:+.3f} "
        f"({annual(best):+.1f}). Only test sessions tell, from {ready.prepared.folds[0].test[0]} on; the ledger counts "
        "all trials against them."
    )
    return Results(
        study=book.line.study,
        settings=book.search.identity(book.line.data_sha256),
        trainings_per_trial=len(book.search.pairs),
        validation=(ready.folds[0].validate[0], ready.folds[-1].validate[-1]),
        first_test=ready.prepared.folds[0].test[0],
        trials=tuple(trials),
        importances=_importances(book.study),
        expected_maximum_sharpe=luck,
        caution=caution,
        command=shlex.join(_command(book.search, folder)),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """Which coefficients decided, as shares (PED-ANOVA, Watanabe et al. 2023); empty for few trials or a flat field."""
    complete: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < TELLING or len({trial.value for trial in complete}) == 1:
        return {}
    return {name: round(share, 3) for name, share in optuna.importance.get_param_importances(study).items()}


def _command(search: Search, folder: Path) -> list[str]:
    """Trains with what was found, on the folds whose tests were kept from the search."""
    run = search.run
    sizes = [] if run.train_sessions is None else ["--train-sessions", str(run.train_sessions)]
    if run.folds > 1 or sizes:
        sizes += ["--validate-sessions", str(run.validate_sessions), "--test-sessions", str(run.test_sessions)]
    return [
        "train-and-export", "--strategy", run.strategy, "--bars", str(run.bars), "--out", str(run.out),
        "--network", run.network, "--reward", run.rewards[0], "--steps", str(run.steps), "--folds", str(run.folds),
        *sizes, "--coefficients", str(folder / COEFFICIENTS_FILE),
    ]  # fmt: skip


def row(found: Found) -> str:
    """One line of the table."""
    values = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.coefficients.items()
    )
    return (
        f"trial {found.number:>3}  {found.state:<8}  validation {found.validation_return:+8.3%}  "
        f"Sharpe {found.sharpe:+.3f}  {found.steps_per_s:7,.0f} steps/s  {values or 'the defaults'}"
    )


def parser() -> argparse.ArgumentParser:
    """The options of `search`."""
    defaults = Settings("", Path(), Path())
    found = argparse.ArgumentParser(prog="train-and-export search", description=__doc__.partition("\n")[0])
    found.add_argument("--strategy", required=True, metavar="NAME", help=f"one of {', '.join(STRATEGIES)}")
    found.add_argument("--bars", required=True, type=Path, help="CSV, CSV.gz or Parquet file of bars")
    found.add_argument("--out", required=True, type=Path, help="model store: its ledger counts the trials")
    found.add_argument("--trials", type=int, default=50, help="in all; give more later to go on (%(default)s)")
    found.add_argument("--steps", type=int, help=f"transitions of each training ({STEPS:,}, or {UPDATES} rollouts)")
    found.add_argument("--seed", type=int, default=1, help="of the suggestions and the first training (%(default)s)")
    found.add_argument("--seeds", type=int, default=2, help="trainings of each trial and fold (%(default)s)")
    found.add_argument("--preset", metavar="NAME", help="whose coefficients the first trial has (the strategy's first)")
    found.add_argument("--network", metavar="NAME", help="(the strategy's first: see train-and-export --help)")
    found.add_argument("--reward", metavar="NAME", help="or size of an action (the strategy's first)")
    found.add_argument("--precision", choices=("float32", "bf16"), default=defaults.precision, help="(%(default)s)")
    found.add_argument("--device", default=defaults.device, help="cpu, cuda or cuda:N (%(default)s)")
    folds = "folds of the run to come, and spans to validate on before its first test"
    found.add_argument("--folds", type=int, help=f"{folds} ({FOLDS}; 1 for a strategy with years of its own)")
    found.add_argument("--train-sessions", type=int, help="of that run's first fold (48 %% of all)")
    found.add_argument("--validate-sessions", type=int, default=defaults.validate_sessions, help="(%(default)s)")
    found.add_argument("--test-sessions", type=int, default=defaults.test_sessions, help="(%(default)s)")
    found.add_argument("--processes", type=int, default=2, help="of one thread each, one trial each (%(default)s)")
    found.add_argument("--study-dir", type=Path, help="(runs/search-<strategy>-<network>-<digest of the settings>)")
    found.add_argument("--restart", action="store_true", help="throw away what an earlier search left there")
    ray = "through Ray: 'auto' joins the running cluster, 'local' starts one on this machine, or a cluster's address"
    found.add_argument("--ray", default="", metavar="auto|local|ADDRESS", help=ray)
    return found


def search_from(chosen: argparse.Namespace) -> Search:
    """The search of these options, with the strategy's own where none is given.

    Raises:
        ValueError: the strategy, or its preset, is unknown.
    """
    known, usual = kind(chosen.strategy), settings_for(chosen.strategy, chosen.bars, chosen.out, preset=chosen.preset)
    start = usual.coefficients
    rollouts = UPDATES * start.environments * start.rollout_steps
    run = replace(
        usual,
        steps=max(STEPS, rollouts) if chosen.steps is None else chosen.steps,
        seeds=tuple(range(chosen.seed, chosen.seed + chosen.seeds)),
        rewards=(chosen.reward or usual.rewards[0],),
        network=chosen.network or usual.network,
        precision=chosen.precision,
        device=chosen.device,
        folds=chosen.folds or (FOLDS if known.split is None else 1),
        train_sessions=chosen.train_sessions,
        validate_sessions=chosen.validate_sessions,
        test_sessions=chosen.test_sessions,
        processes=chosen.processes,
        run_folder=chosen.study_dir,
        restart=chosen.restart,
    )
    return Search(run, trials=chosen.trials, seed=chosen.seed, space=space_around(start), ray=chosen.ray)


def main(arguments: Sequence[str]) -> int:
    """Run the command: 0, 2 for a file or an argument at fault, 130 stopped."""
    options = parser()
    chosen = options.parse_args(arguments)
    least = {"seed": 0} | dict.fromkeys(
        ("trials", "steps", "seeds", "folds", "validate_sessions", "test_sessions", "processes"), 1
    )
    for name, bound in least.items():
        if getattr(chosen, name) is not None and getattr(chosen, name) < bound:
            options.error(f"--{name.replace('_', '-')} is {getattr(chosen, name)}: expected at least {bound}")

    def listen(news: str | Found) -> None:
        sys.stderr.write(f"{news if isinstance(news, str) else row(news)}\n")

    try:
        results, folder = run_search(search_from(chosen), listen)
    except Stopped:
        sys.stderr.write("train-and-export search: stopped; give the same command again to go on\n")
        return STOPPED
    except ERRORS as error:
        sys.stderr.write(f"train-and-export search: {error}\n")
        return USAGE_ERROR
    sys.stderr.write("\n" + "".join(f"{row(found)}\n" for found in results.trials[:SHOWN]))
    for name, share in results.importances.items():
        sys.stderr.write(f"{name:<16} decides {share:.0%}\n")
    sys.stderr.write(f"{results.caution}\n{results.command}\n")
    sys.stdout.write(f"{folder / SEARCH_FILE}\n")
    return DONE
