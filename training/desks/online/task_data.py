"""Bars made ready for `online_dqn`: what the pipeline asks of a strategy's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array
from training.desks.kind import Evaluator, Span
from training.desks.online.data import OnlineData
from training.desks.online.market.bars import Bars
from training.desks.online.play import FROM_OPEN, hold_from_open, play, values_of
from training.evaluate.bars import SessionStart, under
from training.evaluate.machine import Player
from training.evidence.heads import KEY, HeadScores, direction_scores, risk_scores
from training.export.reference import Watched
from training.study.evaluation import Figures, SessionResult, figures
from training.study.study import Fold, OneAccount, PlayResult


@dataclass(frozen=True, slots=True)
class OnlineTaskData:
    """See `training.desks.kind.TaskData`."""

    data: OnlineData
    ready: dict[tuple[str, ...], tuple[SessionStart, ...]] = field(default_factory=dict)  # made when first needed

    @property
    def info(self) -> Bars:
        """The file."""
        return self.data.bars

    @property
    def days(self) -> Mapping[str, int]:
        """The usable sessions by date, ascending."""
        return self.data.days

    def evaluator(self, span: Span, _device: str) -> Evaluator:
        """See `TaskData`."""
        return lambda policy: play(policy, self.data, span.dates, span.trading)

    def figures(self, results: Sequence[SessionResult]) -> Figures:
        """See `TaskData`; every session begins with the same capital, so returns add up."""
        return figures(results, float(self.data.trading.paper.cash_usd))

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return self.dry_run(lambda: policy, tuple(span.dates), span.trading)

    def dry_run(
        self,
        make: Callable[[], Player],
        dates: tuple[str, ...],
        trading: Trading,
        check_stop: Callable[[], None] = lambda: None,
    ) -> PlayResult:
        """What players, a new one for each session, do on the desk under these rules."""
        if dates not in self.ready:
            self.ready[dates] = self.data.desk.before(dates, self.data.trading)
        played = self.data.desk.play_each(make, under(self.ready[dates], trading), trading, check_stop)
        return msgspec.structs.replace(played, halts=())  # of accounts of one session each

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`; next to it one that holds from the open."""
        data, trading, dates = self.data, spans[0].trading, [tuple(span.dates) for span in spans]
        held = data.desk.relay([hold_from_open] * len(dates), dates, trading)
        sessions = tuple(session for each in held for session in each.sessions)
        return OneAccount(data.desk.relay(policies, dates, trading), FROM_OPEN, sessions)

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`; the portfolios in them are drawn."""
        return self.data.probes((*fold.train, *fold.validate, *fold.test), count, seed)

    @torch.no_grad()
    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`; on the market, which ends a session at the desk's last exit."""
        dates = tuple(span.dates)
        market = self.data.market(dates, self.data.trading, auto_reset=False)
        days, width = len(self.data.on(dates)), len(self.data.spec.features)
        market.begin(np.arange(days))
        rows, answers, active = [], [], []
        while market.active.any():
            active.append(market.active)
            observations = market.observe()
            values = values_of(policy(observations))
            rows.append(observations[:, -width:].numpy().copy())
            answers.append(values.numpy())
            market.step(values.argmax(dim=1))
        played = np.stack(active, axis=1)
        return Watched(np.stack(rows, axis=1)[played], np.stack(answers, axis=1)[played])

    @torch.no_grad()
    def heads_for_report(self, policy: nn.Module, fold: Fold) -> dict[str, Any]:
        """The scores of the heads as the report takes them; empty without heads."""
        return {KEY: msgspec.to_builtins(self.heads(policy, fold))} if self.data.spec.heads else {}

    def heads(self, policy: nn.Module, fold: Fold) -> HeadScores:
        """How good the heads are on the fold's test sessions while nothing is held; their base is of the training."""
        data, labels = self.data, self.data.history.labels
        (rows, sessions), (learnt, _) = data.rows(fold.test), data.rows(fold.train)
        answers = [answer.numpy() for answer in policy(torch.from_numpy(data.flat_observations(rows)))][1:]
        found: dict[str, Any] = {}
        for place, head in enumerate(data.spec.heads):
            score = {"direction": direction_scores, "risk": risk_scores}[head.name]
            base = float(np.nanmean(labels[learnt, place].astype(np.float64)))
            known = ~np.isnan(labels[rows, place])
            given, came = (values[known].astype(np.float64) for values in (answers[place], labels[rows, place]))
            found[head.name] = score(given, came, sessions[known], base)
        return HeadScores(**found)
