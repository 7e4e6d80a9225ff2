"""A policy of `toy_crowd`, built node by node: it answers row by row and has heads; torch is not needed.

`expected` is the same arithmetic in numpy, float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import Golden
from tests.support.models.tiny_models import graph, manifest_of, put
from tests.support.toy.crowd import SPEC

VERSION = "rows"
WEIGHTS = np.array([[0.0, 60.0, -60.0], [20.0, -5.0, 5.0]], dtype=np.float32)  # return and range to three classes
STEEP = np.array(80.0, dtype=np.float32)
NAMES = ("actions", *(head.name for head in SPEC.heads))


def row_policy(outputs: tuple[str, ...] = NAMES, *, divides: bool = False) -> bytes:
    """The graph. Other `outputs` make it a wrong one; where it `divides`, the head `bold` is return / range."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    constants: dict[str, Any] = {
        "newest": np.array([4, 5], dtype=np.int64),
        "return_": np.array(4, dtype=np.int64),
        "range_": np.array(5, dtype=np.int64),
        "weights": WEIGHTS,
        "steep": STEEP,
        "two": np.array(2.0, np.float32),
        "one": np.array(1.0, np.float32),
        "axis": np.array([1], dtype=np.int64),
    }
    nodes = [
        node("Gather", ["observation", "newest"], ["bar"], axis=1),
        node("MatMul", ["bar", "weights"], ["scores"]),
        node("Softmax", ["scores"], ["probabilities"], axis=1),
        node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
        node("Gather", ["observation", "return_"], ["gain"], axis=1),
        node("Mul", ["gain", "steep"], ["scaled"]),
        node("Tanh", ["scaled"], ["wish"]),
        node("Gather", ["observation", "range_"], ["range"], axis=1),
        node("Div", ["gain", "range"], ["bold"]) if divides else node("Identity", ["wish"], ["bold"]),
        node("Mul", ["confidence", "two"], ["twice"]),
        node("Min", ["twice", "one"], ["trust"]),
        node("Mul", ["wish", "trust"], ["final"]),
        node("Identity", ["final"], ["actions"]),
    ]
    shapes: dict[str, tuple[str | int, ...]] = {
        "actions": ("batch",), "probabilities": ("batch", 3), "confidence": ("batch",), "bold": ("batch",),
        "final": ("batch",), "trust": ("batch",),
    }  # fmt: skip
    return graph(
        nodes, {"observation": ("batch", *SPEC.observation_shape)}, {name: shapes[name] for name in outputs}, constants
    )


def expected(observation: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
    """What the graph answers to an observation (rows, 8), by the outputs' names."""
    seen = np.asarray(observation, dtype=np.float64)
    scores = np.exp(seen[:, 4:6] @ WEIGHTS.astype(np.float64))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    bold = np.tanh(seen[:, 4] * float(STEEP))
    final = bold * np.minimum(2.0 * confidence, 1.0)
    return {"probabilities": probabilities, "confidence": confidence, "bold": bold, "final": final}


def put_row_model(models_dir: Path, maker: AnyStrategy, policy: bytes | None = None, **changes: Any) -> Path:
    """The policy in a store, its golden answers onnxruntime's own; returns the store."""
    policy = row_policy() if policy is None else policy
    golden = changes.pop("golden", None) or golden_of(maker, policy)
    rules = {"basket.shares_per_unit": "100"}
    given = {"version": VERSION, "golden": golden, "rules": rules, "symbols": maker.spec.symbols}
    put(models_dir, manifest_of(maker, policy, (), **{**given, **changes}), policy)
    return models_dir


def golden_of(maker: AnyStrategy, policy: bytes) -> Golden:
    """The golden answers as onnxruntime gives them."""
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    names = ("actions", *(head.name for head in maker.spec.heads))
    observations = golden_observations(maker)
    logits, heads = [], []
    for observation in observations:
        answers = dict(zip(names, session.run(names, {"observation": observation.array()}), strict=True))
        logits.append(tuple(answers.pop("actions").tolist()))
        heads.append({name: tuple(values.reshape(-1).tolist()) for name, values in answers.items()})
    return Golden(tuple(o.data for o in observations), tuple(logits), (), tuple(heads))
