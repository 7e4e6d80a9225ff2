"""The stream of activities as a second source: what it hurries, and that losing or poisoning it changes nothing.

The loopback Alpaca serves it with the fields of the published schema; a minute's report is far away in each test, so
what is known sooner came because a line of the stream asked for it.
"""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from daemon.alpaca_api.wire import ulid
from daemon.brokers.alpaca.rest.client import Access
from daemon.brokers.alpaca.trading.activity_stream import PATH, activity_line, probe, ulid_ns
from daemon.brokers.alpaca.trading.link import Timeouts
from daemon.brokers.alpaca.wire import Malformed
from daemon.core.events import BrokerReported, OrderFilled
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS
from tests.support.alpaca.linked import Linked, linked
from tests.support.alpaca.rest_desk import NAME, buy, desk, eventually

MINUTE = Timeouts(report_every_s=60, report_gap_s=0.01, missing_gap_s=0.05, first_pause_s=0.01, longest_pause_s=0.05)
FEE = {"activity_type": "FEE", "net_amount": "-0.03", "date": "2026-11-02", "status": "executed"}
NOW_NS = 1_794_000_000 * SECOND_NS  # November 2026


def note_fee(it: Linked, amount: str = "-0.03") -> None:
    it.desk.server.account.note(it.desk.server.clock.now_ns(), FEE | {"net_amount": amount})


def fees(it: Linked) -> list[Decimal]:
    return [line.amount for report in it.of(BrokerReported) for line in report.activities if line.kind == "FEE"]


def corrections(it: Linked) -> list[OrderFilled]:
    return [fill for report in it.of(BrokerReported) for fill in report.fills if fill.correction]


def names(it: Linked) -> list[str]:
    return [name for name, _ in it.log]


# --- what it hurries ----------------------------------------------------------------------------------------------


async def test_a_line_of_the_stream_is_asked_of_the_ledger_at_once_and_told_by_the_report_alone() -> None:
    async with linked(MINUTE, activities=True) as it:
        began_ns = it.desk.clock.now_ns()
        note_fee(it)
        await eventually(lambda: fees(it) == [Decimal("-0.03")])
        assert it.desk.clock.now_ns() - began_ns < 20 * SECOND_NS
        kinds = {type(event).__name__ for event in it.events}
    assert kinds == {"BrokerReported"}


async def test_a_fill_whose_update_was_lost_is_known_before_the_next_minute() -> None:
    async with linked(MINUTE, activities=True) as it:
        it.desk.server.faults.add("update_lost", where={"event": "fill"})
        await it.link.release([buy()])
        await eventually(lambda: any(report.fills for report in it.of(BrokerReported)))
        assert it.of(OrderFilled) == []
    (fill,) = [fill for report in it.of(BrokerReported) for fill in report.fills]
    assert (fill.client_order_id, fill.cumulative_quantity) == (NAME, 1)


async def test_a_correction_that_the_trade_stream_lost_books_the_fill_that_this_stream_names() -> None:
    async with linked(MINUTE, activities=True) as it:
        it.desk.server.faults.add("fill_partial", quantity=1)
        await it.link.release([buy(quantity=2)])  # two fills of one contract each
        await it.until(OrderFilled, 2)
        first, second = it.of(OrderFilled)
        it.desk.server.faults.add("update_lost", where={"event": "trade_correct"})
        it.desk.server.faults.add("trade_correct", shift="3.50", order_kept=True)
        await eventually(lambda: bool(corrections(it)))
    assert corrections(it)[-1].cumulative_cost == first.price + second.price + Decimal("3.50")


