"""Quantities of shares are exact: nothing on their way to and from the broker cuts one to a whole number."""

from __future__ import annotations

import ast

import pytest

from tests.support.paths import REPOSITORY

ROOTS = ("daemon/brokers", "daemon/gateway", "daemon/guard", "daemon/alpaca_api", "simulator")
WORDS = {"quantity", "qty", "filled", "available", "cumulative", "shares", "held", "left", "holds"}
CUTS = {"int", "float", "round"}


def cut(source: str) -> list[str]:
    """Return the calls that make an `int` or `float` of something that is called like a quantity."""
    found = []
    for node in ast.walk(ast.parse(source)):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CUTS
        if called and len(node.args) == 1 and words_of(node.args[0]) & WORDS:  # type: ignore[attr-defined]
            found.append(f"line {node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    return found


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
    found = [
        f"{path.relative_to(REPOSITORY)} {line}"
        for root in ROOTS
        for path in sorted((REPOSITORY / root).rglob("*.py"))
        for line in cut(path.read_text())
    ]
    assert found == [], "use strategies.kit.quantity: `exact`, or `whole_of` where a part is meant to go"


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
