"""A policy of `forecast_ensemble` that trades every day, built node by node: nothing was learned, torch is not needed.

It sells all of what it holds, and buys what it does not hold and what rose in the newest session. `expected` is the
same arithmetic in numpy, float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from strategies.forecast_ensemble import ACCOUNT, SEQUENCE, SPEC
from strategies.forecast_ensemble.features import COUNT, NAMES
from strategies.registry import strategy
from tests.support.models.row_models import golden_of
from tests.support.models.tiny_models import graph, manifest_of, put

VERSION = "relay"
LEAST_VARIANCE = 1e-5  # beside the square of the newest return
HELD = 1e-4  # of the equity: less counts as nothing
RETURN, RANGE = (SEQUENCE - COUNT + NAMES.index(name) for name in ("log_return_1", "range"))
WEIGHT = SEQUENCE + ACCOUNT.index("weight")
CLASSES = np.array([[0.0, 60.0, -60.0], [0.3, -0.1, 0.1]], dtype=np.float32)  # return and range to HOLD, BUY, SELL
STEEP, SHALLOW = 200.0, 50.0


def relay_policy() -> bytes:
    """The graph."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    numbers = {"steep": STEEP, "shallow": SHALLOW, "two": 2.0, "one": 1.0, "least": -1.0, "half": 0.5, "held": HELD}
    numbers["least_variance"] = LEAST_VARIANCE
    constants: dict[str, Any] = {name: np.array(value, np.float32) for name, value in numbers.items()} | {
        "newest": np.array([RETURN, RANGE], dtype=np.int64),
        "return_": np.array(RETURN, dtype=np.int64),
        "weight_": np.array(WEIGHT, dtype=np.int64),
        "classes": CLASSES,
        "axis": np.array([1], dtype=np.int64),
    }
    nodes = [
        node("Gather", ["observation", "newest"], ["bar"], axis=1),
        node("MatMul", ["bar", "classes"], ["scores"]),
        node("Softmax", ["scores"], ["probabilities"], axis=1),
        node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
        node("Gather", ["observation", "return_"], ["gain"], axis=1),
        node("Gather", ["observation", "weight_"], ["weight"], axis=1),
        node("Greater", ["weight", "held"], ["holds"]),
        *_agent(node, "sac", "steep"),
        *_agent(node, "td3", "shallow"),
        node("Add", ["sac", "td3"], ["both"]),
        node("Mul", ["both", "half"], ["mean"]),
        node("Mul", ["confidence", "two"], ["twice"]),
        node("Min", ["twice", "one"], ["size"]),
        node("Mul", ["mean", "size"], ["final"]),
        node("Mul", ["gain", "gain"], ["square"]),
        node("Add", ["square", "least_variance"], ["variance"]),
        node("Identity", ["final"], ["actions"]),
    ]
    shapes: dict[str, tuple[str | int, ...]] = {head.name: ("batch", *head.shape) for head in SPEC.heads}
    outputs = {"actions": ("batch",), **shapes}
    return graph(nodes, {"observation": ("batch", *SPEC.observation_shape)}, outputs, constants)


def _agent(node: Any, name: str, slope: str) -> list[Any]:
    """-1 for what is held, else tanh(slope x the newest return)."""
    return [
        node("Mul", ["gain", slope], [f"{name}_scaled"]),
        node("Tanh", [f"{name}_scaled"], [f"{name}_wish"]),
        node("Where", ["holds", "least", f"{name}_wish"], [name]),
    ]


def expected(observation: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
    """What the graph answers to an observation (rows, 4686), by the heads' names."""
    seen = np.asarray(observation, dtype=np.float64)
    scores = np.exp(seen[:, [RETURN, RANGE]] @ CLASSES.astype(np.float64))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    holds = seen[:, WEIGHT] > np.float32(HELD)
    sac, td3 = (np.where(holds, -1.0, np.tanh(slope * seen[:, RETURN])) for slope in (STEEP, SHALLOW))
    size = np.minimum(2.0 * confidence, 1.0)
    final = (sac + td3) / 2 * size
    variance = np.square(seen[:, RETURN]) + LEAST_VARIANCE
    return {
        "probabilities": probabilities, "confidence": confidence, "variance": variance, "sac": sac, "td3": td3,
        "size": size, "final": final,
    }  # fmt: skip


def put_relay(models_dir: Path, *, band: float = 0.01) -> Path:
    """Put the policy into a store as the current one, its golden answers onnxruntime's own; returns the store."""
    maker, policy = strategy(SPEC.name), relay_policy()
    rules = {"basket.weight_max": "0.1", "basket.band": str(band)}
    manifest = manifest_of(
        maker, policy, (), version=VERSION, promoted=False, golden=golden_of(maker, policy), rules=rules,
        symbols=SPEC.symbols,
    )  # fmt: skip
    put(models_dir, manifest, policy)
    return models_dir
