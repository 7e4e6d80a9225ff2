"""What is kept of a policy's heads at a decision: one row for each symbol, with the weights before and after it."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.records import HeadRow
from strategies.kit.contract import Head
from tests.support.core.daily_desk import LAST_FRIDAY, SYMBOLS, DailyDesk, Shelf
from tests.support.core.desk import TUESDAY


class WithHeads(Shelf):
    """The shelf, of a policy whose rows are symbols and that has two heads."""

    spec = replace(
        Shelf.spec, rows_are_symbols=True, actions=("shares",),
        heads=(Head("risk", (), "a number"), Head("pair", (2,), "two numbers")),
    )  # fmt: skip


def decide(d: DailyDesk, *goals: float) -> list[HeadRow]:
    """The rows of a decision that wants these shares."""
    d.due()
    assert d.state.ask is not None
    heads = {"risk": (0.1, 0.2, 0.3), "pair": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    d.put(ev.PolicyAnswered(d.state.now_ns, d.state.ask.decision, goals, b"", "v1", heads))
    return [row for row in d.rows if isinstance(row, HeadRow)]


def test_each_symbol_has_its_numbers_and_its_parts_of_the_equity() -> None:
    """10,000 USD: 10 AAA and 20 BBB at 100 USD are 10 % and 20 %; wanted are 25 AAA, and 5 CCC."""
    d = DailyDesk(strategy=WithHeads()).fund().holds(AAA=10, BBB=20).begin(TUESDAY)
    rows = decide(d, 25, -1, 5)
    assert [(row.symbol, json.loads(row.answer), json.loads(row.heads)) for row in rows] == [
        ("AAA", 25, {"risk": 0.1, "pair": [1, 2]}),
        ("BBB", -1, {"risk": 0.2, "pair": [3, 4]}),
        ("CCC", 5, {"risk": 0.3, "pair": [5, 6]}),
    ]
    assert [row.weight_before for row in rows] == pytest.approx([0.1, 0.2, 0.0])
    assert [row.weight_after for row in rows] == pytest.approx([0.25, 0.2, 0.05])


def test_the_weight_of_shares_without_a_price_is_not_known() -> None:
    d = DailyDesk(strategy=WithHeads()).fund().begin()
    d.bars(LAST_FRIDAY, AAA=100.0)
    rows = decide(d, 10, 10, 0)
    assert [row.symbol for row in rows] == list(SYMBOLS)
    assert [row.weight_before for row in rows] == [0.0, 0.0, 0.0]
    assert [row.weight_after for row in rows] == [pytest.approx(0.1), None, 0.0]
