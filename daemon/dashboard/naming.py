"""The names of desks that are given by their state directories alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.dashboard.desks import FollowedDesk
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.operator.fleet import distinct


def named(paths: list[Path]) -> dict[str, FollowedDesk]:
    """Name the desks of these state directories: by the journal, by the folder where two journals have one name.

    Names are fixed here; a journal that appears later changes none.
    """
    names = distinct([(_name(path), path.resolve().name) for path in paths])
    return {name: FollowedDesk(name, path) for name, path in zip(names, paths, strict=True)}


def _name(path: Path) -> str:
    try:
        with closing(JournalReader(path / FILE)) as reader:
            return reader.meta().get("desk", "")
    except (JournalError, sqlite3.Error, OSError, ValueError, KeyError):
        return ""
