"""What stands of an order after busts and corrections, from its FILL lines; sums are computed by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from daemon.brokers.alpaca.trading.report import standing
from daemon.brokers.alpaca.wire import Malformed


def row(name: str, quantity: str, price: str, cumulative: str, status: str = "", **more: str) -> dict[str, Any]:
    """A FILL line whose execution is `name`."""
    return {
        "activity_type": "FILL", "id": f"20261102100000{len(name):03d}::{name}", "order_id": "o1", "symbol": "AAA",
        "side": "buy", "qty": quantity, "price": price, "cum_qty": cumulative, "status": status,
        "transaction_time": "2026-11-02T15:00:00Z", **more,
    }  # fmt: skip


FIVE, FOUR, TWIN = row("a", "5", "10", "5"), row("bb", "4", "11", "9"), row("bb", "5", "11", "10")


@pytest.mark.parametrize(
    ("rows", "stands", "changes"),
    [
        ([FIVE, FOUR], ("9", "94"), []),
        ([FIVE, FOUR, row("ccc", "4", "11", "5", "canceled")], ("5", "50"), [("bb", "0", "11")]),
        ([FIVE, FOUR, row("ccc", "5", "17", "9", "correct")], ("9", "129"), [("a", "5", "17")]),
        ([FIVE, FOUR, row("ccc", "4", "11", "5", "", type="trade_bust")], ("5", "50"), [("bb", "0", "11")]),
        ([FIVE, FOUR, row("ccc", "3", "11", "8", "correct", previous_id="bb")], ("8", "83"), [("bb", "3", "11")]),
        (
            [FIVE, TWIN, row("ccc", "5", "12", "10", "correct", previous_id="a"),
             row("dddd", "5", "12", "5", "canceled", previous_id="ccc")],
            ("5", "55"),
            [("a", "5", "12"), ("a", "0", "12")],
        ),
    ],
)  # fmt: skip
def test_an_amending_line_changes_the_fill_that_it_names_or_the_only_one_it_can_mean(
    rows: list[dict[str, Any]], stands: tuple[str, str], changes: list[tuple[str, str, str]]
) -> None:
    result = standing(rows)
    assert result.filled == (Decimal(rows[1]["cum_qty"]), 50 + Decimal(rows[1]["qty"]) * 11)
    assert result.stands == (Decimal(stands[0]), Decimal(stands[1]))
    assert [(it.fill.id.rpartition("::")[2], it.quantity, it.price) for it in result.amendments] == [
        (name, Decimal(quantity), Decimal(price)) for name, quantity, price in changes
    ]


def test_of_several_fills_that_can_be_meant_a_stream_s_word_decides() -> None:
    rows = [FIVE, TWIN, row("ccc", "5", "12", "10", "correct")]
    with pytest.raises(Malformed, match="expected one that it can mean, found 2"):
        standing(rows)
    assert standing(rows, ["bb"]).stands == (Decimal(10), Decimal(110))  # 5 at 10, 5 at 12
    assert standing(rows, ["x", "a"]).stands == (Decimal(10), Decimal(115))  # 5 at 12, 5 at 11


def test_an_order_fills_on_after_a_bust_from_what_the_bust_left() -> None:
    busted = row("bb", "5", "10", "0", "canceled")
    again, more = row("ccc", "3", "11", "3"), row("dddd", "2", "12", "5")
    result = standing([FIVE, busted, again, more])
    # five at 10, gone; three at 11 and two at 12 stand; all that ever filled is 5 x 10 + 3 x 11 + 2 x 12
    assert (result.filled, result.stands) == ((Decimal(10), Decimal(107)), (Decimal(5), Decimal(57)))
    with pytest.raises(Malformed, match="are not whole"):
        standing([FIVE, busted, more])  # the three are missing
    lines = zip("dabc", [FIVE, busted, again, more], strict=True)
    at_once = [{**line, "id": f"20261102100000001::{name}"} for name, line in lines]
    assert standing(at_once).stands == (Decimal(5), Decimal(57))  # the ids of one millisecond have no order


def test_fills_that_do_not_add_up_say_nothing() -> None:
    with pytest.raises(Malformed, match="are not whole"):
        standing([FOUR, row("ccc", "4", "17", "9", "correct")])  # the first five are missing
