"""The trainings of an ablation: what is asked, what a process reads once, and one training with what it earned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from training.ablation.arms import Ablation
from training.desks.kind import Span
from training.desks.trial import Request
from training.rl.pool import Emit, Flag
from training.rl.presets import checked
from training.rl.process_group import ProcessGroup
from training.runs.desk_rules import trading_of
from training.runs.folder import TRIALS_FOLDER, TrialFolder
from training.runs.ledger import settings_digest
from training.runs.prepared import Prepared, prepare
from training.runs.tasks import CheckpointTimer
from training.runs.trial import later_starts, mean_growth, run_trial
from training.search.coefficients_file import changed
from training.search.trainings import search_folds
from training.study.folds import trained_from
from training.study.study import Fold

STARTS = 20  # accounts that a policy is judged by, where a result depends on the day on which it begins


@dataclass(frozen=True, slots=True)
class Ready:
    """What a process needs to train."""

    ablation: Ablation
    prepared: Prepared
    folds: tuple[Fold, ...]  # without tests: all before the first test session

    @property
    def judged_by(self) -> int:
        """How many accounts a policy is judged by."""
        return STARTS if self.prepared.kind.starts > 1 else 1


def make_ready(arguments: tuple[Ablation, Path, str]) -> Ready:
    """Read everything. Raises what `training.runs.prepared.prepare` and `search_folds` do."""
    ablation, folder, version = arguments
    prepared = prepare((ablation.run, folder, version))
    return Ready(ablation, prepared, search_folds(prepared.folds, tuple(prepared.data.days)))


@dataclass(frozen=True, slots=True)
class Cell:
    """One training."""

    arm: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.arm.replace(' ', '-')}-fold{self.fold + 1}-seed{self.seed}"


class Measured(msgspec.Struct, frozen=True):
    """What a training's chosen checkpoint earned on the validation sessions of its fold."""

    arm: str
    fold: int
    seed: int
    growth: tuple[float, ...]  # mean log growth a session, of accounts that begin on different days
    returns: tuple[float, ...]  # of each session, of the account that begins on the first
    chosen_steps: int


def train_cell(ready: Ready, cell: Cell, flag: Flag, emit: Emit) -> Measured:
    """Train, or read what is done. Raises `Stopped` when `flag` is set, `Diverged` for a loss that is not finite."""
    p, run, arm = ready.prepared, ready.ablation.run, ready.ablation.all[cell.arm]
    decided = {"run": run.identity(p.data.info.sha256), "arm": asdict(arm), "code": p.version}
    keeper = TrialFolder(p.folder / TRIALS_FOLDER / cell.name, settings_digest(decided))
    kept = keeper.checkpoint() or {}
    if "measured" in kept:
        return msgspec.json.decode(kept["measured"], type=Measured)
    practice = checked({**run.practice.changes, **arm.practice})
    request = Request(
        cell.fold, cell.seed, run.rewards[0], run.network, run.steps, run.precision, run.device, run.patience,
        changed(run.coefficients, arm.coefficients, cell.arm), begins=run.begins, practice=practice,
        burn_in=arm.burn_in,
    )  # fmt: skip
    (fold,) = trained_from((ready.folds[cell.fold],), practice.from_date)
    trading, control = trading_of(run.strategy, run.config, arm.rules), CheckpointTimer(flag, run.checkpoint_s)
    trained = run_trial(
        ProcessGroup(), request, p.data, fold, trading, keeper, control, emit, starts=arm.starts or p.kind.starts,
        begin=p.begin(request),
    )  # fmt: skip
    policy, growth = p.policy(request, trained.weights), []
    returns: tuple[float, ...] = ()
    for dates in (fold.validate, *later_starts(fold.validate, ready.judged_by)):
        results = p.data.evaluator(Span(dates, request.reward, trading, arm.burn_in), "cpu")(policy)
        growth.append(mean_growth([(p.data.figures(results).net_return, len(results))]))
        capital = float(trading.paper.cash_usd)
        returns = returns or tuple(one.pnl_usd / (one.capital_usd or capital) for one in results)
    found = Measured(cell.arm, cell.fold, cell.seed, tuple(growth), returns, trained.chosen_steps)
    keeper.save({"measured": msgspec.json.encode(found).decode()})
    emit(f"{cell.name}: {sum(growth) / len(growth) * 252:+.2%} a year")
    return found
