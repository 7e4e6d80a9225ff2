"""How `option_scalper` is trained: one session an episode, on a market of options, every session on its own account."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from daemon.core.limits import Trading
from daemon.tapes.minutes import TapeInfo
from strategies.kit.contract import AnyStrategy, Float32Array
from strategies.option_scalper import HOLD, SPEC
from strategies.registry import strategy as registered
from training.data.quotes.source import QuoteSource
from training.desks.kind import (
    EnvSettings,
    Evaluator,
    FoldComparison,
    Learner,
    Passive,
    Span,
    TrainingKind,
    on_cpu,
)
from training.desks.ppo import Ppo
from training.desks.scalper import baselines
from training.desks.scalper.baselines import play
from training.desks.scalper.data import Data, load, observations
from training.desks.scalper.history import TradingDay
from training.desks.scalper.market import REWARDS, Market
from training.desks.scalper.network import IDENTITY, NETWORKS, build, fit_scaling
from training.desks.scalper.recorded.data import load_quoted
from training.evaluate.bars import BarDesk, SessionStart
from training.export.reference import AnswerRecorder, Watched, each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import PASSIVE, Preset
from training.study.folds import Walk
from training.study.progress import phase
from training.study.study import Fold, OneAccount, PlayResult, SessionFigures, SessionResult, SizeFigures, figures


@dataclass(frozen=True, slots=True)
class ScalperTaskData:
    """Minute bars made ready; see `training.desks.ppo.PpoData`."""

    data: Data
    machine: AnyStrategy
    capital_usd: float
    ready: dict[tuple[str, ...], tuple[SessionStart, ...]] = field(default_factory=dict)  # made when first needed

    @property
    def info(self) -> TapeInfo:
        """The file."""
        return self.data.info

    @property
    def desk(self) -> BarDesk:
        """The desk whose dry run gives all figures of a report."""
        return self.data.desk(self.machine)

    @property
    def days(self) -> Mapping[str, TradingDay]:
        """The usable sessions by date, ascending."""
        return self.data.days

    def network(self, name: str, seed: int, train: Sequence[str]) -> Learner:
        """See `PpoData`; the scaling is that of the market features."""
        return build(name, fit_scaling(torch.from_numpy(self.data.rows(train))), seed)

    def environment(self, span: Span, settings: EnvSettings) -> Market:
        """See `PpoData`; the variant is the reward."""
        return self.data.training_market(
            span.dates,
            settings.practice.from_date,
            span.trading,
            count=settings.count,
            reward_name=span.variant,
            discount=settings.discount,
            seed=settings.seed,
            device=settings.device,
        )

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """See `TaskData`; always played on the CPU: a few sessions are too few for a GPU."""
        days, data = self.data.on(span.dates), self.data
        market = data.market(days, span.trading, count=len(days), auto_reset=False)
        return lambda policy: play(market, on_cpu(policy, device), span.dates, span.trading.risk.confidence_min)

    def figures(self, results: Sequence[SessionResult]) -> SessionFigures:
        """See `TaskData`; every session begins with the same capital, so returns add up."""
        return figures(results, self.capital_usd)

    def test(self, policy: nn.Module, span: Span) -> PlayResult:
        """See `TaskData`."""
        return self.desk.play(policy, self._desks(span), span.trading)

    def compare(
        self, policy: nn.Module, played: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> FoldComparison:
        """See `PpoData`."""
        with phase("the test sessions are made ready"):
            ready = self._desks(span)
        desk, data, dates, trading = self.desk, self.data, span.dates, span.trading
        results = baselines.standard(desk, ready, data, dates, trading)
        with phase("a random trader like the policy"):
            trader = baselines.trader_like(played, data, dates, trading, seed)
        with phase("random traders, dry run"):
            results[baselines.RANDOM] = baselines.random_on_desk(trader, desk, ready, trading)
        with phase("random traders, all"):
            totals = baselines.random_totals(trader, data, dates, trading, baselines.RANDOM_DRAWS)
        check_stop()
        scenarios = baselines.scenarios(policy, desk, ready, trading)
        scenarios |= baselines.elsewhere(policy, desk, data, dates, trading)
        return FoldComparison(results, tuple(totals), scenarios)

    def relay(self, policies: Sequence[nn.Module], spans: Sequence[Span]) -> OneAccount:
        """See `TaskData`; the reference account holds shares of the underlying."""
        dates, data, trading = [span.dates for span in spans], self.data, spans[0].trading
        folds = self.desk.relay(policies, dates, trading)
        share_sessions = baselines.held_through(
            data, [date for fold_dates in dates for date in fold_dates], self.capital_usd
        )
        return OneAccount(folds, baselines.HOLD_SHARES, share_sessions)

    def alike_but_for_rules(self, spans: Sequence[Span]) -> bool:
        """See `PlaysTogether`: only on modelled prices and with equal warm-up."""
        return self.desk.together([span.trading for span in spans])

    def relay_each(
        self, policy: nn.Module, spans: Sequence[Span], check_stop: Callable[[], None]
    ) -> Sequence[PlayResult]:
        """See `PlaysTogether`."""
        return self.desk.relay_each(policy, spans[0].dates, [span.trading for span in spans], check_stop)

    def at_sizes(self, policy: nn.Module, span: Span) -> tuple[SizeFigures, ...]:
        """See `TaskData`: each session has an account of its own."""
        del policy, span
        return ()

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`; the positions in them are drawn."""
        return observations(self.data, fold, count, seed)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`; played through the dry run, because the tensor market ends at the desk's last exit."""
        recorder = AnswerRecorder()
        self.desk.play(recorder.before(policy), self._desks(span), span.trading)
        return recorder.watched()

    def _desks(self, span: Span) -> tuple[SessionStart, ...]:
        """The desks before these sessions."""
        dates = tuple(span.dates)
        if dates not in self.ready:
            self.ready[dates] = self.desk.before(dates, span.trading)
        return self.ready[dates]


BIAS = 3.0  # added to HOLD's logit, so that 80 % of the first decisions hold
PURGE = 22  # the 21 closes of the volatility, on which every price depends, and one episode's session


def _load(path: Path, trading: Trading) -> ScalperTaskData:
    machine = registered(SPEC.name)
    return ScalperTaskData(load(path, machine, trading), machine, float(trading.paper.cash_usd))


def _load_quoted(path: Path, trading: Trading, source: QuoteSource) -> ScalperTaskData:
    machine = registered(SPEC.name)
    return ScalperTaskData(load_quoted(path, machine, trading, source), machine, float(trading.paper.cash_usd))


def _policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    network_made = build(network, IDENTITY, seed)
    network_made.load_state_dict(weights)  # the weights include the scaling
    return network_made.eval().policy


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=NETWORKS,
    variants=REWARDS,
    presets={
        "standard": Preset("Stable-Baselines3's, over 256 environments", 2_000_000, Coefficients()),
        "passive": Preset("the same, from a network that holds nothing", 2_000_000, Coefficients(), PASSIVE),
    },
    baselines=baselines.DESCRIPTIONS,
    procedure=Ppo(_load, _load_quoted),
    facts=lambda data: data.data.facts,
    policy=_policy,
    inputs=each_column(SPEC, range(len(SPEC.features)), of_the_desk=("position_",)),
    unusable="from which the first volatility comes (21 by default)",
    imports=True,
    passive=Passive(
        "holds nothing", "policy.actor.2", tuple(BIAS if action == HOLD else 0.0 for action in range(len(SPEC.actions)))
    ),
    walk=Walk(train=20, validate=20, test=20, purge=PURGE),
)
