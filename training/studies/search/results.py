"""What a search found, and the command that trains with it."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from training.evidence.overfitting import expected_maximum
from training.evidence.statistics import annual
from training.runs.settings import Settings
from training.studies.search.book import TrialBook, TrialResult
from training.studies.search.coefficients_file import COEFFICIENTS_FILE
from training.studies.search.space import Search
from training.studies.search.trainings import TrialSetup

FEWEST_FOR_IMPORTANCE = 10  # complete trials; with fewer, importances mean nothing


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found: `search.json`. Complete trials first, best first."""

    study: str
    settings: dict[str, Any]
    trainings_per_trial: int
    validation: tuple[str, str]  # first and last session that was looked at
    first_test: str  # no session from here on was used
    trials: tuple[TrialResult, ...]
    importances: dict[str, float]  # shares, of few trials nothing
    expected_maximum_sharpe: float  # a session: of the best of as many trials without skill
    caution: str
    command: str

    @property
    def best(self) -> TrialResult | None:
        """The best complete trial."""
        return next((found for found in self.trials if found.state == "complete"), None)


def results_of(ready: TrialSetup, book: TrialBook, folder: Path) -> Results:
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
        command=shlex.join(command(book.search, folder)),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """Which coefficients decided, as shares (PED-ANOVA, Watanabe et al. 2023); empty for few trials or a flat field."""
    complete: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    return {name: round(share, 3) for name, share in optuna.importance.get_param_importances(study).items()}


def command(search: Search, folder: Path) -> list[str]:
    """Trains with what was found, on the folds whose tests were kept from the search."""
    run = search.run
    preset = ["--preset", search.preset] if search.preset else []
    config = ["--config", str(run.config)] if run.config is not None else []
    described = ["--model-config", run.model_config_file] if run.model_config_file else []
    return [
        "train-and-export", "--strategy", run.strategy, "--bars", str(run.bars), "--models-dir", str(run.out),
        *preset, *config, *_quotes(run), *_folds(run), "--coefficients", str(folder / COEFFICIENTS_FILE), *described,
    ]  # fmt: skip


def _folds(run: Settings) -> list[str]:
    """The options of what is trained on the folds of the search; none where the procedure has its own."""
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
    given = {
        "--option-quotes": str(quotes.path),
        "--option-root": quotes.root,
        "--closes": closes,
        "--synthetic-share": share,
    }
    return [word for option, value in given.items() if value for word in (option, value)]
