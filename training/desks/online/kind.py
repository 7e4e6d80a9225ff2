"""How `online_dqn` is trained and compared: what the pipeline asks of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from daemon.core.limits import Trading
from strategies.kit.model_config.config import PORTFOLIO
from strategies.kit.model_config.indicators import shipped
from strategies.online_dqn import spec_of
from training.desks.kind import Sources, TrainingKind
from training.desks.online.baselines import BASELINES
from training.desks.online.network import network_of_weights
from training.desks.online.plan import PRESETS, OnlinePlan
from training.desks.online.procedure import BEFORE, WALK, FromHistory
from training.export.reference import each_column

SPEC = spec_of(shipped())


def _load(path: Path, trading: Trading) -> Any:
    return FromHistory().load(path, trading, Sources(), OnlinePlan())


def _policy(_network: str, _seed: int, weights: Mapping[str, Any]) -> nn.Module:
    return network_of_weights(shipped(), weights)


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=("dueling",),
    variants=("gain",),
    presets=PRESETS,
    baselines=BASELINES,
    load=_load,
    policy=_policy,
    inputs=each_column(SPEC, range(len(SPEC.features)), of_the_desk=PORTFOLIO),
    before=BEFORE,
    walk=WALK,
    procedure=FromHistory(),
)
