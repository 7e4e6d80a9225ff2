"""What became of a decision: it is ordered where orders followed, or are still to come."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from daemon.journal.outcomes import (
    Baskets,
    BookChange,
    Ordered,
    became,
    book_changes,
    orders_of,
    read_baskets,
    reasons,
    shown_outcome,
    why_no_change,
)
from strategies.kit.quantity import exact


class Rows:
    """A reader of tables in memory."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def query(self, sql: str, values: Any = ()) -> list[sqlite3.Row]:
        """All rows."""
        return self.db.execute(sql, values).fetchall()

    def table(self, name: str, columns: str, *rows: tuple[object, ...]) -> None:
        """A table of these rows."""
        self.db.execute(f"CREATE TABLE {name} ({columns})")
        self.db.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns.split(',')))})", rows)


@pytest.fixture
def empty() -> Iterator[Any]:
    """Without a table."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        yield Rows(db)


def test_a_decision_without_an_order_changed_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE decisions (decision INTEGER PRIMARY KEY, outcome TEXT)")
        db.execute("CREATE TABLE orders (work TEXT)")
        outcomes = ("ordered", "ordered", "ordered", "hold", "ordered", "exit", "denied")
        db.executemany("INSERT INTO decisions VALUES (?, ?)", enumerate(outcomes, 1))
        db.executemany("INSERT INTO orders VALUES (?)", [("1.0",), ("2.AAPL",), ("30.0",), ("4.0",), ("11.0",)])
        rows = db.execute(f"SELECT {shown_outcome({5})} FROM decisions AS d ORDER BY decision").fetchall()
    assert [row[0] for row in rows] == ["ordered", "ordered", "no_change", "hold", "ordered", "exit", "denied"]


BOUGHT = Ordered("SPY", +1, 8, 8, works=False)
SOLD = Ordered("SPY", -1, 4, 4, works=False)
UNDONE = Ordered("SPY", +1, 8, 0, works=False)


@pytest.mark.parametrize(
    ("text", "orders", "did", "coming", "expected"),
    [
        ("denied", (), None, False, "denied"),
        ("ordered", (), None, True, "ordered"),
        ("ordered", (BOUGHT,), BookChange(-0.38, 0, 0.0), False, "filled"),
        ("ordered", (BOUGHT,), BookChange(-0.38, 0, 0.0), True, "working"),  # a basket's sales were filled, buys follow
        ("ordered", (BOUGHT._replace(works=True, filled=0),), None, False, "working"),
        ("ordered", (BOUGHT, UNDONE), BookChange(-0.38, 0, 0.0), False, "partly_filled"),
        ("ordered", (UNDONE,), None, False, "not_filled"),
        ("exit", (), None, False, "no_order"),
        ("exit", (), None, True, "exit"),
        ("exit", (SOLD,), BookChange(2.0, 0, 0.0), False, "trimmed"),
        ("exit", (SOLD,), BookChange(2.0, 1, 1.6), False, "exited"),
    ],
)
def test_a_decision_is_told_by_what_its_orders_did(
    text: str, orders: tuple[Ordered, ...], did: BookChange | None, coming: bool, expected: str
) -> None:
    assert became(text, orders, did, coming=coming) == expected


@pytest.fixture
def rows(empty: Any) -> Any:
    """AAA holds 5 after two moves of one event, BBB 3; 0.23 USD of cash are left at 10 ns."""
    moves = [("AAA", 9, 1, 0, 5), ("AAA", 5, 1, 1, 5), ("BBB", 3, 2, 0, 6), ("BBB", 30, 3, 0, 20)]
    empty.table("moves", "symbol, held, seq, part, at_ns", *moves)
    empty.table("equity", "time_ns, cash_usd", (1, "1000"), (9, "0.2291"), (30, "7"))
    noon_ns, day_ns = 1_733_245_200_000_000_000, 86_400_000_000_000  # 3 December 2024, 12:00 in New York
    closed = [(7, "closed_by_hand", noon_ns, "7.1"), (8, "stop_loss", noon_ns, "8.1")]
    closed += [(9, "closed_by_hand", noon_ns - day_ns, "9.1"), (10, "closed_by_hand", noon_ns + 2, "10.1")]
    empty.table("decisions", "decision, action, time_ns, work", *closed)
    empty.table(
        "orders", "symbol, work", ("SPY", "7.1"), ("SPY", "7.1"), ("QQQ", "8.1"), ("IWM", "9.1"), ("DIA", "10.1")
    )
    return empty


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


# --- orders, fills and reasons ------------------------------------------------------------------------------------


def test_the_orders_of_a_decision_are_summed_by_symbol_and_side_and_none_of_another_decision(empty: Any) -> None:
    orders = [
        ("1.AAA", "AAA", -1, 8, 3, "canceled"), ("1.AAA", "AAA", -1, 5, 5, "filled"),  # the second sold the rest
        ("1.BBB", "BBB", 1, 4, 1, "partial"), ("1.BBB", "BBB", 1, 2, 0, "rejected"),
        ("1.CCC", "CCC", -1, 2, 2, "filled"), ("1.CCC", "CCC", -1, "0.25", "0.1", "canceled"),  # apart: 2.25 in all
        ("10.AAA", "AAA", -1, 90, 0, "accepted"), ("11.0", "AAA", -1, 7, 7, "filled"),
        ("0.0", "CCC", 1, 1, 1, "filled"),
    ]  # fmt: skip
    columns = "work, symbol, side, quantity, filled, status, submitted_ns, client_order_id"
    empty.table("orders", columns, *((*order, number, f"o-{number}") for number, order in enumerate(orders)))
    assert set(orders_of(empty, 1)) == {
        Ordered("AAA", -1, 8, 8, works=False),
        Ordered("BBB", 1, 4, 1, works=True),
        Ordered("CCC", -1, exact("2.25"), exact("2.1"), works=False),
    }


def test_the_profit_of_a_decision_is_that_of_its_fills_and_of_the_trades_that_they_ended(empty: Any) -> None:
    moves = [
        (1, "enter", -0.25, -0.25, 5), (2, "part", 40.0, None, 5), (2, "leave", 60.004, 99.754, 5),
        (2, "leave", -10.0, -10.5, 6), (2, "leave", 7.0, 7.0, 0),  # the last is of no position
        (3, "leave", 1.0, 1.0, 7),
    ]  # fmt: skip
    assert book_changes(empty, (1, 2)) == {}  # of an older release
    empty.table("moves", "decision, step, realized_usd, pnl_usd, opened_ns", *moves)
    assert book_changes(empty, ()) == {}
    assert book_changes(empty, (1, 2, 9)) == {1: BookChange(-0.25, 0, 0.0), 2: BookChange(90.0, 2, 89.25)}


def test_baskets_that_sent_no_order_are_counted_beside_those_that_did(empty: Any) -> None:
    decided = [(1, "ordered", "1."), (2, "ordered", "2."), (3, "ordered", "3."), (4, "ordered", "4.0"), (5, "hold", "")]
    empty.table("decisions", "decision, outcome, work", *decided)
    empty.table("orders", "work", ("1.AAA",), ("20.AAA",))
    assert (read_baskets(empty), read_baskets(empty, (3,))) == (Baskets(3, 2), Baskets(3, 1))
    empty.table("baskets", "decision, apart", (1, 0.5), (2, 1.0))
    assert read_baskets(empty) == Baskets(3, 2, 0.75)


@pytest.mark.parametrize(
    ("row", "outcome", "expected"),
    [
        (
            {"gates": {"near_close": "28 minutes left", "halted": "", "oversell": None, "low_confidence": "0.4"}},
            "denied",
            ("Denied: near close, 28 minutes left.", "Denied: low confidence, 0.4."),
        ),
        ({"gates": {"not_reconciled": "not reconciled: no report"}}, "denied", ("Denied: not reconciled: no report.",)),
        ({"kind": "rule", "action": "STOP_LOSS"}, "exit", ("A rule decided: stop loss.",)),
        ({"action": "BUY_CALL", "resolved": "HOLD"}, "hold", ("With what was held then, buy call means hold.",)),
        ({"resolved": None}, "hold", ("No order was wanted: nothing is to change.",)),
        ({"resolved": "HOLD"}, "hold", ("No order was wanted: nothing is to change.",)),
        (
            {"time_ns": 1_733_245_200_000_000_001},
            "hold",
            ("No order was wanted, or only of SPY: closed by hand, not bought back in this session.",),
        ),
        ({"resolved": "HOLD"}, "ordered", ()),
        (
            {"target": '[{"symbol":"CCC","goal":2}]', "time_ns": 10},
            "no_change",
            ("No order followed: it wanted to buy 1 symbol with $0.23 of cash.",),
        ),
    ],
)
def test_why_nothing_more_became_of_a_decision_is_told_in_sentences(
    rows: Any, row: dict[str, Any], outcome: str, expected: tuple[str, ...]
) -> None:
    full: Any = {"kind": "policy", "action": "HOLD", "target": None, "time_ns": 10} | row
    full["gates"] = json.dumps(row["gates"]) if "gates" in row else None
    full.setdefault("resolved", full["action"])
    assert reasons(rows, full, outcome) == expected
