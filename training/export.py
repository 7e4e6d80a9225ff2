"""From a torch policy to a version in the model store: one ONNX graph, its manifest and its report, all or nothing.

A version appears under its name by one rename, after it was read back with onnxruntime and agreed with torch. Its
files need no torch to be used, hold all weights in `policy.onnx`, and name no path of the machine that made them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from strategies.contract import Strategy
from strategies.golden import contract_hash, golden_observations
from strategies.manifest import FORMAT, MANIFEST_FILE, POLICY_FILE, Golden, Manifest, Training, encode
from training.kernels import plain_float32

Float32Array = npt.NDArray[np.float32]

OPSET = 20
TOLERANCE = 1e-5  # largest difference of a logit between torch and onnxruntime
CURRENT_FILE = "current"


class ExportError(Exception):
    """The policy cannot be exported; nothing was left behind. The text names what was found and expected."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is known of a policy beside its weights. `version` None names it by its last session and its digest.

    `report(folder, digest)` writes the report's files into the version's folder for the policy of that digest.
    """

    training: Training
    hyperparameters: dict[str, Any]
    metrics: dict[str, Any]
    report: Callable[[Path, str], object] | None = None
    version: str | None = None
    promoted: bool = False
    note: str = ""


def export(policy: nn.Module, strategy: Strategy, release: Release, *, out: Path, probes: Float32Array) -> Path:
    """Write `<out>/<strategy>/<version>/` and point `<out>/<strategy>/current` at it; returns the version's folder.

    Args:
        policy: raw observations, float32 (batch, *observation shape), to logits, float32 (batch, actions).
        out: the model store. A version of the same name is replaced.
        probes: float32 (n, *observation shape), real observations on which torch and onnxruntime must agree.

    Raises:
        ExportError: logits that are not finite, of another shape, or further than 1e-5 from onnxruntime's.
    """
    shelf = out / strategy.spec.name
    shelf.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=".export-", dir=shelf))
    try:
        folder = workshop / "version"
        folder.mkdir(mode=0o755)
        manifest = _write(policy.eval(), strategy, release, folder, probes)
        final = shelf / manifest.version
        _put(folder, final, workshop / "replaced")
        _write_synced(workshop / CURRENT_FILE, f"{manifest.version}\n".encode())
        (workshop / CURRENT_FILE).replace(shelf / CURRENT_FILE)
    finally:
        shutil.rmtree(workshop)
    return final


def run_onnx(path: Path, observations: Float32Array) -> Float32Array:
    """Logits, float32 (n, actions), that onnxruntime gives for observations, float32 (n, *shape), on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits: Float32Array = session.run(["logits"], {"observation": observations})[0]
    return logits


def _put(folder: Path, final: Path, aside: Path) -> None:
    """Rename `folder` to `final`; what was there goes `aside`, and comes back should the rename fail."""
    if not final.exists():
        folder.rename(final)
        return
    final.rename(aside)
    try:
        folder.rename(final)
    except OSError:
        aside.rename(final)
        raise


def _write(policy: nn.Module, strategy: Strategy, release: Release, folder: Path, probes: Float32Array) -> Manifest:
    """Everything of one version into `folder`, checked by reading it back."""
    spec = strategy.spec
    golden = golden_observations(strategy)
    golden_array = np.stack([observation.array() for observation in golden])
    golden_logits = _torch_logits(policy, golden_array)
    if golden_logits.shape != (len(golden), len(spec.actions)) or not np.isfinite(golden_logits).all():
        raise ExportError(
            f"the policy gives logits of shape {golden_logits.shape}, finite: {np.isfinite(golden_logits).all()}; "
            f"expected finite ones of shape {(len(golden), len(spec.actions))}: check the module and its training"
        )
    path = folder / POLICY_FILE
    _write_synced(path, _onnx_bytes(policy, golden_array))
    for name, observations in (("golden", golden_array), ("real", probes), ("single", probes[:1])):
        difference = float(np.abs(_torch_logits(policy, observations) - run_onnx(path, observations)).max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"torch and onnxruntime differ by {difference} on {len(observations)} {name} observations; expected at "
                f"most {TOLERANCE}: look for an operation of the module that the exporter does not keep exact"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = Manifest(
        format=FORMAT,
        strategy=spec.name,
        version=release.version or f"{release.training.last_session}-{digest[:8]}",
        contract_hash=contract_hash(strategy),
        policy_sha256=digest,
        observation_shape=spec.observation_shape,
        actions=spec.actions,
        golden=Golden(
            observations=tuple(observation.data for observation in golden),
            logits=tuple(tuple(row) for row in golden_logits.tolist()),
        ),
        training=release.training,
        hyperparameters=release.hyperparameters,
        metrics=release.metrics,
        promoted=release.promoted,
        note=release.note,
    )
    _write_synced(folder / MANIFEST_FILE, encode(manifest))
    if release.report is not None:
        release.report(folder, digest)
    return manifest


def _onnx_bytes(policy: nn.Module, example: Float32Array) -> bytes:
    """The policy as a serialised ONNX model with a dynamic batch, without traces of where it was exported."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            policy,
            (torch.from_numpy(example),),
            input_names=["observation"],
            output_names=["logits"],
            dynamic_shapes={"observation": {0: torch.export.Dim("batch", min=1, max=1 << 20)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.doc_string = ""
    del model.metadata_props[:]
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for initializer in model.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
        if initializer.external_data:
            raise ExportError(f"{initializer.name} is stored outside of the model; expected all weights inside")
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@torch.no_grad()
def _torch_logits(policy: nn.Module, observations: Float32Array) -> Float32Array:
    with plain_float32():
        logits: Float32Array = policy(torch.from_numpy(observations)).numpy()
    return logits


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
