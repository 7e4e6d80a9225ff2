"""One trial of `online_dqn`: PQN on the training sessions, looked at on the validation sessions now and then.

The weights with the best net return there are kept, the earliest on a tie. Invariant: stopped or killed any number of
times, it ends in the same bytes (CPU).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from training.desks.kind import Task
from training.desks.online.cold_start import trainer_of
from training.desks.online.network import begin_passive, network_of
from training.desks.online.plan import OnlinePlan
from training.desks.online.play import play
from training.desks.online.task_data import OnlineTaskData
from training.desks.trial import Diverged, News, Trained
from training.rl.coefficients import NotFiniteError
from training.rl.off_policy.learner import EXPLAINED
from training.rl.pool import Stopped
from training.rl.presets import PASSIVE
from training.study.evaluation import SessionResult, figures
from training.study.study import Fold, Point


class Course:
    """A trial under way."""

    def __init__(self, task: Task[OnlineTaskData, OnlinePlan], fold: Fold) -> None:
        """Prepare, or go on from the keeper's checkpoint."""
        request, data, plan, keeper = task.request, task.data.data, task.plan, task.keeper
        self._task, self._request, self._data, self._fold, self._keeper = task, request, data, fold, keeper
        self._network = network_of(data.config, plan.cold, request.seed)
        if request.begins == PASSIVE:
            begin_passive(self._network)
        self._trainer = trainer_of(
            self._network, data, fold.train, plan.cold, request.seed, request.steps, request.precision
        )
        self._every = max(1, self._trainer.total_updates // plan.looks)
        self._weights: dict[str, Any] = {}
        self._validate: tuple[SessionResult, ...] = ()
        self._curve: list[Point] = []
        self._seen: list[dict[str, float]] = []  # figures of each update since the last look
        self._chosen_steps, self._earned, self._without, self._seconds = 0, -math.inf, 0, 0.0
        self._gradient_steps = 0  # until the chosen checkpoint
        kept = keeper.checkpoint()
        if kept is not None:
            self._load(kept)

    def run(self) -> Trained:
        """Train what is left. Raises `Stopped` after a checkpoint, `Diverged` for a loss that is not finite."""
        trainer, request, control = self._trainer, self._request, self._task.control
        began, earlier, gone, stopped = time.monotonic(), self._seconds, trainer.steps, ""
        with self._keeper.metrics(trainer.updates) as journal:
            while not trainer.done:
                if 0 < request.patience <= self._without:
                    stopped = f"no better validation in {request.patience} looks"
                    break
                line, point = self._update()
                journal.write(line)
                self._seconds = earlier + time.monotonic() - began
                total = trainer.total_updates * (trainer.steps // trainer.updates)
                best = point is not None and self._without == 0
                self._task.listen(News(request.name, trainer.steps, total, point, best, gone))
                if control.stop() or control.checkpoint_due():
                    self._keeper.save(self._state())
                    if control.stop() and not trainer.done:
                        raise Stopped(request.name)
        return Trained(
            weights=self._weights,
            validate=self._validate,
            chosen_steps=self._chosen_steps,
            steps=trainer.steps,
            seconds=self._seconds,
            stopped=stopped,
            curve=tuple(self._curve),
            gradient_steps=self._gradient_steps,
        )

    def _update(self) -> tuple[dict[str, Any], Point | None]:
        """One update; what it did, and what a look found where it was time."""
        trainer = self._trainer
        try:
            progress = trainer.update()
        except NotFiniteError as error:
            raise Diverged(f"{self._request.name} stopped after step {trainer.steps:,}: {error}") from error
        found = {"reward": progress.reward, "update_to_data": progress.update_to_data, **progress.figures}
        self._seen.append(found)
        looked = trainer.updates % self._every == 0 or trainer.done
        point = self._look() if looked else None
        line: dict[str, Any] = {"agent": "pqn", "steps": progress.steps, **found}
        if point is not None:
            line |= {"validate_return": point.validate_return, "validate_trades": point.validate_trades}
        return line, point

    def _look(self) -> Point:
        data = self._data
        results = play(self._network, data, self._fold.validate, data.trading)
        earned = figures(results, float(data.trading.paper.cash_usd)).net_return
        means = _means(self._seen)
        point = Point(
            steps=self._trainer.steps,
            reward=means.pop("reward"),
            entropy=0.0,
            kl=0.0,
            clip_fraction=0.0,
            explained_variance=means.pop(EXPLAINED, 0.0),
            validate_return=earned,
            validate_trades=sum(result.trades for result in results),
            agent="pqn",
            figures=means,
        )
        self._seen.clear()
        self._curve.append(point)
        self._without += 1
        if earned > self._earned:
            self._weights = copy.deepcopy(self._network.state_dict())
            self._validate, self._chosen_steps, self._earned, self._without = results, self._trainer.steps, earned, 0
            self._gradient_steps = self._trainer.gradient_steps
        return point

    def _state(self) -> dict[str, Any]:
        """All that the next updates depend on."""
        plain = (self._validate, self._curve, self._seen, self._chosen_steps, self._without, self._seconds)
        return {
            "trainer": self._trainer.state_dict(),
            "weights": self._weights,
            "earned": self._earned,
            "gradient_steps": self._gradient_steps,
            "plain": msgspec.json.encode(plain).decode(),
        }

    def _load(self, kept: dict[str, Any]) -> None:
        self._trainer.load_state_dict(kept["trainer"])
        self._weights, self._earned, self._gradient_steps = kept["weights"], kept["earned"], kept["gradient_steps"]
        plain = tuple[tuple[SessionResult, ...], list[Point], list[dict[str, float]], int, int, float]
        self._validate, self._curve, self._seen, self._chosen_steps, self._without, self._seconds = msgspec.json.decode(
            kept["plain"], type=plain
        )


def _means(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(line[name] for line in lines) / len(lines) for name in lines[0]}
