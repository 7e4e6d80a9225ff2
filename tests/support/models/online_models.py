"""A policy of `online_dqn` that trades often, built node by node: nothing was learned, torch is not needed.

It buys what rose in the newest bar and sells what fell. `expected` is the same arithmetic in numpy, float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import Golden, output_shapes
from strategies.registry import strategy
from tests.support.models.tiny_models import graph, manifest_of, put

VERSION = "momentum"
NAME = "online_dqn"
VALUES = np.array([[0.0, 1.0, -1.0]], dtype=np.float32)  # of HOLD, BUY and SELL, times the newest feature


def momentum_policy(maker: AnyStrategy, slope: float = 1.0) -> bytes:
    """The graph over the first indicator of the newest bar: a return."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    spec = maker.spec
    constants: dict[str, Any] = {
        "newest": np.array([newest_return(maker)], dtype=np.int64),
        "alone": np.array(newest_return(maker), dtype=np.int64),
        "values": slope * VALUES,
        "part": np.array(0.001, np.float32),
    }
    nodes = [
        node("Gather", ["observation", "newest"], ["gain"], axis=1),
        node("MatMul", ["gain", "values"], ["logits"]),
        node("Gather", ["observation", "alone"], ["one"], axis=1),
        node("Sigmoid", ["one"], ["direction"]),
        node("Abs", ["one"], ["size"]),
        node("Mul", ["size", "part"], ["risk"]),
    ]
    shapes: dict[str, tuple[str | int, ...]] = {name: ("batch", *shape) for name, shape in output_shapes(spec).items()}
    return graph(nodes, {"observation": ("batch", *spec.observation_shape)}, shapes, constants)


def newest_return(maker: AnyStrategy) -> int:
    """The place of the first indicator of the newest bar in a row of the observation."""
    return maker.spec.observation_shape[0] - len(maker.spec.features)


def expected(row: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
    """What the graph answers to a journaled newest row of n symbols, (n, features)."""
    gain = np.asarray(row, dtype=np.float64)[:, :1]
    return {
        "logits": gain @ VALUES.astype(np.float64),
        "direction": 1.0 / (1.0 + np.exp(-gain[:, 0])),
        "risk": np.abs(gain[:, 0]) * 0.001,
    }


def golden_of(maker: AnyStrategy, policy: bytes) -> Golden:
    """The golden answers as onnxruntime gives them."""
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    names = [*output_shapes(maker.spec)]
    logits, heads, observations = [], [], golden_observations(maker)
    for observation in observations:
        answers = dict(zip(names, session.run(names, {"observation": observation.array()}), strict=True))
        logits.append(tuple(answers.pop("logits").reshape(-1).tolist()))
        heads.append({name: tuple(values.reshape(-1).tolist()) for name, values in answers.items()})
    return Golden(tuple(o.data for o in observations), tuple(logits), (), tuple(heads))


def put_momentum(
    models_dir: Path,
    maker: AnyStrategy | None = None,
    *,
    slope: float = 1.0,
    version: str = VERSION,
    current: bool = True,
) -> Path:
    """Put the policy into a store, as the current one or not; returns the store."""
    maker = maker or strategy(NAME)
    policy = momentum_policy(maker, slope)
    manifest = manifest_of(
        maker,
        policy,
        (),
        version=version,
        promoted=False,
        golden=golden_of(maker, policy),
        symbols=maker.spec.symbols,
        model_config=msgspec.json.decode(maker.spec.config),
    )
    put(models_dir, manifest, policy, current=current)
    return models_dir
