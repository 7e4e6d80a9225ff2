"""The weights of a version's networks, critics included, for a warm start of a training.

The graph holds the policy alone, so the weights are in a separate file, whose digest is in the manifest.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from daemon.host.whole_files import write_whole
from strategies.golden import contract_hash
from strategies.kit.contract import AnyStrategy
from training.export.shelf import Version, VersionError, read_version
from training.study.study import Fold

WEIGHTS_FILE = "weights.pt"
Weights = Mapping[str, Any]


def write_weights(folder: Path, network: str, members: Sequence[Weights]) -> None:
    """Keep the weights of these networks, one for each seed. Raises OSError."""
    content = {"network": network, "members": [dict(member) for member in members]}
    write_whole(folder / WEIGHTS_FILE, packed(content))


def warm_start(
    store: Path, name: str, strategy: AnyStrategy, network: str, folds: Sequence[Fold]
) -> tuple[Weights, ...]:
    """The weights of a version's networks, for trainings on these folds.

    Raises:
        VersionError: a training cannot begin at it, or it has seen sessions that would validate or test.
    """
    version = read_version(store, strategy.spec.name, name)
    members = read_weights(version, strategy, network)
    last_session = max(span_end for span, (_, span_end) in version.manifest.training.splits.items() if span != "test")
    first = min(fold.validate[0] for fold in folds)
    if first <= last_session:
        raise VersionError(
            f"{version.folder} was trained and chosen on sessions up to {last_session}, and this run validates from "
            f"{first}: it would be tested on what it has seen; give later bars, fewer --folds, or an earlier version"
        )
    return members


def read_weights(version: Version, strategy: AnyStrategy, network: str) -> tuple[Weights, ...]:
    """The weights of a version's networks.

    Raises:
        VersionError: it keeps none, they are not those of its manifest, or they are of another contract or network.
    """
    manifest, path = version.manifest, version.folder / WEIGHTS_FILE
    contract = contract_hash(strategy)
    if manifest.contract_hash != contract:
        raise VersionError(
            f"{version.folder} has the contract {manifest.contract_hash[:12]}, {strategy.spec.name} has "
            f"{contract[:12]}: its weights read other observations; begin at a version of this contract"
        )
    if WEIGHTS_FILE not in manifest.files:
        raise VersionError(
            f"{version.folder} keeps no weights to begin at: it is a passive policy, was trained elsewhere, or is "
            f"older than {WEIGHTS_FILE}; give a version that was learned here"
        )
    try:
        data = path.read_bytes()
        saved = unpacked(data)
        saved_network, members = str(saved["network"]), tuple(saved["members"])
    except (OSError, ValueError, KeyError) as error:
        raise VersionError(f"{path} cannot be read ({error}): restore the version's folder") from error
    if hashlib.sha256(data).hexdigest() != manifest.files[WEIGHTS_FILE]:
        raise VersionError(f"{path} is not the file that the manifest names: restore the version's folder")
    if saved_network != network:
        raise VersionError(
            f"{version.folder} is of the network {saved_network}, this run trains {network}: --network {saved_network}"
        )
    return members


def packed(content: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as bytes."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """The content of `packed` bytes; nothing in them is executed. Raises ValueError for other bytes."""
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{type(error).__name__}: it holds no tensors") from error
    return content
