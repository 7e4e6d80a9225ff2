"""Read the desk's files: the ladder's steps in its journal, exploration, the versions in its store.

The journal is plain SQLite and only read; nothing here imports the daemon.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.kit.contract import Session


@dataclass(frozen=True, slots=True)
class Moved:
    """One step of the ladder, or one session on a step."""

    version: str
    from_step: str
    to_step: str
    champion: str
    reason: str
    detail: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explored:
    """Choices of a session: all, those that the model did not rank best, and counts by action."""

    choices: int
    explored: int
    actions: dict[str, int]


class Books:
    """The journal in `state_dir`, and the folder of its versions."""

    def __init__(self, state_dir: Path, shelf: Path) -> None:
        self._journal, self._shelf = state_dir / "journal.sqlite", shelf

    def moves(self) -> list[Moved]:
        """Return the ladder's steps so far, oldest first."""
        with self._reading() as database:
            rows = database.execute("SELECT payload FROM events WHERE kind = 'LadderMoved' ORDER BY id").fetchall()
        return [_move_of(json.loads(row[0])) for row in rows]

    def meta(self, key: str) -> str:
        """Return a value of the journal's `meta` table."""
        with self._reading() as database:
            return str(database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def last_row(self, kind: str) -> int:
        """Return the newest row of an event's kind, 0 without one."""
        with self._reading() as database:
            return int(database.execute("SELECT max(id) FROM events WHERE kind = ?", (kind,)).fetchone()[0] or 0)

    def explored(self, session: Session) -> Explored:
        """Count the choices of a session by action, and those that differ from the greedy one."""
        span = (session.open_ns, session.close_ns)
        with self._reading() as database:
            rows = database.execute(
                "SELECT drawn, drawn != greedy, count(*) FROM choices WHERE time_ns > ? AND time_ns <= ? GROUP BY 1, 2",
                span,
            ).fetchall()
        actions: dict[str, int] = {}
        for action, _, count in rows:
            actions[action] = actions.get(action, 0) + count
        return Explored(sum(actions.values()), sum(row[2] for row in rows if row[1]), actions)

    def answered(self, session: Session) -> dict[str, int]:
        """Return how many decisions of a session each version answered."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT model, count(*) FROM decisions WHERE kind = 'policy' AND model IS NOT NULL AND time_ns > ? "
                "AND time_ns <= ? GROUP BY 1",
                (session.open_ns, session.close_ns),
            ).fetchall()
        return dict(rows)

    def versions(self) -> list[str]:
        """Return the versions with a card, by the age of their cards."""
        cards = sorted((path.stat().st_mtime_ns, path.parent.name) for path in self._shelf.glob("*/card.json"))
        return [name for _, name in cards]

    def card(self, version: str) -> dict[str, Any]:
        """Return a version's card."""
        card: dict[str, Any] = json.loads((self._shelf / version / "card.json").read_text())
        return card

    def current(self) -> str:
        """Return the store's current version."""
        return (self._shelf / "current").read_text().strip()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True, timeout=30.0)
        try:
            yield database
        finally:
            database.close()


def _move_of(payload: dict[str, Any]) -> Moved:
    return Moved(
        payload["version"],
        payload["from_step"],
        payload["to_step"],
        payload["champion"],
        payload["reason"],
        payload["detail"],
        payload.get("figures", {}),
    )
