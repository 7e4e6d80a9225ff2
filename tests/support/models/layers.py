"""A small policy by its layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel
from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy, Observation
from strategies.option_scalper import OptionScalper
from tests.support.models.tiny_models import forward, manifest_of, mlp, weights

LAYERS = weights()


def loaded(
    policy: bytes, answer: Callable[[Observation], list[float]], strategy: AnyStrategy | None = None
) -> LoadedModel:
    """A model as the store would hand it over, its golden answers by `answer`."""
    strategy = strategy or OptionScalper()
    logits = tuple(tuple(answer(observation)) for observation in golden_observations(strategy))
    manifest = manifest_of(strategy, policy, logits)
    return LoadedModel("v1", Path("store/option_scalper/v1"), manifest, manifest.policy_sha256, policy)


def plain(policy: bytes | None = None) -> LoadedModel:
    return loaded(policy or mlp(LAYERS), lambda observation: forward(LAYERS, observation.array()))


def opened(model: LoadedModel, strategy: AnyStrategy | None = None) -> OnnxPolicy:
    return OnnxPolicy.open(model, strategy or OptionScalper(), "cpu", 1)
