"""What every converter of option quotes shares: its options, its tables, its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tables = Iterator[tuple[Any, int]]
"""Pyarrow tables with columns of the schema (`source` may be absent), each with the bytes of the file read so far."""


class ConvertError(Exception):
    """A file that cannot be converted: the operator's mistake. The message names the file, the finding and the cure."""


@dataclass(slots=True)
class Request:
    """What to take. `left_out` counts the rows that were not taken, by reason."""

    roots: frozenset[str] = frozenset()  # OCC roots, such as SPXW; empty for all
    max_days: int | None = None  # calendar days from the quote to the expiry
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Format:
    """A vendor's format of option quotes. `read` yields the tables of one file; it raises ConvertError."""

    read: Callable[[Path, Request], Tables]
    interval: str  # of `daemon.tapes.quotes.schema`
    text: str
