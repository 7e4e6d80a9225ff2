"""How `online_dqn` is trained: one fold, PQN as in the trainer's cold start, its heads scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from daemon.core.limits import Trading
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import history_bars, shipped
from training.desks.kind import Keeper, Played, Sources, Span
from training.desks.online.baselines import play_one, players
from training.desks.online.data import load
from training.desks.online.network import begin_passive, network_of
from training.desks.online.plan import SPACE, OnlinePlan
from training.desks.online.task_data import OnlineTaskData
from training.desks.online.trial import Course
from training.desks.trial import OWN, Control, Listener, Request, Trained
from training.rl.dimensions import Dimension
from training.rl.presets import PASSIVE, Plan
from training.study.folds import Walk, last_fold, walk
from training.study.study import Fold

BEFORE = "that warm the indicators up"
SPAN = 10  # sessions by which each validation span of a search is later than the one before it
SESSION_MINUTES = 390


@dataclass(frozen=True, slots=True)
class FromHistory:
    """See `training.desks.kind.Procedure`. Of one model configuration."""

    config: ModelConfig = field(default_factory=shipped)

    @property
    def walk(self) -> Walk:
        """How sessions are cut: purged are those that the look-back covers, and the session of an episode."""
        looked_back = -(-history_bars(self.config) * self.config.bar_minutes // SESSION_MINUTES)
        return Walk(train=60, validate=20, test=40, purge=looked_back + 1)

    def load(self, path: Path, trading: Trading, sources: Sources, plan: Plan) -> OnlineTaskData:
        """See `Procedure`; several files hold one symbol each, in the order of the symbols.

        Raises:
            ValueError: several members are asked for.
        """
        if plan.members > 1:
            raise ValueError(f"members is {plan.members}: online_dqn is one network: leave --members out")
        return OnlineTaskData(load((path, *sources.files), self.config, sources.symbols, trading))

    def folds(self, dates: Sequence[str], _: Plan) -> tuple[Fold, ...]:
        """See `Procedure`."""
        return (last_fold(dates, self.walk, BEFORE),)

    def count(self, _: Plan) -> int:
        """See `Procedure`."""
        return 1

    def stages(self, _: Plan) -> Mapping[str, Sequence[str]]:
        """See `Procedure`: there are none."""
        return {}

    def concerns(self, *_: Any) -> Sequence[str]:
        """See `Procedure`: there are no tasks before the trials."""
        return ()

    def prior(self, task: str, *_: Any) -> None:
        """See `Procedure`. Raises ValueError: nothing comes before the trials."""
        raise ValueError(f"there is no task {task!r}: online_dqn has none before its trials")

    def trial(
        self,
        request: Request,
        data: OnlineTaskData,
        fold: Fold,
        keeper: Keeper,
        _: Callable[[str], Mapping[str, Any]],
        control: Control,
        listen: Listener,
    ) -> Trained:
        """See `Procedure`. Raises ValueError for another device or engine: the market is numpy on the CPU."""
        if (request.device, request.engine) != ("cpu", OWN):
            raise ValueError(
                f"device is {request.device!r} and engine {request.engine!r}: online_dqn learns on the CPU by our own "
                "engine: leave --device and --engine out"
            )
        return Course(request, data.data, fold, keeper, _own(request.plan)).run(control, listen)

    def start(self, request: Request, data: OnlineTaskData, _: Fold, __: nn.Module) -> tuple[nn.Module, None]:
        """See `Procedure`: the network that the trial began as, which answers with values."""
        found = network_of(data.data.config, _own(request.plan).cold, request.seed)
        if request.begins == PASSIVE:
            begin_passive(found)
        return found.eval(), None

    def players(self, _: Plan) -> Sequence[str]:
        """See `Procedure`."""
        return players()

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: OnlineTaskData,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
    ) -> Played:
        """See `Procedure`; every session has an account of its own."""
        return play_one(player, policies, data, [tuple(span.dates) for span in spans], seed, check_stop)

    def for_report(
        self, plan: Plan, policies: Sequence[nn.Module], data: OnlineTaskData, _: Callable[[str], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """See `Procedure`: how good the heads are on the test sessions."""
        fold = self.folds(tuple(data.days), plan)[-1]
        return data.heads_for_report(policies[-1], fold)

    def searched(self, _: Plan) -> tuple[Dimension, ...]:
        """See `Procedure`."""
        return SPACE

    def settable(self, plan: Plan) -> tuple[Dimension, ...]:
        """See `Procedure`."""
        return self.searched(plan)

    def search_folds(self, dates: Sequence[str], plan: Plan, count: int) -> tuple[Fold, ...]:
        """See `Procedure`: the fold without its test, or parts of what lies before the test."""
        fold = self.folds(dates, plan)[0]
        before = (*fold.train, *fold.validate)
        spans = Walk(train=1, validate=SPAN, test=SPAN, purge=self.walk.purge)
        folds = (fold,) if count == 1 else walk(before, spans, count)
        return tuple(Fold(one.train, one.validate, ()) for one in folds)

    def needed(self, _: Plan, __: Fold) -> Sequence[str]:
        """See `Procedure`."""
        return ()

    def common(self, _: Plan) -> Any:
        """See `Procedure`."""
        return None

    def figures(self, _: Plan, __: Mapping[str, Any], ___: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
        """See `Procedure`."""
        return {}


def _own(plan: Plan | None) -> OnlinePlan:
    return cast("OnlinePlan", plan)
