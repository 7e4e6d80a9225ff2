"""The link against the loopback Alpaca: one post a release, an event for each outcome, reports that hide nothing.

Expected values: the documented protocol and the server's own books and log.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from daemon.brokers.alpaca.trading.link import BrokerLink, Timeouts
from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.trading.trade_stream import TradeStream
from daemon.core.effects import AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.events import (
    BrokerLost,
    BrokerReported,
    CancelRejected,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderMissing,
    OrderRejected,
    OrderUnknown,
)
from daemon.engine.engine import Intake, IntakeFull
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.alpaca.linked import BY_NAME, OURS, QUICK, QUICKLY, WHOLE, WORKING, linked
from tests.support.alpaca.rest_desk import CALL, NAME, UNANSWERED, buy, clock_check, desk, eventually

# --- submissions --------------------------------------------------------------------------------------------------


async def test_a_release_is_one_post_and_its_acceptance_and_fill_come_in() -> None:
    async with linked() as it:
        await it.link.release([buy(quantity=2)])
        fill = await it.until(OrderFilled)
        accepted = await it.until(OrderAccepted)
        await eventually(lambda: it.desk.posts() == 1)
        server = it.desk.server.account.by_client_id[NAME]
    assert (accepted.client_order_id, accepted.order_id) == (NAME, server.id)
    assert (fill.cumulative_quantity, fill.cumulative_cost) == (2, server.cost)


async def test_release_returns_before_the_broker_has_answered() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_slow", seconds=0.2, where={"method": "POST"})
        await it.link.release([buy()])
        assert it.of(OrderAccepted) == []
        await it.until(OrderAccepted)


async def test_a_fill_before_the_reply_is_put_in_before_the_acceptance_and_is_not_lost() -> None:
    async with linked() as it:
        it.desk.server.faults.add("fill_before_reply")
        await it.link.release([buy()])
        await it.until(OrderFilled)
        await it.until(OrderAccepted)
        await eventually(lambda: it.desk.posts() == 1)


@pytest.mark.parametrize(("kind", "parameters"), UNANSWERED)
async def test_an_unanswered_submission_is_one_post_and_an_unknown_order(kind: str, parameters: dict[str, Any]) -> None:
    async with linked() as it:
        it.desk.server.faults.add(kind, times=9, where={"method": "POST"}, **parameters)
        await it.link.release([WORKING])
        assert (await it.until(OrderUnknown)).client_order_id == NAME
        it.desk.server.faults.clear()
        it.ask(LookUpOrder(NAME))
        if parameters.get("moment") == "before":
            assert (await it.until(OrderMissing)).client_order_id == NAME
        else:
            assert (await it.until(OrderFound)).order.client_order_id == NAME
        assert it.desk.server.faults.met[kind] == 1  # the server met one post, whenever it was done with it
        assert it.desk.posts() <= 1
        assert len(it.desk.server.account.orders) == (parameters.get("moment") != "before")


async def test_the_same_order_is_posted_again_only_when_it_is_released_again() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_error", where={"method": "POST"})
        await it.link.release([WORKING])
        await it.until(OrderUnknown)
        it.ask(LookUpOrder(NAME))
        await it.until(OrderMissing)
        assert it.desk.posts() == 1
        await it.link.release([WORKING])
        await eventually(lambda: it.desk.posts() == 2)
        await it.until(OrderAccepted)
        assert [order.client_order_id for order in it.desk.server.account.orders.values()] == [NAME]


async def test_a_name_that_is_taken_is_looked_up_and_not_called_a_rejection() -> None:
    async with linked() as it:
        await it.link.release([WORKING])
        await it.answered()
        await it.link.release([WORKING])
        await it.until(OrderUnknown)
        assert (await it.until(OrderFound)).order.status == "new"
        assert it.of(OrderRejected) == []


async def test_a_refusal_is_a_rejection_with_the_brokers_words() -> None:
    async with linked() as it:
        it.desk.server.faults.add("order_refused", status=403, code=40310000, message="insufficient buying power")
        await it.link.release([buy()])
        assert (await it.until(OrderRejected)).reason == "403 40310000 insufficient buying power"


async def test_the_words_of_a_gateways_limit_are_a_denial() -> None:
    async with linked() as it:
        it.desk.server.faults.add("order_refused", status=403, code=40310000, message="gateway: no new risk: news")
        await it.link.release([buy()])
        rejection = await it.until(OrderRejected)
        assert (rejection.reason, rejection.denied) == ("gateway: no new risk: news", True)


async def test_an_order_that_is_throttled_is_unknown() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_429", where={"method": "POST"})
        await it.link.release([buy()])
        await it.until(OrderUnknown)
        assert it.desk.posts() == 1


async def test_an_entry_whose_time_has_passed_never_leaves_and_is_told_as_expired() -> None:
    async with linked() as it:
        await it.link.release([buy(valid_s=60)])
        assert (await it.until(OrderExpired)).client_order_id == NAME
        assert it.desk.posts() == 0


async def test_a_rejection_after_the_acceptance_comes_in() -> None:
    async with linked() as it:
        it.desk.server.faults.add("order_rejected")
        await it.link.release([buy()])
        await it.until(OrderAccepted)
        await it.until(OrderRejected)


# --- cancels ------------------------------------------------------------------------------------------------------


async def test_a_cancel_right_after_its_order_waits_for_it_and_the_stream_says_the_end() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_slow", seconds=0.2, where={"method": "POST"})
        await it.link.release([WORKING])
        await eventually(lambda: it.desk.server.faults.met["http_slow"] == 1)
        await it.link.release([CancelOrder(NAME)])
        await it.until(OrderCanceled)
        assert it.of(CancelRejected) == []
        assert it.desk.server.account.working == {}


async def test_a_cancel_of_an_order_that_the_link_never_saw_asks_for_its_id_first() -> None:
    async with linked() as it:
        await it.desk.orders.submit(WORKING)
        await it.answered()
        it.link._own_orders._order_ids.clear()  # as after a restart
        await it.link.release([CancelOrder(NAME)])
        await it.until(OrderCanceled)
        assert it.desk.count("GET", BY_NAME) == 1


async def test_a_cancel_that_is_asked_for_again_while_one_is_under_way_asks_the_broker_once() -> None:
    async with linked() as it:
        await it.desk.orders.submit(WORKING)
        await it.answered()
        it.link._own_orders._order_ids.clear()  # as after a restart
        it.desk.server.faults.add("http_slow", seconds=0.1, where={"method": "GET", "path": BY_NAME})
        for _ in range(20):
            await it.link.release([CancelOrder(NAME)])
            await asyncio.sleep(0.001)
        await it.until(OrderCanceled)
        assert it.desk.count("GET", BY_NAME) == 1
        assert [row.method for row in it.desk.server.requests].count("DELETE") == 1


async def test_a_refused_cancel_is_told_and_looked_up() -> None:
    async with linked() as it:
        await it.link.release([WORKING])
        await it.answered()
        it.desk.server.faults.add("cancel_refused")
        await it.link.release([CancelOrder(NAME)])
        assert (await it.until(CancelRejected)).reason.startswith("422 42210000 ")
        assert (await it.until(OrderFound)).order.status == "new"


async def test_a_cancel_of_what_the_broker_does_not_know_says_that_it_is_missing() -> None:
    async with linked() as it:
        await it.link.release([CancelOrder("e1-scalper-9-0-1")])
        assert (await it.until(OrderMissing)).client_order_id == "e1-scalper-9-0-1"


@pytest.mark.parametrize("kind", ["http_error", "http_reset", "http_html", "http_429"])
async def test_an_unanswered_cancel_is_looked_up(kind: str) -> None:
    async with linked() as it:
        await it.link.release([WORKING])
        await it.answered()
        it.desk.server.faults.add(kind, where={"method": "DELETE"})
        await it.link.release([CancelOrder(NAME)])
        assert (await it.until(OrderFound)).order.client_order_id == NAME


# --- look-ups -----------------------------------------------------------------------------------------------------


async def test_a_look_up_goes_on_until_the_broker_answers_and_runs_once_for_each_name() -> None:
    async with linked() as it:
        await it.link.release([WORKING])
        await it.answered()
        path = "/v2/orders:by_client_order_id"
        it.desk.server.faults.add("http_error", times=4, where={"path": path})
        it.ask(LookUpOrder(NAME), LookUpOrder(NAME), AskBroker("twice"))
        it.ask(LookUpOrder(NAME))
        await it.until(OrderFound)
        assert it.desk.count("GET", path) == 5
        assert [name for name, _ in it.log].count("look_up_unanswered") == 1


async def test_an_order_is_missing_only_after_three_404s_and_found_when_it_shows_up_between() -> None:
    async with linked() as it:
        path = "/v2/orders:by_client_order_id"
        it.ask(LookUpOrder(NAME))
        await it.until(OrderMissing)
        assert it.desk.count("GET", path) == 3
        await it.desk.orders.submit(WORKING)
        it.desk.server.faults.add("stale_read", times=2, age_s=100, where={"path": path})  # read after write, too early
        it.ask(LookUpOrder(NAME))
        await it.until(OrderFound)
        assert len(it.of(OrderMissing)) == 1


async def test_an_order_is_not_called_missing_while_its_post_is_under_way() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_hang", where={"method": "POST"})
        await it.link.release([WORKING])
        it.ask(LookUpOrder(NAME))
        await it.until(OrderFound)
        kinds = [type(event) for event in it.events if isinstance(event, OrderUnknown | OrderFound | OrderMissing)]
        assert kinds == [OrderUnknown, OrderFound]


# --- the stream and the reports -----------------------------------------------------------------------------------


async def test_the_stream_listens_before_the_first_report_is_asked_for() -> None:
    async with linked() as it:
        names = [name for name, _ in it.log]
        assert names[0] == "trade_stream_listening"
        assert isinstance(it.events[0], BrokerReported)


async def test_a_lost_stream_is_told_and_a_whole_report_follows_the_next_connect() -> None:
    async with linked() as it:
        it.desk.server.faults.add("fill_unheard")
        await it.link.release([buy()])
        await it.until(BrokerLost)
        report = await it.until(BrokerReported, 2)
        order = [type(event) for event in it.events if isinstance(event, BrokerLost | BrokerReported)]
        assert order == [BrokerReported, BrokerLost, BrokerReported]
        assert it.of(OrderFilled) == []  # nobody heard it
    assert [(fill.client_order_id, fill.cumulative_quantity) for fill in report.fills] == [(NAME, 1)]


async def test_reports_that_fail_are_told_once_and_tried_until_one_comes() -> None:
    async with linked() as it:
        it.desk.server.faults.add("http_error", times=5, where={"path": "/v2/positions"})
        it.ask(AskBroker("now"))
        await it.until(BrokerReported, 2)
        assert len(it.of(BrokerLost)) == 1
        assert [name for name, _ in it.log].count("report_failed") == 5


async def test_the_broker_reports_each_simulated_minute_and_when_asked() -> None:
    async with linked(rate=600) as it:  # a minute is a tenth of a second
        reports = [await it.until(BrokerReported, count) for count in (1, 2, 3)]
        assert reports[2].asked_ns - reports[0].time_ns >= 120_000_000_000
    async with linked() as it:
        it.ask(AskBroker("now"))
        await it.until(BrokerReported, 2)


async def test_a_report_that_an_exit_waits_for_comes_before_the_next_one_is_due() -> None:
    rarely = Timeouts(report_every_s=3600.0, report_gap_s=1800.0, exit_gap_s=0.01, missing_gap_s=0.05)
    async with linked(rarely) as it:
        it.ask(AskBroker("now"))
        await asyncio.sleep(0.2)
        assert len(it.of(BrokerReported)) == 1
        it.ask(AskBroker("now", at_once=True))
        await it.until(BrokerReported, 2)


async def test_a_report_under_way_when_an_exit_begins_to_wait_is_followed_by_another_one() -> None:
    rarely = Timeouts(report_every_s=3600.0, report_gap_s=1800.0, exit_gap_s=0.01, missing_gap_s=0.05)
    async with linked(rarely) as it:
        it.desk.server.faults.add("http_slow", where={"path": "/v2/positions"}, seconds=0.2)
        it.ask(AskBroker("now", at_once=True))
        await asyncio.sleep(0.1)
        decided_ns = it.desk.clock.now_ns()
        it.ask(AskBroker("now", at_once=True))
        reports = [await it.until(BrokerReported, count) for count in (2, 3)]
    assert reports[0].asked_ns < decided_ns < reports[1].asked_ns


async def test_an_update_that_cannot_be_read_is_told_and_followed_by_a_report() -> None:
    async with linked() as it:
        it.desk.server.faults.add("data_null", where={"event": "fill"})
        await it.link.release([buy()])
        await eventually(lambda: "trade_update_malformed" in [name for name, _ in it.log])
        report = await it.until(BrokerReported, 2)
        await eventually(lambda: any(r.fills for r in it.of(BrokerReported)))
        assert it.of(BrokerLost) == []
    assert report.asked_ns > it.of(BrokerReported)[0].asked_ns


async def test_a_foreign_order_is_told_as_found() -> None:
    async with linked() as it:
        it.desk.server.by_hand("place", symbol=CALL, qty="1", side="buy", type="market", time_in_force="day")
        await eventually(lambda: any(event.order.status == "filled" for event in it.of(OrderFound)))
        assert not any(OURS(event.order.client_order_id) for event in it.of(OrderFound))
        assert it.of(OrderFilled) == []


async def test_a_link_that_ends_leaves_nothing_behind() -> None:
    async with linked() as it:
        key = it.desk.server.account.key
        it.desk.server.faults.add("http_error", times=1000, where={"path": "/v2/orders:by_client_order_id"})
        it.ask(LookUpOrder(NAME))
        await eventually(lambda: bool(it.link._own_orders._tasks))
        assert it.desk.server.trade_stream.listeners(key) == 1
        tasks = set(it.link._own_orders._tasks)
    assert all(task.done() for task in tasks)
    assert it.desk.server.trade_stream.listeners(key) == 0


async def test_an_intake_that_is_full_ends_the_link_instead_of_losing_an_event() -> None:
    async with desk(rules=WHOLE) as it:
        intake = Intake(capacity=1)
        url = it.server.trade_stream_url
        open_stream = partial(TradeStream, url, DEFAULT_KEY, DEFAULT_SECRET, deadlines=QUICK, log=unheard)
        reporter = Reporter(it.reads, it.clock, OURS, unheard, clock_check(it.reads, it.clock, unheard))
        link = BrokerLink(it.clock, intake.put, unheard, it.orders, it.reads, reporter, open_stream, OURS, QUICKLY)
        running = asyncio.create_task(link.run())
        await eventually(lambda: len(intake) == 1)
        it.server.faults.add("order_refused")
        await link.release([buy()])
        with pytest.raises(ExceptionGroup) as caught:
            await running
    assert caught.group_contains(IntakeFull)


def unheard(name: str, /, **fields: Any) -> None:
    """A log that nobody reads."""


async def test_no_key_is_in_any_event_or_log() -> None:
    async with linked() as it:
        for number, status in enumerate((401, 403, 500)):
            it.desk.server.faults.add("auth_failed", status=status, where={"method": "POST"})
            await it.link.release(
                [SubmitOrder(f"e1-scalper-5-0-{number}", CALL, 1, 1, Decimal(1), "buy_to_open", 2**62)]
            )
        await eventually(lambda: len(it.of(OrderRejected)) + len(it.of(OrderUnknown)) == 3)
        text = str(it.events) + str(it.log) + repr(it.link)
    assert DEFAULT_KEY not in text
    assert DEFAULT_SECRET not in text


async def test_without_the_stream_an_order_that_may_be_open_is_looked_up_as_often_as_a_report_is_due() -> None:
    seldom = Timeouts(report_every_s=60.0, report_gap_s=0.01, missing_gap_s=0.05, first_pause_s=0.01)
    async with linked(seldom, rate=120.0) as it:
        it.desk.server.faults.add("upgrade_refused", times=10_000, where={"stream": "trade"})
        it.desk.server.faults.add("socket_drop", where={"stream": "trade"})
        await it.until(BrokerLost)
        reports = len(it.of(BrokerReported))
        await it.link.release([buy()])
        await it.until(OrderAccepted)
        event = await it.until(OrderFound)
        assert (event.order.client_order_id, event.order.filled) == (NAME, Decimal(1))
        count = it.desk.count("GET", "/v2/orders:by_client_order_id")
        await asyncio.sleep(1.2)  # more than two simulated minutes
        assert it.desk.count("GET", "/v2/orders:by_client_order_id") == count  # it has ended
        assert len(it.of(BrokerReported)) == reports


async def test_an_order_of_an_earlier_run_is_followed_from_the_start() -> None:
    async with desk(rules=WHOLE, rate=120.0) as it:
        await it.orders.submit(buy())
        await eventually(lambda: not it.server.account.by_client_id[NAME].open)
        it.server.faults.add("upgrade_refused", times=10_000, where={"stream": "trade"})
        events: list[Event] = []

        def unheard(_name: str, /, **_fields: Any) -> None:
            pass

        open_stream = partial(
            TradeStream, it.server.trade_stream_url, DEFAULT_KEY, DEFAULT_SECRET, deadlines=QUICK, log=unheard
        )
        reporter = Reporter(it.reads, it.clock, OURS, unheard, clock_check(it.reads, it.clock, unheard))
        link = BrokerLink(it.clock, events.append, unheard, it.orders, it.reads, reporter, open_stream, OURS)
        link.follow({NAME: it.server.account.by_client_id[NAME].id}, {})
        task = asyncio.create_task(link.run())
        await eventually(lambda: any(isinstance(event, OrderFound) for event in events))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
