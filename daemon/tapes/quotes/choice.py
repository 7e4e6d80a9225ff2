"""Recorded option quotes as given on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class QuoteChoice:
    """A file of quotes for a replay. `root` "" is the strategy's underlying, `closes` a file of its bars."""

    path: Path
    root: str = ""
    closes: Path | None = None
