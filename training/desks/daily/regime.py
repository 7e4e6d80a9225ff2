"""How `regime_switcher` is trained: its network, environments, baselines, preset and years."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies import regime_switcher
from strategies.kit.contract import Float32Array
from training.desks.daily import baselines, claims
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.networks.regime import LEFT_OUT, RegimeActorCritic
from training.desks.daily.play import RandomSwitcher, play_regime
from training.desks.daily.task_data import DailyTaskData
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
from training.export.reference import AnswerRecorder, Watched, each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import PASSIVE, Preset
from training.study.folds import Walk, YearSplit
from training.study.study import SESSIONS_A_YEAR, Fold, PlayResult

RANDOM_DRAWS = 1000  # random traders for the p-value
BIAS = 3.0  # added to HOLD's logit, so that more than half of the first decisions hold
PURGE = regime_switcher.HISTORY_BARS + 1  # the look-back, and the session in which a decision earns
STARTS = 4  # accounts on a validation span, because a result depends on the day on which the hidden state begins

NETWORKS = tuple(LEFT_OUT)


class RegimeTaskData(DailyTaskData):
    """Daily bars of a few funds made ready; see `training.desks.ppo.PpoData`."""

    held = staticmethod(baselines.regime_held)

    @classmethod
    def of_funds(cls, path: Path, trading: Trading, symbols: tuple[str, ...]) -> RegimeTaskData:
        """The bars of these funds. Raises ValueError for one that the file has no bar of, and as `read`."""
        data = cls.read(regime_switcher.SPEC.name, path, trading, symbols)
        if lost := data.table.without_bars:
            raise ValueError(f"{path} has no bar of {', '.join(lost)}: expected bars of {', '.join(symbols)}")
        return data

    def network(self, name: str, seed: int, _train: Sequence[str]) -> Learner:
        """See `PpoData`; nothing is scaled, as the features have one size already."""
        return RegimeActorCritic(seed, len(self.table.symbols), LEFT_OUT[name])

    def environment(self, span: Span, settings: EnvSettings) -> RegimeMarket:
        """See `PpoData`; episodes of 256 sessions from one drawn at random, which ends by a time limit."""
        first, last = self.table.span(span.dates)
        return RegimeMarket(
            self.table, first, last, span.trading, count=settings.count, seed=settings.seed, device=settings.device,
            turnover=settings.practice.turnover,
        )  # fmt: skip

    def evaluator(self, span: Span, device: str) -> Evaluator:
        """See `TaskData`; it is played on the CPU, whatever trains, and the hidden state is carried throughout."""
        return lambda policy: play_regime(
            on_cpu(policy, device), self.table, span.dates, span.trading, burn_in=span.burn_in
        )

    def compare(
        self, policy: nn.Module, _: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> FoldComparison:
        """See `PpoData`."""
        desk = self.desk(span)
        results = baselines.regime_baselines(desk, check_stop)
        traders = baselines.random_switchers(policy, desk, RANDOM_DRAWS, seed, check_stop)
        results[baselines.RANDOM], totals = traders
        return FoldComparison(results, totals, baselines.regime_scenarios(policy, desk, check_stop))

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`: one account that switches at random from the first training session on, in sequence."""
        first, last = self.table.span((*fold.train, *fold.validate, *fold.test))
        market = RegimeMarket(self.table, first, last, self.trading, count=1, seed=seed, episode=None, draws=False)
        trader, rows = RandomSwitcher(seed), []
        for _ in range(min(count, last - first + 1)):
            rows.append(market.observe().numpy())
            logits, _hidden = trader(market.observe(), torch.zeros(1))
            market.step(logits.argmax(1))
        return np.concatenate(rows)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`; the hidden state is carried throughout."""
        recorder = AnswerRecorder()

        def switcher(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            logits, next_state = policy(observations, hidden)
            recorder.keep(observations, logits)
            return logits, next_state

        play_regime(switcher, self.table, span.dates, span.trading)
        return recorder.watched()


def _policy(funds: int, network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    network_made = RegimeActorCritic(seed, funds, LEFT_OUT[network])
    network_made.load_state_dict(weights)
    return network_made.eval().policy


ROLLOUTS = Coefficients(
    schedule="cosine", entropy=0.01, epochs=4, environments=2048, rollout_steps=256, batch=2048, sequence=32
)
REGIME = Preset(
    "2,048 environments of 256 steps, 4 epochs, minibatches of 64 sequences of 32 steps, a cosine, entropy 0.01",
    5_000_000,
    ROLLOUTS,
)
PRESETS: Mapping[str, Preset] = {
    "regime": REGIME,
    "steep": replace(
        REGIME,
        why="the same, at a rate of 1e-3 with an entropy of 0.002: it finds the edges of planted markets",
        plan=replace(ROLLOUTS, learning_rate=1e-3, entropy=0.002),
    ),
    "passive": replace(REGIME, why="the same, from a network that mostly takes EQUAL_WEIGHT", begins=PASSIVE),
}


def _make_kind(symbols: tuple[str, ...]) -> TrainingKind:
    """How it is trained with these funds."""
    spec = regime_switcher.spec_of(symbols)
    return TrainingKind(
        strategy=spec.name,
        networks=NETWORKS,
        variants=("alpha",),
        presets=PRESETS,
        baselines=baselines.regime_described(spec),
        reference=claims.regime(symbols),
        procedure=Ppo(
            lambda path, trading: RegimeTaskData.of_funds(path, trading, symbols),
            starts=STARTS,
            split=YearSplit((2015, 2018), (2019, 2019), (2020, 2022)),
            open_universe=True,
            practices=("turnover",),
            ablations={
                "turnover": Arm("0.1 % more of the turnover taken from the reward", practice={"turnover": 0.001}),
                "band": Arm("a weight that would change by less than 2 % stays", rules={"basket.band": "0.02"}),
                "burn_in": Arm("the memory goes through the year before", burn_in=SESSIONS_A_YEAR),
                "starts_20": Arm("20 accounts choose a checkpoint", starts=20),
                "no_memory": Arm("every decision begins with a state of zeros", network="gru_no_memory"),
                "no_market": Arm("sees no price, return or volatility", network="gru_no_market"),
                "no_account": Arm("sees no weight, return or drawdown of its own", network="gru_no_account"),
                "from_2015": Arm("trains on no session before 2015", practice={"from_date": "2015-01-01"}),
            },
        ),
        policy=partial(_policy, len(symbols)),
        inputs=each_column(
            spec,
            range(regime_switcher.layout(len(symbols)).used),
            of_the_desk=("weight ", "portfolio_return", "drawdown"),
        ),
        unusable=f"that warm the desk up ({regime_switcher.HISTORY_BARS})",
        walk=Walk(SESSIONS_A_YEAR, SESSIONS_A_YEAR, SESSIONS_A_YEAR, PURGE, years=True),
        with_symbols=kind_of,
        passive=Passive(
            "takes EQUAL_WEIGHT every day",
            "policy.actor",
            tuple(BIAS if name == regime_switcher.EQUAL_WEIGHT else 0.0 for name in spec.actions),
        ),
        compounds=True,
        imports=True,
    )


kind_of = lru_cache(maxsize=8)(_make_kind)
KIND = kind_of(regime_switcher.SYMBOLS)
