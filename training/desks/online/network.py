"""The network of `online_dqn`, and the settings that it is trained with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from strategies.online_dqn import ACTIONS, HOLD, spec_of
from strategies.online_dqn.model_config import ModelConfig
from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients
from training.rl.dqn.networks import Head, QNetwork
from training.rl.dqn.presets import RECIPES

SCALE = 1000.0  # of a reward: the gain of a bar is about a thousandth of the equity
HOLDS = 1.0  # scaled rewards: drawn values differ by a few tenths
RISK_SCALE = 0.001  # about the fall that follows within a quarter of an hour


def _pqn(widths: tuple[int, ...] = (128, 128)) -> PqnCoefficients:
    return PqnCoefficients(learning_rate=2e-4, epochs=1, reward_scale=SCALE, widths=widths, dueling=True)


def _online(widths: tuple[int, ...] = (128, 128)) -> DqnCoefficients:
    return replace(RECIPES["online"], reward_scale=SCALE, widths=widths, capacity=20_000)


@dataclass(frozen=True, slots=True)
class ColdPreset:
    """Settings of the cold start. PQN trains, then the policy fills a replay; `online` goes on learning from it.

    The network is the same for both, and so is what a reward is multiplied with.
    """

    steps: int = 1_000_000
    pqn: PqnCoefficients = field(default_factory=_pqn)
    online: DqnCoefficients = field(default_factory=_online)
    replay: int = 20_000  # transitions
    exploration: float = 0.2  # share of uniform actions of the policy that fills it
    kept_apart: float = 0.2  # of the sessions, the last ones: not trained on


COLD_PRESETS: Mapping[str, ColdPreset] = MappingProxyType(
    {
        "cold": ColdPreset(),
        "quick": ColdPreset(  # for what pays within minutes: it looks ten decisions ahead
            steps=200_000,
            pqn=replace(_pqn((64, 64)), learning_rate=1e-3, discount=0.9),
            online=replace(_online((64, 64)), learning_rate=5e-5, discount=0.9),
        ),
        "smoke": ColdPreset(
            steps=8192,
            pqn=replace(_pqn((16, 16)), environments=32, rollout_steps=16, batch=128),
            online=replace(_online((16, 16)), batch=32, learning_starts=32),
            replay=256,
        ),
    }
)


def heads_of(config: ModelConfig) -> tuple[Head, ...]:
    """The heads of a configuration, in the order of the strategy's spec."""
    kinds = {"direction": Head("direction", "probability"), "risk": Head("risk", "positive", RISK_SCALE)}
    return tuple(kinds[head.name] for head in spec_of(config).heads)


def network_of(config: ModelConfig, preset: ColdPreset, seed: int) -> QNetwork:
    """The network with weights drawn from `seed`. Its forward pass is what is exported."""
    c = preset.pqn
    return QNetwork(
        spec_of(config).observation_shape[0],
        c.widths,
        actions=len(ACTIONS),
        seed=seed,
        dueling=c.dueling,
        normalised=c.normalised,
        heads=heads_of(config),
    )


@torch.no_grad()
def begin_passive(network: QNetwork) -> None:
    """Value HOLD by `HOLDS` more than as drawn, so that training departs from holding nothing."""
    network.advantages.biases[-1][HOLD] += HOLDS


@torch.no_grad()
def passive_of(trained: nn.Module) -> QNetwork:
    """A network that values HOLD by 1 more than all else, whatever it sees; its heads are the trained one's.

    Raises:
        TypeError: it is no network of this strategy.
    """
    if not isinstance(trained, QNetwork):
        raise TypeError(f"the policy is a {type(trained).__name__}: expected a QNetwork")
    network = copy.deepcopy(trained)
    for layers in (network.advantages, network.value):
        for values in () if layers is None else (layers.weights[-1], layers.biases[-1]):
            values.zero_()
    network.advantages.biases[-1][HOLD] = 1.0
    return network


def network_of_weights(config: ModelConfig, weights: Mapping[str, Any]) -> QNetwork:
    """The network that these weights are of, in evaluation mode; the last layer is there twice (`QNetwork`)."""
    layers = sorted(name for name in weights if name.startswith("body.weights."))
    *widths, last_width = [int(weights[name].shape[0]) for name in layers]
    usual = COLD_PRESETS["cold"]
    preset = replace(usual, pqn=replace(usual.pqn, widths=(*widths, last_width // 2)))
    network = network_of(config, preset, 0)
    network.load_state_dict(weights)
    return network.eval()
