"""Positions closed by the broker's own call, against the loopback Alpaca: its order bears the journal's name.

Expected values: the server's own books.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.brokers.alpaca.trading.link import Closings
from daemon.core.effects import AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import (
    BrokerReported,
    OrderFilled,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
)
from tests.support.alpaca.linked import Linked, linked
from tests.support.alpaca.rest_desk import CALL, buy, eventually

CLOSE = SubmitOrder("e1-scalper-9-1-0", CALL, -1, 3, None, "sell_to_close", 0, closing=True)
DELETE = {"method": "DELETE", "path": f"/v2/positions/{CALL}"}


async def hold(it: Linked) -> None:
    await it.link.release([buy(quantity=3)])
    await it.until(OrderFilled)
    await eventually(lambda: CALL in it.desk.server.account.positions)


def foreign(it: Linked) -> list[str]:
    """Names of the orders that were reported as somebody else's."""
    return [event.order.client_order_id for event in it.of(OrderFound) if event.order.client_order_id[:2] != "e1"]


async def test_what_the_broker_s_own_call_sells_is_told_under_the_journal_s_name() -> None:
    async with linked() as it:
        await hold(it)
        await it.link.release([CLOSE])
        sale = await it.until(OrderFilled, 2)
        event = await it.until(OrderFound)
        await eventually(lambda: not it.desk.server.account.positions)
    assert (sale.client_order_id, sale.side, sale.cumulative_quantity) == (CLOSE.client_order_id, -1, 3)
    assert event.order.client_order_id == CLOSE.client_order_id
    assert foreign(it) == []


async def test_the_call_closes_no_more_than_the_order_s_quantity() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.by_hand("place", symbol=CALL, qty="4", side="buy", position_intent="buy_to_open")
        await eventually(lambda: it.desk.server.account.quantity(CALL) == 7)
        await it.link.release([CLOSE])
        await it.until(OrderFilled, 2)
        await eventually(lambda: it.desk.server.account.quantity(CALL) == 4)


async def test_of_less_than_the_order_s_quantity_the_call_closes_nothing() -> None:
    async with linked() as it:
        await hold(it)
        await it.link.release([replace(CLOSE, quantity=4)])
        rejection = await it.until(OrderRejected)
        assert ("(requested: 4, available: 3)" in rejection.reason, rejection.existing) == (True, 3)
        assert it.desk.server.account.quantity(CALL) == 3


async def test_an_update_that_comes_before_the_answer_waits_for_it() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("http_slow", where=DELETE, seconds=0.1)
        await it.link.release([CLOSE])
        sale = await it.until(OrderFilled, 2)
    assert (sale.client_order_id, foreign(it)) == (CLOSE.client_order_id, [])


async def test_a_report_has_it_under_the_journal_s_name_too() -> None:
    async with linked() as it:
        await hold(it)
        await it.link.release([CLOSE])
        await it.until(OrderFilled, 2)
        report_count = len(it.of(BrokerReported))
        it.ask(LookUpOrder(CLOSE.client_order_id))
        it.ask(AskBroker("x"))
        report = await it.until(BrokerReported, report_count + 1)
    names = {order.client_order_id for order in (*report.ended_orders, *report.open_orders)}
    assert CLOSE.client_order_id in names
    assert all(name.startswith("e1-") for name in names)
    assert CLOSE.client_order_id in {fill.client_order_id for fill in report.fills}


async def test_it_is_looked_up_and_cancelled_by_the_broker_s_id() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("order_held_back", seconds=3600)
        await it.link.release([CLOSE])
        await it.until(OrderFound)
        it.ask(LookUpOrder(CLOSE.client_order_id))
        again = await it.until(OrderFound, 2)
        await it.link.release([CancelOrder(CLOSE.client_order_id)])
        await eventually(lambda: not it.desk.server.account.working)
    assert again.order.client_order_id == CLOSE.client_order_id


async def test_a_call_without_an_answer_is_unknown_and_what_it_did_is_told_as_the_broker_names_it() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("http_reset", where=DELETE)
        await it.link.release([CLOSE])
        assert (await it.until(OrderUnknown)).client_order_id == CLOSE.client_order_id
        await eventually(lambda: bool(foreign(it)))
        it.ask(LookUpOrder(CLOSE.client_order_id))
        assert (await it.until(OrderMissing)).client_order_id == CLOSE.client_order_id
        assert it.desk.server.account.positions == {}


async def test_nothing_is_sold_that_is_not_there() -> None:
    async with linked() as it:
        await it.link.release([CLOSE])
        rejection = await it.until(OrderRejected)
        assert (rejection.client_order_id, it.desk.server.account.positions) == (CLOSE.client_order_id, {})


async def test_no_report_is_given_that_was_read_while_a_call_was_under_way() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("http_slow", where=DELETE, seconds=0.1)
        report_count = len(it.of(BrokerReported))
        await it.link.release([CLOSE])
        it.ask(AskBroker("x"))
        await asyncio.sleep(0)
        report = await it.until(BrokerReported, report_count + 1)
        answer = await it.until(OrderFound)
    assert it.events.index(answer) < it.events.index(report)
    assert report.positions == ()


