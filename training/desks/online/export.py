"""A network of `online_dqn` as a version of the model store: one graph with the values of the actions and the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.host.whole_files import write_whole
from strategies.kit.contract import Float32Array
from strategies.kit.manifest import Reference, Training
from strategies.online_dqn import OnlineDqn
from training.desks.online.data import OnlineData
from training.export.export import Release, export
from training.rl.dqn.networks import QNetwork

PROBES = 1000


def export_online(
    network: QNetwork,
    strategy: OnlineDqn,
    *,
    out: Path,
    probes: Float32Array,
    training: Training,
    hyperparameters: Mapping[str, Any],
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    version: str | None = None,
    note: str = "",
    reference: Reference | None = None,
    sign: Callable[[Path, bytes], object] | None = None,
) -> Path:
    """Write `<out>/online_dqn/<version>/`; returns the folder.

    Args:
        probes: real observations, float32 (n, width), on which torch and onnxruntime must agree.
        files: further files of the version, such as its card; the manifest holds their digests.
        reference: what live features and actions are compared with; see `training.export.reference`.
        sign: see `training.export.export.Release`.
        version: its name; None names it by its last session and its digest.

    Raises:
        ExportError: nothing was left behind; the text gives the reason.
    """

    def write_files(folder: Path, _digest: str, _version: str) -> None:
        for name, data in (files or {}).items():
            write_whole(folder / name, data)

    release = Release(
        training=training,
        hyperparameters=dict(hyperparameters),
        metrics=dict(metrics),
        report=write_files,
        version=version,
        note=note,
        symbols=strategy.spec.symbols,
        reference=reference,
        sign=sign,
    )
    return export(network, strategy, release, out=out, probes=probes)


def training_of(data: OnlineData, apart: tuple[str, ...], feed: str, source: str = "") -> Training:
    """The manifest's training data of the first model: all usable sessions, `apart` as the test, and `source`."""
    dates = tuple(data.days)
    learnt = dates[: len(dates) - len(apart)]
    return Training(
        file=data.bars.file,
        file_sha256=data.bars.sha256,
        feed=feed,
        synthetic=bool(data.bars.synthetic),
        sessions=len(dates),
        first_session=dates[0],
        last_session=dates[-1],
        splits={"train": (learnt[0], learnt[-1]), "test": (apart[0], apart[-1])},
        source=source,
    )
