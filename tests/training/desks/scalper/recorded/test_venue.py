"""Recorded quotes at other costs, by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from daemon.core.events import Quote
from training.desks.scalper.recorded.data import widened


@pytest.mark.parametrize(
    ("times", "sides"), [(0, ("2.02", "2.03")), (1, ("2.00", "2.05")), (2, ("1.97", "2.08")), (100, ("0.00", "4.53"))]
)
def test_a_half_spread_grows_around_its_mid_the_bid_rounded_down_and_the_ask_up(
    times: int, sides: tuple[str, str]
) -> None:
    low, high = Decimal("1.9"), Decimal("2.2")
    wide = widened(Quote("SPY240816C00550000", Decimal("2.00"), Decimal("2.05"), low, high, 7), times)
    assert wide == Quote("SPY240816C00550000", Decimal(sides[0]), Decimal(sides[1]), low, high, 7)


def test_a_missing_side_stays_missing() -> None:
    quote = Quote("SPY240816C00550000", Decimal("2.00"), Decimal(0), Decimal(1), Decimal(1), 7)
    assert widened(quote, 3) is quote
