"""How the daily strategies are trained: one account through all sessions of a span, on a history of whole ticks.

What the pipeline asks of a strategy (`training.desks.kind`), answered with the daily table, markets, dry run and
baselines.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import DailyStrategy, Float32Array
from strategies.registry import daily_strategy
from training.desks.daily import baselines, claims
from training.desks.daily.dry_run import Desk, desk_before, dry_run, rules_for
from training.desks.daily.play import RandomRebalancer, RandomSwitcher, play_rebalancer, play_regime
from training.desks.daily.rebalancer_market import VARIANTS, RebalancerMarket
from training.desks.daily.rebalancer_network import IDENTITY, RebalancerActorCritic, fit_scaling
from training.desks.daily.regime_market import RegimeMarket
from training.desks.daily.regime_network import RegimeActorCritic
from training.desks.daily.table import DailyTable, read_table
from training.desks.kind import Arena, Compared, Crowd, Kind, Learner, Span
from training.export.reference import Input, Recorder, Watched, each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import Preset
from training.study.evaluation import Figures, SessionResult, figures
from training.study.folds import Split
from training.study.study import Fold, Played

SEEN_ACCOUNTS = 64  # that trade at random, and whose observations fix the scaling and check exports
SCALING_ROWS = 4096
RANDOM_DRAWS = 1000  # traders behind the p-value
SCALING_SEED = 20240703  # the same for every trial: seeds differ by weights and draws alone


@dataclass(frozen=True, slots=True)
class DailyMaterial:
    """Daily bars made ready, and what every desk that decides once a session has in common; see `Material`.

    A strategy adds `network`, `environment` and `compare`; the other answers go through the dry run.
    """

    path: Path
    table: DailyTable
    strategy: DailyStrategy
    trading: Trading
    ready: dict[tuple[tuple[str, ...], str], Desk] = field(default_factory=dict)  # made when first needed

    @property
    def info(self) -> DailyTable:
        """The file."""
        return self.table

    @property
    def days(self) -> Collection[str]:
        """The sessions before whose open the strategy is warm, ascending."""
        return self.table.dates[self.table.first_decision :]

    def arena(self, span: Span, device: str) -> Arena:
        """See `Material`; it is played on the CPU, whatever trains."""
        return lambda policy: self.test(_here(policy, device), span).sessions

    def figures(self, results: Sequence[SessionResult]) -> Figures:
        """See `Material`; of one account, so returns compound."""
        return figures(results, float(self.trading.paper.cash_usd), compounds=True)

    def test(self, policy: nn.Module, span: Span) -> Played:
        """See `Material`."""
        return dry_run(policy, self.desk(span))

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `Material`; of a policy without a memory."""
        recorder = Recorder()
        dry_run(recorder.before(policy), self.desk(span))
        return recorder.watched()

    def desk(self, span: Span) -> Desk:
        """The desk before these sessions."""
        key = (tuple(span.dates), span.variant)
        if key not in self.ready:
            rules = rules_for(span.trading, self.strategy.spec, span.variant)
            self.ready[key] = desk_before(self.table, span.dates, self.strategy, rules)
        return self.ready[key]


