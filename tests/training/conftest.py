"""What tests of whole runs share: one list of torch's translations to ONNX in a process, which is half of the time of a
small export, and one export for equal policies, whose tracing takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from training.export import export

if TYPE_CHECKING:
    from strategies.kit.contract import Float32Array, Spec


class Values(pickle.Pickler):
    """Writes a tensor as its values, wherever and in whatever it is stored."""

    def reducer_override(self, value: Any) -> Any:
        """See `pickle.Pickler`."""
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        values = value.detach().contiguous().numpy().tobytes()
        return str, (f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {values.hex()}",)


def digest(*objects: Any) -> str:
    """Of everything that these hold."""
    buffer = io.BytesIO()
    values = Values(buffer)
    values.fast = True  # equal values are written alike, whether they are one object or several
    values.dump(objects)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """Let torch list its translations once a process; it only reads them. Each export is real."""
    real = torch.onnx.export
    with pytest.MonkeyPatch.context() as patch:

        def exported(*arguments: Any, **options: Any) -> Any:
            registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            if not hasattr(registry.from_torchlib, "cache_info"):
                patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
            return real(*arguments, **options)

        patch.setattr(torch.onnx, "export", exported)
        yield


@pytest.fixture(scope="module")
def one_export() -> Iterator[None]:
    """Keep the graph of each policy, for a file whose runs end in the same one again and again.

    A policy that differs in anything, to the last bit of a weight, is exported for itself. That an export repeats
    itself is tested where nothing is kept (`tests/training/export/test_export.py`).
    """
    exports: dict[str, bytes] = {}
    real = export.onnx_bytes

    def onnx_bytes(policy: nn.Module, example: Float32Array, spec: Spec) -> bytes:
        key = digest(policy, example, spec)
        if key not in exports:
            exports[key] = real(policy, example, spec)
        return exports[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_bytes", onnx_bytes)
        yield
