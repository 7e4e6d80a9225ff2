"""`train-and-export search`: coefficients that earn more on validation sessions, by Optuna, here or through Ray.

A trial is trained once for each fold and seed, and is worth the mean net return of the chosen checkpoints on the
validation sessions. Invariant: only sessions before the first test session of a training run with the same folds are
trained on or looked at, and every trial, given up or not, is counted in the store's ledger.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from daemon.host.time.calendar import CalendarError
from daemon.host.whole_files import write_whole
from daemon.tapes.files import TapeError
from training.desks.registry import KINDS, kind
from training.desks.trial import Diverged
from training.evidence.overfitting import expected_maximum
from training.evidence.statistics import annual
from training.rl.coefficients import Coefficients
from training.rl.pool import Emit, Flag, Stopped, stop_on_signals, work_through
from training.runs.folder import RunFolderError, code_version, machine, open_run
from training.runs.ledger import LedgerError
from training.runs.settings import Settings, settings_for, split_note
from training.search.book import (
    STUDY_LOG,
    Book,
    Found,
    Ready,
    Results,
    Search,
    Training,
    make_ready,
    name_of,
    open_book,
    space_around,
    trainings_of,
)
from training.search.coefficients_file import COEFFICIENTS_FILE, write_coefficients
from training.study.folds import HistoryError

SEARCH_FILE, LOCK_FILE = "search.json", "lock"
RUNS = Path("runs")
SHOWN = 10  # trials in the table
DONE, USAGE_ERROR, STOPPED = 0, 2, 130
ERRORS = (TapeError, CalendarError, HistoryError, RunFolderError, LedgerError, OSError, ValueError, RuntimeError)
FEWEST_FOR_IMPORTANCE = 10  # complete trials; with fewer, importances mean nothing
STEPS, UPDATES = 150_000, 4  # of a training where nothing else is asked for: so many, or so many rollouts
FOLDS = 3  # where a strategy has no years of its own


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


def one_trial(desk: Desk, position: int, flag: Flag, emit: Emit) -> Found:
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
    emit(found)
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
        from training.search.ray import search_through_ray

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
        emit=listen,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder against other searches; remove a line that a full disk cut off."""
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
    """A summary of the trials so far."""
    trials = book.finished()
    deviation = statistics.stdev(found.sharpe for found in trials) if len(trials) > 1 else 0.0
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
        command=shlex.join(_command(book.search, folder)),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """Which coefficients decided, as shares (PED-ANOVA, Watanabe et al. 2023); empty for few trials or a flat field."""
    complete: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
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
    found.add_argument("--strategy", required=True, metavar="NAME", help=f"one of {', '.join(KINDS)}")
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
