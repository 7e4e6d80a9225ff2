"""A version of the model store, read for training: its manifest and its graph, which belong to each other."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemon.models.pointer import CURRENT, ModelError, point, pointer_text
from strategies.kit import manifest as manifests
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, Manifest
from training.export.shelf import ExportError


class VersionError(ValueError):
    """There is no such version, or its files do not belong together; the text has the cure."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version's folder with its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def policy(self) -> Path:
        """The file of its ONNX graph."""
        return self.folder / POLICY_FILE


def read_version(store: Path, strategy: str, name: str = CURRENT) -> Version:
    """The version of this name, or the one that the store's `current` names.

    Raises:
        VersionError: it is not there, unreadable, or its graph is another one than the manifest's.
    """
    shelf = store / strategy
    try:
        version_name = (shelf / CURRENT).read_text(encoding="utf-8").strip() if name == CURRENT else name
        folder = shelf / version_name
        manifest = manifests.decode((folder / MANIFEST_FILE).read_bytes())
        digest = hashlib.sha256((folder / POLICY_FILE).read_bytes()).hexdigest()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(path.parent.name for path in shelf.glob(f"*/{MANIFEST_FILE}"))) or "none"
        raise VersionError(f"{shelf}: version {name} cannot be read ({error}): expected one of {names}") from error
    if digest != manifest.policy_sha256:
        raise VersionError(
            f"{folder / POLICY_FILE} has SHA-256 {digest}, {MANIFEST_FILE} expects {manifest.policy_sha256}: restore "
            "the version's folder"
        )
    return Version(folder, manifest)


# Point a store at a version that was exported.


def is_active(version: Path) -> bool:
    """Return whether `current` next to this version's folder names it."""
    return pointer_text(version.parent, CURRENT) == version.name


def activate(version: Path, why: str) -> None:
    """Point `current` next to this version's folder at it: running desks of that store follow.

    Raises:
        ExportError: its name is no version's.
        OSError: the store cannot be written; the pointer is unchanged.
    """
    try:
        point(version.parent, CURRENT, version.name, author="train-and-export", why=why, now_ns=time.time_ns())
    except ModelError as error:
        raise ExportError(error.text) from error
