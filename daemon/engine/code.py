"""Which code and libraries decide: what a journal names its rows' author by."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

import daemon.core
import strategies
from strategies.registry import own


def code_digest(strategy: str = "") -> str:
    """Return 12 hex digits over the sources of `strategies` and `daemon.core`, the deciding code.

    Files of all subfolders count, each by its path within its package. Of a strategy of one's own its files as they
    were imported count too. Raises OwnStrategyError where those cannot be imported.
    """
    found = hashlib.sha256()
    for package in (strategies, daemon.core):
        for root in map(Path, package.__path__):
            for path in sorted(root.rglob("*.py")):
                found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    there = own(strategy) if strategy else None
    if there is not None:
        found.update(there.digest.encode())
    return found.hexdigest()[:12]


@cache
def libraries() -> str:
    """Return the versions of the libraries that the deciding code computes with: others may round differently."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "TA-Lib", "msgspec"))