# --- losing it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("activity_dropped", {}),
        ("activity_late", {"seconds": 0.5}),
        ("activity_doubled", {}),
        ("activity_garbage", {}),
        ("activity_garbage", {"text": "\xff\xfe\x00"}),
        ("activity_garbage", {"text": "[" * 50_000}),
        ("activity_garbage", {"text": json.dumps({"event_id": "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "activity_type": "FEE"})}),
        ("activity_garbage", {"text": json.dumps({"event_id": 7, "activity_type": None, "details": []})}),
    ],
)
async def test_after_a_fault_the_next_line_is_heard_and_each_line_is_told_once(
    kind: str, parameters: dict[str, Any]
) -> None:
    async with linked(MINUTE, activities=True) as it:
        it.desk.server.faults.add(kind, **parameters)
        note_fee(it, "-0.03")
        await asyncio.sleep(1)
        note_fee(it, "-0.04")
        await eventually(lambda: sorted(fees(it)) == [Decimal("-0.04"), Decimal("-0.03")])
        assert {type(event).__name__ for event in it.events} == {"BrokerReported"}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_keys_that_may_not_listen_lose_nothing_but_the_hurry(status: int) -> None:
    timeouts = Timeouts(report_every_s=0.5, report_gap_s=0.01, first_pause_s=0.01, longest_pause_s=0.05)
    async with linked(timeouts) as it:
        access = Access(it.desk.server.trading_url, DEFAULT_KEY, DEFAULT_SECRET)
        it.desk.server.faults.add("activity_refused", status=status)
        answer = await probe(access, it.desk.clock.now_ns() - DAY_NS, it.desk.clock.now_ns(), 2.0)
        assert answer == f"HTTP {status}"
        note_fee(it)
        await eventually(lambda: fees(it) == [Decimal("-0.03")])


async def test_a_stream_that_is_refused_for_ever_ends_no_link_and_asks_seldom() -> None:
    async with linked(MINUTE, activities=True) as it:
        it.desk.server.faults.add("activity_refused", times=1000)
        it.desk.server.faults.add("activity_dropped")
        note_fee(it)
        await eventually(lambda: names(it).count("activity_stream_lost") >= 3)
        await it.link.release([buy()])
        await it.until(OrderFilled)
        pauses = [fields["retry_s"] for name, fields in it.log if name == "activity_stream_lost"]
    assert min(pauses[1:]) >= 0.1  # what `refused_s` is in these tests


async def test_what_was_booked_while_it_was_away_is_replayed_once() -> None:
    async with linked(MINUTE, activities=True) as it:
        note_fee(it, "-0.01")
        await eventually(lambda: fees(it) == [Decimal("-0.01")])
        it.desk.server.faults.add("activity_dropped")
        note_fee(it, "-0.02")
        note_fee(it, "-0.03")
        await eventually(lambda: len(fees(it)) == 3)
        await eventually(lambda: names(it).count("activity_stream_listening") == 2)
        assert fees(it) == [Decimal("-0.01"), Decimal("-0.02"), Decimal("-0.03")]


# --- the protocol -------------------------------------------------------------------------------------------------


async def test_the_simulator_replays_by_time_and_by_ulid_and_refuses_what_excludes_each_other() -> None:
    async with desk() as it:
        server = it.server
        for amount in ("-1", "-2", "-3"):
            server.account.note(server.clock.now_ns(), FEE | {"net_amount": amount})
        keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}

        async def answer(**query: str) -> tuple[int, list[dict[str, Any]]]:
            async with (
                aiohttp.ClientSession() as session,
                session.get(server.trading_url + PATH, params=query, headers=keys) as response,
            ):
                lines = [row for row in (await response.text()).splitlines() if row.startswith("data: ")]
                return response.status, [json.loads(row.removeprefix("data: ")) for row in lines]

        day = {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
        status, rows = await answer(**day)
        ids = [row["event_id"] for row in rows]
        _, rest = await answer(since_id=ids[0], until_id=ids[1])
        both_status, _ = await answer(**day, since_id=ids[0])
        alone_status, _ = await answer(until_id=ids[0])
    assert (status, [row["net_amount"] for row in rows], sorted(ids)) == (200, ["-1", "-2", "-3"], ids)
    assert ([row["net_amount"] for row in rest], both_status, alone_status) == (["-2"], 400, 400)
    assert [row["ref_id"] for row in rows] == [row.id.rpartition("::")[2] for row in server.account.activities]


def test_a_ulid_has_its_moment_in_front() -> None:
    assert ulid_ns("01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1_469_922_850_259 * 1_000_000  # the specification's example
    assert ulid_ns(ulid(1_469_922_850_259, 5)) == 1_469_922_850_259 * 1_000_000


def test_a_line_names_the_fill_that_it_amends() -> None:
    raw = {
        "event_id": ulid(NOW_NS // 1_000_000, 1), "ref_id": "r1", "activity_type": "FILL", "previous_id": "x1",
        "details": {"order_id": "o1", "execution_type": "trade_correct"},
    }  # fmt: skip
    line = activity_line(json.dumps(raw), NOW_NS)
    assert (line.order_id, line.amends, line.ref_id) == ("o1", "x1", "r1")
    fill = raw | {"details": {"order_id": "o1", "execution_type": "partial_fill"}}
    assert activity_line(json.dumps(fill), NOW_NS).amends == ""


@pytest.mark.parametrize("ahead_min", [3, 60, 23 * 60, 25 * 60])
def test_a_line_that_is_dated_minutes_ahead_of_our_clock_is_refused(ahead_min: int) -> None:
    raw = {"event_id": ulid(NOW_NS // 1_000_000 + ahead_min * 60_000, 1), "activity_type": "FEE"}
    with pytest.raises(Malformed, match="ahead of our clock"):
        activity_line(json.dumps(raw), NOW_NS)
    at_once = NOW_NS + (ahead_min - 1) * MINUTE_NS  # a clock that is one minute late hears it
    assert activity_line(json.dumps(raw), at_once).kind == "FEE"


async def test_after_a_line_that_is_dated_hours_ahead_the_next_one_is_heard() -> None:
    async with linked(MINUTE, activities=True) as it:
        ahead_ms = it.desk.clock.now_ns() // 1_000_000 + 8 * 3_600_000
        text = json.dumps({"event_id": ulid(ahead_ms, 1), "activity_type": "FEE"})
        it.desk.server.faults.add("activity_garbage", text=text)
        note_fee(it, "-0.03")
        await eventually(lambda: fees(it) == [Decimal("-0.03")])
        note_fee(it, "-0.04")
        await eventually(lambda: fees(it) == [Decimal("-0.03"), Decimal("-0.04")])
