"""What Alpaca announces, as GET /v2/corporate_actions/announcements documents its fields, and what a dry run reads."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from daemon.brokers.alpaca.trading.trading import parse_announcements
from daemon.core.events import Announcement

DAY = "2024-06-10"
SPLIT: dict[str, Any] = {
    "id": "a",
    "corporate_action_id": "67066G104_AD24",
    "ca_type": "split",
    "ca_sub_type": "stock_split",
    "initiating_symbol": "NVDA",
    "target_symbol": "NVDA",
    "ex_date": DAY,
    "payable_date": "2024-06-07",
    "cash": "",
    "old_rate": "1",
    "new_rate": "10",
}
CASH = {**SPLIT, "corporate_action_id": "67066G104_AK24", "ca_type": "dividend", "ca_sub_type": "cash"}
CASH |= {"cash": "0.01", "old_rate": "1", "new_rate": "1", "payable_date": "2024-06-28"}


def test_a_split_has_its_rates_and_a_cash_dividend_its_amount_and_day_of_payment() -> None:
    assert parse_announcements([SPLIT, CASH]) == [
        Announcement("NVDA", "split", DAY, new=Decimal(10), old=Decimal(1)),
        Announcement("NVDA", "dividend", DAY, cash=Decimal("0.01"), paid="2024-06-28"),
    ]


def test_an_action_that_is_announced_again_counts_as_it_was_announced_last() -> None:
    (action,) = parse_announcements([SPLIT, {**SPLIT, "id": "b", "new_rate": "5"}])
    assert (action.kind, action.new) == ("split", Decimal(5))


@pytest.mark.parametrize(
    "row",
    [
        {**SPLIT, "new_rate": ""},
        {**SPLIT, "new_rate": "ten"},
        {**SPLIT, "old_rate": "0"},
        {**SPLIT, "target_symbol": "NVDB"},
        {**CASH, "cash": None},
        {**CASH, "ca_sub_type": "stock"},
        {**CASH, "ca_type": "spinoff", "ca_sub_type": "spinoff", "target_symbol": "NEW"},
        {**SPLIT, "ca_type": "merger", "ca_sub_type": "merger_completion"},
    ],
)
def test_what_is_no_plain_split_or_cash_dividend_is_of_another_kind_and_has_no_figures(row: dict[str, Any]) -> None:
    actions = parse_announcements([row])
    assert [action.symbol for action in actions] == sorted({row["initiating_symbol"], row["target_symbol"]})
    assert not {"split", "dividend"} & {action.kind for action in actions}
    assert all(action == Announcement(action.symbol, action.kind, DAY) for action in actions)


def test_two_splits_of_a_share_on_one_day_are_none_that_can_be_booked() -> None:
    actions = parse_announcements([SPLIT, {**SPLIT, "corporate_action_id": "other", "new_rate": "5"}])
    assert {action.kind for action in actions} == {"several splits"}
