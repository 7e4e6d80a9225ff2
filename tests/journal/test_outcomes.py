"""What became of a decision: it is ordered where orders followed, or are still to come."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from daemon.journal.outcomes import shown_outcome


def test_a_decision_without_an_order_changed_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE decisions (decision INTEGER PRIMARY KEY, outcome TEXT)")
        db.execute("CREATE TABLE orders (work TEXT)")
        stored = ("ordered", "ordered", "ordered", "hold", "ordered", "exit", "denied")
        db.executemany("INSERT INTO decisions VALUES (?, ?)", enumerate(stored, 1))
        db.executemany("INSERT INTO orders VALUES (?)", [("1.0",), ("2.AAPL",), ("30.0",), ("4.0",), ("11.0",)])
        rows = db.execute(f"SELECT {shown_outcome({5})} FROM decisions AS d ORDER BY decision").fetchall()
    assert [row[0] for row in rows] == ["ordered", "ordered", "no_change", "hold", "ordered", "exit", "denied"]
