"""Point a store at a version that was exported."""

from __future__ import annotations

import time
from pathlib import Path

from daemon.models.pointer import CURRENT, ModelError, point
from training.export.export import ExportError


def activate(version: Path, why: str) -> None:
    """Point `current` next to this version's folder at it: running desks of that store follow.

    Raises:
        ExportError: its name is no version's.
        OSError: the store cannot be written; the pointer is unchanged.
    """
    try:
        point(version.parent, CURRENT, version.name, who="train-and-export", why=why, now_ns=time.time_ns())
    except ModelError as error:
        raise ExportError(error.text) from error
