"""How `daily_rebalancer` is trained: its networks, environments, baselines, presets and years."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strategies import daily_rebalancer
from strategies.kit.contract import Float32Array
from training.desks.daily import baselines, claims
from training.desks.daily.markets.rebalancer import ACCOUNT, VARIANTS, RebalancerMarket, unit_rules
from training.desks.daily.networks.rebalancer import (
    EqualMoney,
    Policy,
    RebalancerActorCritic,
    SharedActorCritic,
    SharedPolicy,
    columns_of,
    fit_scaling,
    fit_shared_scaling,
)
from training.desks.daily.play import RandomRebalancer, play_rebalancer
from training.desks.daily.task_data import DailyTaskData, funds_beside
from training.desks.kind import (
    Arm,
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
from training.export.reference import AnswerRecorder, Input, Watched
from training.rl.coefficients import Coefficients
from training.rl.layers import Scaling
from training.rl.presets import PASSIVE, Preset
from training.study.folds import Walk, YearSplit
from training.study.study import SESSIONS_A_YEAR, Fold, PlayResult, SessionResult

SEEN_ACCOUNTS = 64  # random accounts whose observations fit the scaling and check exports
SCALING_ROWS = 4096
RANDOM_DRAWS = 1000  # random traders for the p-value
BIAS = 1.0  # bias before tanh with which every action is about three quarters of a unit
PURGE = daily_rebalancer.HISTORY_BARS + 1  # the look-back, and the session in which a decision earns
LOOKS = 20  # validation checks of a training; each plays four accounts
STARTS = 4  # accounts on a validation span that begin on different days, because a result depends on its first day
OF_POLICY = "policy."  # prefix of the names of its weights
SCALING_SEED = 20240703  # the same for every trial, so that seeds differ in weights and draws alone


MLP, SHARED = "mlp", "shared"


def _mlp(observations: Tensor, seed: int) -> RebalancerActorCritic:
    return RebalancerActorCritic(fit_scaling(observations), seed)


def _make_shared(observations: Tensor, seed: int) -> SharedActorCritic:
    return SharedActorCritic(fit_shared_scaling(observations), seed, columns_of(observations).stocks)


NETWORKS: dict[str, Callable[[Tensor, int], RebalancerActorCritic | SharedActorCritic]] = {
    MLP: _mlp,
    SHARED: _make_shared,
}
"""Network name -> function of raw training observations and a seed that makes the network."""


class RebalancerTaskData(DailyTaskData):
    """Daily bars of 50 stocks made ready; see `training.desks.ppo.PpoData`. Variants: what one unit of action is."""

    held = staticmethod(baselines.rebalancer_held)

    def network(self, name: str, seed: int, train: Sequence[str]) -> Learner:
        """See `PpoData`; the scaling is that of accounts which trade at random on the training sessions."""
        return NETWORKS[name](torch.from_numpy(self._seen(train, SCALING_ROWS, SCALING_SEED)), seed)

    def environment(self, span: Span, settings: EnvSettings) -> RebalancerMarket:
        """See `PpoData`; an episode begins before a session drawn at random and ends with the span: a time limit."""
        first, last = self.table.span(span.dates)
        return RebalancerMarket(
            self.table,
            first,
            last,
            span.trading,
            count=settings.count,
            seed=settings.seed,
            variant=span.variant,
            device=settings.device,
            draws=not settings.practice.fixed_start,
            practice=settings.practice,
            reward_per_stock=settings.each,
        )

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """See `TaskData`; it is played on the CPU, whatever trains."""

        def play(policy: nn.Module) -> tuple[SessionResult, ...]:
            return play_rebalancer(on_cpu(policy, device), self.table, span.dates, span.trading, variant=span.variant)

        return play

    def compare(
        self, policy: nn.Module, _: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> FoldComparison:
        """See `PpoData`; SPY comes from the ETF file next to the bars, where there is one."""
        desk = self.desk(span)
        results = baselines.rebalancer_baselines(desk, funds_beside(self.path), check_stop)
        traders = baselines.random_rebalancers(policy, desk, RANDOM_DRAWS, seed, check_stop)
        results[baselines.RANDOM], totals = traders
        return FoldComparison(results, totals, baselines.rebalancer_scenarios(policy, desk, check_stop))

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`; they are seen by accounts that trade at random from the first training session on."""
        return self._seen((*fold.train, *fold.validate, *fold.test), count, seed)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`."""
        recorder = AnswerRecorder()
        play_rebalancer(recorder.before(policy), self.table, span.dates, span.trading, variant=span.variant)
        return recorder.watched()

    def _seen(self, dates: Sequence[str], count: int, seed: int) -> Float32Array:
        """`count` observations of accounts that trade at random on these sessions, float32 (count, width)."""
        first, last = self.table.span(dates)
        accounts = min(SEEN_ACCOUNTS, count)
        market = RebalancerMarket(self.table, first, last, self.trading, count=accounts, seed=seed)
        trader, rows = RandomRebalancer(seed), []
        for _ in range(-(-count // accounts)):
            rows.append(market.observe().numpy())
            market.step(trader(market.observe()))
        return np.concatenate(rows)[:count]


def _policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    del seed
    scaling = Scaling.identity(len(weights["policy.mean"]))
    policy = SharedPolicy(scaling) if network == SHARED else Policy(scaling)
    policy.load_state_dict(
        {name[len(OF_POLICY) :]: tensor for name, tensor in weights.items() if name.startswith(OF_POLICY)}
    )
    return policy.eval()


def _unit_of_action(span: Span) -> dict[str, str]:
    """What one unit of the policy's actions was in training."""
    unit = unit_rules(span.trading.basket, span.variant)
    return {
        "basket.shares_per_unit": str(unit.shares_per_unit),
        "basket.notional_per_unit_usd": str(unit.notional_per_unit_usd),
        "basket.equity_per_unit": str(unit.equity_per_unit),
    }


STATIONARY = ("rsi14", "cci20", "dx14", "williams_r14", "stochastic_k14", "tradable")
"""Inputs compared for drift, pooled over the stocks. All others are USD or shares, whose level does not recur."""


def _pooled_input(kind: str, symbols: Sequence[str], features: Sequence[str]) -> Input:
    """The columns of one indicator, all symbols together."""
    names = {f"{kind} {symbol}" for symbol in symbols}
    return Input(kind, tuple(column for column, name in enumerate(features) if name in names))


PRESETS: Mapping[str, Preset] = {
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
    "passive": Preset(
        "from a network that buys all stocks, small updates: 32 environments of 64 steps, batch 256, 4 epochs, 1e-3: "
        "looks ten sessions ahead",
        400_000,
        Coefficients(
            learning_rate=1e-3, discount=0.9, gae_lambda=0.9, environments=32, rollout_steps=64, batch=256, epochs=4
        ),
        PASSIVE,
    ),
    "shared": Preset(
        "for the network of this name, from one that buys all stocks, each action judged by what its stock earns: 32 "
        "environments of 32 steps, batch 256, 4 epochs, 1e-3, entropy 0.001: looks five sessions ahead",
        131_072,
        Coefficients(
            learning_rate=1e-3,
            discount=0.8,
            gae_lambda=0.8,
            entropy=0.001,
            environments=32,
            rollout_steps=32,
            batch=256,
            epochs=4,
        ),
        PASSIVE,
    ),
}
"""FinRL: learning rate 3e-4 constant, 10 epochs, discount 0.99, lambda 0.95, clip 0.2, entropy 0, value 0.5, gradient
norm 0.5, of which only the constant rate differs from our defaults. It leaves open how many environments share 2,048
steps; eight take the same 320 minibatches of an update, and a rollout of each is a year long. `wide` earned more on the
validation sessions of 2020 with 4 epochs than with 10, at this rate as at 1e-4 (two seeds each). The clip limits how
far an update moves fifty actions, so their number counts: 31 updates at 3e-4 ended 0.01 nats from the passive policy,
196 at 1e-3 end 2 to 14 away. A desk can sell on the next day what it bought, so discount and lambda make a decision's
horizon about ten sessions: on planted markets one seed then leads by 0.11 to 0.13 % a session, with 0.99 and 0.95 by
0.05 %. `shared` was chosen on seven planted markets with edges across stocks that no study uses, one seed each: half of
the steps in minibatches of 128 without an entropy earn 71 % of what the rule does, either change alone 74 % and 87 %,
both 104 %; at the entropy of 0.002 as at 0.001 and 0.004, and less at 0.002 with minibatches of 128."""


ABLATIONS: Mapping[str, Arm] = {
    "permute": Arm("each episode shows the stocks in another order", practice={"permute": True}),
    "universe": Arm("each episode trades half of the stocks", practice={"universe": 0.5}),
    "fixed_start": Arm("every episode begins at the first session", practice={"fixed_start": True}),
    "turnover": Arm("0.1 % of the value traded taken from the reward", practice={"turnover": 0.001}),
    "band": Arm("a change worth less than 0.2 % of the equity is not traded", rules={"basket.band": "0.002"}),
    "over_market": Arm("the market's return of the day taken from the reward", practice={"over_market": True}),
}


def kind_of(symbols: tuple[str, ...]) -> TrainingKind:
    """How it is trained on these stocks: `mlp` on any 50, `shared` on 5 to 100. `ValueError` for other numbers."""
    spec = daily_rebalancer.spec_of(symbols)
    return TrainingKind(
        strategy=spec.name,
        networks=tuple(NETWORKS) if len(symbols) == daily_rebalancer.STOCKS else (SHARED,),
        variants=VARIANTS,
        presets=PRESETS,
        baselines=baselines.REBALANCER_BASELINES,
        reference=claims.REBALANCER,
        procedure=Ppo(
            lambda path, trading: RebalancerTaskData.read(spec.name, path, trading, symbols),
            open_universe=True,
            starts=STARTS,
            looks=LOOKS,
            split=YearSplit((2010, 2019), (2020, 2020), (2021, 2022)),
            practices=("permute", "universe", "fixed_start", "turnover", "over_market"),
            ablations=ABLATIONS,
        ),
        policy=_policy,
        inputs=tuple(_pooled_input(name, symbols, spec.features) for name in STATIONARY),
        unusable=f"that warm the desk up ({daily_rebalancer.HISTORY_BARS})",
        walk=Walk(SESSIONS_A_YEAR, SESSIONS_A_YEAR, SESSIONS_A_YEAR, PURGE, years=True),
        passive=Passive(
            "buys each of its stocks for the same money, and holds them",
            "policy.actor.4",
            (BIAS,),
            rule=lambda trading: EqualMoney(spec.capital_usd * unit_rules(trading.basket, ACCOUNT).equity_per_unit),
            variant=ACCOUNT,
        ),
        compounds=True,
        imports=True,
        rules=_unit_of_action,
        with_symbols=kind_of,
    )


KIND = kind_of(daily_rebalancer.SYMBOLS)
