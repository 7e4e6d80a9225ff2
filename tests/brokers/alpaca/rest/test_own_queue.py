"""What waits in the daemon's own queue: it leaves in time, is never in doubt, and is not asked after at the broker.

Against the loopback Alpaca with its limit of 200 calls a minute. Expected values are the server's own log.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from msgspec import structs

from daemon.brokers.alpaca.rest.client import Access, account_queues
from daemon.brokers.alpaca.trading.link import BrokerLink
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import TradeStream
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.core.effects import CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import (
    BrokerReported,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFound,
    OrderMissing,
    OrderUnknown,
)
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.alpaca.linked import BY_NAME, OURS, QUICK, QUICKLY, WHOLE, WORKING, Linked, linked
from tests.support.alpaca.rest_desk import CALL, NAME, OPEN_NS, SHORT, Desk, buy, clock_check, desk, eventually

FIFTY = range(50)
RATE = 20.0
SOON = dataclasses.replace(
    SHORT, read_s=2.0, whole_s=3.0, call_s=0.5
)  # a call's wait in real seconds: ten of the market
MANY = dataclasses.replace(WHOLE, fill_sizes=(50, 50))


def sell(name: str) -> SubmitOrder:
    return SubmitOrder(name, CALL, -1, 1, None, "sell_to_close", OPEN_NS)  # past its validity, which binds no exit


def name(kind: int, number: int) -> str:
    return f"e1-scalper-{kind}-{number}-0"


@contextlib.asynccontextmanager
async def limited(it: Desk) -> AsyncIterator[Linked]:
    """A link behind the lanes that an account has; nothing but its orders is asked of it."""
    events: list[Event] = []
    log: list[tuple[str, dict[str, Any]]] = []

    def tell(event: str, /, **fields: Any) -> None:
        log.append((event, fields))

    lanes = account_queues(it.clock)
    access = Access(it.server.trading_url, DEFAULT_KEY, DEFAULT_SECRET, SOON)
    orders, reads = TradingOrders(access, lanes[0]), TradingReads(access, lanes[1])
    stream = partial(TradeStream, it.server.trade_stream_url, DEFAULT_KEY, DEFAULT_SECRET, deadlines=QUICK, log=tell)
    reporter = Reporter(reads, it.clock, OURS, tell, clock_check(reads, it.clock, tell))
    link = BrokerLink(it.clock, events.append, tell, orders, reads, reporter, stream, OURS, QUICKLY)
    task = asyncio.create_task(link.run())
    try:
        yield Linked(it, link, events, log)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for lane in lanes:
            await lane.close()


async def test_fifty_cancels_and_fifty_sales_all_leave_and_none_is_in_doubt() -> None:
    async with desk(rate=RATE, rules=MANY) as it:
        it.server.account.cash = Decimal(1_000_000)
        await it.orders.submit(buy(name(0, 0), quantity=50))
        await eventually(lambda: not it.server.account.by_client_id[name(0, 0)].open)
        entries = {name(1, n): str((await it.orders.submit(buy(name(1, n), limit="0.01")))["id"]) for n in FIFTY}
        async with limited(it) as linked:
            await linked.until(BrokerReported)  # it listens
            linked.link.follow(entries)
            await linked.link.release([CancelOrder(entry) for entry in entries])
            await linked.link.release([sell(name(2, n)) for n in FIFTY])
            await eventually(lambda: not it.server.account.exposed())
            await eventually(lambda: len(linked.of(OrderCanceled)) == 50 and len(linked.of(OrderAccepted)) >= 50)
        assert linked.of(OrderUnknown) == []
        assert [event for event, _ in linked.log if event in ("order_unanswered", "cancel_unanswered")] == []
        assert sum(request.method == "DELETE" for request in it.server.requests) == 50
        assert it.posts() == 101
        assert it.count("GET", BY_NAME) == 0


async def test_a_crowd_of_resting_stops_leaves_an_exit_its_turn() -> None:
    async with desk(rate=RATE, rules=MANY) as it:
        it.server.account.cash = Decimal(1_000_000)
        await it.orders.submit(buy(name(0, 0), quantity=50))
        await eventually(lambda: not it.server.account.by_client_id[name(0, 0)].open)
        async with limited(it) as linked:
            stops = [structs.replace(sell(name(2, n)), stop_price=Decimal("0.01")) for n in range(80)]
            await linked.link.release([*stops, sell(name(3, 0))])
            await eventually(lambda: name(3, 0) in it.server.account.by_client_id or it.posts() > 60)
        assert it.posts() <= 60  # forty stops at once, the others one a second; the sale passes them


async def test_an_entry_whose_time_passes_in_our_queue_was_never_sent_and_says_so() -> None:
    async with desk(rate=RATE, rules=MANY) as it, limited(it) as linked:
        soon_s = (it.clock.now_ns() - OPEN_NS) / 1e9 + 2  # the lane lets forty entries go at once, then one a second
        await linked.link.release([buy(name(3, n), limit="0.01", valid_s=soon_s) for n in range(80)])
        await eventually(lambda: len(linked.of(OrderExpired)) + it.posts() >= 80)
        lapsed = {event.client_order_id for event in linked.of(OrderExpired)}
        assert len(lapsed) >= 30
        assert not lapsed & it.server.account.by_client_id.keys()
        assert linked.of(OrderUnknown) == []


@pytest.mark.parametrize("order", [buy(name(4, 0), limit="0.01"), sell(name(4, 0))])
async def test_no_order_leaves_while_a_panic_runs_that_the_desk_has_not_stepped(order: SubmitOrder) -> None:
    async with linked() as it:
        it.panicked = True
        await it.link.release([order])
        assert (await it.until(OrderExpired)).client_order_id == name(4, 0)
        assert it.desk.posts() == 0
        it.panicked = False
        await it.link.release([buy(name(4, 1), limit="0.01")])
        assert (await it.until(OrderAccepted)).client_order_id == name(4, 1)


async def test_an_order_that_is_cancelled_while_it_waits_its_turn_stays_here() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_slow", seconds=0.2, where={"method": "POST"})
        await it.link.release([buy(name(4, 0), limit="0.01"), buy(name(4, 1), limit="0.01"), CancelOrder(name(4, 1))])
        assert (await it.until(OrderExpired)).client_order_id == name(4, 1)
        assert (await it.until(OrderAccepted)).client_order_id == name(4, 0)
        assert it.desk.posts() == 1
        assert it.desk.count("GET", BY_NAME) == 0


async def test_a_look_up_of_what_our_queue_holds_waits_and_asks_nothing_once_the_post_was_answered() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_slow", seconds=0.2, where={"method": "POST"})
        await it.link.release([WORKING])
        it.ask(LookUpOrder(NAME))
        await it.until(OrderAccepted)
        it.ask(LookUpOrder(name(5, 0)))  # goes behind it
        await it.until(OrderMissing)
        assert it.desk.count("GET", BY_NAME) == 3  # all for the other name
        assert it.of(OrderFound) == []


# --- one queue for posts and look-ups of a name -------------------------------------------------------------------


async def test_an_order_is_called_missing_once_until_the_step_has_heard_it() -> None:
    async with linked(stepped=False) as it:
        it.ask(LookUpOrder(NAME))
        first = await it.until(OrderMissing)
        it.ask(LookUpOrder(NAME))  # the step's answer to the first waits for the disk
        it.ask(LookUpOrder(name(6, 0)))
        await it.until(OrderMissing, 2)
        assert [event.client_order_id for event in it.of(OrderMissing)] == [NAME, name(6, 0)]
        it.link.stepped(first, ())
        it.ask(LookUpOrder(NAME))
        assert (await it.until(OrderMissing, 3)).client_order_id == NAME


async def test_an_answer_from_before_the_post_calls_nothing_missing() -> None:
    async with linked(dataclasses.replace(QUICKLY, missing_answers=1)) as it:
        it.desk.server.faults.add("http_slow", seconds=0.25, where={"path": BY_NAME})
        it.ask(LookUpOrder(NAME))
        await eventually(lambda: it.desk.server.faults.met["http_slow"] == 1)  # on the way: none of this name
        it.desk.server.faults.add("http_reset", where={"method": "POST"})
        await it.link.release([WORKING])  # it arrives, and its reply is lost
        await it.until(OrderUnknown)
        assert (await it.until(OrderFound)).order.client_order_id == NAME
        assert it.of(OrderMissing) == []


async def test_what_is_asked_for_twice_is_posted_once_where_the_first_post_settles_it() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_slow", seconds=0.2, where={"method": "POST"})
        await it.link.release([WORKING, WORKING])
        await eventually(lambda: it.desk.posts() >= 1)
        it.ask(LookUpOrder(name(7, 0)))
        await it.until(OrderMissing)
        assert (it.desk.posts(), it.of(OrderUnknown)) == (1, [])
