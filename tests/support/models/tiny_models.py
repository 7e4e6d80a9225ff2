"""Small policies and versions of a model store, made by hand for the tests; torch is not needed.

The graphs are built node by node with the `onnx` package; `forward` is the same arithmetic in numpy, float64.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from strategies.golden import contract_hash, golden_observations
from strategies.kit.contract import AnyStrategy, Float32Array
from strategies.kit.manifest import FORMAT, MANIFEST_FILE, POLICY_FILE, Golden, Manifest, Training, encode

Weights = tuple[tuple[Float32Array, Float32Array], ...]

TRAINING = Training(
    file="bars.parquet",
    file_sha256="00" * 32,
    feed="sip",
    synthetic=True,
    sessions=3,
    first_session="2024-07-02",
    last_session="2024-07-05",
    splits={"train": ("2024-07-02", "2024-07-02")},
)


def weights(sizes: tuple[int, ...] = (460, 32, 6), seed: int = 7) -> Weights:
    """A matrix (inputs, outputs) and a bias for each layer, drawn from `seed`."""
    draw = np.random.default_rng(seed)
    return tuple(
        (
            (draw.standard_normal((into, out)) / into**0.5).astype(np.float32),
            draw.standard_normal(out).astype(np.float32),
        )
        for into, out in pairwise(sizes)
    )


def forward(layers: Weights, observation: npt.ArrayLike) -> list[float]:
    """Logits of one observation: matrix products in float64, ReLU between the layers."""
    values = np.asarray(observation, dtype=np.float64).reshape(-1)
    for number, (matrix, bias) in enumerate(layers):
        values = (np.maximum(values, 0.0) if number else values) @ matrix.astype(np.float64) + bias
    return [float(value) for value in values]


def mlp(layers: Weights, shape: tuple[int, ...] = (20, 23), output: str = "logits") -> bytes:
    """The same network as an ONNX graph: `observation` (batch, *shape) to `output` (batch, actions)."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    nodes = [onnx.helper.make_node("Flatten", ["observation"], ["layer0"], axis=1)]
    constants: dict[str, npt.NDArray[Any]] = {}
    for number, (matrix, bias) in enumerate(layers):
        constants |= {f"matrix{number}": matrix, f"bias{number}": bias}
        last = number == len(layers) - 1
        into = [f"relu{number}" if number else "layer0", f"matrix{number}", f"bias{number}"]
        if number:
            nodes.append(onnx.helper.make_node("Relu", [f"layer{number}"], [f"relu{number}"]))
        nodes.append(onnx.helper.make_node("Gemm", into, [output if last else f"layer{number + 1}"]))
    actions = layers[-1][1].shape[0]
    return graph(nodes, {"observation": ("batch", *shape)}, {output: ("batch", actions)}, constants)


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[str | int, ...]],
    outputs: dict[str, tuple[str | int, ...]],
    constants: dict[str, npt.NDArray[Any]],
) -> bytes:
    """A serialised ONNX model of these nodes; inputs and outputs are float32."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")

    def named(shapes: dict[str, tuple[str | int, ...]]) -> list[Any]:
        return [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
            for name, shape in shapes.items()
        ]

    held = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = onnx.helper.make_graph(nodes, "policy", named(inputs), named(outputs), held)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def manifest_of(
    strategy: AnyStrategy, policy: bytes, logits: tuple[tuple[float, ...], ...], **changes: Any
) -> Manifest:
    """A manifest that fits the strategy and the policy's bytes, but for `changes`."""
    observations = tuple(observation.data for observation in golden_observations(strategy))
    manifest = Manifest(
        format=FORMAT,
        strategy=strategy.spec.name,
        version="v1",
        contract_hash=contract_hash(strategy),
        policy_sha256=sha256(policy).hexdigest(),
        observation_shape=strategy.spec.observation_shape,
        actions=strategy.spec.actions,
        golden=Golden(observations=observations, logits=logits),
        training=TRAINING,
        hyperparameters={},
        metrics={},
        promoted=True,
    )
    return msgspec.structs.replace(manifest, **changes)


def put(models_dir: Path, manifest: Manifest, policy: bytes, *, current: bool = True) -> Path:
    """Write the version into the store; returns its folder."""
    folder = models_dir / manifest.strategy / manifest.version
    folder.mkdir(parents=True)
    (folder / POLICY_FILE).write_bytes(policy)
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    if current:
        (folder.parent / "current").write_text(f"{manifest.version}\n")
    return folder
