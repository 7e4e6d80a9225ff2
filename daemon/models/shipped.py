"""Where the shipped policies are: `onnx_models` of a checkout, or inside an installed wheel, which stays as it is."""

from __future__ import annotations

from pathlib import Path

USUAL = Path("onnx_models")
PACKAGED = Path(__file__).parents[1] / "shipped_models"
"""Of a wheel (`setup.py`); not there in a checkout."""


def to_read(store: Path) -> Path:
    """Return the store to read: this one, or the packaged one where this is the default and does not exist."""
    return PACKAGED if store == USUAL and not store.exists() and PACKAGED.is_dir() else store


def how_to_copy() -> str:
    """Return what to type for a store of one's own, "" where nothing is packaged."""
    return f", copy the shipped one (cp -r {PACKAGED} {USUAL})" if PACKAGED.is_dir() else ""
