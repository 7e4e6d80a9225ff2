"""How `option_scalper` is trained: one session an episode, on a market of options, every session on its own account."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from daemon.core.limits import Trading
from strategies.option_scalper import HOLD, SPEC
from strategies.registry import strategy as registered
from training.desks.kind import Passive, QuoteSource, TrainingKind
from training.desks.ppo import Ppo
from training.desks.scalper import baselines
from training.desks.scalper.data import load
from training.desks.scalper.network import IDENTITY, NETWORKS, build
from training.desks.scalper.recorded.data import load_quoted
from training.desks.scalper.reward import REWARDS
from training.desks.scalper.task_data import ScalperTaskData
from training.export.reference import each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import PASSIVE, Preset
from training.study.folds import Walk

BIAS = 3.0  # of a logit: four in five of the first decisions hold
PURGE = 22  # the 21 closes that volatility and so every price rests on, and the session of an episode


def _read(path: Path, trading: Trading) -> ScalperTaskData:
    machine = registered(SPEC.name)
    return ScalperTaskData(load(path, machine, trading), machine, float(trading.paper.cash_usd))


def _quoted(path: Path, trading: Trading, source: QuoteSource) -> ScalperTaskData:
    machine = registered(SPEC.name)
    return ScalperTaskData(load_quoted(path, machine, trading, source), machine, float(trading.paper.cash_usd))


def _policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    found = build(network, IDENTITY, seed)
    found.load_state_dict(weights)  # the scaling is among them
    return found.eval().policy


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=NETWORKS,
    variants=REWARDS,
    presets={
        "standard": Preset("Stable-Baselines3's, over 256 environments", 2_000_000, Coefficients()),
        "passive": Preset("the same, from a network that holds nothing", 2_000_000, Coefficients(), PASSIVE),
    },
    baselines=baselines.DESCRIPTIONS,
    procedure=Ppo(_read, _quoted),
    facts=lambda data: data.data.facts,
    policy=_policy,
    inputs=each_column(SPEC, range(len(SPEC.features)), of_the_desk=("position_",)),
    before="from which the first volatility comes (21 by default)",
    imports=True,
    passive=Passive(
        "holds nothing", "policy.actor.2", tuple(BIAS if action == HOLD else 0.0 for action in range(len(SPEC.actions)))
    ),
    walk=Walk(train=20, validate=20, test=20, purge=PURGE),
)
