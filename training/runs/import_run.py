"""A policy that was made elsewhere, into the store: tested and reported like one trained here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from strategies.registry import strategy
from training.desks.registry import kind
from training.desks.scalper.network import parameter_count
from training.export.import_onnx import import_onnx
from training.export.import_sb3 import import_sb3
from training.rl.pool import stop_on_signals
from training.runs.record import Outcome
from training.runs.run import Listener, Run
from training.runs.settings import Settings


def import_and_export(
    settings: Settings, path: Path, activation: str | None, golden: Path | None, listen: Listener
) -> Outcome:
    """Bring a policy that Stable-Baselines3 trained into the store, tested and reported like one trained here.

    Raises:
        ImportSb3Error: the file cannot be imported; the text gives reason and cure.
        ValueError and others: as `train_and_export`.
    """
    _check_kind(settings)
    imported = import_sb3(path, settings.strategy, activation=activation, golden=golden)
    also = {
        "imported": path.name,
        "imported_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stable_baselines3": imported.version,
        "activation": imported.activation,
        "coefficients": imported.hyperparameters,
        "network": f"{imported.activation} {parameter_count(imported.module)} parameters",
    }
    return _brought_in(settings, imported.module, int(imported.hyperparameters.get("num_timesteps") or 0), also, listen)


def import_graph_and_export(settings: Settings, path: Path, listen: Listener) -> Outcome:
    """Bring an ONNX file of any library into the store, tested and reported like a policy trained here.

    Raises:
        ImportOnnxError: the file cannot be imported; the text gives reason and cure.
        ValueError and others: as `train_and_export`.
    """
    _check_kind(settings)
    policy = import_onnx(path, strategy(settings.strategy, settings.symbols).spec)
    also = {
        "imported": path.name,
        "imported_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "network": "as imported",
    }
    return _brought_in(settings, policy, 0, also, listen)


def _check_kind(settings: Settings) -> None:
    if not kind(settings.strategy).imports:
        raise ValueError(
            f"a policy that was trained elsewhere cannot be brought in for {settings.strategy}: train it here"
        )


def _brought_in(settings: Settings, policy: nn.Module, steps: int, also: dict[str, Any], listen: Listener) -> Outcome:
    with stop_on_signals() as stop:
        run = Run(settings, listen, stop, also)
        with run.begun():
            return run.imported(policy, steps)
