"""A strategy's shelf in the model store: a version lies there whole or not at all. Imports no torch."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from daemon.host.whole_files import sync
from strategies.kit.manifest import MANIFEST_FILE, decode

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
    """
    shelf.mkdir(parents=True, exist_ok=True)
    _clear(shelf)
    workshop = Path(tempfile.mkdtemp(prefix=WORKSHOP, dir=shelf))
    try:
        folder = workshop / "version"
        folder.mkdir(mode=0o755)
        final = shelf / write(folder)
        sync(folder)
        _put(folder, final, workshop / REPLACED)
        sync(shelf)
    finally:
        shutil.rmtree(workshop)
    return final


def _clear(shelf: Path) -> None:
    """Remove leftovers of killed exports, except a version put aside, which may be the only copy."""
    for leftover in shelf.glob(f"{WORKSHOP}*"):
        with suppress(OSError):  # another process removes it too
            if time.time() - leftover.stat().st_mtime > LEFT_S and not (leftover / REPLACED).exists():
                shutil.rmtree(leftover, ignore_errors=True)


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
