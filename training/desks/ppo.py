"""PPO, the procedure of most strategies: one network, trained in the environments that a strategy's data makes.

A trial trains, plays the validation sessions at intervals, keeps the best weights, and can be resumed. Invariant: a run
that was stopped or killed any number of times gives the weights of an undisturbed one, byte for byte (CPU). Checkpoints
are chosen by the net return on the validation sessions, never by reward; with several accounts that begin on different
days, by their mean log growth; the earliest on a tie.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from daemon.core.limits import Trading
from training.data.quotes.source import QuoteSource
from training.desks.kind import (
    Arm,
    Done,
    EnvSettings,
    Evaluator,
    FoldComparison,
    Keeper,
    Learner,
    Procedure,
    Sources,
    Span,
    Start,
    Task,
    TaskData,
)
from training.desks.trial import Diverged, News, Request, Trained
from training.rl.coefficients import Coefficients, NotFiniteError, Progress
from training.rl.pool import Stopped
from training.rl.ppo import Trainer, actions_judged
from training.rl.presets import EVERYWHERE
from training.rl.protocols import Environment
from training.study.folds import Cut, HistoryError, YearSplit, by_years, last_fold, walk
from training.study.progress import phase
from training.study.study import Fold, PlayResult, SessionResult, ValidationCheck

CHECKS = 40  # default number of validation checks
CHECK_UPDATES = 2  # least number of updates between two checks
GO, SAVE, STOP = 0, 1, 2
ALL_BUT_LOST = -1.0 + 1e-9  # the least return whose log growth is finite
FEW_GRADIENT_STEPS = 2_000
TENSORBOARD_FOLDER = "tensorboard"
GENERAL: Mapping[str, Arm] = {
    "target_kl": Arm("an update ends once it has moved 0.02 nats", {"target_kl": 0.02}),
    "weight_average": Arm("plays the running mean of its weights, decay 0.99", {"weight_average": 0.99}),
}
"""Ablations for every strategy."""


class PpoData(TaskData, Protocol):
    """Data of a strategy that is trained by PPO: additions to `TaskData`."""

    def network(self, name: str, seed: int, train: Sequence[str], /) -> Learner:
        """The network called `name` with weights drawn from `seed`, its scaling fixed from the sessions `train`."""

    def environment(self, span: Span, settings: EnvSettings) -> Environment:
        """The environments that train on these sessions."""

    def compare(
        self, policy: nn.Module, played: PlayResult, span: Span, seed: int, check_stop: Callable[[], None], /
    ) -> FoldComparison:
        """Baselines and scenarios for a policy that did `played`. Calls `check_stop` now and then; it may raise."""


@dataclass(frozen=True, slots=True)
class Ppo(Procedure[PpoData, Coefficients]):
    """PPO of one strategy; see `training.desks.kind.Procedure`."""

    read: Callable[[Path, Trading], PpoData]
    quoted: Callable[[Path, Trading, QuoteSource], PpoData] | None = None  # `read` with recorded option quotes
    looks: int = CHECKS  # most validation checks, approximately
    starts: int = 1  # accounts that play a validation span, each beginning later than the one before
    split: YearSplit | None = None
    open_universe: bool = False  # True: symbols can be chosen, and `read` reads the chosen ones
    practices: tuple[str, ...] = ()  # the fields of `Practice` that its environments have
    ablations: Mapping[str, Arm] = field(default_factory=dict)  # settings worth comparing, by name

    def lacks(self) -> Mapping[str, str]:
        """See `Procedure`."""
        reasons = {
            "engine": "no SAC is trained for it",
            "members": "it is one network",
        }
        reasons |= {} if self.open_universe else {"symbols": "it has its own symbols, all in one file"}
        reasons |= {} if self.split is not None else {"reference_years": "its reference names no years"}
        return reasons | ({} if self.quoted is not None else {"option_quotes": "it trades no options"})

    @property
    def practised(self) -> Sequence[str]:
        """See `Procedure`."""
        return (*self.practices, *EVERYWHERE)

    @property
    def arms(self) -> Mapping[str, Arm]:
        """See `Procedure`."""
        return {**self.ablations, **GENERAL}

    def load(self, path: Path, trading: Trading, sources: Sources, _: Coefficients, /) -> PpoData:
        """See `Procedure`. Raises ValueError for several files."""
        if sources.files:
            raise ValueError("the strategy's symbols are all in one file: give --bars once")
        if sources.quotes is not None and self.quoted is not None:
            return self.quoted(path, trading, sources.quotes)
        return self.read(path, trading)

    def folds(self, dates: Sequence[str], _: Coefficients, cut: Cut, /) -> tuple[Fold, ...]:
        """See `Procedure`: a walk as long as was asked for, the reference's years, or the one fold that fits."""
        if cut.reference_years and self.split is not None:
            return (by_years(dates, self.split),)
        if cut.stated:
            return walk(dates, cut.rule, cut.folds)
        return (last_fold(dates, cut.rule, cut.unusable),)

    def search_folds(
        self, dates: Sequence[str], _: Coefficients, folds: Sequence[Fold], __: int, /
    ) -> tuple[Fold, ...]:
        """See `Procedure`: as many as there are folds; see `spans_before`."""
        return spans_before(folds, dates)

    def concerns(self, request: Request, plan: Coefficients, _: Done, /) -> Sequence[str]:
        """See `Procedure`: a training that takes few steps of the optimizer."""
        few = few_words(plan, request.steps)
        return (few,) if few else ()

    def shared(self, plan: Coefficients, processes: int, /) -> bool:
        """See `Procedure`: they share environments and minibatches."""
        check_shares(plan, processes)
        return True

    def trial(self, task: Task[PpoData, Coefficients], fold: Fold, /) -> Trained:
        """See `Procedure`; every process of the group has its share of the environments, the result of rank 0 counts.

        A fold without validation sessions ends with the last weights.

        Raises:
            Stopped: after the checkpoint that `control.stop` asked for.
            Diverged: a loss or a gradient was not finite; the last checkpoint stays as it is.
            OSError: a checkpoint could not be written; the one before it stays.
        """
        return _train(task, fold, (task.request.starts or self.starts) if fold.validate else 1, self.looks)

    def learner(self, data: PpoData, network: str, seed: int, train: Sequence[str], /) -> Learner:
        """See `Procedure`."""
        return data.network(network, seed, train)

    def start(
        self, task: Task[PpoData, Coefficients], fold: Fold, _: nn.Module, weights: Mapping[str, Any], /
    ) -> Start:
        """See `Procedure`; the network as it is drawn, or as the passive policy or a version of the store made it."""
        network = task.data.network(task.request.network, task.request.seed, fold.train)
        if task.begin is not None:
            task.begin(network)
        return Start(network.policy, deviations_of(weights))

    def compare(
        self,
        policy: nn.Module,
        played: PlayResult,
        data: PpoData,
        span: Span,
        seed: int,
        check_stop: Callable[[], None],
        /,
    ) -> FoldComparison:
        """See `Procedure`."""
        return data.compare(policy, played, span, seed, check_stop)


