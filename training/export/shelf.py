"""A strategy's shelf in the model store: a version lies there whole or not at all, is read, and made active.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemon.host.whole_files import exchange, sync, write_whole
from daemon.models.pointer import CURRENT, ModelError, alone, checked_name, point, pointer_text
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, Manifest, config_text, decode
from strategies.registry import strategy as registered

WORKSHOP, REPLACED = ".export-", "replaced"
LEFT_S = 24 * 3600.0  # age after which an export's folder counts as left by a killed process


class ExportError(Exception):
    """The policy cannot be exported; nothing was left behind. The text names what was found and expected."""


def put_version(shelf: Path, write: Callable[[Path], str]) -> Path:
    """Put a version on the shelf and return its folder; one of the same name is replaced. No pointer moves.

    Args:
        shelf: of the strategy's versions; it is made where there is none.
        write: writes all files into the folder it is given, and returns the version's name.

    Raises:
        OSError: the shelf cannot be written; what was there stays. What `write` raises leaves nothing behind either.
        ExportError: as `refuse_to_replace` and `check_shelf`.
    """
    check_shelf(shelf)
    shelf.mkdir(parents=True, exist_ok=True)
    _clear(shelf)
    workshop = Path(tempfile.mkdtemp(prefix=WORKSHOP, dir=shelf))
    try:
        folder = workshop / "version"
        folder.mkdir(mode=0o755)
        final = shelf / write(folder)
        sync(folder)
        with alone(shelf):
            if (folder / MANIFEST_FILE).exists():  # promoted or replaced while this one was written
                refuse_to_replace(final, decode((folder / MANIFEST_FILE).read_bytes()).contract_hash)
            _put(folder, final, workshop / REPLACED)
            sync(shelf)
    finally:
        shutil.rmtree(workshop)
    return final


def check_shelf(shelf: Path) -> None:
    """Raise ExportError where the shelf is a link that leads out of its store: no desk reads what lies there."""
    real = shelf.resolve()
    if not real.is_relative_to(shelf.parent.resolve()):
        other = f", or name the store that it leads to (--models-dir {real.parent})" if real.name == shelf.name else ""
        raise ExportError(
            f"{shelf} leads to {real}, out of the model store, and no desk reads a version there: replace the link by "
            f"a folder{other}"
        )


def _clear(shelf: Path) -> None:
    """Remove leftovers of killed exports; a version that one had put aside comes back where none took its place."""
    for leftover in shelf.glob(f"{WORKSHOP}*"):
        with suppress(OSError, msgspec.DecodeError, ModelError):  # another process removes it; or the only copy stays
            if (leftover / REPLACED).exists():
                _bring_back(shelf, leftover / REPLACED)
            if time.time() - leftover.stat().st_mtime > LEFT_S:
                shutil.rmtree(leftover, ignore_errors=True)


def _bring_back(shelf: Path, aside: Path) -> None:
    """Give a version that was put aside its name again where no other has it.

    Raises OSError, DecodeError, ModelError.
    """
    name = checked_name(decode((aside / MANIFEST_FILE).read_bytes()).version, str(aside))
    with alone(shelf):
        if not (shelf / name).exists():
            aside.rename(shelf / name)


def _put(folder: Path, final: Path, aside: Path) -> None:
    """Rename `folder` to `final`; what was there takes its place, and is there at each moment.

    Where a file system cannot exchange two names, it goes `aside`, and comes back should the rename fail.
    """
    if not final.exists():
        folder.rename(final)
        return
    if exchange(folder, final):
        return
    try:
        final.rename(aside)
        folder.rename(final)
    except BaseException:  # Ctrl-C too: the workshop, and what lies in it, is removed next
        if aside.exists() and not final.exists():
            aside.rename(final)
        raise


def replace_manifest(folder: Path, read: bytes, new: bytes) -> None:
    """Give a version on its shelf another manifest in place of the one that was read.

    Raises:
        ExportError: the version has another manifest by now.
        OSError: the shelf cannot be written; the manifest is unchanged.
    """
    path = folder.resolve() / MANIFEST_FILE
    with alone(path.parents[1]):
        if not path.exists() or path.read_bytes() != read:
            raise ExportError(f"{path} was changed by another command meanwhile: give the same command again")
        write_whole(path, new)


def refuse_to_replace(folder: Path, contract: str) -> None:
    """Raise ExportError where a version of this name has another contract or trades real money: a desk may need it."""
    try:
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return  # no version, or a damaged one, which is replaced
    if manifest.contract_hash != contract:
        why = f"with the contract {manifest.contract_hash[:12]}, the strategy's is {contract[:12]} now"
    elif manifest.promoted:
        why = "and was promoted to trade real money, by its own report"
    else:
        return
    raise ExportError(
        f"version {folder.name} is in {folder.parent} {why}: the export would replace it. Remove it once no desk runs "
        f"by it (rm -r {folder}), or name another store with --models-dir"
    )


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
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
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


def check_contract(version: Version) -> None:
    """Raise VersionError unless the strategy of this name, with the version's symbols and parameters, has its contract.

    Another strategy of this name, or changed code, would take its answers for something else.
    """
    manifest = version.manifest
    contract = contract_hash(registered(manifest.strategy, manifest.symbols or (), config_text(manifest)))
    if manifest.contract_hash != contract:
        raise VersionError(
            f"{version.folder} has the contract {manifest.contract_hash[:12]}, {manifest.strategy} has "
            f"{contract[:12]}: its answers mean something else there; give the strategy that it was exported with"
        )


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
