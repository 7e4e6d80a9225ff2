"""Location of the shipped policies: `onnx_models` of a checkout, or a folder of an installed wheel."""

from __future__ import annotations

from pathlib import Path

USUAL = Path("onnx_models")
PACKAGED = Path(__file__).parents[1] / "shipped_models"
"""Folder in a wheel (`setup.py`); absent in a checkout."""


def to_read(store: Path) -> Path:
    """Return the store to read: the given one, or the packaged one if this is the default and does not exist."""
    return PACKAGED if store == USUAL and not store.exists() and PACKAGED.is_dir() else store


def how_to_copy() -> str:
    """Return the command that makes an own store, "" where nothing is packaged."""
    return f", copy the shipped one (cp -r {PACKAGED} {USUAL})" if PACKAGED.is_dir() else ""
