"""What orders cost, against sums done by hand from the rates."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.limits import Paper
from daemon.core.paper.fees import charges_days, day_fees, fees
from strategies.kit.quantity import exact

RATES = Paper(
    commission_usd=Decimal("0.10"),
    orf_usd=Decimal("0.02685"),
    occ_usd=Decimal("0.02"),
    taf_usd=Decimal("0.00279"),
    sec_rate=Decimal("0.0000278"),
)


def test_a_buy_pays_commission_orf_and_occ_rounded_up_to_the_cent() -> None:
    # 3 x (0.10 + 0.02685 + 0.02) = 0.44055
    assert fees(3, Decimal(1500), 1, RATES) == Decimal("0.45")


def test_a_sale_pays_taf_and_the_section_31_fee_as_well() -> None:
    # 3 x (0.14685 + 0.00279) + 0.0000278 x 1500 = 0.44892 + 0.0417 = 0.49062
    assert fees(3, Decimal(1500), -1, RATES) == Decimal("0.50")


def test_a_sum_of_whole_cents_is_not_rounded() -> None:
    whole = Paper(orf_usd=Decimal("0.03"), occ_usd=Decimal("0.02"))
    assert fees(2, Decimal(100), 1, whole) == Decimal("0.10")


def test_without_any_rate_there_is_no_fee() -> None:
    free = Paper(orf_usd=Decimal(0), occ_usd=Decimal(0), taf_usd=Decimal(0), sec_rate=Decimal(0))
    assert fees(7, Decimal(700), -1, free) == 0


def test_a_day_s_fees_of_shares_are_rounded_up_to_the_cent_kind_by_kind() -> None:
    # TAF 60.5 x 0.000166 = 0.010043; SEC 0.0000278 x 3,630 = 0.100914; CAT 100.5 x 0.000048 = 0.004824
    fees_by_kind = day_fees(exact("100.5"), exact("60.5"), Decimal(3630), Paper())
    assert fees_by_kind == {"TAF": Decimal("0.02"), "SEC": Decimal("0.11"), "CAT": Decimal("0.01")}


def test_a_day_of_buys_pays_for_the_audit_trail_alone_and_a_day_without_trades_nothing() -> None:
    assert day_fees(exact("0.0001"), 0, Decimal(0), Paper()) == {"CAT": Decimal("0.01")}
    assert day_fees(0, 0, Decimal(0), Paper()) == {}
    assert day_fees(9, 9, Decimal(90), replace(Paper(), share_taf_usd=Decimal(0), share_cat_usd=Decimal(0))) == {
        "SEC": Decimal("0.01")
    }


@pytest.mark.parametrize(
    ("cash", "below", "charges"), [("99999.99", "100000", True), ("100000", "100000", False), ("1", "0", False)]
)
def test_only_an_account_that_begins_with_less_pays_fees_by_the_day(cash: str, below: str, charges: bool) -> None:
    assert charges_days(Paper(cash_usd=Decimal(cash), share_fees_below_usd=Decimal(below))) is charges


def test_an_order_filled_in_ten_parts_pays_for_one_rounding() -> None:
    # 10 x 0.04685 = 0.4685 on the order; ten roundings of 0.04685 would have been 0.50
    free_of_commission = Paper(orf_usd=Decimal("0.02685"), occ_usd=Decimal("0.02"))
    total = Decimal(0)
    for count in range(1, 11):
        total += fees(count, Decimal(0), 1, free_of_commission) - total
    assert total == Decimal("0.47")


@pytest.mark.parametrize("side", [1, -1])
@given(quantity=st.integers(0, 500), more=st.integers(0, 500), cents=st.integers(0, 10_000_00))
def test_fees_never_fall_as_an_order_fills(side: int, quantity: int, more: int, cents: int) -> None:
    proceeds = Decimal(cents) / 100
    assert 0 <= fees(quantity, proceeds, side, RATES) <= fees(quantity + more, proceeds * 2, side, RATES)