class RebalancerMaterial(DailyMaterial):
    """Daily bars of 50 stocks made ready; see `training.desks.kind.Material`. Variants: what one unit of action is."""

    def network(self, name: str, seed: int, train: Sequence[str]) -> Learner:
        """See `Material`; the scaling is that of accounts which trade at random on the training sessions."""
        return REBALANCERS[name](fit_scaling(torch.from_numpy(self._seen(train, SCALING_ROWS, SCALING_SEED))), seed)

    def environment(self, span: Span, crowd: Crowd) -> RebalancerMarket:
        """See `Material`; an episode begins before a session drawn at random and ends with the span: a time limit."""
        first, last = self.table.span(span.dates)
        return RebalancerMarket(
            self.table,
            first,
            last,
            span.trading,
            count=crowd.count,
            seed=crowd.seed,
            variant=span.variant,
            device=crowd.device,
        )

    def arena(self, span: Span, device: str) -> Arena:
        """See `Material`; it is played on the CPU, whatever trains."""

        def play(policy: nn.Module) -> tuple[SessionResult, ...]:
            return play_rebalancer(_here(policy, device), self.table, span.dates, span.trading, variant=span.variant)

        return play

    def compare(self, policy: nn.Module, _: Played, span: Span, seed: int, pause: Callable[[], None]) -> Compared:
        """See `Material`; SPY comes from the file of ETFs beside the bars, where there is one."""
        desk = self.desk(span)
        found = baselines.rebalancer_baselines(desk, baselines.funds_beside(self.path, table_cache()), pause)
        found[baselines.RANDOM], totals = baselines.random_rebalancers(policy, desk, RANDOM_DRAWS, seed, pause)
        return Compared(found, totals, baselines.scenarios(policy, desk, pause))

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `Material`; they are seen by accounts that trade at random from the first training session on."""
        return self._seen((*fold.train, *fold.validate, *fold.test), count, seed)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `Material`."""
        recorder = Recorder()
        play_rebalancer(recorder.before(policy), self.table, span.dates, span.trading, variant=span.variant)
        return recorder.watched()

    def _seen(self, dates: Sequence[str], count: int, seed: int) -> Float32Array:
        """`count` observations of accounts that trade at random on these sessions, float32 (count, 803)."""
        first, last = self.table.span(dates)
        accounts = min(SEEN_ACCOUNTS, count)
        market = RebalancerMarket(self.table, first, last, self.trading, count=accounts, seed=seed)
        trader, rows = RandomRebalancer(seed), []
        for _ in range(-(-count // accounts)):
            rows.append(market.observe().numpy())
            market.step(trader(market.observe()))
        return np.concatenate(rows)[:count]


class RegimeMaterial(DailyMaterial):
    """Daily bars of three funds made ready; see `training.desks.kind.Material`."""

    def network(self, name: str, seed: int, _train: Sequence[str]) -> Learner:
        """See `Material`; nothing is scaled, as the features have one size already."""
        return SWITCHERS[name](seed)

    def environment(self, span: Span, crowd: Crowd) -> RegimeMarket:
        """See `Material`; episodes of 256 sessions from one drawn at random, which ends by a time limit."""
        first, last = self.table.span(span.dates)
        return RegimeMarket(
            self.table, first, last, span.trading, count=crowd.count, seed=crowd.seed, device=crowd.device
        )

    def arena(self, span: Span, device: str) -> Arena:
        """See `Material`; it is played on the CPU, whatever trains, and the hidden state is carried throughout."""
        return lambda policy: play_regime(_here(policy, device), self.table, span.dates, span.trading)

    def compare(self, policy: nn.Module, _: Played, span: Span, seed: int, pause: Callable[[], None]) -> Compared:
        """See `Material`."""
        desk = self.desk(span)
        found = baselines.regime_baselines(desk, pause)
        found[baselines.RANDOM], totals = baselines.random_switchers(policy, desk, RANDOM_DRAWS, seed, pause)
        return Compared(found, totals, baselines.scenarios(policy, desk, pause))

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `Material`: one account that switches at random from the first training session on, in sequence."""
        first, last = self.table.span((*fold.train, *fold.validate, *fold.test))
        market = RegimeMarket(self.table, first, last, self.trading, count=1, seed=seed, episode=None, draws=False)
        trader, rows = RandomSwitcher(seed), []
        for _ in range(min(count, last - first + 1)):
            rows.append(market.observe().numpy())
            logits, _hidden = trader(market.observe(), torch.zeros(1))
            market.step(logits.argmax(1))
        return np.concatenate(rows)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `Material`; the hidden state is carried throughout."""
        recorder = Recorder()

        def switcher(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            logits, after = policy(observations, hidden)
            recorder.keep(observations, logits)
            return logits, after

        play_regime(switcher, self.table, span.dates, span.trading)
        return recorder.watched()


REBALANCERS: dict[str, Callable[..., RebalancerActorCritic]] = {"mlp": RebalancerActorCritic}
SWITCHERS: dict[str, Callable[[int], RegimeActorCritic]] = {"gru": RegimeActorCritic}


def table_cache() -> Path:
    """Where tables that were read are kept for the next process: `$XDG_CACHE_HOME/rltrader`, or under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rltrader" / "tables"


def _here(policy: nn.Module, device: str) -> nn.Module:
    """The policy on the CPU: itself, or a copy of one that trains elsewhere."""
    return policy if device == "cpu" else copy.deepcopy(policy).cpu()


def _load_rebalancer(path: Path, trading: Trading) -> RebalancerMaterial:
    strategy = daily_strategy(daily_rebalancer.SPEC.name)
    return RebalancerMaterial(path, read_table(path, strategy, table_cache()), strategy, trading)


def _load_regime(path: Path, trading: Trading) -> RegimeMaterial:
    strategy = daily_strategy(regime_switcher.SPEC.name)
    return RegimeMaterial(path, read_table(path, strategy, table_cache()), strategy, trading)


def _rebalancer_policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    found = REBALANCERS[network](IDENTITY, seed)
    found.load_state_dict(weights)  # the scaling is among them
    return found.eval().policy


def _regime_policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    found = SWITCHERS[network](seed)
    found.load_state_dict(weights)
    return found.eval().policy


def _unit_of_action(span: Span) -> dict[str, str]:
    """What one unit of the policy's actions was in training."""
    basket = rules_for(span.trading, daily_rebalancer.SPEC, span.variant).basket
    keys = ("shares_per_unit", "notional_per_unit_usd")
    return {f"basket.{key}": str(getattr(basket, key)) for key in keys}


STATIONARY = ("rsi14", "cci20", "dx14", "williams_r14", "stochastic_k14", "tradable")
"""What is compared of the 50 stocks, pooled over them: all else is dollars or shares, whose level never comes back."""


def _pooled(kind: str) -> Input:
    """The columns of one indicator, all symbols together."""
    features = daily_rebalancer.SPEC.features
    names = {f"{kind} {symbol}" for symbol in daily_rebalancer.SYMBOLS}
    return Input(kind, tuple(column for column, name in enumerate(features) if name in names))


REBALANCER_PRESETS: Mapping[str, Preset] = {
    "finrl": Preset(
        "those of FinRL's PPO: rollouts of 2,048 steps (8 environments of 256 each), minibatches of 64",
        500_000,
        Coefficients(schedule="constant", environments=8, rollout_steps=256, batch=64),
    ),
    "wide": Preset(
        "as many steps in large minibatches: 256 environments of 64 steps, batch 4,096, 4 epochs, a falling rate",
        500_000,
        Coefficients(environments=256, rollout_steps=64, batch=4096, epochs=4),
    ),
}
"""FinRL: learning rate 3e-4 constant, 10 epochs, discount 0.99, lambda 0.95, clip 0.2, entropy 0, value 0.5, gradient
norm 0.5, of which only the constant rate differs from our defaults. It does not say how many environments share 2,048
steps; eight take the same 320 minibatches of an update, and a rollout of each is a year long. `wide` earned more on the
validation sessions of 2020 with 4 epochs than with 10, at this rate as at 1e-4 (two seeds each)."""
REGIME_PRESETS: Mapping[str, Preset] = {
    "regime": Preset(
        "2,048 environments of 256 steps, 4 epochs, minibatches of 64 sequences of 32 steps, a cosine, entropy 0.01",
        5_000_000,
        Coefficients(
            schedule="cosine", entropy=0.01, epochs=4, environments=2048, rollout_steps=256, batch=2048, sequence=32
        ),
    ),
}

REBALANCER = Kind(
    strategy=daily_rebalancer.SPEC.name,
    networks=tuple(REBALANCERS),
    variants=VARIANTS,
    presets=REBALANCER_PRESETS,
    baselines=baselines.REBALANCER_BASELINES,
    reference=claims.REBALANCER,
    load=_load_rebalancer,
    policy=_rebalancer_policy,
    inputs=tuple(map(_pooled, STATIONARY)),
    before=f"that warm the desk up ({daily_rebalancer.HISTORY_BARS})",
    split=Split((2010, 2019), (2020, 2020), (2021, 2022)),
    compounds=True,
    rules=_unit_of_action,
)
REGIME = Kind(
    strategy=regime_switcher.SPEC.name,
    networks=tuple(SWITCHERS),
    variants=("alpha",),
    presets=REGIME_PRESETS,
    baselines=baselines.REGIME_BASELINES,
    reference=claims.REGIME,
    load=_load_regime,
    policy=_regime_policy,
    inputs=each_column(
        regime_switcher.SPEC,
        range(regime_switcher.DRAWDOWN + 1),
        of_the_desk=("weight ", "portfolio_return", "drawdown"),
    ),
    before=f"that warm the desk up ({regime_switcher.HISTORY_BARS})",
    split=Split((2015, 2018), (2019, 2019), (2020, 2022)),
    compounds=True,
)
