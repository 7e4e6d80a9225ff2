"""Imports an ONNX file of any library: checks it, renames inputs and outputs for the daemon, and keeps the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from daemon.models.graph_check import AGAIN, check_graph
from daemon.models.pointer import ModelError
from strategies.kit.contract import Spec
from strategies.kit.manifest import answer_name, output_shapes
from training.export.export import Exported

OBSERVATION = "observation"


class ImportOnnxError(ValueError):
    """The file cannot be imported; the text gives the reason and the cure."""


def import_onnx(path: Path, spec: Spec) -> Exported:
    """Return the policy of an ONNX file: float32 observations (batch, *observation shape) to answers (batch, actions).

    Answers are logits; of a continuous strategy actions in [-1, 1]. Input, output and batch get the names of a version
    in the store, all else stays.

    Raises:
        ImportOnnxError: no such file, operators that the daemon refuses, another shape, several inputs or outputs,
            probabilities in place of logits, a graph that takes one observation only, or a strategy with heads.
        OSError: the file cannot be read.
    """
    if len(output_shapes(spec)) != 1 or spec.rows_are_symbols:
        raise ImportOnnxError(
            f"{path.name}: a policy that was trained elsewhere cannot be brought in for {spec.name}, whose policy has "
            "heads, a memory or rows of symbols: train it with train-and-export"
        )
    data = path.read_bytes()
    try:
        check_graph(data)
    except ModelError as error:
        reason = str(error).removesuffix(f": {AGAIN}")
        raise ImportOnnxError(
            f"{path.name}: the daemon would refuse it: {reason}: change that in the library that made it, and export "
            "it from there again"
        ) from error
    model = onnx.ModelProto.FromString(data)
    _rename(path, model, spec)
    policy = Exported(model.SerializeToString(deterministic=True))
    _check_batch(path, policy, spec)
    return policy


def _rename(path: Path, model: onnx.ModelProto, spec: Spec) -> None:
    """Give input and output the names and shapes of `spec`. Raises ImportOnnxError where they cannot be those."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in weights]
    outputs = list(model.graph.output)
    for what, ports in (("input", inputs), ("output", outputs)):
        if len(ports) != 1:
            names = ", ".join(port.name for port in ports)
            raise ImportOnnxError(f"{path.name}: {len(ports)} {what}s ({names}), expected one: export the policy alone")
    _check_shape(path, inputs[0], ("observations", spec.observation_shape))
    _check_shape(path, outputs[0], ("answers", (len(spec.actions),)))
    new = {inputs[0].name: OBSERVATION, outputs[0].name: answer_name(spec)}
    used = {name for node in model.graph.node for name in (*node.input, *node.output)} | weights
    if clash := sorted((set(new.values()) & used) - set(new)):
        raise ImportOnnxError(f"{path.name}: an inner value is called {clash[0]}: rename it")
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for port in (inputs[0], outputs[0]):
        port.name = new[port.name]
        port.type.tensor_type.shape.dim[0].dim_param = "batch"


def _check_shape(path: Path, port: onnx.ValueInfoProto, expected: tuple[str, tuple[int, ...]]) -> None:
    what, shape = expected
    tensor = port.type.tensor_type
    found_shape = tuple(dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim)
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    fits = all(
        isinstance(size, str) or size == expected for size, expected in zip(found_shape[1:], shape, strict=False)
    )
    if kind != "FLOAT" or len(found_shape) != len(shape) + 1 or not fits:
        raise ImportOnnxError(
            f"{path.name}: {what} are {kind} {found_shape}, expected FLOAT (batch, {', '.join(map(str, shape))}): "
            "make it for the strategy's `SPEC`"
        )


def _check_batch(path: Path, policy: Exported, spec: Spec) -> None:
    """Run it on two observations at once: check the answers' shape, and that they are no probabilities.

    Raises ImportOnnxError.
    """
    observations = np.random.default_rng(0).standard_normal((2, *spec.observation_shape), dtype=np.float32)
    try:
        answers = policy.answers(observations)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ImportOnnxError(
            f"{path.name}: it does not answer two observations at once ({str(error)[:200]}): export it with a dynamic "
            "batch"
        ) from error
    if answers.shape != (2, len(spec.actions)):
        raise ImportOnnxError(
            f"{path.name}: answers to two observations have the shape {answers.shape}, expected "
            f"{(2, len(spec.actions))}: export it with a dynamic batch"
        )
    if not spec.continuous and answers.min() >= 0.0 and np.allclose(answers.sum(axis=1), 1.0, atol=1e-5):
        raise ImportOnnxError(f"{path.name}: it answers probabilities, expected logits: export it without its softmax")