def deviations_of(weights: Mapping[str, Any]) -> Tensor | None:
    """Standard deviations, (actions,), of the network's drawn actions; None for a network with logits."""
    logs = next((value for name, value in weights.items() if name.endswith("log_std")), None)
    return None if logs is None else logs.float().exp().cpu()


def few_words(coefficients: Coefficients, steps: int) -> str:
    """A warning for a training that takes few steps of the optimizer; "" for others."""
    planned = coefficients.gradient_steps(steps)
    if planned >= FEW_GRADIENT_STEPS:
        return ""
    return (
        f"{planned:,} gradient steps a trial are few (below {FEW_GRADIENT_STEPS:,}): the policy may stay close to the "
        "network that it began as; more --steps, more epochs or smaller minibatches take more"
    )


def spans_before(folds: Sequence[Fold], dates: Sequence[str]) -> tuple[Fold, ...]:
    """Validation spans, one for each of `folds`, in sequence before the first test session of any fold.

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


def _train(task: Task[PpoData, Coefficients], fold: Fold, starts: int, looks: int) -> Trained:
    began = time.monotonic()
    group, request, control = task.group, task.request, task.control
    run = _TrialRun(task, fold, starts, looks)
    earlier, stopped = run.best.seconds, ""
    try:
        while not run.trainer.done:
            if group.broadcast(int(0 < request.patience <= run.best.without)):  # before an update: also after a resume
                stopped = f"no better validation in {request.patience} looks"
                break
            news = run.update()
            order = GO
            if news is not None:
                task.listen(news)
                run.best.seconds = earlier + time.monotonic() - began
                order = STOP if control.stop() else SAVE if control.checkpoint_due() else GO
            order = group.broadcast(order)
            if order != GO and not run.trainer.done:
                run.save()
                if order == STOP:
                    raise Stopped(request.name)
    finally:
        run.close()
    best = run.best
    return Trained(
        weights=best.weights,
        validate=best.validate,
        chosen_steps=best.steps,
        steps=run.steps,
        seconds=earlier + time.monotonic() - began,
        stopped=stopped,
        curve=tuple(best.curve),
        gradient_steps=best.gradient_steps,
        score=best.earned if starts > 1 else None,
    )


class _Best:
    """The best weights so far and the validation curve: the part of a checkpoint besides the trainer's state."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}
        self.validate: tuple[SessionResult, ...] = ()
        self.steps = self.gradient_steps = 0
        self.earned = float("-inf")  # the net return, or the mean of several accounts: see `_score`
        self.curve: list[ValidationCheck] = []
        self.rewards: list[float] = []  # mean rewards of the updates since the last check
        self.without = 0  # checks since the best one
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        plain = (self.validate, self.steps, self.curve, self.rewards, self.without, self.gradient_steps)
        return {
            "weights": self.weights,
            "plain": msgspec.json.encode(plain).decode(),
            "earned": self.earned,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self.earned, self.seconds = state["weights"], state["earned"], state["seconds"]
        plain = tuple[tuple[SessionResult, ...], int, list[ValidationCheck], list[float], int, int]
        self.validate, self.steps, self.curve, self.rewards, self.without, self.gradient_steps = msgspec.json.decode(
            state["plain"], type=plain
        )


class _TrialRun:
    """One trial under way in one process of a group."""

    def __init__(self, task: Task[PpoData, Coefficients], fold: Fold, starts: int, looks: int) -> None:
        group, request, data = task.group, task.request, task.data
        self._group, self._request, self._data, self._keeper = group, request, data, task.keeper
        self._network = data.network(request.network, request.seed, fold.train)
        if task.begin is not None:
            task.begin(self._network)
        self.trainer = _trainer(task, Span(fold.train, request.reward, task.trading), self._network)
        self.best = _Best()
        checkpoint = task.keeper.checkpoint()
        if checkpoint is not None:
            self.trainer.load_state_dict(checkpoint["team"][group.rank])
            self.best.load_state_dict(checkpoint["best"])
        self._began = self.steps
        self._every = max(CHECK_UPDATES, self.trainer.total_updates // looks)
        looked_at = Span(fold.validate, request.reward, task.trading, request.burn_in)
        later = [] if group.rank else later_starts(fold.validate, starts)
        self._evaluator = None if group.rank or not fold.validate else data.evaluator(looked_at, request.device)
        self._later = [data.evaluator(replace(looked_at, dates=dates), request.device) for dates in later]
        self._metrics = None if group.rank else _MetricsWriter(task.keeper, self.trainer.updates, self.steps)

    @property
    def steps(self) -> int:
        """Transitions that the whole group has seen."""
        return self.trainer.steps * self._group.size

    @property
    def _policy(self) -> Any:
        """The policy with its present weights."""
        network: Any = self.trainer.answering
        return network.policy

    def update(self) -> News | None:
        """Run one update, and the validation check when it is due; returns news in the first process, else None."""
        trainer = self.trainer
        try:
            progress = trainer.update()
        except NotFiniteError as error:
            raise Diverged(self._diverged(error)) from error
        progress = replace(progress, steps=self.steps)
        if self._group.rank:
            return None
        self.best.rewards.append(progress.reward)
        looked = trainer.updates % self._every == 0 or trainer.done
        point = self._look(progress, self._evaluator) if looked and self._evaluator is not None else None
        if self._evaluator is None and trainer.done:
            self.best.weights, self.best.steps = copy.deepcopy(trainer.answering.state_dict()), self.steps
            self.best.gradient_steps = trainer.gradient_steps
        if self._metrics is not None:
            self._metrics.write(progress, point)
        total = trainer.total_updates * (self.steps // trainer.updates)
        best = point is not None and self.best.without == 0
        return News(self._request.name, self.steps, total, point, best, self._began)

    def save(self) -> None:
        """Checkpoint the whole group."""
        states = self._group.gather(self.trainer.state_dict())
        if states:
            self._keeper.save({"team": states, "best": self.best.state_dict(), "steps": self.steps})

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def _look(self, progress: Progress, evaluator: Evaluator) -> ValidationCheck:
        """Play the validation sessions with the present weights and the live rules of decision."""
        best = self.best
        with phase("a look at the validation sessions"):
            results = evaluator(self._policy)
        figures = self._data.figures(results)
        point = ValidationCheck(
            steps=self.steps,
            reward=sum(best.rewards) / len(best.rewards),
            entropy=progress.entropy,
            kl=progress.kl,
            clip_fraction=progress.clip_fraction,
            explained_variance=progress.explained_variance,
            validate_return=figures.net_return,
            validate_trades=figures.trades,
        )
        best.rewards.clear()
        best.curve.append(point)
        best.without += 1
        earned = self._score(figures.net_return, len(results))
        if earned > best.earned:
            best.weights = copy.deepcopy(self.trainer.answering.state_dict())
            best.validate, best.steps, best.earned, best.without = results, self.steps, earned, 0
            best.gradient_steps = self.trainer.gradient_steps
        return point

    def _score(self, net_return: float, sessions: int) -> float:
        """The figure that checkpoints are chosen by: the net return, or with several accounts the mean log growth."""
        if not self._later:
            return net_return
        spans = [(net_return, sessions)]
        for evaluator in self._later:
            results = evaluator(self._policy)
            spans.append((self._data.figures(results).net_return, len(results)))
        return mean_growth(spans)

    def _diverged(self, error: NotFiniteError) -> str:
        checkpoint = self._keeper.checkpoint()
        good = (
            f"the last good checkpoint is at step {checkpoint['steps']:,}"
            if checkpoint
            else "there is no checkpoint yet"
        )
        where = f" in {self._keeper.path}" if checkpoint else ""
        return f"{self._request.name} stopped after step {self.steps:,}: {error}; {good}{where}"


def mean_growth(accounts: Sequence[tuple[float, int]]) -> float:
    """The mean log growth a session of accounts, each with its net return and its number of sessions."""
    return statistics.fmean(math.log1p(max(earned, ALL_BUT_LOST)) / count for earned, count in accounts)


def later_starts(dates: Sequence[str], starts: int) -> list[Sequence[str]]:
    """The sessions that further validation accounts play: begins are spread evenly over the span's first half."""
    return [dates[len(dates) * nth // (2 * starts) :] for nth in range(1, starts)]


def check_shares(coefficients: Coefficients, processes: int) -> None:
    """Raises ValueError when the processes cannot share environments and minibatches equally."""
    c = coefficients
    if c.environments % processes or c.batch % processes:
        raise ValueError(
            f"{c.environments} environments and minibatches of {c.batch} cannot be shared by {processes} processes: "
            "choose a number of processes that divides both"
        )


def _trainer(task: Task[PpoData, Coefficients], span: Span, network: Learner) -> Trainer:
    group, request, c = task.group, task.request, task.plan
    check_shares(c, group.size)
    share, seed = c.environments // group.size, request.seed * group.size + group.rank
    return Trainer(
        network,
        task.data.environment(
            span,
            EnvSettings(share, seed, c.discount, request.device, request.practice, bool(actions_judged(network))),
        ),
        replace(c, environments=share, batch=c.batch // group.size),
        total_steps=-(-request.steps // group.size),
        seed=seed,
        precision=request.precision,
        average=group.average if group.size > 1 else None,
        device=request.device,
    )


class _MetricsWriter:
    """metrics.jsonl with its sinks, and TensorBoard, all rewound to the checkpoint the run goes on from."""

    def __init__(self, keeper: Keeper, updates: int, steps: int) -> None:
        self._file = keeper.metrics(updates)
        self._board = SummaryWriter(str(keeper.path / TENSORBOARD_FOLDER), purge_step=steps + 1 if steps else None)

    def write(self, progress: Progress, point: ValidationCheck | None) -> None:
        values = asdict(progress)
        if point is not None:
            values |= {"validate_return": point.validate_return, "validate_trades": point.validate_trades}
        self._file.write(values)
        for name, value in values.items():
            if name not in {"steps", "updates"}:
                self._board.add_scalar(name, value, progress.steps)

    def close(self) -> None:
        self._file.close()
        self._board.close()
