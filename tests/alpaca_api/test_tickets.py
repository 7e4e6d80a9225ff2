"""Which figures of a request are numbers: the smallest and the largest of each side of the point."""

from __future__ import annotations

from decimal import Decimal

import pytest

from daemon.alpaca_api.refusals import Refusal
from daemon.alpaca_api.tickets import ticket


def order(qty: object) -> dict[str, object]:
    return {"symbol": "SPY", "side": "buy", "type": "market", "time_in_force": "day", "qty": qty}


@pytest.mark.parametrize("qty", ["1", 1, Decimal("0.000000001"), "999999999999999", "1e3"])
def test_a_quantity_is_what_was_sent(qty: object) -> None:
    assert ticket(order(qty)).qty == Decimal(str(qty))


@pytest.mark.parametrize("qty", ["one", "NaN", "Infinity", "1e999999", "1e-999999", True, [1], {}])
def test_what_is_no_quantity_is_refused_with_422(qty: object) -> None:
    with pytest.raises(Refusal, match="invalid qty") as refused:
        ticket(order(qty))
    assert (refused.value.status, refused.value.code) == (422, 40010001)