async def test_contracts_that_an_order_holds_which_does_not_end_are_closed_once_the_broker_lets_them_go() -> None:
    async with linked() as it:
        await hold(it)
        sale = SubmitOrder("e1-scalper-8-1-0", CALL, -1, 3, Decimal(99), "sell_to_close", 0)
        await it.link.release([sale])
        books = it.desk.server.account.by_client_id
        await eventually(lambda: sale.client_order_id in books and books[sale.client_order_id].status == "new")
        stuck = books[sale.client_order_id]
        it.desk.server.faults.add("cancel_stuck")
        await it.link.release([CancelOrder(sale.client_order_id)])
        await eventually(lambda: stuck.status == "pending_cancel")
        await it.link.release([CLOSE])
        rejection = await it.until(OrderRejected)
        assert rejection.client_order_id == CLOSE.client_order_id
        assert it.desk.server.account.quantity(CALL) == 3
        assert "insufficient qty available for order (requested: 3, available: 0)" in rejection.reason
        it.desk.server.matching.end(it.desk.server.account, stuck, "canceled", it.desk.clock.now_ns())
        await it.link.release([replace(CLOSE, client_order_id="e1-scalper-9-1-1")])
        await eventually(lambda: not it.desk.server.account.positions)
        assert foreign(it) == []


# --- the names ----------------------------------------------------------------------------------------------------


def order_of(order_id: str) -> Any:
    return {"event": "fill", "order": {"id": order_id, "symbol": CALL, "client_order_id": "theirs"}}


def test_orders_of_an_earlier_run_keep_their_names() -> None:
    closings = Closings()
    closings.follow({"e1-scalper-9-1-0": "id-9"})
    assert closings.renamed(order_of("id-9"))["order"] == {
        **order_of("id-9")["order"],
        "client_order_id": "e1-scalper-9-1-0",
    }
    assert closings.renamed(order_of("id-8")) == order_of("id-8")
    assert (closings.id_of("e1-scalper-9-1-0"), closings.id_of("e1-scalper-9-1-1")) == ("id-9", "")


@pytest.mark.parametrize("update", [{}, {"order": None}, {"order": []}])
def test_an_update_without_an_order_waits_for_nothing(update: Any) -> None:
    closings = Closings()
    closings.begin("e1-scalper-9-1-0", CALL)
    assert not closings.holds_back(update)
    assert closings.renamed(update) == update


def test_updates_of_other_symbols_do_not_wait() -> None:
    closings = Closings()
    closings.begin("e1-scalper-9-1-0", "SPY")
    assert not closings.holds_back(order_of("id-7"))
    assert closings.end("e1-scalper-9-1-0") == []


@pytest.mark.parametrize("order_id", [["x"], {"x": 1}, None])
def test_an_update_whose_order_has_no_id_that_is_text_passes_as_it_came(order_id: object) -> None:
    closings = Closings()
    update = {"event": "fill", "order": {"id": order_id, "symbol": "SPY"}}
    assert closings.renamed(update) == update
    closings.begin(CLOSE.client_order_id, CALL)
    assert not closings.holds_back(update)
    assert closings.holds_back({"event": "fill", "order": {"id": order_id, "symbol": CALL}})  # it may be that one


async def test_an_order_that_was_taken_for_an_unanswered_call_bears_the_journal_s_name_from_then_on() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("http_reset", where=DELETE)
        await it.link.release([CLOSE])
        await it.until(OrderUnknown)
        await eventually(lambda: bool(foreign(it)))
        broker_order = next(event.order for event in it.of(OrderFound) if event.order.client_order_id in foreign(it))
        report_count, found_count = len(it.of(BrokerReported)), len(it.of(OrderFound))
        it.ask(LookUpOrder(CLOSE.client_order_id, broker_order.order_id), AskBroker("x"))
        again = await it.until(OrderFound, found_count + 1)
        report = await it.until(BrokerReported, report_count + 1)
    assert (again.order.client_order_id, again.order.order_id) == (CLOSE.client_order_id, broker_order.order_id)
    assert again.order.filled == 3
    assert CLOSE.client_order_id in {order.client_order_id for order in report.ended_orders}
    assert CLOSE.client_order_id in {fill.client_order_id for fill in report.fills}


async def test_an_update_that_waited_and_cannot_be_read_ends_no_link_and_a_report_tells_the_fill() -> None:
    async with linked() as it:
        await hold(it)
        it.desk.server.faults.add("http_slow", where=DELETE, seconds=0.1)
        it.desk.server.faults.add("quantity_too_fine", where={"stream": "trade", "event": "fill"})
        await it.link.release([CLOSE])
        await eventually(lambda: "trade_update_malformed" in [name for name, _ in it.log])
        sale = (CLOSE.client_order_id, -1, 3)
        await eventually(lambda: sale in [(f.client_order_id, f.side, f.quantity) for f in reported_fills(it)])


def reported_fills(it: Linked) -> list[OrderFilled]:
    """The fills of all reports."""
    return [fill for report in it.of(BrokerReported) for fill in report.fills]


async def test_an_order_of_a_call_that_the_broker_does_not_know_any_more_is_missing() -> None:
    async with linked() as it:
        it.ask(LookUpOrder(CLOSE.client_order_id, "3f1a2b4c-0000-4000-8000-000000000000"))
        assert (await it.until(OrderMissing)).client_order_id == CLOSE.client_order_id
