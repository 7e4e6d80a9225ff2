"""A policy for a campaign's rebalancer that trades every day: one half of the stocks is sold, the other one bought.

Which half depends on the weekday alone. Built node by node; nothing was learned. Golden answers are its own formula's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from strategies.daily_rebalancer import SPEC, STOCKS, WEEKDAY, WIDTH
from strategies.golden import golden_observations
from strategies.registry import strategy
from tests.support.models.tiny_models import graph, manifest_of, put

VERSION = "seesaw"
LARGEST, SMALLEST = 0.9, 0.3
RULES = {"basket.shares_per_unit": "100", "basket.notional_per_unit_usd": "0", "basket.equity_per_unit": "0"}

Float32 = npt.NDArray[np.float32]


def pattern() -> Float32:
    """What is wanted on an even weekday, (1, 50): the first stock is bought, its neighbour sold, and so on."""
    sizes = np.linspace(LARGEST, SMALLEST, STOCKS, dtype=np.float32)
    return (sizes * np.where(np.arange(STOCKS) % 2, -1, 1).astype(np.float32))[None, :]


def answer(observation: Float32) -> tuple[float, ...]:
    """The actions for one observation (803,): the pattern, on odd weekdays its opposite."""
    sign = np.float32(1.0) - np.float32(2.0) * np.fmod(observation[WEEKDAY], np.float32(2.0))
    return tuple(float(value) for value in np.clip(pattern()[0] * sign, -1, 1))


def store(models_dir: Path) -> Path:
    """Put the policy into a store as the rebalancer's current one; returns the store."""
    desk, policy = strategy(SPEC.name), _policy()
    actions = tuple(answer(observation.array()) for observation in golden_observations(desk))
    put(models_dir, manifest_of(desk, policy, actions, version=VERSION, promoted=False, rules=RULES), policy)
    return models_dir


def _policy() -> bytes:
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    constants: dict[str, npt.NDArray[np.generic]] = {
        "column": np.array([WEEKDAY]),
        "two": np.array(2.0, np.float32),
        "one": np.array(1.0, np.float32),
        "least": np.array(-1.0, np.float32),
        "pattern": pattern(),
    }
    nodes = [
        node("Gather", ["observation", "column"], ["weekday"], axis=1),
        node("Mod", ["weekday", "two"], ["odd"], fmod=1),
        node("Mul", ["odd", "two"], ["twice"]),
        node("Sub", ["one", "twice"], ["sign"]),
        node("Mul", ["pattern", "sign"], ["wanted"]),
        node("Clip", ["wanted", "least", "one"], ["actions"]),
    ]
    return graph(nodes, {"observation": ("batch", WIDTH)}, {"actions": ("batch", STOCKS)}, constants)
