"""One training of a trial: the bars made ready, the spans to validate on, and what was earned there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from training.desks.trial import Control, Request, Trained
from training.rl.coefficients import Coefficients
from training.rl.pool import Flag
from training.rl.presets import Plan
from training.rl.process_group import ProcessGroup
from training.runs.folder import LOCK_FILE, TRIALS_FOLDER, TrialFolder, alone
from training.runs.ledger import settings_digest
from training.runs.prepared import Prepared, prepare
from training.runs.tasks import CheckpointTimer
from training.runs.trial import run_trial
from training.studies.search.space import Recipe, Search
from training.study.folds import HistoryError
from training.study.study import Fold


class TrialTraining(msgspec.Struct, frozen=True):
    """One training of a trial, by what its chosen checkpoint did on the validation sessions."""

    fold: int
    seed: int
    returns: tuple[float, ...]  # net, over the capital with which the session began
    net_return: float  # over all of them: the sum, or of one account through all of them compounded
    chosen_steps: int
    steps: int
    seconds: float


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
class TrialSetup:
    """What a process needs to train a trial."""

    search: Search
    prepared: Prepared
    folds: tuple[Fold, ...]
    folder: Path = Path()  # of the search

    def train(self, recipe: Recipe, fold: int, seed: int, flag: Flag) -> TrialTraining:
        """One training. Raises `Stopped` when `flag` is set, `Diverged` when a loss is not finite."""
        run, p = self.search.run, self.prepared
        coefficients, plan = (recipe, None) if isinstance(recipe, Coefficients) else (run.coefficients, recipe)
        request = Request(
            fold, seed, run.rewards[0], run.network, run.steps, run.precision, run.device, run.patience, coefficients,
            plan, begins=run.begins,
        )  # fmt: skip
        control, span = CheckpointTimer(flag, math.inf), self.folds[fold]
        if plan is None:
            trained = run_trial(
                ProcessGroup(), request, p.data, span, p.trading, None, control, lambda _: None, starts=p.kind.starts,
                begin=p.begin(request),
            )  # fmt: skip
        else:
            trained = self._staged(request, plan, span, control)
        capital = float(p.trading.paper.cash_usd)
        returns = tuple(result.pnl_usd / (result.capital_usd or capital) for result in trained.validate)
        earned = p.data.figures(trained.validate).net_return
        return TrialTraining(
            fold, seed, returns, earned, trained.chosen_steps, trained.steps, round(trained.seconds, 3)
        )

    def _staged(self, request: Request, plan: Plan, span: Fold, control: Control) -> Trained:
        """One training by a procedure of the strategy's own; what trials have in common is done once."""
        own, data = self.prepared.kind.procedure, self.prepared.data
        assert own is not None, "settings with a plan are of such a strategy"
        common = own.common(plan)

        def done(task: str) -> dict[str, Any]:
            return self._kept(task, common).checkpoint() or {}

        for task in own.needed(plan, span):
            keeper = self._kept(task, common)
            with alone(keeper.path / LOCK_FILE):
                own.prior(task, request, data, keeper, done, control, lambda _: None)
        decided = [msgspec.to_builtins(plan), request.steps, request.precision, span.validate[0]]
        return own.trial(request, data, span, self._kept(request.name, decided), done, control, lambda _: None)

    def _kept(self, task: str, decided: Any) -> TrialFolder:
        """The files of a task whose outcome `decided` (JSON) decides, with the bars and the code."""
        own = settings_digest(
            {"decided": decided, "bars": self.prepared.data.info.sha256, "code": self.prepared.version}
        )
        return TrialFolder(self.folder / TRIALS_FOLDER / f"{task}-{own[:12]}", own)


def make_ready(search: Search, version: str) -> TrialSetup:
    """Read the bars. Raises what `training.runs.prepared.prepare` and `search_folds` do."""
    prepared = prepare((search.run, Path(), version))
    run, days, own = search.run, tuple(prepared.data.days), prepared.kind.procedure
    folder = run.run_folder or Path()
    if own is not None and run.plan is not None:
        return TrialSetup(search, prepared, own.search_folds(days, run.plan, run.folds), folder)
    return TrialSetup(search, prepared, search_folds(prepared.folds, days), folder)
