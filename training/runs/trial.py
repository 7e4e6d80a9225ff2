"""One training run: train, look at the validation sessions now and then, keep the best weights, go on after a stop.

Invariant: a run that was stopped or killed any number of times gives the weights of an undisturbed one, byte for byte
(CPU). Reward chooses nothing; the net return on the validation sessions does, of several accounts that begin on
different days their mean log growth, the earliest on a tie.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import msgspec
from torch.utils.tensorboard import SummaryWriter

from daemon.core.limits import Trading
from training.desks.kind import EnvSettings, Evaluator, Learner, Span, TaskData
from training.desks.trial import Control, Diverged, Listener, News, Request, Trained
from training.rl.coefficients import Coefficients, NotFiniteError, Progress
from training.rl.pool import Stopped
from training.rl.ppo import Trainer
from training.rl.process_group import ProcessGroup
from training.runs.folder import TENSORBOARD_FOLDER, TrialFolder
from training.study.evaluation import SessionResult
from training.study.progress import phase
from training.study.study import Fold, ValidationCheck

CHECKS = 40  # at most about as many looks at the validation sessions
CHECK_UPDATES = 2  # at least as many updates between two of them
GO, SAVE, STOP = 0, 1, 2
ALL_BUT_LOST = -1.0 + 1e-9  # of which a logarithm exists


def run_trial(
    group: ProcessGroup,
    request: Request,
    data: TaskData,
    fold: Fold,
    trading: Trading,
    folder: TrialFolder | None,
    control: Control,
    listen: Listener,
    *,
    starts: int = 1,
    begin: Callable[[Any], None] | None = None,
) -> Trained:
    """Train as asked, with this process's share of the environments; the result of rank 0 counts.

    Args:
        folder: where checkpoints and metrics go; a checkpoint there is gone on from. None keeps nothing.
        control: asked in the first process alone.
        begin: what is done to the network before the first step, in every process alike.
        starts: accounts that look at the validation span, each begun on another day; their mean chooses.

    Raises:
        Stopped: after the checkpoint that `control.stop` asked for.
        Diverged: a loss or a gradient was not finite; the last checkpoint stays as it is.
        OSError: a checkpoint could not be written; the one before it stays.
    """
    began = time.monotonic()
    run = _TrialRun(group, request, data, fold, trading, folder, starts, begin)
    earlier, stopped = run.best.seconds, ""
    try:
        while not run.trainer.done:
            if group.broadcast(int(0 < request.patience <= run.best.without)):  # before an update, so also after a stop
                stopped = f"no better validation in {request.patience} looks"
                break
            news = run.update()
            order = GO
            if news is not None:
                listen(news)
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
    """The best checkpoint so far and the curve to it: what a checkpoint keeps apart from the trainer's own state."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}
        self.validate: tuple[SessionResult, ...] = ()
        self.steps = self.gradient_steps = 0
        self.earned = float("-inf")  # the net return, or the mean of several accounts: see `_score`
        self.curve: list[ValidationCheck] = []
        self.rewards: list[float] = []  # of the updates since the last look
        self.without = 0  # looks since the best one
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

    def __init__(
        self,
        group: ProcessGroup,
        request: Request,
        data: TaskData,
        fold: Fold,
        trading: Trading,
        folder: TrialFolder | None,
        starts: int,
        begin: Callable[[Any], None] | None,
    ) -> None:
        self._group = group
        self._request = request
        self._data = data
        self._folder = folder
        self._network = data.network(request.network, request.seed, fold.train)
        if begin is not None:
            begin(self._network)
        self.trainer = _trainer(group, request, data, Span(fold.train, request.reward, trading), self._network)
        self.best = _Best()
        kept = folder.checkpoint() if folder is not None else None
        if kept is not None:
            self.trainer.load_state_dict(kept["team"][group.rank])
            self.best.load_state_dict(kept["best"])
        self._began = self.steps
        self._every = max(CHECK_UPDATES, self.trainer.total_updates // CHECKS)
        looked_at = Span(fold.validate, request.reward, trading, request.burn_in)
        later = [] if group.rank else later_starts(fold.validate, starts)
        self._evaluator = None if group.rank or not fold.validate else data.evaluator(looked_at, request.device)
        self._later = [data.evaluator(replace(looked_at, dates=dates), request.device) for dates in later]
        self._metrics = (
            None if group.rank or folder is None else _MetricsWriter(folder, self.trainer.updates, self.steps)
        )

    @property
    def steps(self) -> int:
        """Transitions that the whole group has seen."""
        return self.trainer.steps * self._group.size

    @property
    def _policy(self) -> Any:
        """The policy as it is played now."""
        network: Any = self.trainer.answering
        return network.policy

    def update(self) -> News | None:
        """One update, and a look at the validation sessions when it is time; news in the first process."""
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
        if self._folder is not None and states:
            self._folder.save({"team": states, "best": self.best.state_dict(), "steps": self.steps})

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def _look(self, progress: Progress, evaluator: Evaluator) -> ValidationCheck:
        """Play the validation sessions with the weights as they are now, on the live path."""
        best = self.best
        with phase("a look at the validation sessions"):
            results = evaluator(self._policy)
        found = self._data.figures(results)
        point = ValidationCheck(
            steps=self.steps,
            reward=sum(best.rewards) / len(best.rewards),
            entropy=progress.entropy,
            kl=progress.kl,
            clip_fraction=progress.clip_fraction,
            explained_variance=progress.explained_variance,
            validate_return=found.net_return,
            validate_trades=found.trades,
        )
        best.rewards.clear()
        best.curve.append(point)
        best.without += 1
        earned = self._score(found.net_return, len(results))
        if earned > best.earned:
            best.weights = copy.deepcopy(self.trainer.answering.state_dict())
            best.validate, best.steps, best.earned, best.without = results, self.steps, earned, 0
            best.gradient_steps = self.trainer.gradient_steps
        return point

    def _score(self, net_return: float, sessions: int) -> float:
        """What a checkpoint is chosen by: the net return, or of several accounts the mean log growth a session."""
        if not self._later:
            return net_return
        found = [(net_return, sessions)]
        for evaluator in self._later:
            results = evaluator(self._policy)
            found.append((self._data.figures(results).net_return, len(results)))
        return mean_growth(found)

    def _diverged(self, error: NotFiniteError) -> str:
        kept = self._folder.checkpoint() if self._folder is not None else None
        good = f"the last good checkpoint is at step {kept['steps']:,}" if kept else "there is no checkpoint yet"
        where = f" in {self._folder.path}" if self._folder is not None and kept else ""
        return f"{self._request.name} stopped after step {self.steps:,}: {error}; {good}{where}"


def mean_growth(accounts: Sequence[tuple[float, int]]) -> float:
    """The mean log growth a session of accounts, each with its net return and its number of sessions."""
    return statistics.fmean(math.log1p(max(earned, ALL_BUT_LOST)) / count for earned, count in accounts)


def later_starts(dates: Sequence[str], starts: int) -> list[Sequence[str]]:
    """The parts of a validation span that further accounts play: they begin evenly spread over its first half."""
    return [dates[len(dates) * nth // (2 * starts) :] for nth in range(1, starts)]


def check_shares(coefficients: Coefficients, processes: int) -> None:
    """Raises ValueError when the processes cannot share environments and minibatches equally."""
    c = coefficients
    if c.environments % processes or c.batch % processes:
        raise ValueError(
            f"{c.environments} environments and minibatches of {c.batch} cannot be shared by {processes} processes: "
            "choose a number of processes that divides both"
        )


def _trainer(group: ProcessGroup, request: Request, data: TaskData, span: Span, network: Learner) -> Trainer:
    c = request.coefficients
    check_shares(c, group.size)
    share, seed = c.environments // group.size, request.seed * group.size + group.rank
    return Trainer(
        network,
        data.environment(span, EnvSettings(share, seed, c.discount, request.device, request.practice)),
        replace(c, environments=share, batch=c.batch // group.size),
        total_steps=-(-request.steps // group.size),
        seed=seed,
        precision=request.precision,
        average=group.average if group.size > 1 else None,
        device=request.device,
    )


class _MetricsWriter:
    """metrics.jsonl with its sinks, and TensorBoard, all rewound to the checkpoint the run goes on from."""

    def __init__(self, folder: TrialFolder, updates: int, steps: int) -> None:
        self._file = folder.metrics(keep=updates)
        self._board = SummaryWriter(str(folder.path / TENSORBOARD_FOLDER), purge_step=steps + 1 if steps else None)

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
