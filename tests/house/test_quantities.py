"""Quantities of shares are exact: nothing on their way to and from the broker cuts one to a whole number.

Nor does what reads a journal. There a column holds a whole number or the text of a fraction, so SQL may neither sum nor
order nor compare it as it is: SQLite makes a REAL of a text's sum, and orders all texts after all numbers.
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.paths import REPOSITORY

ROOTS = ("daemon/brokers", "daemon/gateway", "daemon/guard", "daemon/alpaca_api", "simulator")
WORDS = {"quantity", "qty", "filled", "available", "cumulative", "shares", "held", "left", "holds"}
CUTS = {"int", "float", "round"}
READERS = tuple(
    f"daemon/{name}"
    for name in (
        "app",
        "cli",
        "dashboard",
        "engine",
        "experience",
        "journal",
        "models",
        "notify",
        "operator",
        "reports",
    )
)
READ = {"quantity", "filled", "cumulative", "shares", "held", "entered", "remaining", "wanted"}
READ_CUTS = CUTS - {"float"}  # a weight, a price or an amount of USD is shown as a float
COLUMN = r"(?:\w+\.)?(?:quantity|filled|cumulative|held|entered|left_again)\b"
INEXACT = re.compile(
    rf"\b(?:sum|total|avg|min|max|abs)\(\s*(?:\w+ \* )?{COLUMN}|\bORDER BY (?:[\w. ]+, )*{COLUMN}(?! \+ 0)"
    rf"|(?<!\+ )(?<![\w.]){COLUMN} (?:<|>|<=|>=|=|<>) -?\d"
)
GUARDED = "iif(typeof("


def cut(source: str, words: set[str] = WORDS, cuts: set[str] = CUTS) -> list[str]:
    """Return the calls that make an `int` or `float` of something that is called like a quantity."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in cuts
        if is_call and len(node.args) == 1 and words_of(node.args[0]) & words:  # type: ignore[attr-defined]
            lines.append(f"line {node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    return lines


def inexact_sql(source: str) -> list[str]:
    """Return the texts of SQL that add, order or compare a column of quantities as if it held numbers alone."""
    texts = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [
        f"line {node.lineno}: {node.value}"
        for node in texts
        if isinstance(node.value, str) and not node.value.startswith(GUARDED) and INEXACT.search(node.value)
    ]


def words_of(value: ast.expr) -> set[str]:
    """Return the words of which the names in an expression, and the keys that it asks for, consist."""
    words: set[str] = set()
    for node in ast.walk(value):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.Constant(value=str(name)):
                words |= set(name.split("_"))
            case _:
                pass
    return words


def test_no_quantity_of_shares_is_cut_on_its_way() -> None:
    cuts = [
        f"{path.relative_to(REPOSITORY)} {line}"
        for root in ROOTS
        for path in sorted((REPOSITORY / root).rglob("*.py"))
        for line in cut(path.read_text())
    ]
    assert cuts == [], "use strategies.kit.quantity: `exact`, or `whole_of` where a part is meant to go"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("int(order.filled)", 1),
        ("max(int(order.quantity - order.filled), 0)", 1),
        ("float(row['filled_qty'])", 1),
        ("int(position.available)", 1),
        ("int(shares)", 1),
        ("int(seconds * SECOND_NS)", 0),
        ("int(level)", 0),
        ("whole_of(position.quantity)", 0),
        ("round(order.qty, 9)", 0),
    ],
)
def test_the_rule_sees_what_it_is_for(source: str, count: int) -> None:
    assert len(cut(source)) == count


def test_no_reader_of_a_journal_cuts_a_quantity_or_lets_sql_add_one() -> None:
    cuts = [
        f"{path.relative_to(REPOSITORY)} {line}"
        for root in READERS
        for path in sorted((REPOSITORY / root).rglob("*.py"))
        for line in (*cut(path.read_text(), READ, READ_CUTS), *inexact_sql(path.read_text()))
    ]
    assert cuts == [], "use `of_column` and `total` of strategies.kit.quantity, or `exact_sum` in SQL"


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT symbol, max(quantity) AS wanted, sum(filled) AS filled FROM orders", 1),
        ("SELECT sum(side * o.filled) FROM orders AS o", 1),
        ("SELECT * FROM fills ORDER BY correction, cumulative", 1),
        ("SELECT * FROM fills AS f ORDER BY f.filled_ns, f.cumulative", 1),
        ("SELECT * FROM moves WHERE held > 0", 1),
        ("SELECT * FROM fills ORDER BY correction, cumulative + 0", 0),
        ("SELECT exact_sum(filled, side) AS n FROM orders GROUP BY symbol", 0),
        ("SELECT symbol FROM round_trips WHERE entered + left_again <> 0", 0),
        ("SELECT sum(held_ns), max(entered_usd) FROM round_trips", 0),
        ("SELECT * FROM decisions ORDER BY decision", 0),
    ],
)
def test_the_rule_sees_sql_that_is_not_exact(sql: str, count: int) -> None:
    assert len(inexact_sql(f"query({sql!r})")) == count
