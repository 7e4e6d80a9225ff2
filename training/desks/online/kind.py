"""How `online_dqn` is trained and compared: what the pipeline asks of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from strategies.online_dqn import spec_of
from strategies.online_dqn.model_config import PORTFOLIO, ModelConfig, of_text
from strategies.online_dqn.state_vector import shipped
from training.desks.kind import Passive, TrainingKind
from training.desks.online.baselines import BASELINES
from training.desks.online.network import network_of_weights, passive_of
from training.desks.online.plan import PRESETS
from training.desks.online.procedure import BEFORE, FromHistory
from training.export.reference import each_column


def kind_of(config: ModelConfig) -> TrainingKind:
    """The training object for one model configuration: it fixes network, bars, inputs and folds."""
    spec, own = spec_of(config), FromHistory(config)

    def policy(_network: str, _seed: int, weights: Mapping[str, Any]) -> nn.Module:
        return network_of_weights(config, weights)

    return TrainingKind(
        strategy=spec.name,
        networks=("dueling",),
        variants=("gain",),
        presets=PRESETS,
        baselines=BASELINES,
        procedure=own,
        policy=policy,
        inputs=each_column(spec, range(len(spec.features)), of_the_desk=PORTFOLIO),
        before=BEFORE,
        walk=own.walk,
        passive=Passive("holds nothing", of=passive_of),
        with_config=lambda text: kind_of(of_text(text)),
    )


KIND = kind_of(shipped())
