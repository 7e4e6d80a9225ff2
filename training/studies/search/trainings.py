"""One training of a trial: its data, its validation spans, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from daemon.library.run_files import TRAINING_LOCK, TRIALS_FOLDER
from training.desks.trial import Control, Request, Trained
from training.evidence.statistics import session_returns
from training.rl.dimensions import Plan
from training.rl.pool import Flag
from training.runs.folder import TrialFolder, alone
from training.runs.ledger import settings_digest
from training.runs.prepared import Prepared, prepare
from training.runs.tasks import CheckpointTimer
from training.studies.search.space import Search
from training.study.study import Fold


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
