"""Orders of shares on the wire, and when one leaves no more. Expected values: Alpaca's documentation of its orders."""

from __future__ import annotations

from decimal import Decimal

import pytest

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import Access, NotSent, account_queues
from daemon.brokers.alpaca.trading.trading import TradingOrders, opens, submission
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock


def order(side: int, limit: str | None = None, *, auction: bool = False, intent: str = "") -> SubmitOrder:
    price = None if limit is None else Decimal(limit)
    return SubmitOrder("e-daily_rebalancer-1-0-0", "BRK.B", side, 12, price, intent, 1_000, auction)


def test_a_sale_for_the_opening_auction_is_a_market_order_at_the_open() -> None:
    assert submission(order(-1, auction=True)) == {
        "symbol": "BRK.B",
        "qty": "12",
        "side": "sell",
        "type": "market",
        "time_in_force": "opg",
        "client_order_id": "e-daily_rebalancer-1-0-0",
    }


def test_a_buy_is_a_limit_order_for_the_day_without_an_intent() -> None:
    assert submission(order(+1, "412.5")) == {
        "symbol": "BRK.B",
        "qty": "12",
        "side": "buy",
        "type": "limit",
        "limit_price": "412.5",
        "time_in_force": "day",
        "client_order_id": "e-daily_rebalancer-1-0-0",
    }


@pytest.mark.parametrize(
    ("side", "intent", "expected"),
    [
        (+1, "", True),
        (+1, "buy_to_open", True),
        (+1, "buy_to_close", False),
        (-1, "", False),
        (-1, "sell_to_close", False),
    ],
)
def test_what_adds_to_the_holding_goes_behind_what_ends_it(side: int, intent: str, expected: bool) -> None:
    assert opens(order(side, intent=intent)) is expected


def test_fractions_of_shares_are_read_exactly() -> None:
    position = {"symbol": "AAPL", "qty": "12.000000001", "qty_available": "0.5", "avg_entry_price": "190.123456789"}
    read = wire.position({**position, "side": "long"})
    assert (read.quantity, read.available) == (Decimal("12.000000001"), Decimal("0.5"))
    assert read.average_price == Decimal("190.123456789")
    parsed = wire.order({"id": "x", "symbol": "AAPL", "side": "buy", "qty": "0.25", "filled_qty": "0.25"})
    assert (parsed.quantity, parsed.filled) == (Decimal("0.25"), Decimal("0.25"))


async def test_an_order_for_an_auction_that_is_over_never_leaves() -> None:
    clock = Clock.real(lambda: 1_001)
    lanes = account_queues(clock)
    orders = TradingOrders(Access("http://127.0.0.1:9", "key", "secret"), lanes[0])
    with pytest.raises(NotSent, match="was valid until 1000, now is 1001: not sent"):
        await orders.submit(order(-1, auction=True))
    for lane in lanes:
        await lane.close()
