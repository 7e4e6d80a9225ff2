"""What the show reads of a desk: written here by hand as the journal's tables are."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from simulator.online.show import Books
from strategies.kit.contract import Session

SESSION = Session("2024-01-02", 1_000, 2_000)
MOVE = {"version": "v2", "from_step": "proposed", "to_step": "replay", "champion": "v1", "reason": "r", "detail": "d"}


@pytest.fixture
def books(tmp_path: Path) -> Books:
    (tmp_path / "shelf" / "v1").mkdir(parents=True)
    (tmp_path / "shelf" / "v2").mkdir()
    (tmp_path / "shelf" / "v3").mkdir()
    for at, version in ((20, "v1"), (10, "v2")):
        card = tmp_path / "shelf" / version / "card.json"
        card.write_text(json.dumps({"session_mean": 0.5}))
        os.utime(card, (at, at))
    (tmp_path / "shelf" / "current").write_text("v1\n")
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute("CREATE TABLE events (id INTEGER, kind TEXT, payload TEXT)")
        database.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        database.execute("CREATE TABLE choices (time_ns INTEGER, greedy TEXT, drawn TEXT)")
        rows = [(3, "LadderMoved", json.dumps(MOVE | {"figures": {"pnl": 1.0}})), (4, "SessionEnded", "{}")]
        database.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        database.execute("INSERT INTO meta VALUES ('epoch', 'e1')")
        choices = [(1_000, "BUY", "BUY"), (1_500, "HOLD", "HOLD"), (1_600, "HOLD", "BUY"), (2_000, "HOLD", "HOLD")]
        database.executemany("INSERT INTO choices VALUES (?, ?, ?)", choices)
    return Books(tmp_path, tmp_path / "shelf")


def test_it_reads_the_ladder_the_choices_and_the_rows(books: Books) -> None:
    (move,) = books.moves()
    assert (move.version, move.to_step, move.champion, move.figures) == ("v2", "replay", "v1", {"pnl": 1.0})
    counts = books.explored(SESSION)
    assert (counts.choices, counts.explored, counts.actions) == (3, 1, {"BUY": 1, "HOLD": 2})
    assert (books.meta("epoch"), books.last_row("SessionEnded"), books.last_row("Nothing")) == ("e1", 4, 0)


def test_versions_come_by_the_age_of_their_cards(books: Books) -> None:
    assert books.versions() == ["v2", "v1"]
    assert books.current() == "v1"
    assert books.card("v2") == {"session_mean": 0.5}
