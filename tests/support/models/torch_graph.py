"""A torch policy as an ONNX graph, opened by onnxruntime on one thread."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn


def graph_of(
    policy: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path
) -> onnxruntime.InferenceSession:
    """The policy with a free batch, called like these examples, written to `path`."""
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            policy.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
