"""What became of a decision: it is ordered where orders followed, or are still to come."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from daemon.journal.outcomes import Booked, Ordered, became, shown_outcome, why_no_change


def test_a_decision_without_an_order_changed_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE decisions (decision INTEGER PRIMARY KEY, outcome TEXT)")
        db.execute("CREATE TABLE orders (work TEXT)")
        stored = ("ordered", "ordered", "ordered", "hold", "ordered", "exit", "denied")
        db.executemany("INSERT INTO decisions VALUES (?, ?)", enumerate(stored, 1))
        db.executemany("INSERT INTO orders VALUES (?)", [("1.0",), ("2.AAPL",), ("30.0",), ("4.0",), ("11.0",)])
        rows = db.execute(f"SELECT {shown_outcome({5})} FROM decisions AS d ORDER BY decision").fetchall()
    assert [row[0] for row in rows] == ["ordered", "ordered", "no_change", "hold", "ordered", "exit", "denied"]


BOUGHT = Ordered("SPY", +1, 8, 8, works=False)
SOLD = Ordered("SPY", -1, 4, 4, works=False)
UNDONE = Ordered("SPY", +1, 8, 0, works=False)


@pytest.mark.parametrize(
    ("shown", "orders", "did", "coming", "expected"),
    [
        ("denied", (), None, False, "denied"),
        ("ordered", (), None, True, "ordered"),
        ("ordered", (BOUGHT,), Booked(-0.38, 0, 0.0), False, "filled"),
        ("ordered", (BOUGHT,), Booked(-0.38, 0, 0.0), True, "working"),  # a basket's sales were filled, buys follow
        ("ordered", (BOUGHT._replace(works=True, filled=0),), None, False, "working"),
        ("ordered", (BOUGHT, UNDONE), Booked(-0.38, 0, 0.0), False, "partly_filled"),
        ("ordered", (UNDONE,), None, False, "not_filled"),
        ("exit", (), None, False, "no_order"),
        ("exit", (), None, True, "exit"),
        ("exit", (SOLD,), Booked(2.0, 0, 0.0), False, "trimmed"),
        ("exit", (SOLD,), Booked(2.0, 1, 1.6), False, "exited"),
    ],
)
def test_a_decision_is_told_by_what_its_orders_did(
    shown: str, orders: tuple[Ordered, ...], did: Booked | None, coming: bool, expected: str
) -> None:
    assert became(shown, orders, did, coming=coming) == expected


class Rows:
    """A reader of tables in memory."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def query(self, sql: str, values: Any = ()) -> list[sqlite3.Row]:
        """All rows."""
        return self.db.execute(sql, values).fetchall()


@pytest.fixture
def rows() -> Iterator[Any]:
    """AAA holds 5 after two moves of one event, BBB 3; 0.23 USD of cash are left at 10 ns."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.execute("CREATE TABLE moves (symbol TEXT, held INTEGER, seq INTEGER, part INTEGER, at_ns INTEGER)")
        moves = [("AAA", 9, 1, 0, 5), ("AAA", 5, 1, 1, 5), ("BBB", 3, 2, 0, 6), ("BBB", 30, 3, 0, 20)]
        db.executemany("INSERT INTO moves VALUES (?, ?, ?, ?, ?)", moves)
        db.execute("CREATE TABLE equity (time_ns INTEGER, cash_usd TEXT)")
        db.executemany("INSERT INTO equity VALUES (?, ?)", [(1, "1000"), (9, "0.2291"), (30, "7")])
        yield Rows(db)


@pytest.mark.parametrize(
    ("goals", "expected"),
    [
        ({"AAA": 6, "BBB": 3, "CCC": 1}, "it wanted to buy 2 symbols with $0.23 of cash"),
        ({"BBB": 4}, "it wanted to buy 1 symbol with $0.23 of cash"),
        ({"AAA": 4, "BBB": 4}, "the cash covered no share of it, or a halt, a pause or a missing price kept it back"),
        ({}, "the cash covered no share of it, or a halt, a pause or a missing price kept it back"),
    ],
)
def test_a_basket_without_an_order_says_what_it_wanted_and_the_cash(
    rows: Any, goals: dict[str, int], expected: str
) -> None:
    legs = json.dumps([{"symbol": symbol, "goal": goal} for symbol, goal in goals.items()])
    row: Any = {"target": legs, "time_ns": 10}
    assert why_no_change(rows, row) == expected


@pytest.mark.parametrize("target", [None, "{", "[1]", '{"side":1,"percent":100}', '[{"symbol":"AAA"}]'])
def test_a_target_that_is_no_basket_has_the_general_reason(rows: Any, target: str | None) -> None:
    row: Any = {"target": target, "time_ns": 10}
    assert why_no_change(rows, row).startswith("the cash covered no share of it, or ")
