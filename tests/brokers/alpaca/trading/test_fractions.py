"""Fractions of shares between the daemon and Alpaca: what is sent, what is read, and what can be read no more.

Expected values: Alpaca's rules for fractional orders, and the server's own books. A share costs 545.01 USD and brings
545.00.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.report import ledger_fill, order_fills
from daemon.brokers.alpaca.trading.trading import submission
from daemon.brokers.alpaca.wire import Malformed
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerLost, BrokerReported, OrderAccepted, OrderFilled, OrderFound
from simulator.trading.venue import Rules
from strategies.kit.quantity import Quantity, exact
from tests.support.alpaca.linked import linked
from tests.support.alpaca.rest_desk import (
    NAME,
    OPEN_NS,
    SECOND_NS,
    desk,
    eventually,
    filled,
    reporter,
)
from tests.support.alpaca.trade_updates import OCC, order, parse, update
from tests.support.log import LogRecorder

FOR_AN_HOUR_NS = OPEN_NS + 3600 * SECOND_NS


def shares(quantity: str, side: int = 1, name: str = NAME, **more: Any) -> SubmitOrder:
    """An order of SPY at the market."""
    limit = None if side < 0 or more.get("auction") else Decimal(600)
    fields: dict[str, Any] = {"limit_price": limit, "intent": "", "valid_until_ns": FOR_AN_HOUR_NS, **more}
    return SubmitOrder(name, "SPY", side, exact(quantity), **fields)


# --- what is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "more", "text", "until"),
    [
        ("12", {}, "12", "day"),
        ("12", {"auction": True}, "12", "opg"),
        ("12", {"stop_price": Decimal(500)}, "12", "gtc"),
        ("0.5", {}, "0.5", "day"),
        ("0.000000001", {}, "0.000000001", "day"),
        ("1234567.100", {}, "1234567.1", "day"),
        ("0.5", {"auction": True}, "0.5", "day"),  # no auction takes a fraction
        ("0.5", {"stop_price": Decimal(500)}, "0.5", "day"),
    ],
)
def test_a_quantity_is_sent_as_plain_text_and_a_fraction_for_the_day(
    quantity: str, more: dict[str, Any], text: str, until: str
) -> None:
    body = submission(shares(quantity, -1, **more))
    assert (body["qty"], body["time_in_force"]) == (text, until)


# --- what is read ---------------------------------------------------------------------------------------------------


def of_shares(filled_qty: str, **changes: Any) -> dict[str, Any]:
    """An order of shares as the broker shows it."""
    return order(**{"symbol": "SPY", "qty": "3.5", "filled_qty": filled_qty, "filled_avg_price": "545.01", **changes})


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.5", "0.5"), ("1e-9", "0.000000001"), ("5E-1", "0.5"), ("2.500000000", "2.5"), ("3.0", "3"), ("3.0e0", "3")],
)
def test_a_fill_of_a_fraction_is_exact_however_it_is_written(text: str, number: str) -> None:
    (event,) = parse(update("partial_fill", qty=text, price="545.01", order=of_shares(text)))
    assert type(event) is OrderFilled
    assert [str(event.quantity), str(event.cumulative_quantity)] == [number, number]
    assert type(event.quantity) is (int if number == "3" else type(exact("0.5")))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"qty": "0.1234567891"}, "qty"),
        ({"qty": "1e-10"}, "qty"),
        ({"order": of_shares("0.1234567891")}, "filled_qty"),
        ({"order": of_shares("0.5", qty="1.0000000001")}, "qty"),
    ],
)
def test_a_tenth_decimal_is_malformed_by_its_key(changes: dict[str, Any], key: str) -> None:
    fields = {"qty": "0.5", "price": "545.01", "order": of_shares("0.5"), **changes}
    with pytest.raises(Malformed, match=f"^{key} is .*: expected at most 9 decimals$"):
        parse(update("partial_fill", **fields))


def test_a_part_of_a_contract_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"^filled_qty is 0\.5: expected a whole number$"):
        parse(update("partial_fill", order=order(symbol=OCC, filled_qty="0.5")))


@pytest.mark.parametrize("key", ["qty", "qty_available"])
def test_a_position_of_ten_decimals_is_malformed(key: str) -> None:
    row = {"symbol": "SPY", "qty": "1.5", "qty_available": "1.5", "avg_entry_price": "545.01", "side": "long"}
    assert wire.position({**row, key: "1.500000000000"}).quantity == Decimal("1.5")
    with pytest.raises(Malformed, match=f"^{key} is 1.5000000001: expected at most 9 decimals$"):
        wire.position({**row, key: "1.5000000001"})


def test_the_fills_of_an_order_are_summed_exactly() -> None:
    rows = [
        {
            "id": f"20240702093000000::{number}",
            "order_id": "x",
            "symbol": "SPY",
            "side": "buy",
            "qty": quantity,
            "price": "545.01",
            "cum_qty": total,
            "transaction_time": "2024-07-02T13:30:00Z",
        }
        for number, (quantity, total) in enumerate([("0.1", "0.1"), ("0.2", "0.3"), ("0.700000001", "1.000000001")])
    ]
    events = order_fills(map(ledger_fill, rows), NAME, 0)
    quantities: list[Quantity] = [event.cumulative_quantity for event in events]
    assert [str(quantity) for quantity in quantities] == ["0.1", "0.3", "1.000000001"]
    assert events[-1].cumulative_cost == Decimal("545.01") * Decimal("1.000000001")


# --- at the loopback Alpaca -----------------------------------------------------------------------------------------


async def test_a_report_has_fractions_of_orders_fills_and_positions() -> None:
    async with desk(rate=600, rules=Rules(fractions_in_parts=True, seed=3)) as it:
        await filled(it, shares("2.123456789"))
        report = await reporter(it).report()
        cash = it.server.account.cash
    assert str(report.fills[-1].cumulative_quantity) == "2.123456789"
    assert len(report.fills) > 1
    total: Quantity = 0
    for fill in report.fills:
        total += fill.quantity
    assert str(total) == "2.123456789"
    assert [(p.symbol, p.quantity, p.available) for p in report.positions] == [("SPY", *[Decimal("2.123456789")] * 2)]
    assert report.cash == cash == 10_000 - report.fills[-1].cumulative_cost


async def test_a_report_with_exponents_is_the_same_report() -> None:
    async with desk() as it:
        await filled(it, shares("0.000000001"))
        plain = await reporter(it).report()
        it.server.faults.add("quantity_exponent", times=20)
        odd = await reporter(it).report()
    assert it.server.faults.met["quantity_exponent"] > 2
    assert odd.positions == plain.positions
    assert (odd.ended_orders, odd.fills[0].quantity) == (plain.ended_orders, plain.fills[0].quantity)


@pytest.mark.parametrize(("path", "key"), [("/v2/positions", "qty"), ("/v2/orders", "qty")])
async def test_a_report_with_a_tenth_decimal_fails_by_its_key(path: str, key: str) -> None:
    async with desk() as it:
        await filled(it, shares("0.5"))
        it.server.faults.add("quantity_too_fine", times=9, where={"path": path})
        with pytest.raises(Malformed, match=rf"^{key} is 0\.5000000001: expected at most 9 decimals$"):
            await reporter(it).report()


async def test_a_ledger_line_with_a_tenth_decimal_is_logged_and_left_out() -> None:
    log = LogRecorder()
    async with desk() as it:
        await filled(it, shares("0.5"))
        it.server.faults.add("quantity_too_fine", where={"path": "/v2/account/activities"})
        report = await reporter(it, log).report()
    assert report.fills == ()
    assert [name for name, _ in log.entries] == ["ledger_line_unreadable"]
    assert report.ended_orders[0].filled == Decimal("0.5")  # the order's own figures stand


async def test_a_link_buys_rests_a_stop_and_closes_a_fraction_to_the_last_place() -> None:
    async with linked() as it:
        await it.link.release([shares("1.000000009")])
        fill = await it.until(OrderFilled)
        assert str(fill.quantity) == "1.000000009"
        stop = shares("0.000000009", -1, "e1-scalper-2-2-0", stop_price=Decimal(400))
        await it.link.release([stop])
        await eventually(lambda: "e1-scalper-2-2-0" in it.desk.server.account.by_client_id)
        assert it.desk.server.account.by_client_id["e1-scalper-2-2-0"].time_in_force == "day"
        await it.link.release([shares("1", -1, "e1-scalper-3-1-0", closing=True)])
        await it.until(OrderFilled, 2)
        assert it.desk.server.account.quantity("SPY") == Decimal("0.000000009")
        paths = [r.path for r in it.desk.server.requests if r.method == "DELETE"]
        assert paths == ["/v2/positions/SPY?qty=1"]


async def test_the_close_call_has_a_fraction_as_plain_text_and_dust_that_it_leaves_is_reported() -> None:
    async with linked() as it:
        await it.link.release([shares("0.00000001")])
        await it.until(OrderFilled)
        it.desk.server.faults.add("close_dust")
        await it.link.release([shares("0.00000001", -1, "e1-scalper-3-1-0", closing=True)])
        sale = await it.until(OrderFilled, 2)
        assert str(sale.cumulative_quantity) == "0.000000009"
        news = await it.until(OrderFound)
        assert news.order.quantity == Decimal("0.000000009")
        assert "/v2/positions/SPY?qty=0.00000001" in [r.path for r in it.desk.server.requests]
        before = len(it.of(BrokerReported))
        it.link._report_request.set()
        report = await it.until(BrokerReported, before + 1)
        assert [position.quantity for position in report.positions] == [Decimal("0.000000001")]


async def test_an_update_with_exponents_is_the_fill_and_one_too_fine_asks_for_a_report() -> None:
    async with linked() as it:
        it.desk.server.faults.add("quantity_exponent", where={"stream": "trade", "event": "fill"})
        await it.link.release([shares("0.25")])
        assert str((await it.until(OrderFilled)).quantity) == "0.25"
        it.desk.server.faults.add("quantity_too_fine", where={"stream": "trade", "event": "fill"})
        await it.link.release([shares("0.75", name="e1-scalper-2-0-0")])
        await it.until(OrderAccepted, 2)
        await eventually(lambda: any(str(f.quantity) == "0.75" for r in it.of(BrokerReported) for f in r.fills))
    assert len(it.of(OrderFilled)) == 1
    assert it.of(BrokerLost) == []
