"""How `online_dqn` is trained: one fold, PQN as in the trainer's cold start, its heads scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from daemon.core.limits import Trading
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import history_bars, shipped
from training.desks.kind import OWN_FOLDS, Done, Played, Procedure, Sources, Span, Start, Task
from training.desks.online.baselines import PLAYERS, play_one
from training.desks.online.data import load
from training.desks.online.network import begin_passive, network_of
from training.desks.online.plan import OnlinePlan
from training.desks.online.task_data import OnlineTaskData
from training.desks.online.trial import Course
from training.desks.trial import Trained
from training.rl.presets import PASSIVE
from training.study.folds import Cut, Walk, last_fold, walk
from training.study.study import Fold

BEFORE = "that warm the indicators up"
SPAN = 10  # sessions by which each validation span of a search is later than the one before it
SESSION_MINUTES = 390


@dataclass(frozen=True, slots=True)
class FromHistory(Procedure[OnlineTaskData, OnlinePlan]):
    """See `training.desks.kind.Procedure`. Of one model configuration."""

    config: ModelConfig = field(default_factory=shipped)

    def lacks(self) -> Mapping[str, str]:
        """See `Procedure`."""
        return OWN_FOLDS | {
            "device": "its market is numpy on the CPU",
            "engine": "no SAC is trained for it",
            "members": "it is one network",
            "option_quotes": "it trades no options",
        }

    @property
    def walk(self) -> Walk:
        """How sessions are cut: purged are those that the look-back covers, and the session of an episode."""
        looked_back = -(-history_bars(self.config) * self.config.bar_minutes // SESSION_MINUTES)
        return Walk(train=60, validate=20, test=40, purge=looked_back + 1)

    def load(self, path: Path, trading: Trading, sources: Sources, _: OnlinePlan, /) -> OnlineTaskData:
        """See `Procedure`; several files hold one symbol each, in the order of the symbols."""
        return OnlineTaskData(load((path, *sources.files), self.config, sources.symbols, trading))

    def folds(self, dates: Sequence[str], _: OnlinePlan, cut: Cut, /) -> tuple[Fold, ...]:
        """See `Procedure`: one."""
        return (last_fold(dates, cut.rule, cut.before),)

    def search_folds(self, _: Sequence[str], __: OnlinePlan, folds: Sequence[Fold], count: int, /) -> tuple[Fold, ...]:
        """See `Procedure`: the fold without its test, or parts of what lies before the test."""
        before = (*folds[0].train, *folds[0].validate)
        spans = Walk(train=1, validate=SPAN, test=SPAN, purge=self.walk.purge)
        found = folds if count == 1 else walk(before, spans, count)
        return tuple(Fold(one.train, one.validate, ()) for one in found)

    def trial(self, task: Task[OnlineTaskData, OnlinePlan], fold: Fold, /) -> Trained:
        """See `Procedure`."""
        return Course(task, fold).run()

    def start(self, task: Task[OnlineTaskData, OnlinePlan], _: Fold, __: nn.Module, ___: Mapping[str, Any], /) -> Start:
        """See `Procedure`: the network that the trial began as, which answers with values."""
        network = network_of(task.data.data.config, task.plan.cold, task.request.seed)
        if task.request.begins == PASSIVE:
            begin_passive(network)
        return Start(network.eval(), None)

    @property
    def players(self) -> Sequence[str]:
        """See `Procedure`."""
        return PLAYERS

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: OnlineTaskData,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
        /,
    ) -> Played:
        """See `Procedure`; every session has an account of its own."""
        return play_one(player, policies, data, [tuple(span.dates) for span in spans], seed, check_stop)

    def for_report(
        self, _: OnlinePlan, policies: Sequence[nn.Module], data: OnlineTaskData, folds: Sequence[Fold], __: Done, /
    ) -> dict[str, Any]:
        """See `Procedure`: how good the heads are on the test sessions."""
        return data.heads_for_report(policies[-1], folds[-1])
