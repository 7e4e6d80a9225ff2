"""A search from bars to results: asks for trials, trains them here or through Ray, closes and summarises them.

A trial is trained once for each fold and seed, and is worth the mean net return of the chosen checkpoints on the
validation sessions. Invariant: only sessions before the first test session of a training run with the same folds are
trained on or looked at, and every trial, given up or not, is counted in the store's ledger.
"""

from __future__ import annotations

import functools
import os
import shlex
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from training.desks.trial import Diverged
from training.evidence.overfitting import expected_maximum
from training.evidence.statistics import annual
from training.rl.dimensions import Plan
from training.rl.pool import Emit, Flag, Stopped, stop_on_signals
from training.runs.folder import RUNS, code_version
from training.runs.settings import Settings, bars_notes
from training.studies.runner import Cells, locked, opened, write_result
from training.studies.search.trials import (
    STUDY_LOG,
    Search,
    TrialBook,
    TrialResult,
    TrialSetup,
    TrialTraining,
    make_ready,
    name_of,
    open_book,
    trainings_of,
)

FEWEST_FOR_IMPORTANCE = 10  # least complete trials for importances


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found: `search.json`. Complete trials first, best first."""

    study: str
    settings: dict[str, Any]
    trainings_per_trial: int
    validation: tuple[str, str]  # first and last session that was looked at
    first_test: str  # no session from here on was used
    trials: tuple[TrialResult, ...]
    importances: dict[str, float]  # shares, of few trials nothing
    expected_maximum_sharpe: float  # a session: expected best result of as many trials without skill
    caution: str
    command: str

    @property
    def best(self) -> TrialResult | None:
        """The best complete trial."""
        return next((trial for trial in self.trials if trial.state == "complete"), None)


def results_of(ready: TrialSetup, book: TrialBook, folder: Path) -> Results:
    """A summary of the trials so far."""
    trials = book.finished()
    deviation = statistics.stdev(trial.sharpe for trial in trials) if len(trials) > 1 else 0.0
    luck = expected_maximum(deviation, len(trials))
    best = trials[0].sharpe if trials else 0.0
    caution = (
        f"The best of {len(trials)} trials flatters: of as many without any skill, whose Sharpe ratios scatter as "
        f"these do, the best would have {luck:+.3f} a session ({annual(luck):+.1f} a year); this one has {best:+.3f} "
        f"({annual(best):+.1f}). Only test sessions decide, from {ready.prepared.folds[0].test[0]} on; the ledger "
        "counts all trials against them."
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
        command=shlex.join(command(book.search, folder)),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """Which coefficients decided, as shares (PED-ANOVA, Watanabe et al. 2023); empty for few trials or a flat field."""
    complete: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    return {name: round(share, 3) for name, share in optuna.importance.get_param_importances(study).items()}


def command(search: Search, folder: Path) -> list[str]:
    """The command that trains with the best coefficients, on the folds whose tests the search did not use."""
    run = search.run
    preset = ["--preset", search.preset] if search.preset else []
    config = ["--config", str(run.config)] if run.config is not None else []
    described = ["--model-config", run.model_config_file] if run.model_config_file else []
    if run.parameter_words:
        described += ["--parameters", ",".join(run.parameter_words)]
    return [
        "train-and-export", "--strategy", run.strategy, "--bars", str(run.bars), "--models-dir", str(run.out),
        *preset, *config, *_quotes(run), *_folds(run), "--coefficients", str(folder / COEFFICIENTS_FILE), *described,
    ]  # fmt: skip


def _folds(run: Settings) -> list[str]:
    """The options for the folds of the search; none where the procedure has its own folds."""
    if "folds" in run.kind.procedure.lacks():
        return []
    sizes = []
    for name in ("train_sessions", "validate_sessions", "test_sessions", "purge_sessions"):
        if (size := getattr(run, name)) is not None:
            sizes += [f"--{name.replace('_', '-')}", str(size)]
    trained = ("--network", run.network, "--reward", run.rewards[0], "--steps", str(run.steps))
    return [*trained, "--folds", str(run.folds), *sizes]


def _quotes(run: Settings) -> list[str]:
    """The options of the recorded option quotes."""
    quotes = run.quotes
    if quotes is None:
        return []
    share = str(quotes.synthetic_share) if quotes.synthetic_share else ""
    closes = str(quotes.closes) if quotes.closes is not None else ""
    options = {
        "--option-quotes": str(quotes.path),
        "--option-root": quotes.root,
        "--closes": closes,
        "--synthetic-share": share,
    }
    return [word for option, value in options.items() if value for word in (option, value)]


SEARCH_FILE, COEFFICIENTS_FILE = "search.json", "coefficients.json"


@dataclass(frozen=True, slots=True)
class SearchProcess:
    """A process that works on a search without Ray."""

    ready: TrialSetup
    book: TrialBook
    train: Callable[[Plan, int, int, Flag], TrialTraining] = field(repr=False)


def make_desk(arguments: tuple[Search, Path, str]) -> SearchProcess:
    """Read the bars and open the book, in a process that works on a search."""
    search, folder, version = arguments
    ready = replace(make_ready(search, version), folder=folder)
    return SearchProcess(ready, open_book(search, folder, ready), ready.train)


def one_trial(desk: SearchProcess, position: int, flag: Flag, emit: Emit) -> TrialResult:
    """Ask for a trial, train it to its end or until it is worse than the median, and close it.

    Raises:
        Stopped: `flag` was set; the trial is left open, and the next search takes it up again.
    """
    if flag.is_set():
        raise Stopped(f"trial {position}")
    trial, recipe = desk.book.ask(position)
    reason = ""
    for fold, seed in desk.book.search.pairs[len(trainings_of(trial.user_attrs)) :]:
        try:
            training = desk.train(recipe, fold, seed, flag)
        except Diverged as error:
            reason = f"diverged: {error}"
            break
        if desk.book.add(trial, training):
            reason = "pruned: worse than the median"
            break
    result = desk.book.close(trial, recipe, reason)
    emit(result)
    return result


def run_search(
    search: Search, listen: Callable[[str | TrialResult], None], flag: Flag | None = None
) -> tuple[Results, Path]:
    """Search, or go on with what the same search began; the results, also written, and the folder they are in.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        TapeError, CalendarError, HistoryError, RunFolderError, LedgerError, ValueError, OSError, RuntimeError: the
            text names what was found and what helps.
    """
    with stop_on_signals(flag) as stop:
        listen(f"reading {search.run.bars.name}")
        version = code_version(search.run.strategy)
        ready = make_ready(search, version)
        for note in bars_notes(search.run, ready.prepared.data):
            listen(note)
        sha256 = ready.prepared.data.info.sha256
        folder = search.run.run_folder or RUNS / name_of(search, sha256)
        opened(folder, search.identity(sha256), search.run, version, "--study-dir", restart=search.run.restart)
        ready = replace(ready, folder=folder)
        with _alone(folder):
            book = open_book(search, folder, ready)
            book.take_up()
            done_count = len(book.finished())
            counted = "1 trial" if search.trials == 1 else f"{search.trials} trials"
            listen(f"{counted} of {len(search.pairs)} trainings, {done_count} of them done; folder {folder}")
            _go_on(
                search, SearchProcess(ready, book, ready.train), folder, range(done_count, search.trials), listen, stop
            )
            results = results_of(ready, book, folder)
            write_result(folder / SEARCH_FILE, results)
            if results.best is not None:
                write_result(folder / COEFFICIENTS_FILE, results.best.coefficients)
            return results, folder


def _go_on(
    search: Search,
    desk: SearchProcess,
    folder: Path,
    positions: range,
    listen: Callable[[str | TrialResult], None],
    stop: Flag,
) -> None:
    """Train the remaining trials."""
    if search.ray and positions:
        from training.studies.search.ray import search_through_ray

        search_through_ray(desk.book, desk.ready.prepared.version, folder, positions, listen, stop)
        return
    again = functools.partial(make_desk, (search, folder, desk.ready.prepared.version))
    Cells(one_trial, desk, again, search.run.processes).through(positions, listen, stop)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder against other searches; remove a line that a full disk cut off."""
    with locked(folder, "search", "--study-dir"):
        log = folder / STUDY_LOG
        if log.exists():
            log.with_name(f"{STUDY_LOG}.lock").unlink(missing_ok=True)  # of a process that was killed
            whole = log.read_bytes().rpartition(b"\n")
            if whole[2]:
                os.truncate(log, len(whole[0]) + len(whole[1]))
        yield
