"""Where two things meet: what clients send, what the broker does meanwhile, and what the books make of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from daemon.alpaca_api.refusals import Refusal
from daemon.alpaca_api.tickets import ticket
from daemon.alpaca_api.wire import Json
from daemon.config.load import ConfigError
from daemon.gateway.books import DayFill, GatewayOrder, Ledgers, LinePart
from daemon.gateway.command import closing_text
from daemon.gateway.config import AccountLimits, load_gateway
from daemon.gateway.events import (
    MAIN,
    AnyGatewayEffect,
    CancelSibling,
    CloseTaken,
    ExerciseAsked,
    FillsRead,
    GatewayStarted,
    Opened,
    OrderAnswered,
    OrderRefused,
    OrderTaken,
    ReadFills,
    ReplaceTaken,
    Reported,
    Transferred,
    Updated,
    Warn,
)
from daemon.gateway.gateway import is_of
from daemon.gateway.rules import OrderView, buying_power, day_loss, has_one_name, judge
from daemon.gateway.step import Bookkeeper
from daemon.gateway.upstream import _is_news
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from simulator.trading.venue import Rules
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS
from tests.support.gateway_stage import CALL, KEYS, OPEN_NS, PATIENCE_S, Stage, broker, gateway_on, stage, table
from tests.support.simulator.trade_listeners import trade_updates

ORDER = {"symbol": "SPY", "qty": "1", "side": "buy", "type": "limit", "limit_price": "400", "time_in_force": "day"}
CALLS_CROSS = Rules(fill_sizes=(1000, 1000), dead_session_s=1.0, calls_cross=True)
"""Of a broker whose own close call is no wash trade."""
dec = Decimal


async def hold(s: Stage, name: str, quantity: int) -> None:
    """Buy and wait for it."""
    await s.place(name, quantity)
    await s.until(lambda: s.held(name) == {"SPY": dec(quantity)})


async def raw(s: Stage, name: str, target: str) -> tuple[int, str]:
    """GET a target as it stands, which no client's library has made tidy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
    keys = f"APCA-API-KEY-ID: {KEYS[name].key}\r\nAPCA-API-SECRET-KEY: {KEYS[name].secret}\r\n"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n{keys}Connection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split(" ")[1]), answer


# --- what a client sends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ('"client_order_id": "\\ud800"', 422),  # half a character
        ('"client_order_id": "a\\u0000b"', 422),
        ('"note": 1' + "0" * 40, 200),  # a number that no journal can hold, under a key that is not passed on
        ('"note": ' + "[" * 600 + "]" * 600, 200),
        ('"extended_hours": {"a": 1}', 422),
        ('"extended_hours": 1' + "0" * 40, 422),
    ],
)
async def test_what_cannot_be_journaled_changes_nothing(tmp_path: Path, fields: str, status: int) -> None:
    async with stage(tmp_path) as s:
        headers = {"APCA-API-KEY-ID": KEYS["a"].key, "APCA-API-SECRET-KEY": KEYS["a"].secret}
        body = json.dumps(ORDER)[:-1] + f", {fields}}}"
        async with s.http.post(f"{s.url}/v2/orders", data=body, headers=headers) as answer:
            assert answer.status == status
        assert len(s.books.live) == (status == 200)
        await s.place("a", 1)
        await s.until(lambda: s.held("a") == {"SPY": dec(1)})
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize(
    "changes",
    [{"qty": "abc"}, {"qty": "NaN"}, {"qty": 10**30}, {"qty": "1e999"}, {"qty": [1]}, {"stop_price": "9" * 13}],
)
async def test_a_change_that_is_no_number_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    async with stage(tmp_path) as s:
        row = await s.place("a", 2, type="limit", limit_price="400")
        status, answer = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", changes)
        assert (status, answer["code"]) == (422, 40010001)


@pytest.mark.parametrize("symbol", ["spy", "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415", "SPY ", "../account", "BTC/USD"])
async def test_an_asset_has_one_name(tmp_path: Path, symbol: str) -> None:
    # Alpaca takes an asset's id for its symbol: under another name no rule of the gateway would know the share
    async with stage(tmp_path) as s:
        assert (await s.refused("a", 1, symbol=symbol, type="limit", limit_price="400"))[0] == 422
        assert not [r for r in s.broker.requests if r.method == "POST"]


@pytest.mark.parametrize(
    "target",
    [
        "/v2/assets/../account",
        "/v2/assets/%2e%2e/account",
        "/v2/assets/..%2faccount",
        "/v2/assets/x%3f/../../positions",
        "/v2/assets%2f..%2fpositions",
        "/v2/assets/SPY%23/../orders",
        "/v2/options/contracts/../../account/activities",
        "/v2/stocks/../account",
        "/v2/stocks/%2e%2e/positions",
        "/v1beta1/../v2/account",
        "/v2/clock/../account",
    ],
)
async def test_no_path_leads_to_the_account_behind(tmp_path: Path, target: str) -> None:
    async with stage(tmp_path) as s:
        request_count = len(s.broker.requests)
        status, answer = await raw(s, "a", target)
        assert status == 404
        assert s.broker.account.account_number not in answer
        assert not [r.path for r in s.broker.requests[request_count:] if ".." in r.path or "%" in r.path]


async def test_a_name_that_a_siblings_guard_would_give_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a"), table("b", guard_prefix="guardb")) as s:
        status, _, message = await s.refused("a", 1, client_order_id="guardb-SPY-1-2-0")
        assert (status, message) == (422, "client_order_id must be unique")
        await s.place("b", 1, client_order_id="guardb-SPY-1-2-0")


async def test_one_name_twice_at_once_is_one_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        asking = [s.ask(name, "POST", "/v2/orders", {**ORDER, "client_order_id": "x"}) for name in "abab"]
        assert sorted(status for status, _ in await asyncio.gather(*asking)) == [200, 422, 422, 422]
        assert len(s.broker.account.orders) == 1


async def test_a_name_from_before_the_gateway_is_no_order_of_today(tmp_path: Path) -> None:
    """The broker refuses it, and its look-up shows an order that filled weeks ago: it keeps no share."""
    async with broker() as alpaca:
        alpaca.by_hand("place", symbol="SPY", qty="7", side="buy")
        await asyncio.sleep(1)
        alpaca.by_hand("place", symbol="SPY", qty="7", side="sell", client_order_id="weekly")
        await asyncio.sleep(1)
        for order in alpaca.account.orders.values():  # weeks ago
            order.created_ns -= 20 * DAY_NS
            order.past.append((order.updated_ns, order.shown()))
        alpaca.account.activities.clear()
        async with gateway_on(alpaca, tmp_path) as s:
            await hold(s, "a", 5)
            await hold(s, "b", 5)
            assert (await s.refused("a", 3, "sell", client_order_id="weekly"))[0] == 422
            await s.until(lambda: not s.books.orders["weekly"].open)
            rows = [(await s.ask(name, "GET", "/v2/positions"))[1][0] for name in ("a", "b")]
            assert [row["qty_available"] for row in rows] == ["5", "5"]
            await s.place("a", 5, "sell")
            await s.until(lambda: not s.held("a"))
            await s.settled()


@pytest.mark.parametrize(("before_ns", "same"), [(60 * MINUTE_NS, True), (20 * DAY_NS, False)])
def test_an_order_that_the_broker_dates_an_hour_back_is_the_one_that_was_sent(before_ns: int, same: bool) -> None:
    """The gateway's clock leapt: taken for another order it would be sent again."""
    order = GatewayOrder("a", "x", "SPY", "sell", "", OPEN_NS)
    moment = datetime.fromtimestamp((OPEN_NS - before_ns) // SECOND_NS, UTC).isoformat()
    row = {"id": "1", "client_order_id": "x", "symbol": "SPY", "side": "sell", "status": "filled", "qty": "3"}
    assert is_of(order, {**row, "filled_qty": "3", "filled_avg_price": "480", "submitted_at": moment}) == same


async def test_pages_of_orders_have_each_order_once(tmp_path: Path) -> None:
    """A client pages by `submitted_at`, which is the broker's time."""
    async with stage(tmp_path) as s:
        where = {"path": "/v2/orders", "method": "POST"}
        s.broker.faults.add("http_slow", where=where, seconds=0.2, times=99, moment="before")
        names = [f"page-{number}" for number in range(5)]
        for name in names:
            await s.place("a", 1, type="limit", limit_price="480", client_order_id=name)
        for direction, bound, expected in (("asc", "after", names), ("desc", "until", names[::-1])):
            ids: list[str] = []
            query = {"status": "all", "limit": "2", "direction": direction}
            while rows := (await s.ask("a", "GET", "/v2/orders", **query))[1]:
                ids += [row["client_order_id"] for row in rows]
                query[bound] = rows[-1]["submitted_at"]
                assert len(ids) <= len(names)
            assert ids == expected


def test_no_guards_prefix_begins_as_anothers(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[sub_account.a]\nguard_prefix = "g"\n[sub_account.b]\nguard_prefix = "g-b"\n')
    with pytest.raises(ConfigError, match="begins as a's 'g' does"):
        load_gateway(file)


async def test_a_price_that_no_report_could_read_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 1)
        assert (await s.refused("a", 1, "sell", type="limit", limit_price="1" + "0" * 13))[:2] == (422, 40010001)
        await s.settled()


async def test_a_flood_of_what_is_passed_through_leaves_the_clock_to_others(tmp_path: Path) -> None:
    """All clients share 30 calls a minute for it, and a client's request waits 25 seconds at most."""
    async with stage(tmp_path) as s:
        paths = [path for n in range(100) for path in ("/v2/clock", f"/v2/assets/S{n}")]
        flooding = asyncio.gather(*(s.ask("a", "GET", path) for path in paths))
        await asyncio.sleep(0.5)
        for _ in range(3):
            async with asyncio.timeout(25):
                assert (await s.ask("b", "GET", "/v2/clock"))[0] == 200
        assert {status for status, _ in await flooding} == {200, 404, 429}


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("stop_loss", {"stop_loss": {"stop_price": "400"}}),
        ("take_profit", {"take_profit": {"limit_price": "600"}}),
        ("bracket", {"order_class": "bracket"}),
        ("oco", {"order_class": "oco"}),
    ],
)
async def test_an_order_without_its_stop_does_not_leave(tmp_path: Path, name: str, further: dict[str, Any]) -> None:
    async with stage(tmp_path) as s:
        status, _, message = await s.refused("a", 1, **further)
        assert (status, message) == (422, f"gateway: {name} is not carried: send each order by itself")
        assert not s.broker.account.orders


async def test_a_stream_of_activities_ends_and_is_refused_while_the_broker_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path) as s:
        headers = {"APCA-API-KEY-ID": KEYS["a"].key, "APCA-API-SECRET-KEY": KEYS["a"].secret}
        ask = functools.partial(s.http.get, f"{s.url}/v2beta1/events/activities", headers=headers)
        async with ask() as answer:
            s.broker.trade_stream.cut(hold_s=5.0)
            assert await answer.content.read() == b": connected\n\n"
        async with ask() as answer:
            assert answer.status == 503
        await s.until(lambda: s.gateway.ready)
        async with ask() as answer:
            assert answer.status == 200
        assert not caplog.records


async def test_what_is_passed_through_is_kept_for_a_moment_and_in_bounds(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        request_count = len(s.broker.requests)
        rows = [await s.ask(name, "GET", "/v2/assets/SPY") for name in ("a", "b")]
        assert rows[0] == rows[1]
        assert rows[0][1]["symbol"] == "SPY"
        assert len([r for r in s.broker.requests[request_count:] if r.path == "/v2/assets/SPY"]) == 1
        s.server._cache |= {f"/v2/assets?{n}": (0.0, b"") for n in range(100)}
        await s.ask("a", "GET", "/v2/assets/SPY", odd="1")
        assert len(s.server._cache) <= 33


async def test_a_message_without_end_is_not_read(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, s.http.ws_connect(f"{s.url}/stream") as ws:
        await ws.send_str("x" * (2 * 1024 * 1024))
        message = await ws.receive(timeout=10)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
        assert ws.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_many_streams_of_activities_are_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        headers = {"APCA-API-KEY-ID": KEYS["a"].key, "APCA-API-SECRET-KEY": KEYS["a"].secret}
        answers = [await s.http.get(f"{s.url}/v2beta1/events/activities", headers=headers) for _ in range(12)]
        assert {answer.status for answer in answers} == {200, 429}
        headers = {"APCA-API-KEY-ID": KEYS["b"].key, "APCA-API-SECRET-KEY": KEYS["b"].secret}
        async with s.http.get(f"{s.url}/v2beta1/events/activities", headers=headers) as answer_to_b:
            assert answer_to_b.status == 200
        for answer in answers:
            answer.close()


# --- money ------------------------------------------------------------------------------------------------------------


async def test_a_stop_below_the_market_is_reckoned_at_the_market(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        # 190 shares of 500.01 are 95,001.90 USD, of which a has 20,000
        status, _, message = await s.refused("a", 190, type="stop", stop_price="1")
        assert (status, message) == (403, "insufficient buying power")
        row = await s.place("a", 1, type="stop", stop_price="600")
        assert (await s.ask("a", "GET", "/v2/account"))[1]["buying_power"] == "19400.00"
        status, answer = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"stop_price": "1", "qty": "190"})
        assert (status, answer["message"]) == (403, "insufficient buying power")


async def test_what_is_moved_is_neither_gain_nor_loss_of_the_day(tmp_path: Path) -> None:
    async with stage(tmp_path, limits=AccountLimits(day_loss_max=dec(100))) as s:
        s.broker.by_hand("place", symbol="SPY", qty="2", side="buy")
        await s.settled()
        await s.gateway.transfer("a", "main", dec(5000), "", dec(0), "anna", "less room")
        await s.settled()
        assert s.halted() == ""
        await s.gateway.transfer("main", "b", dec(9000), "SPY", dec(2), "anna", "more room")
        s.books.day = (s.books.day[0], s.books.day[1] + 101)  # and 101 USD are lost
        await s.settled()
        assert s.halted() == "day_loss"


@pytest.mark.parametrize("closing", [False, True])
def test_a_guards_old_order_and_a_late_answer_do_not_hide_the_orders_of_this_minute(closing: bool) -> None:
    books = Ledgers(now_ns=OPEN_NS)
    for name, at_ns, body in (("new", OPEN_NS, {"symbol": "SPY"}), ("late", OPEN_NS - DAY_NS, {})):
        books.keep(GatewayOrder("a", name, "SPY", "buy", "new", at_ns, body=body, closing=closing and name == "late"))
    assert [order.name for order in books.orders_since(OPEN_NS - 60 * SECOND_NS)] == ["new"]


async def test_an_exercise_takes_no_more_than_its_own(tmp_path: Path) -> None:
    put = CALL.replace("C00500000", "P00510000")
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="100", side="buy")
        await s.place("a", 1, symbol=CALL, type="limit", limit_price="99")
        await s.place("a", 1, symbol=put, type="limit", limit_price="99")
        await s.until(lambda: len(s.held("a")) == 2 and bool(s.held("main")))
        # a call of 500 asks for 50,000 USD and a has less than 20,000; a put delivers 100 shares, which are main's
        assert (await s.ask("a", "POST", f"/v2/positions/{CALL}/exercise"))[0] == 403
        assert (await s.ask("a", "POST", f"/v2/positions/{put}/exercise"))[0] == 403
        assert s.held("main") == {"SPY": dec(100)}
        assert not [r for r in s.broker.requests if "exercise" in r.path]


LATE_LINES = Rules(fill_sizes=(1000, 1000), dead_session_s=1.0, late_activities=True)


@pytest.mark.parametrize(("fault", "kept"), [(None, 49_000), ((504, "after"), 49_000), ((403, "before"), 0)])
async def test_what_an_exercise_takes_is_kept_until_its_line_comes(
    tmp_path: Path, fault: tuple[int, str] | None, kept: int
) -> None:
    """A call of 490 USD takes 49,000; only the broker's refusal gives them back."""
    call = CALL.replace("C00500000", "C00490000")
    async with stage(tmp_path, table("a", "60000"), table("b"), rules=LATE_LINES) as s:
        await s.place("a", 1, symbol=call, type="limit", limit_price="50")
        await s.until(lambda: bool(s.held("a")))
        free = s.books.accounts["a"].cash - kept
        if fault is not None:
            where = {"method": "POST", "path": f"/v2/positions/{call}/exercise"}
            s.broker.faults.add("http_error", where=where, status=fault[0], moment=fault[1])
        status, _ = await s.ask("a", "POST", f"/v2/positions/{call}/exercise")
        assert status == (200 if fault is None else fault[0])
        shown = dec((await s.ask("a", "GET", "/v2/account"))[1]["buying_power"])
        assert shown == free
        with pytest.raises(ValueError, match=f"a has {free:.2f} USD that no order"):
            await s.gateway.transfer("a", "b", free + 1, "", dec(0), "anna", "less room")
        assert s.verified().difference == ""


@pytest.mark.parametrize(("cash", "quantity"), [("NaN", "0"), ("0", "NaN"), ("Infinity", "0"), ("0.001", "0")])
async def test_what_is_moved_is_a_number(tmp_path: Path, cash: str, quantity: str) -> None:
    async with stage(tmp_path) as s:
        with pytest.raises(ValueError, match="whole cents"):
            await s.gateway.transfer("a", "b", dec(cash), "SPY", dec(quantity), "anna", "")


# --- exits ------------------------------------------------------------------------------------------------------------


async def test_a_changed_exit_sweeps_a_siblings_entry_away(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        exit_ = await s.place("a", 5, "sell", type="limit", limit_price="510")
        entry = await s.place("b", 3, type="limit", limit_price="490")
        status, row = await s.ask("a", "PATCH", f"/v2/orders/{exit_['id']}", {"limit_price": "480"})
        assert status == 200, row
        await s.until(lambda: not s.held("a"))
        assert s.books.orders[entry["client_order_id"]].status == "canceled"
        await s.settled()


async def test_a_change_that_the_broker_takes_back_leaves_the_old_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        old = await s.place("a", 5, "sell", type="limit", limit_price="510")
        s.broker.faults.add("replace_rejected")
        status, new = await s.ask("a", "PATCH", f"/v2/orders/{old['id']}", {"limit_price": "520"})
        assert status == 200
        await s.until(lambda: not s.books.orders[new["client_order_id"]].open)
        assert [row["id"] for row in (await s.ask("a", "GET", "/v2/orders"))[1]] == [old["id"]]
        await s.settled()
        assert s.gateway.ready
        assert (await s.ask("a", "DELETE", f"/v2/orders/{old['id']}"))[0] == 204
        await s.until(lambda: not s.books.orders[old["client_order_id"]].open)
        await s.place("a", 5, "sell")
        await s.until(lambda: not s.held("a"))


async def test_a_change_on_its_way_keeps_nothing_of_a_siblings_shares(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        for name in ("a", "b"):
            await hold(s, name, 5)
        old = await s.place("a", 5, "sell", type="stop", stop_price="400")
        s.broker.faults.add("http_slow", where={"method": "PATCH"}, seconds=3, moment="before")
        changes = {"stop_price": "410", "qty": "4"}
        patch = asyncio.create_task(s.ask("a", "PATCH", f"/v2/orders/{old['id']}", changes))
        await s.until(lambda: len(s.books.live) == 2)
        assert (await s.ask("b", "GET", "/v2/positions"))[1][0]["qty_available"] == "5"
        assert s.books.free("a", "SPY") == 0  # of both orders the greater counts
        await s.place("b", 5, "sell")
        await s.until(lambda: not s.held("b"))
        assert (await patch)[0] == 200
        await s.settled()


async def test_what_a_person_puts_in_the_place_of_a_desks_order_is_the_desks(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        for name in ("a", "b"):
            await hold(s, name, 5)
        old = await s.place("a", 5, "sell", type="limit", limit_price="510")
        account = s.broker.account
        new = s.broker.matching.replace(account, account.orders[old["id"]], {"limit_price": "505"})
        await s.until(lambda: new.id in s.books.names)
        await s.until(lambda: list(s.books.live) == [new.client_order_id])
        s.broker.matching.fill(account, new, dec(5), dec(505), s.broker.clock.now_ns())
        await s.until(lambda: not s.held("a"))
        assert (s.held("b"), s.held("main")) == ({"SPY": dec(5)}, {})
        await s.settled()


async def test_what_a_person_changed_twice_while_it_was_dead_is_the_desks(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await hold(s, "a", 5)
            rests = await s.place("a", 5, "sell", type="limit", limit_price="510", time_in_force="gtc")
        order = alpaca.account.orders[rests["id"]]
        for price in ("508", "505"):
            alpaca.clock.jump_to(alpaca.clock.now_ns() + MINUTE_NS)
            order = alpaca.matching.replace(alpaca.account, order, {"limit_price": price})
        async with gateway_on(alpaca, tmp_path) as s:  # a list has the open one first
            alpaca.matching.fill(alpaca.account, order, dec(5), dec(505), alpaca.clock.now_ns())
            await s.until(lambda: not s.held("a"))
            assert s.held("main") == {}
            await s.settled()


async def test_two_close_a_symbol_at_once_and_both_are_out(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 3)
        await hold(s, "b", 2)
        answers = await asyncio.gather(*(s.ask(name, "DELETE", "/v2/positions/SPY") for name in ("a", "b")))
        assert [status for status, _ in answers] == [200, 200]
        await s.until(lambda: not s.held("a") and not s.held("b"))
        await s.settled()


async def test_a_sale_waits_for_a_siblings_close_call(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 3)
        await hold(s, "b", 2)
        s.broker.faults.add("http_slow", where={"path": "/v2/positions/SPY", "method": "DELETE"}, seconds=2)
        closing = asyncio.create_task(s.ask("a", "DELETE", "/v2/positions/SPY"))
        await s.until(lambda: any(order.closing for order in s.books.open_orders()))
        await s.place("b", 2, "sell")
        assert (await closing)[0] == 200
        await s.until(lambda: not s.held("a") and not s.held("b"))
        await s.settled()


@pytest.mark.parametrize("kind", ["stop", "stop_limit"])
async def test_an_exit_sweeps_a_siblings_purchase_at_a_stop_away(tmp_path: Path, kind: str) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        limit = {"limit_price": "601"} if kind == "stop_limit" else {}
        entries = [await s.place("b", 3, type=kind, stop_price="600", **limit)]
        await s.place("a", 2, "sell")
        await s.until(lambda: s.held("a") == {"SPY": dec(3)})
        entries.append(await s.place("b", 3, type=kind, stop_price="600", **limit))
        assert [row["status"] for row in await s.gateway.panic("a", "anna")] == [200]
        await s.until(lambda: not s.held("a"))
        assert {s.books.orders[row["client_order_id"]].status for row in entries} == {"canceled"}
        await s.settled()


async def test_what_a_close_call_will_sell_is_kept_for_it_while_a_siblings_entry_is_swept(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        await hold(s, "b", 5)
        await s.place("b", 1, type="limit", limit_price="490")
        cancel_start, goes, cancel = asyncio.Event(), asyncio.Event(), s.gateway.upstream.cancel

        async def cancel_later(order_id: str, wait_s: float) -> None:
            cancel_start.set()
            await goes.wait()
            await cancel(order_id, wait_s)

        s.gateway.upstream.cancel = cancel_later  # type: ignore[method-assign]
        closing = asyncio.create_task(s.ask("a", "DELETE", "/v2/positions/SPY"))
        await cancel_start.wait()
        selling = asyncio.create_task(s.refused("a", 5, "sell", type="limit", limit_price="505"))
        with pytest.raises(ValueError, match="a has 0 SPY that no order keeps"):
            await s.gateway.transfer("a", "main", dec(0), "SPY", dec(5), "anna", "")
        assert (await s.refused("b", 1, type="limit", limit_price="490"))[0] == 403  # no entry comes in between
        goes.set()
        assert (await closing)[0] == 200
        assert (await selling)[0] == 403
        await s.until(lambda: not s.held("a"))
        assert (s.held("b"), s.held("main")) == ({"SPY": dec(5)}, {})
        await s.settled()
        assert s.verified().difference == ""


async def test_the_close_call_sells_what_a_person_left_of_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 10)
        s.broker.by_hand("place", symbol="SPY", qty="4", side="sell")
        await s.until(lambda: s.held("main") == {"SPY": dec(-4)})
        rows = await s.gateway.panic("a", "anna")
        assert [(row["status"], row["body"]["qty"]) for row in rows] == [(200, "6")]  # 10 less the 4 that are gone
        await s.until(lambda: s.held("a") == {"SPY": dec(4)})
        assert not s.broker.account.positions


# --- an exit that only a person's order keeps back --------------------------------------------------------------------


def a_person_waits(s: Stage, kind: str = "stop") -> str:
    """A person's purchase that works on; returns its id."""
    prices = {"stop": {"stop_price": "900"}, "stop_limit": {"stop_price": "900", "limit_price": "901"}, "market": {}}
    s.broker.faults.add("order_held_back", seconds=10_000)
    fields = {"symbol": "SPY", "qty": "1", "side": "buy", "type": kind, **prices[kind]}
    return str(s.broker.by_hand("place", **fields)["id"])


def calls(s: Stage) -> list[str]:
    """The close calls that the broker got."""
    return [request.path for request in s.broker.requests if request.method == "DELETE"]


@pytest.mark.parametrize("kind", ["stop", "stop_limit", "market"])
async def test_an_exit_that_only_a_persons_order_keeps_back_leaves_by_the_brokers_call(
    tmp_path: Path, kind: str
) -> None:
    keys = KEYS["a"]
    async with (
        stage(tmp_path, rules=CALLS_CROSS) as s,
        trade_updates(s.server.trade_stream, s.stream_url, keys.key, keys.secret, raw=True) as messages,
    ):
        await hold(s, "a", 5)
        person_order_id = a_person_waits(s, kind)
        await s.until(lambda: person_order_id in s.books.names)
        row = await s.place("a", 3, "sell", client_order_id="out-1")
        assert (row["client_order_id"], row["qty"], row["side"]) == ("out-1", "3", "sell")
        await s.until(lambda: s.held("a") == {"SPY": dec(2)})
        assert calls(s) == ["/v2/positions/SPY?qty=3"]
        strange = s.broker.account.orders[row["id"]].client_order_id  # no call takes a name
        assert strange != "out-1"
        order = (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="out-1"))[1]
        assert (order["id"], order["status"], order["client_order_id"]) == (row["id"], "filled", "out-1")
        rows = (await s.ask("a", "GET", "/v2/orders", status="all"))[1]
        assert ("out-1" in {r["client_order_id"] for r in rows}, strange in {r["client_order_id"] for r in rows}) == (
            True,
            False,
        )
        updates = [m["data"] for m in messages if m["data"]["order"]["id"] == row["id"]]
        assert ("fill" in {m["event"] for m in updates}, {m["order"]["client_order_id"] for m in updates}) == (
            True,
            {"out-1"},
        )
        assert (await s.refused("a", 1, client_order_id="out-1"))[2] == "client_order_id must be unique"
        assert s.books.order_by_id(person_order_id).open  # type: ignore[union-attr]
        assert "out-1: 3 SPY" in str(s.log.of("gateway_exit_called"))
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize(
    "fields", [{"type": "stop", "stop_price": "900"}, {"type": "limit", "limit_price": "100", "time_in_force": "gtc"}]
)
async def test_a_stop_that_a_persons_purchase_keeps_back_rests_once_that_is_gone(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    stop = {"type": "stop", "stop_price": "450", "time_in_force": "gtc"}
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        person_order_id = str(s.broker.by_hand("place", symbol="SPY", qty="1", side="buy", **fields)["id"])
        await s.until(lambda: person_order_id in s.books.names)
        assert (await s.refused("a", 5, "sell", **stop, client_order_id="stop-1"))[2].startswith("potential wash trade")
        await s.place("a", 2, "sell")  # its price was there
        await s.until(lambda: s.held("a") == {"SPY": dec(3)})
        s.broker.by_hand("cancel", order_id=person_order_id)
        await s.until(lambda: not s.books.order_by_id(person_order_id).open)  # type: ignore[union-attr]
        row = await s.place("a", 3, "sell", **stop, client_order_id="stop-2")
        assert (row["type"], row["qty"], s.books.orders["stop-2"].open) == ("stop", "3", True)
        await s.settled()


async def test_an_exit_with_a_price_of_its_own_does_not_leave_by_a_call(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        person_order_id = a_person_waits(s)
        await s.until(lambda: person_order_id in s.books.names)
        for more in (
            {"type": "limit", "limit_price": "510"},
            {"time_in_force": "cls"},
            {"type": "stop", "stop_price": "9"},
        ):
            assert (await s.refused("a", 5, "sell", **more))[0] == 403
        assert calls(s) == []


async def test_an_exit_by_call_sweeps_a_siblings_entry_too_and_sells_no_more_than_is_free(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        entry = await s.place("b", 3, type="limit", limit_price="490")
        person_order_id = a_person_waits(s)
        await s.until(lambda: person_order_id in s.books.names)
        assert (await s.refused("a", 6, "sell"))[2].startswith("insufficient qty available for order (requested: 6")
        await s.place("a", 3, "sell")
        await s.until(lambda: s.held("a") == {"SPY": dec(2)})
        assert s.books.orders[entry["client_order_id"]].status == "canceled"
        await s.settled()


async def test_a_call_that_the_broker_refuses_too_is_the_exits_refusal_and_tells_nothing_of_the_account(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        person_order_id = a_person_waits(s)
        await s.until(lambda: person_order_id in s.books.names)
        body = {"symbol": "SPY", "qty": "5", "side": "sell", "type": "market", "time_in_force": "day"}
        for _ in range(2):  # the name was never used
            status, row = await s.ask("a", "POST", "/v2/orders", {**body, "client_order_id": "out-1"})
            assert (status, row) == (
                403,
                {
                    "code": 40310000,
                    "message": "potential wash trade detected. use complex orders",
                    "reject_reason": "opposite side market/stop order exists",
                },
            )
        assert len(calls(s)) == 2
        assert s.held("a") == {"SPY": dec(5)}
        assert (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="out-1"))[0] == 404
        s.broker.by_hand("cancel", order_id=person_order_id)
        await s.until(lambda: not s.books.order_by_id(person_order_id).open)  # type: ignore[union-attr]
        await s.place("a", 5, "sell", client_order_id="out-1")
        await s.until(lambda: not s.held("a"))
        await s.settled()


async def test_an_exit_by_call_without_an_answer_is_found_under_its_own_name(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        person_order_id = a_person_waits(s)
        await s.until(lambda: person_order_id in s.books.names)
        where = {"path": "/v2/positions/SPY", "method": "DELETE"}
        for number, remainder in ((1, 3), (2, 1)):  # the second look-up finds two alike at the broker, and one is known
            s.broker.faults.add("http_error", where=where, status=504, moment="after")
            body = {"symbol": "SPY", "qty": "2", "side": "sell", "type": "market", "time_in_force": "day"}
            status, _ = await s.ask("a", "POST", "/v2/orders", {**body, "client_order_id": f"out-{number}"})
            assert status == 504
            await s.until(lambda remainder=remainder: s.held("a") == {"SPY": dec(remainder)})  # type: ignore[misc]
            name = f"out-{number}"
            order = (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id=name))[1]
            assert (order["filled_qty"], order["client_order_id"]) == ("2", name)
        assert not s.held("main")
        assert len(calls(s)) == 2
        await s.settled()


@pytest.mark.parametrize("again", ["all", "a part", "an order"])
async def test_what_was_sold_and_is_not_booked_yet_is_not_sold_again(tmp_path: Path, again: str) -> None:
    """A close call without an answer, found filled while the news of its fill is lost; a sibling holds the rest."""
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        await hold(s, "b", 5)
        where = {"path": "/v2/positions/SPY", "method": "DELETE"}
        s.broker.faults.add("http_error", where=where, status=504, moment="after")
        s.broker.faults.add("update_lost", times=9, where={"event": "fill"})
        s.broker.faults.add("update_lost", times=9, where={"event": "partial_fill"})
        late = s.broker.faults.add("http_error", status=500, times=1000, where={"path": "/v2/account/activities"})
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 504
        await s.until(lambda: s.broker.account.quantity("SPY") == 5)
        await s.until(lambda: bool(s.books.unbooked))
        assert s.held("a") == {"SPY": dec(5)}  # nobody told
        if again == "an order":
            assert (await s.refused("a", 5, "sell"))[0] == 403
        else:
            query = "" if again == "all" else "?qty=2"
            status, answer = await s.ask("a", "DELETE", f"/v2/positions/SPY{query}")
            assert (status, "insufficient qty available" in answer["message"]) == (403, True), answer
        assert s.broker.account.quantity("SPY") == 5
        s.broker.faults.remove(late)
        await s.until(lambda: not s.held("a"))
        await s.settled()
        assert (s.held("b"), s.books.unbooked) == ({"SPY": dec(5)}, {})
        await s.ask("b", "DELETE", "/v2/positions/SPY")
        await s.until(lambda: not s.held("b"))
        await s.settled()


async def test_a_purchase_that_filled_and_is_not_booked_yet_makes_its_sub_account_needed(tmp_path: Path) -> None:
    """A gateway that is started then with a mistake in its file has to serve the exit."""
    async with stage(tmp_path) as s:
        for news in ("fill", "partial_fill"):
            s.broker.faults.add("update_lost", times=9, where={"event": news})
        late = s.broker.faults.add("http_error", status=500, times=1000, where={"path": "/v2/account/activities"})
        s.broker.faults.add("http_error", where={"path": "/v2/orders", "method": "POST"}, status=504, moment="after")
        body = {"symbol": "SPY", "qty": "5", "side": "buy", "type": "market", "time_in_force": "day"}
        assert (await s.ask("a", "POST", "/v2/orders", body))[0] == 504
        await s.until(lambda: bool(s.books.unbooked))
        assert s.broker.account.quantity("SPY") == 5
        assert not s.held("a")
        assert (s.books.works("a"), s.books.works("b"), s.books.is_needed) == (True, False, True)
        s.broker.faults.remove(late)
        await s.gateway.wait_for_report(2 * PATIENCE_S)
        await s.settled()
        assert (s.held("a"), s.books.unbooked) == ({"SPY": dec(5)}, {})


@pytest.mark.parametrize(("has_left", "ahead_s"), [(True, 0), (False, 0), (True, 3 * 3600)])
async def test_a_gateway_that_dies_in_an_exit_by_call_finds_it_or_knows_that_it_never_left(
    tmp_path: Path, *, has_left: bool, ahead_s: int
) -> None:
    async with broker(rules=CALLS_CROSS) as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await hold(s, "a", 5)
            person_order_id = a_person_waits(s)
            await s.until(lambda: person_order_id in s.books.names)
            at_ns = s.gateway.now_ns() + ahead_s * SECOND_NS  # of a clock that was wrong
            event = CloseTaken(at_ns, "a", "out-1", "SPY", "sell", dec(3), for_order=True)
            s.gateway.journal.take(event)
            await s.gateway.journal.durable()  # and here it dies
        await asyncio.sleep(0)
        if has_left:
            alpaca.matching.close(alpaca.account, "SPY", dec(3), None)
            await asyncio.sleep(0.5)  # it fills while nobody looks
        async with gateway_on(alpaca, tmp_path) as s:
            await s.until(lambda: not s.books.orders["out-1"].open)
            await s.until(lambda: s.held("a") == {"SPY": dec(2 if has_left else 5)})
            assert not s.held("main")
            assert calls(s) == []
            if not has_left:
                await s.place("a", 3, "sell", client_order_id="out-1")  # its owner may use the name again
                await s.until(lambda: s.held("a") == {"SPY": dec(2)})
            order = (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="out-1"))[1]
            assert (order["filled_qty"], order["client_order_id"]) == ("3", "out-1")
            await s.settled()
            assert s.verified().difference == ""


def test_an_exit_by_call_whose_news_came_first_is_its_owners_under_its_name() -> None:
    machine = _machine()
    books = machine.books
    books.book("a", "SPY", LinePart(dec(5), dec(-500), dec(500)))
    machine.step(CloseTaken(OPEN_NS, "a", "out-1", "SPY", "sell", dec(3), for_order=True))
    row: Json = {"id": "1", "client_order_id": "strange", "symbol": "SPY", "side": "sell", "qty": "3", "type": "market"}
    row |= {"filled_qty": "3", "status": "filled", "submitted_at": "2025-06-02T13:30:01Z"}
    update = {"event": "fill", "qty": "3", "price": "100", "timestamp": "2025-06-02T13:30:01Z", "order": row}
    machine.step(Updated(OPEN_NS + SECOND_NS, update))
    assert books.holders("SPY") == {"a": dec(5), MAIN: dec(-3)}  # nobody's name: a person's
    machine.step(OrderAnswered(OPEN_NS + 2 * SECOND_NS, "out-1", row))
    assert books.holders("SPY") == {"a": dec(2)}
    assert (books.main.cash, books.accounts["a"].cash) == (dec(40000), dec(9800))
    assert (list(books.orders), books.names, books.live) == (["out-1"], {"1": "out-1"}, {})
    assert books.orders["out-1"].shown() == {**row, "client_order_id": "out-1"}
    machine.step(Updated(OPEN_NS + 3 * SECOND_NS, update))  # once more
    assert books.holders("SPY") == {"a": dec(2)}


async def test_panic_cancels_an_order_that_is_on_its_way(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add("http_slow", where={"path": "/v2/orders", "method": "POST"}, seconds=1, moment="before")
        placing = asyncio.create_task(s.place("a", 1, type="limit", limit_price="490", client_order_id="late"))
        await s.until(lambda: "late" in s.books.live)
        await s.gateway.panic("a", "anna")
        await placing
        await s.until(lambda: s.books.orders["late"].status == "canceled")
        assert not s.broker.account.working


@pytest.mark.parametrize("rules", [CALLS_CROSS, None])  # whether Alpaca's call is a wash trade nobody says
async def test_panic_passes_a_persons_limit_order_either_way(tmp_path: Path, rules: Rules | None) -> None:
    async with stage(tmp_path, rules=rules) as s:
        await hold(s, "a", 5)
        person_order_id = s.broker.by_hand("place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="400")[
            "id"
        ]
        await s.until(lambda: person_order_id in s.books.names)
        (row,) = await s.gateway.panic("a", "anna")
        expected = ("market", None) if rules else ("limit", "400.01")
        assert (row["status"], row["body"]["type"], row["body"]["limit_price"]) == (200, *expected)
        await s.until(lambda: not s.held("a"))
        assert s.books.order_by_id(str(person_order_id)).open  # type: ignore[union-attr]
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_a_panic_sells_past_a_persons_order_finds_the_market_once_that_is_gone(
    tmp_path: Path, restarts: bool
) -> None:
    async with broker() as venue:
        async with gateway_on(venue, tmp_path) as s:
            await hold(s, "a", 5)
            await s.place("b", 3)
            await s.until(lambda: bool(s.held("b")))
            person_order_id = venue.by_hand(
                "place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="500"
            )["id"]  # a sale past it, at 500.01, has no buyer
            await s.until(lambda: person_order_id in s.books.names)
            (row,) = await s.gateway.panic("a", "anna")
            assert row["body"]["limit_price"] == "500.01"
            await asyncio.sleep(300)
            assert len(s.log.of("gateway_exit_waits")) == 1
            if not restarts:
                venue.by_hand("cancel", order_id=person_order_id)
                await asyncio.sleep(125)  # a minute after it was sent, at the next report
                assert (s.held("a"), s.held("b")) == ({}, {"SPY": dec(3)})
        if restarts:
            venue.by_hand("cancel", order_id=person_order_id)
        async with gateway_on(venue, tmp_path) as s:
            await asyncio.sleep(125)
            assert (s.held("a"), s.held("b")) == ({}, {"SPY": dec(3)})
            assert s.books.accounts["a"].cash == dec("20000") + 5 * (dec("500.00") - dec("500.01"))
            await s.settled()
            assert s.verified().difference == ""


async def test_of_two_panics_at_once_none_says_that_something_was_not_closed(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        answers = await asyncio.gather(s.gateway.panic("a", "anna"), s.gateway.panic("a", "bob"))
        assert [row["status"] for rows in answers for row in rows] == [200]
        await s.until(lambda: not s.held("a"))
        assert s.broker.account.quantity("SPY") == 0
        await s.settled()


async def test_panic_of_many_positions_waits_for_one_report(tmp_path: Path) -> None:
    names = tuple(f"{letter}X" for letter in "ABCDEFGHIJ")
    async with stage(tmp_path, symbols=names) as s:
        for name in names:
            await s.place("a", 1, symbol=name)
        await s.until(lambda: len(s.held("a")) == len(names))
        await s.settled()
        request_count = len(s.broker.requests)
        rows = await s.gateway.panic("a", "anna")
        assert [(row["symbol"], row["status"], row["body"]["qty"]) for row in rows] == [(n, 200, "1") for n in names]
        # each report reads the positions once, and one may have begun just before
        assert (
            sum(r.path.startswith("/v2/positions") and r.method == "GET" for r in s.broker.requests[request_count:])
            <= 2
        )
        await s.until(lambda: not s.held("a"))
        await s.settled()


async def test_an_order_on_its_way_is_cancelled_once_however_often_that_is_asked(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        where = {"method": "POST", "path": "/v2/orders"}
        s.broker.faults.add("http_slow", where=where, seconds=3, moment="before")
        sending = asyncio.create_task(s.place("a", 1, type="limit", limit_price="400"))
        await asyncio.sleep(0.1)
        for _ in range(20):
            assert (await s.ask("a", "DELETE", "/v2/orders"))[0] == 207
        await sending
        await s.until(lambda: not s.books.live)
        assert sum(r.method == "DELETE" for r in s.broker.requests) == 1


@pytest.mark.parametrize(("refusals", "left"), [(1, []), (9, ["QQQ"])])
async def test_panic_cancels_again_what_the_broker_did_not_take_and_says_what_is_left(
    tmp_path: Path, refusals: int, left: list[str]
) -> None:
    async with stage(tmp_path, symbols=("QQQ",)) as s:
        await hold(s, "a", 3)
        row = await s.place("a", 1, symbol="QQQ", type="limit", limit_price="400")
        where = {"method": "DELETE", "path": f"/v2/orders/{row['id']}"}
        s.broker.faults.add("http_error", where=where, status=500, times=refusals)
        by_symbol = {row["symbol"]: row for row in await s.gateway.panic("a", "anna")}
        assert [symbol for symbol, row in by_symbol.items() if row["status"] != 200] == left
        await s.until(lambda: not s.held("a"))
        assert [order.symbol for order in s.books.open_orders()] == left
        if left:
            assert "is not cancelled: try again" in closing_text([by_symbol["QQQ"]])


async def test_panic_tries_again_what_hanging_calls_kept_from_being_sent(tmp_path: Path) -> None:
    """Two calls that hang take the ten seconds for which all others wait for their turn."""
    names = tuple(f"{letter}X" for letter in "ABCDEF")
    async with stage(tmp_path, symbols=names) as s:
        for name in names:
            await s.place("a", 1, symbol=name)
            where = {"method": "DELETE", "path": f"/v2/positions/{name}"}
            if name < "CX":
                s.broker.faults.add("http_hang", where=where, seconds=60, moment="before", times=1)
        await s.until(lambda: len(s.held("a")) == len(names))
        rows = await s.gateway.panic("a", "anna")
        assert sorted((row["symbol"], row["status"], row["body"]["qty"]) for row in rows) == [
            (name, 200, "1") for name in names
        ]
        await s.until(lambda: not s.broker.account.positions)
        assert all(sum(t.quantity for t in s.broker.account.trades if t.symbol == name) == 0 for name in names)
        await s.settled()


async def test_in_a_panic_of_the_account_none_waits_for_anothers_hanging_cancels(tmp_path: Path) -> None:
    async with stage(tmp_path, symbols=("AX", "BX")) as s:
        await hold(s, "b", 1)
        row = await s.place("a", 1, symbol="AX", type="limit", limit_price="400")
        where = {"method": "DELETE", "path": f"/v2/orders/{row['id']}"}
        s.broker.faults.add("http_hang", where=where, seconds=60, moment="before", times=9)
        closing = asyncio.create_task(s.gateway.panic("account", "anna"))
        await asyncio.sleep(18)  # three calls of five seconds, and a report
        assert not s.held("b")
        assert [row["status"] for row in await closing] == [504, 200]


async def test_a_panic_whose_calls_all_hang_answers_within_a_minute_with_what_is_open(tmp_path: Path) -> None:
    names = ("AX", "BX", "CX")
    async with stage(tmp_path, symbols=names) as s:
        for symbol in names:
            await s.place("a", 1, symbol=symbol)
            await s.place("b", 2, symbol=symbol)
        await s.until(lambda: len(s.held("a")) == len(s.held("b")) == len(names))
        s.broker.faults.add("http_hang", where={"method": "DELETE"}, seconds=600, moment="before", times=99)
        async with asyncio.timeout(55):
            rows = await s.gateway.panic("account", "anna")
        assert [(row["symbol"], row["body"]["message"].partition(":")[0]) for row in rows] == [
            *((symbol, "1 of a") for symbol in names),
            *((symbol, "2 of b") for symbol in names),
        ]
        s.broker.faults.clear()
        await asyncio.sleep(60)  # its last tries end
        assert {row["status"] for row in await s.gateway.panic("account", "anna")} == {200}
        await s.until(lambda: not s.broker.account.positions)
        await s.settled()


@pytest.mark.parametrize(("desk", "sold", "left"), [(10, 3, 7), (3, 3, 0), (2, 5, 0), (0, 4, 0)])
async def test_what_main_is_short_of_is_bought_as_far_as_the_account_is_short(
    tmp_path: Path, desk: int, sold: int, left: int
) -> None:
    """The broker's own call sells where the account is long: it would sell the desks' shares a second time."""
    async with stage(tmp_path) as s:
        if desk:
            await hold(s, "a", desk)
        for quantity in filter(None, (min(sold, desk), max(sold - desk, 0))):  # a short sale is an order of its own
            s.broker.by_hand("place", symbol="SPY", qty=str(quantity), side="sell")
            await asyncio.sleep(1)
        assert s.held("main") == {"SPY": -sold}
        await s.settled()
        with contextlib.suppress(Refusal):
            await s.gateway.close("main", "SPY", None, None)
        await asyncio.sleep(1)
        assert s.broker.account.quantity("SPY") == left
        assert s.held("a").get("SPY", 0) == desk
        await s.settled()


@pytest.mark.parametrize("delay_s", [0, 6, 60])
@pytest.mark.parametrize("entered", ["IWM", "SPY"])
async def test_panic_closes_what_a_cancelled_purchase_filled_however_late_the_stream_says_so(
    tmp_path: Path, delay_s: int, entered: str
) -> None:
    async with stage(tmp_path, symbols=("IWM",)) as s:
        await hold(s, "a", 3)
        row = await s.place("a", 10, symbol=entered, type="limit", limit_price="490")
        if delay_s:
            s.broker.faults.add("update_late", times=20, delay_s=delay_s)
        order = s.broker.account.orders[row["id"]]
        s.broker.matching.fill(s.broker.account, order, dec(4), dec(490), s.broker.clock.now_ns())
        assert {row["status"] for row in await s.gateway.panic("a", "anna")} == {200}
        await s.until(lambda: not s.broker.account.positions)
        await s.settled()
        assert not s.held("a")


async def test_panic_waits_for_no_flood_of_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 1)
        s.gateway._shares["a"] = TokenBucket(s.gateway.now_ns, 0.001, 0)  # all of it is spent
        s.gateway.upstream.calls_are_scarce = lambda: True  # type: ignore[method-assign]
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 429
        assert [row["status"] for row in await s.gateway.panic("a", "anna")] == [200]
        await s.until(lambda: not s.held("a"))


async def test_a_client_that_floods_takes_no_turn_from_a_siblings_exit(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "b", 2)
        row = await s.place("a", 1, type="limit", limit_price="400")
        request_count = len(s.broker.requests)
        flood = [s.ask("a", "DELETE", f"/v2/orders/{row['id']}") for _ in range(150)]
        flooding = asyncio.gather(*flood)
        await asyncio.sleep(0.5)
        async with asyncio.timeout(5):
            await s.place("b", 2, "sell")
        await flooding
        assert sum(r.method == "DELETE" for r in s.broker.requests[request_count:]) <= 2
        await s.until(lambda: not s.held("b"))


async def test_a_close_call_without_an_answer_is_found_where_the_brokers_clock_is_behind(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 3)
        s.gateway.clock = Clock.real(lambda: s.broker.clock.now_ns() + 20 * SECOND_NS)
        where = {"path": "/v2/positions/SPY", "method": "DELETE"}
        s.broker.faults.add("http_error", where=where, status=504, moment="after")
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 504
        await s.until(lambda: not s.held("a"))
        assert not s.held("main")
        await s.settled()


async def test_a_sub_account_that_left_the_file_keeps_its_books_and_can_be_closed(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await hold(s, "b", 2)
            rests = await s.place("b", 1, type="limit", limit_price="400", time_in_force="gtc")
        async with gateway_on(alpaca, tmp_path, table("a")) as s:
            order = alpaca.account.orders[rests["id"]]
            alpaca.matching.fill(alpaca.account, order, dec(1), dec(400), alpaca.clock.now_ns())
            await s.until(lambda: s.held("b") == {"SPY": dec(3)})
            rows = await s.gateway.panic("b", "anna")
            assert [(row["status"], row["body"]["qty"]) for row in rows] == [(200, "3")]
            await s.until(lambda: not s.held("b"))
            await s.settled()


# --- the broker's ledger ----------------------------------------------------------------------------------------------


async def test_what_filled_while_it_was_dead_counts_on_its_own_day(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("b", 2, type="limit", limit_price="490", client_order_id="rests", time_in_force="gtc")
        rests = alpaca.account.by_client_id["rests"]
        alpaca.matching.fill(alpaca.account, rests, dec(2), dec(490), alpaca.clock.now_ns())
        alpaca.clock.jump_to(OPEN_NS + DAY_NS + 5 * 60 * SECOND_NS)  # Tuesday, 9:35
        async with gateway_on(alpaca, tmp_path) as s:
            assert s.held("b") == {"SPY": dec(2)}
            assert s.books.trades == {"2025-06-02": [DayFill("b", "SPY", 1, dec(2), dec(490), rests.id)]}
            assert s.books.holders_before("SPY", "2025-06-03") == {"b": dec(2)}


async def test_a_night_without_the_gateway_is_each_ones_own(tmp_path: Path) -> None:
    fees = Rules(fill_sizes=(1000, 1000), dead_session_s=1.0, fee_per_contract=dec("0.05"))
    lapses = "SPY250602C00510000"
    async with broker("300000", fees) as alpaca:
        async with gateway_on(alpaca, tmp_path, table("a", "100000"), table("b", "100000")) as s:
            await s.place("a", 1, symbol="SPY250602C00499000", type="limit", limit_price="9")
            await s.place("b", 2, symbol=lapses, type="limit", limit_price="0.01", client_order_id="rests")
            await s.until(lambda: bool(s.held("a")))
            cash = s.books.accounts["a"].cash
        rests = alpaca.account.by_client_id["rests"]
        alpaca.matching.fill(alpaca.account, rests, dec(2), dec("0.01"), alpaca.clock.now_ns())
        alpaca.by_hand("place", symbol="SPY", qty="3", side="buy")
        await asyncio.sleep(1)
        tuesday_ns = OPEN_NS + DAY_NS + 5 * 60 * SECOND_NS
        alpaca.clock.jump_to(tuesday_ns)
        alpaca.back_office.advance(tuesday_ns)
        async with gateway_on(alpaca, tmp_path, table("a", "100000"), table("b", "100000")) as s:
            await s.settled()
            # a's call became 100 shares for 499 each; b's two lapsed; fees of 0.05 a contract are by Monday's fills
            assert (s.held("a"), s.held("b"), s.held("main")) == ({"SPY": dec(100)}, {}, {"SPY": dec(3)})
            assert s.books.accounts["a"].cash == cash - 49900 - dec("0.05")
            assert s.books.accounts["b"].cash == 100000 - 2 - dec("0.10")
            assert s.verified().difference == ""


@pytest.mark.parametrize("read", [True, False])
async def test_an_order_that_fills_again_after_a_bust_is_booked(tmp_path: Path, *, read: bool) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add("fill_partial", quantity=2, then_held=True)
        row = await s.place("a", 5, type="limit", limit_price="500.01")
        await s.until(lambda: s.held("a") == {"SPY": dec(2)})
        order = s.broker.account.orders[row["id"]]
        if not read:  # the ledger is read when it has filled again
            s.broker.faults.add("http_slow", where={"path": "/v2/account/activities*"}, seconds=2, moment="before")
        s.broker.faults.add("trade_bust")
        await s.until(lambda: not (s.held("a") if read else order.filled_qty))
        order.held = False
        # two again: the cumulative quantity is 2 a second time, and it is another fill
        s.broker.matching.fill(s.broker.account, order, dec(2), dec(500), s.broker.clock.now_ns())
        await s.until(lambda: s.books.accounts["a"].cash == 20000 - 2 * 500)
        assert s.held("a") == {"SPY": dec(2)}
        await s.settled()
        assert s.verified().difference == ""


async def test_a_stop_of_shares_that_a_bust_took_back_ends_before_it_sells_mains(tmp_path: Path) -> None:
    stop = {"type": "stop", "stop_price": "450", "time_in_force": "gtc"}
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="10", side="buy")
        await hold(s, "a", 2)
        await s.place("a", 3)
        await s.until(lambda: s.held("a") == {"SPY": dec(5)})
        rows = [await s.place("a", 2, "sell", **stop)]
        await asyncio.sleep(1)
        rows.append(await s.place("a", 3, "sell", **stop))
        s.broker.faults.add("trade_bust")  # of the last fill, the three
        await s.until(lambda: s.held("a") == {"SPY": dec(2)})
        old, new = (s.books.orders[row["client_order_id"]] for row in rows)
        await s.until(lambda: not new.open)
        assert (old.open, old.leaves_qty, new.status, s.held("main")) == (True, dec(2), "canceled", {"SPY": dec(10)})
        await s.settled()
        assert s.verified().difference == ""


def _machine(**positions: str) -> Bookkeeper:
    """A gateway that opened with these positions of `main` at 100 USD, and 10,000 USD for `a`."""
    rows = [{"symbol": s, "qty": q, "side": "long", "avg_entry_price": "100"} for s, q in positions.items()]
    machine = Bookkeeper()
    machine.step(Opened(OPEN_NS, "PA1", {"cash": "50000"}, rows, [], [], {"a": dec(10000), "b": dec(0)}))
    return machine


def _report(machine: Bookkeeper, at_ns: int, orders: list[Json], lines: list[Json]) -> list[AnyGatewayEffect]:
    cash, quantities = machine.books.sums()
    rows = [{"symbol": s, "qty": str(q), "side": "long", "avg_entry_price": "1"} for s, q in quantities.items()]
    news = [line for line in lines if _is_news(machine.books, line)]
    return machine.step(Reported(at_ns, at_ns, {"cash": str(cash)}, rows, orders, news))


def test_what_looks_like_a_split_of_a_friday_may_be_explained_by_a_line_of_monday() -> None:
    machine = _machine(SPY="4")

    def may_explain(day: int, quantity: str, average: str) -> str:
        at_ns = OPEN_NS + (day - 2) * DAY_NS  # it opened on Monday, June 2nd
        row = {"symbol": "SPY", "qty": quantity, "side": "long", "avg_entry_price": average}
        machine.step(Reported(at_ns, at_ns, {"cash": "50000"}, [row], [], []))
        return machine.books.may_explain("SPY") if machine.books.differences else ""

    assert may_explain(5, "4", "100") == ""
    for day in (6, 8, 9):
        assert may_explain(day, "8", "50").endswith("all cost what they did: until 2025-06-10 its line may come")
    assert may_explain(10, "8", "50") == ""


def test_a_bust_of_an_order_from_before_the_opening_is_nobodys_fill() -> None:
    machine = _machine(SPY="5")
    _report(machine, OPEN_NS + SECOND_NS, [], [])
    order = {"id": "old", "client_order_id": "by-hand", "symbol": "SPY", "side": "buy", "qty": "5", "filled_qty": "3"}
    order |= {"status": "filled", "submitted_at": "2025-05-20T14:00:00Z", "updated_at": "2025-06-02T13:31:00Z"}
    fill = {"id": "20250520100000000::e1", "activity_type": "FILL", "order_id": "old", "symbol": "SPY", "side": "buy"}
    fill |= {"qty": "5", "price": "100", "cum_qty": "5", "transaction_time": "2025-05-20T14:00:00Z", "type": "fill"}
    bust = {**fill, "id": "20250602093100000::e2", "qty": "5", "status": "canceled", "cum_qty": "0"}
    _report(machine, OPEN_NS + 60 * SECOND_NS, [order], [bust])
    books = machine.books
    assert books.order_by_id("old") is not None
    machine._amend("old", [fill, bust])
    assert (books.main.cash, books.main.quantity("SPY")) == (dec(40000), dec(5))  # what it was, and it is compared


def test_after_a_start_with_a_clock_a_day_ahead_a_difference_is_seen_and_the_day_s_loss_counts_on() -> None:
    machine, ahead_ns = _machine(SPY="5"), OPEN_NS + DAY_NS
    order: Json = {"id": "1", "client_order_id": "x", "symbol": "SPY", "side": "buy", "qty": "5", "filled_qty": "5"}
    order |= {"status": "filled", "submitted_at": "2025-06-02T13:30:00Z", "updated_at": "2025-06-02T13:31:00Z"}
    fill: Json = {"id": "20250602093000000::e1", "activity_type": "FILL", "order_id": "1", "symbol": "SPY"}
    fill |= {"side": "buy", "qty": "5", "price": "100", "cum_qty": "5", "transaction_time": "2025-06-02T13:30:00Z"}
    machine.step(GatewayStarted(ahead_ns, "code"))
    _report(machine, ahead_ns + SECOND_NS, [order], [fill])
    day = machine.books.day
    machine.step(GatewayStarted(OPEN_NS + MINUTE_NS, "code"))  # its host's clock is right again
    rows = [{"symbol": "SPY", "qty": "3", "side": "long", "avg_entry_price": "100"}]  # of ten
    for second in (70, 75, 90):
        at_ns = OPEN_NS + second * SECOND_NS
        machine.step(Reported(at_ns, at_ns, {"cash": str(machine.books.sums()[0])}, rows, [], []))
    assert [words.split()[0] for words in machine.books.doubts] == ["SPY"]
    assert machine.books.day == day


def _busted_purchase() -> tuple[Json, Json, Json]:
    """A purchase of 5 SPY at 100 USD, its fill, and the fill's bust."""
    order: Json = {"id": "1", "client_order_id": "x", "symbol": "SPY", "side": "buy", "qty": "5", "filled_qty": "0"}
    order |= {"status": "filled", "submitted_at": "2025-06-02T13:30:00Z", "updated_at": "2025-06-02T13:31:00Z"}
    fill: Json = {"id": "20250602093000000::e1", "activity_type": "FILL", "order_id": "1", "symbol": "SPY"}
    fill |= {"side": "buy", "qty": "5", "price": "100", "cum_qty": "5", "transaction_time": "2025-06-02T13:30:00Z"}
    bust = {**fill, "id": "20250602093100000::e2", "status": "canceled", "cum_qty": "0"}
    return order, fill, bust


def test_a_bust_is_read_until_it_is_booked() -> None:
    machine = _machine()
    order, fill, bust = _busted_purchase()
    read = [ReadFills("1")]
    for second in (1, 2):  # it died before it had read them
        assert _report(machine, OPEN_NS + second * SECOND_NS, [order], [fill, bust]) == read
    assert machine.books.main.quantity("SPY") == 5
    machine.step(FillsRead(OPEN_NS + 3 * SECOND_NS, "1", [fill, bust]))
    assert (machine.books.main.quantity("SPY"), machine.books.main.cash) == (dec(0), dec(40000))
    assert _report(machine, OPEN_NS + 4 * SECOND_NS, [order], [fill, bust]) == []


def test_a_bust_that_the_ledger_has_before_its_fill_is_booked_with_the_fill_and_warned_of_once() -> None:
    machine = _machine()
    order, fill, bust = _busted_purchase()
    read, warned = [ReadFills("1")], []
    for second in (1, 3):
        assert _report(machine, OPEN_NS + second * SECOND_NS, [order], [bust]) == read
        warned += machine.step(FillsRead(OPEN_NS + (second + 1) * SECOND_NS, "1", [bust]))
    assert [effect.name for effect in warned if isinstance(effect, Warn)] == ["gateway_fill_amended"]
    assert _report(machine, OPEN_NS + 5 * SECOND_NS, [order], [fill, bust]) == read
    machine.step(FillsRead(OPEN_NS + 6 * SECOND_NS, "1", [fill, bust]))
    assert (machine.books.main.quantity("SPY"), machine.books.main.cash) == (dec(0), dec(40000))
    assert _report(machine, OPEN_NS + 7 * SECOND_NS, [order], [fill, bust]) == []


def test_a_fill_of_nothing_changes_nothing() -> None:
    machine = _machine(SPY="5")
    order: Json = {"id": "1", "client_order_id": "x", "symbol": "SPY", "side": "buy", "qty": "5", "filled_qty": "0"}
    fill: Json = {"id": "20250602093000000::e1", "activity_type": "FILL", "order_id": "1", "symbol": "SPY"}
    fill |= {"side": "buy", "qty": "0", "price": "100", "cum_qty": "3", "transaction_time": "2025-06-02T13:30:00Z"}
    _report(machine, OPEN_NS + SECOND_NS, [order], [fill])
    assert (machine.books.main.quantity("SPY"), machine.books.main.cash) == (dec(5), dec(40000))


def test_a_snapshots_orders_stand_as_they_were_taken() -> None:
    books = Ledgers(now_ns=OPEN_NS)
    for number, name in enumerate(("z", "m", "a")):
        at_ns = OPEN_NS + number * SECOND_NS
        books.keep(GatewayOrder("a", name, "SPY", "buy", "new", at_ns, body={"symbol": "SPY"}))
    again = msgspec.json.decode(msgspec.json.encode(books, order="deterministic"), type=Ledgers)
    assert [order.name for order in again.orders_since(OPEN_NS + SECOND_NS)] == ["a", "m"]


async def test_the_account_is_opened_as_of_one_moment(tmp_path: Path) -> None:
    async with broker() as alpaca:
        alpaca.by_hand("place", symbol="SPY", qty="1", side="buy")
        alpaca.faults.add("http_slow", where={"path": "/v2/positions"}, seconds=1)
        buying = functools.partial(alpaca.by_hand, "place", symbol="SPY", qty="2", side="buy")
        asyncio.get_running_loop().call_later(0.5, buying)  # after the orders were read, and before the cash
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
            assert s.held("main") == {"SPY": dec(3)}


def test_a_purchase_whose_fill_is_not_told_yet_keeps_its_cash_and_counts_in_the_limits() -> None:
    machine = _machine()
    books = machine.books
    body: Json = {"symbol": "SPY", "side": "buy", "qty": "90", "type": "limit", "limit_price": "100"}
    machine.step(OrderTaken(OPEN_NS, "a", "in-1", body, dec(100)))
    row: Json = {**body, "id": "1", "client_order_id": "in-1", "filled_qty": "90", "status": "filled"}
    row |= {"submitted_at": "2025-06-02T13:30:00Z", "updated_at": "2025-06-02T13:30:01Z"}
    fill: Json = {"id": "20250602093001000::e1", "activity_type": "FILL", "order_id": "1", "symbol": "SPY"}
    fill |= {"side": "buy", "qty": "90", "price": "99", "cum_qty": "90", "transaction_time": "2025-06-02T13:30:01Z"}
    limits = AccountLimits(gross_exposure_max=dec(9500))
    view = OrderView(books, {"SPY": dec(100)}, limits, {"a": table("a")}, OPEN_NS)
    again = ticket({**body, "qty": "6", "time_in_force": "day"})
    for lines, power in (([], 1000), ([fill], 1090)):  # the order is told before its fill's line, as Alpaca does
        at_ns = OPEN_NS + MINUTE_NS * (1 + len(lines))
        positions = [{"symbol": "SPY", "qty": "90", "side": "long", "avg_entry_price": "99"}]
        machine.step(Reported(at_ns, at_ns, {"cash": str(50000 - 90 * 99)}, positions, [row], lines))
        assert buying_power(books, "a") == power  # of 10,000 USD
        with pytest.raises(Refusal, match=r"gross exposure 9600\.00 USD"):
            judge(view, "a", again)
    assert books.holders("SPY") == {"a": dec(90)}


def test_contracts_that_a_person_sold_end_and_what_they_brought_is_their_holders() -> None:
    machine = _machine()
    books = machine.books
    books.book("a", CALL, LinePart(dec(2), dec(-200), dec(200)))
    books.book(MAIN, CALL, LinePart(dec(-2), dec(220), dec(-220)))
    tuesday_ns = OPEN_NS + DAY_NS
    _report(machine, tuesday_ns, [], [])
    # the broker holds none of them: nothing was exercised, and no shares come of it
    assert (books.holders(CALL), books.holders("SPY")) == ({}, {})
    assert (books.accounts["a"].cash, books.main.cash, books.settled) == (dec(10020), dec(40000), {})


def test_a_contract_that_was_sold_at_the_bell_waits_for_the_news_of_its_fill() -> None:
    machine = _machine()
    books = machine.books
    books.book("a", CALL, LinePart(dec(2), dec(-200), dec(200)))
    body: Json = {"symbol": CALL, "side": "sell", "qty": "2", "type": "market", "position_intent": "sell_to_close"}
    machine.step(OrderTaken(OPEN_NS + 389 * MINUTE_NS, "a", "out-1", body, dec(0), ()))
    row: Json = {**body, "id": "1", "client_order_id": "out-1", "filled_qty": "0", "status": "new"}
    row |= {"submitted_at": "2025-06-02T19:59:00Z", "updated_at": "2025-06-02T19:59:00Z"}
    filled_row = {**row, "filled_qty": "2", "status": "filled", "updated_at": "2025-06-02T19:59:59Z"}
    fill: Json = {"id": "20250602155959000::e1", "activity_type": "FILL", "order_id": "1", "symbol": CALL}
    fill |= {"side": "sell", "qty": "2", "price": "3", "cum_qty": "2", "transaction_time": "2025-06-02T19:59:59Z"}
    # the order as it was before, then as it is without its fill's line: the positions are ahead of both
    for minute, order, lines in ((390, row, []), (391, filled_row, []), (392, filled_row, [fill])):
        at_ns = OPEN_NS + minute * MINUTE_NS
        machine.step(Reported(at_ns, at_ns, {"cash": "50400"}, [], [order], lines))
        assert books.settled == {}
    assert (books.holders(CALL), books.accounts["a"].cash, books.differences) == ({}, dec(10400), {})


@pytest.mark.parametrize("comes", [True, False])
def test_cash_for_a_fraction_waits_for_its_shares_over_the_night_and_for_a_day(*, comes: bool) -> None:
    machine = _machine()
    books = machine.books
    books.accounts["a"].fractions = True
    books.book("a", "SPY", LinePart(dec("30.9")))  # of which a spin-off brings half: 15 shares, and cash for 0.45
    paid = {"activity_type": "CIL", "date": "2025-06-02", "net_amount": "48.73", "status": "executed"}
    paid |= {"id": "20250602000000000::2", "symbol": "NEW", "qty": "-0.45"}
    brought = {**paid, "id": "20250603000000000::1", "activity_type": "SPIN", "date": "2025-06-03", "qty": "15.45"}
    brought["net_amount"] = "0"
    rows = [
        {"symbol": s, "qty": q, "side": "long", "avg_entry_price": "1"} for s, q in (("SPY", "30.9"), ("NEW", "15"))
    ]

    def report(hours: float, *lines: Json) -> dict[str, Decimal]:
        at_ns = OPEN_NS + int(hours * 3600) * SECOND_NS
        news = [line for line in lines if _is_news(books, line)]
        machine.step(
            Reported(
                at_ns,
                at_ns,
                {"cash": "50048.73"},
                rows,
                [],
                news,
                spun={str(brought["id"]): [("SPY", "2025-06-03", "1/2")]},
            )
        )
        return books.holders("NEW")

    cash = books.sums()[0]
    assert report(2, paid) == report(15, paid) == {}  # a quarter to midnight, and half past it
    assert books.sums()[0] == cash
    if comes:
        assert report(24, paid, brought) == {"a": dec(15)}
        assert books.differences == {}
        assert books.accounts["a"].cash == dec("10048.73")
    else:
        report(39, paid)  # past the second midnight the broker does not tell it again
        assert books.sums()[0] == cash + dec("48.73")


def _end_line(contract: str, number: int, kind: str = "OPEXC", quantity: str = "-1") -> Json:
    """The line of contracts that ended on Monday."""
    row = {"activity_type": kind, "date": "2025-06-02", "net_amount": "0", "status": "executed"}
    return {**row, "id": f"20250602000000000::{number}", "symbol": contract, "qty": quantity}


def _share_line(shares: int, strike: int, number: int) -> Json:
    """The line of the shares of Monday's exercise."""
    cash = str(-shares * strike)
    return {**_end_line("SPY", number, "OPTRD", str(shares)), "price": str(strike), "net_amount": cash}


def _night(machine: Bookkeeper, shares: int, cash: int, lines: list[Json], minute: int = 0) -> list[AnyGatewayEffect]:
    """A report of Tuesday morning: the account has so many shares, and so much cash more than before the night."""
    rows: list[Json] = [{"symbol": "SPY", "qty": str(shares), "side": "long", "avg_entry_price": "1"}]
    news = [line for line in lines if _is_news(machine.books, line)]
    at_ns = OPEN_NS + DAY_NS + minute * 60 * SECOND_NS
    return machine.step(Reported(at_ns, at_ns, {"cash": str(cash)}, rows if shares else [], [], news))


@pytest.mark.parametrize("order", [1, -1])
def test_contracts_that_a_corporate_action_adjusts_stay_their_holders_and_are_sold_for_a_hundred(order: int) -> None:
    machine, adjusted = _machine(), "SPY1250606C00495000"
    books = machine.books
    for name, count in (("a", 2), (MAIN, 1)):
        books.book(name, "SPY250606C00500000", LinePart(dec(count), dec(-100 * count), dec(100 * count)))
    lines = [_end_line("SPY250606C00500000", 1, "OPCA", "-3"), _end_line(adjusted, 2, "OPCA", "3")]
    row: Json = {"symbol": adjusted, "side": "long", "avg_entry_price": "1"}
    at_ns = OPEN_NS + DAY_NS
    machine.step(Reported(at_ns, at_ns, {"cash": "49700"}, [{**row, "qty": "3"}], [], lines[::order]))
    assert books.holders(adjusted) == {"a": dec(2), MAIN: dec(1)}
    body: Json = {"symbol": adjusted, "side": "sell", "qty": "2", "type": "market", "time_in_force": "day"}
    assert has_one_name(ticket(body))
    assert not has_one_name(ticket({**body, "side": "buy"}))  # what it delivers nobody here knows
    machine.step(OrderTaken(at_ns, "a", "out-1", body, dec(0), ()))
    order_row: Json = {**body, "id": "1", "client_order_id": "out-1", "filled_qty": "2", "status": "filled"}
    update = {"event": "fill", "qty": "2", "price": "3", "timestamp": "2025-06-03T13:30:01Z", "order": order_row}
    machine.step(Updated(at_ns + SECOND_NS, update))
    at_ns += MINUTE_NS
    machine.step(Reported(at_ns, at_ns, {"cash": "50300"}, [{**row, "qty": "1"}], [order_row], []))
    assert (books.accounts["a"].cash, books.accounts["a"].holdings) == (dec(10000 - 200 + 600), {})
    assert (books.main.cash, books.differences) == (dec(39900), {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_persons_short_contract_that_is_adjusted_beside_a_desks_makes_none_the_desks(order: int) -> None:
    """A split of 2 for 1: the desk's two calls become four, and the person owes two for one."""
    machine = _machine()
    books = machine.books
    books.book("a", "SPY250606C00500000", LinePart(dec(2), dec(-200), dec(200)))
    books.book(MAIN, "SPY250606C00505000", LinePart(dec(-1), dec(150), dec(-150)))
    counts = {"SPY250606C00500000": -2, "SPY250606C00505000": 1, "SPY250606C00250000": 4, "SPY250606C00252500": -2}
    lines = [_end_line(contract, n, "OPCA", str(count)) for n, (contract, count) in enumerate(counts.items())]
    rows: list[Json] = [
        {"symbol": contract, "side": side, "qty": str(counts[contract]), "avg_entry_price": "1"}
        for contract, side in (("SPY250606C00250000", "long"), ("SPY250606C00252500", "short"))
    ]
    at_ns = OPEN_NS + DAY_NS
    machine.step(Reported(at_ns, at_ns, {"cash": "49950"}, rows, [], lines[::order]))
    holdings = {name: {it.symbol: it.qty for it in one.holdings.values()} for name, one in books.accounts.items()}
    assert holdings == {MAIN: {"SPY250606C00252500": dec(-2)}, "a": {"SPY250606C00250000": dec(4)}, "b": {}}
    assert books.accounts["a"].holdings["SPY250606C00250000"].average == dec("0.5")  # it cost 200 USD, as before
    assert books.differences == {}


LOW, MID, HIGH = "SPY250602C00490000", "SPY250602C00495000", "SPY250602P00510000"


@pytest.mark.parametrize("in_time", [False, True])
def test_two_contracts_that_became_shares_before_their_lines_are_each_its_holders(*, in_time: bool) -> None:
    machine = _machine()
    books = machine.books
    books.book("a", MID, LinePart(dec(1), dec(-100), dec(100)))
    books.book("b", LOW, LinePart(dec(2), dec(-200), dec(200)))
    cash = 50000 - 300 - 49500 - 98000
    lines = [_end_line(LOW, 1, quantity="-2"), _end_line(MID, 2), _share_line(100, 495, 3), _share_line(200, 490, 4)]
    if not in_time:
        _night(machine, 300, cash, [])
        assert books.holders("SPY") == {"a": dec(100), "b": dec(200)}
    _night(machine, 300, cash, lines, 1)
    assert books.holders("SPY") == {"a": dec(100), "b": dec(200)}
    assert (books.accounts["a"].cash, books.accounts["b"].cash) == (dec(10000 - 100 - 49500), dec(-200 - 98000))
    assert (books.main.cash, books.differences, books.moving) == (dec(40000), {}, [])


@pytest.mark.parametrize("in_time", [False, True])
def test_shares_of_one_contract_that_several_lines_bring_are_booked_once(*, in_time: bool) -> None:
    machine = _machine()
    books = machine.books
    books.book("a", LOW, LinePart(dec(2), dec(-200), dec(200)))
    books.book(MAIN, LOW, LinePart(dec(1), dec(-100), dec(100)))
    cash = 50000 - 300 - 147000
    lines = [_end_line(LOW, 1), _end_line(LOW, 2, quantity="-2"), _share_line(100, 490, 3), _share_line(200, 490, 4)]
    if not in_time:
        _night(machine, 300, cash, [])
    _night(machine, 300, cash, lines, 1)
    assert (books.holders("SPY"), books.differences, books.moving) == ({"a": dec(200), MAIN: dec(100)}, {}, [])
    assert (books.accounts["a"].cash, books.main.cash) == (dec(9800 - 98000), dec(39900 - 49000))
    activities = [
        (row["activity_type"], row["qty"]) for row in (line.fields for line in books.accounts["a"].activities)
    ]
    assert activities == [("OPEXC", "-2"), ("OPTRD", "200")]


def test_shares_that_a_call_brings_and_a_put_takes_at_one_strike_are_each_ones() -> None:
    machine = _machine()
    books = machine.books
    for name, contract in (("a", LOW), (MAIN, LOW.replace("C", "P"))):
        books.book(name, contract, LinePart(dec(1), dec(-100), dec(100)))
    lines = [
        _end_line(LOW, 1),
        _end_line(LOW.replace("C", "P"), 2),
        _share_line(-100, 490, 3),
        _share_line(100, 490, 4),
    ]
    _night(machine, 0, 50000 - 200, lines)
    assert (books.holders("SPY"), books.differences) == ({"a": dec(100), MAIN: dec(-100)}, {})


def test_a_contract_that_a_person_exercised_and_others_let_lapse_is_the_persons_though_its_lines_are_late() -> None:
    machine = _machine()
    books = machine.books
    for name in ("a", MAIN):
        books.book(name, LOW, LinePart(dec(1), dec(-100), dec(100)))
    cash = 50000 - 200 - 49000
    _night(machine, 100, cash, [])  # one of two
    warned = _night(machine, 100, cash, [_end_line(LOW, 1), _end_line(LOW, 2, "OPEXP"), _share_line(100, 490, 3)], 1)
    assert (books.holders("SPY"), books.differences, books.moving) == ({MAIN: dec(100)}, {}, [])
    assert [effect for effect in warned if isinstance(effect, Warn)] == []


@pytest.mark.parametrize("in_time", [False, True])
def test_an_exercise_that_a_desk_asked_for_is_its_own_though_a_person_bought_the_contract_since(in_time: bool) -> None:
    """It pays 49,000 USD for a hundred shares; the person's contract lapses."""
    machine = _machine()
    books = machine.books
    books.book("a", LOW, LinePart(dec(1), dec(-100), dec(100)))
    machine.step(ExerciseAsked(OPEN_NS, "a", LOW, on=True))
    books.book(MAIN, LOW, LinePart(dec(1), dec(-100), dec(100)))
    cash = 50000 - 200 - 49000
    if not in_time:
        _night(machine, 100, cash, [])
    _night(machine, 100, cash, [_end_line(LOW, 1), _end_line(LOW, 2, "OPEXP"), _share_line(100, 490, 3)], 1)
    assert (books.holders("SPY"), books.differences, books.exercises) == ({"a": dec(100)}, {}, {})
    assert books.accounts["a"].cash == 10000 - 100 - 49000


def test_where_positions_do_not_say_which_contract_became_shares_the_lines_do() -> None:
    machine = _machine()
    books = machine.books
    for name, contract, count in (("a", LOW, 1), ("b", MID, 1), ("b", HIGH, 1)):
        books.book(name, contract, LinePart(dec(count), dec(-100), dec(100)))
    cash = 50000 - 300 - 49500
    _night(machine, 100, cash, [])  # a call, or two calls and the put
    assert books.holders("SPY") == {}
    lines = [_end_line(LOW, 1, "OPEXP"), _end_line(HIGH, 2, "OPEXP"), _end_line(MID, 3), _share_line(100, 495, 4)]
    _night(machine, 100, cash, lines, 1)
    assert (books.holders("SPY"), books.main.cash, books.differences) == ({"b": dec(100)}, dec(40000), {})


def test_cash_for_contracts_that_ended_before_its_line_is_their_holders() -> None:
    machine = _machine()
    books = machine.books
    for name, count in (("a", 3), ("b", 1)):
        books.book(name, LOW, LinePart(dec(count), dec(-100), dec(100)))
    _night(machine, 0, 50000 - 200, [])
    assert books.holders(LOW) == {}
    _night(machine, 0, 50000 - 200 + 4000, [{**_end_line(LOW, 1, "OPCSH", "-4"), "net_amount": "4000"}], 1)
    assert (books.accounts["a"].cash, books.accounts["b"].cash) == (dec(10000 - 100 + 3000), dec(-100 + 1000))
    assert books.differences == {}
    order = [line.fields for line in books.accounts["a"].activities]
    assert [(row["activity_type"], row["qty"], row["net_amount"]) for row in order] == [("OPCSH", "-3", "3000")]


def test_of_two_puts_the_deeper_one_took_the_shares() -> None:
    machine = _machine()
    books = machine.books
    books.book("b", "SPY", LinePart(dec(100), dec(-100), dec(100)))
    for name, contract in (("a", HIGH.replace("510", "490")), ("b", HIGH)):
        books.book(name, contract, LinePart(dec(1), dec(-10), dec(10)))
    _night(machine, 0, 50000 - 120 + 51000, [])
    assert (books.holders("SPY"), books.accounts["a"].cash, books.differences) == ({}, dec(9990), {})


def test_shares_that_were_anothers_by_the_lines_are_taken_back() -> None:
    machine = _machine()
    books = machine.books
    for name, contract in (("a", LOW), ("b", MID)):
        books.book(name, contract, LinePart(dec(1), dec(-100), dec(100)))
    cash = 50000 - 200 - 49500  # b's 495 was exercised: a had asked for none of its 490, beside the gateway
    _night(machine, 100, cash, [])
    assert books.holders("SPY") == {"a": dec(100)}
    _night(machine, 100, cash, [_end_line(LOW, 1, "OPEXP"), _end_line(MID, 2), _share_line(100, 495, 3)], 1)
    assert (books.holders("SPY"), books.accounts["a"].cash) == ({"b": dec(100)}, dec(9900))
    assert (books.differences, books.moving) == ({}, [])


def test_shares_of_a_night_without_the_gateway_earn_the_next_mornings_dividend() -> None:
    machine = _machine(SPY="100")
    books = machine.books
    books.book("a", LOW, LinePart(dec(1), dec(-100), dec(100)))
    dividend: Json = {"activity_type": "DIV", "symbol": "SPY", "date": "2025-06-20", "net_amount": "200"}
    dividend |= {"id": "20250620000000000::9", "status": "executed"}
    _night(machine, 200, 50000 - 100 - 49000, [_end_line(LOW, 1), _share_line(100, 490, 2)])
    at_ns = OPEN_NS + 18 * DAY_NS
    machine.step(Reported(at_ns, at_ns, {"cash": "1100"}, [], [], [dividend], {dividend["id"]: "2025-06-03"}))
    # a and main held a hundred each at Monday's close, though nobody looked before Tuesday
    assert (books.accounts["a"].cash, books.main.cash) == (dec(10000 - 100 - 49000 + 100), dec(40100))


def test_a_stop_of_more_than_a_reverse_split_left_ends() -> None:
    machine = _machine(SPY="10")
    books = machine.books
    books.book("a", "SPY", LinePart(dec(10), dec(-1000), dec(1000)))
    body: Json = {"symbol": "SPY", "side": "sell", "qty": "10", "type": "stop", "stop_price": "50"}
    machine.step(OrderTaken(OPEN_NS, "a", "stop-1", body, dec(0)))
    split: Json = {"id": "20250602000000000::1", "activity_type": "SPLIT", "symbol": "SPY", "qty": "-18"}
    split |= {"date": "2025-06-02", "status": "executed", "net_amount": "0"}
    assert CancelSibling("stop-1") in _report(machine, OPEN_NS + SECOND_NS, [], [split])
    assert books.holders("SPY") == {"a": dec(1), MAIN: dec(1)}  # 10 for 1: of its own stop's ten one is a's


def test_a_stop_of_more_than_is_held_ends_where_the_smaller_one_in_its_place_is_refused() -> None:
    machine = _machine(SPY="10")
    machine.books.book("a", "SPY", LinePart(dec(10), dec(-1000), dec(1000)))
    body: Json = {"symbol": "SPY", "side": "sell", "qty": "10", "type": "stop", "stop_price": "50"}
    machine.step(OrderTaken(OPEN_NS, "a", "stop-1", body, dec(0)))
    machine.step(OrderAnswered(OPEN_NS, "stop-1", {**body, "id": "1", "client_order_id": "stop-1", "status": "new"}))
    machine.step(ReplaceTaken(OPEN_NS, "a", "stop-2", "stop-1", {"qty": "3"}, dec(0)))
    machine.books.book("a", "SPY", LinePart(dec(-7), dec(700), dec(-700)))  # as a bust does, and three are left
    refused = OrderRefused(OPEN_NS, "stop-2", 422, None, "cannot replace order", {})
    assert machine.step(refused) == [CancelSibling("stop-1")]


def test_a_split_is_of_what_was_held_before_it_though_one_has_sold_since() -> None:
    machine = _machine()
    books = machine.books
    books.book("a", "SPY", LinePart(dec(3), dec(-300), dec(300)))
    books.book("b", "SPY", LinePart(dec(2), dec(-200), dec(200)))
    books.held["SPY"] = [("2025-05-30", {"a": dec(3), "b": dec(2)})]
    books.book("a", "SPY", LinePart(dec(-2), dec(110), dec(-110)))  # two of the new shares, before the lines come
    row = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-02", "status": "executed", "net_amount": "0"}
    lines = [{**row, "id": "20250602000000000::1", "qty": "-5"}, {**row, "id": "20250602000000000::2", "qty": "10"}]
    _report(machine, OPEN_NS + SECOND_NS, [], lines)
    # 2 for 1 of 3 and 2 is 6 and 4, and a sold 2 of its 6
    assert books.holders("SPY") == {"a": dec(4), "b": dec(4)}


def _fills(machine: Bookkeeper, account: str, side: str, quantity: int, at_ns: int) -> None:
    """An order of SPY at 100 USD is taken and filled, and its news comes at once."""
    name = f"{account}-{at_ns}"
    body: Json = {"symbol": "SPY", "side": side, "qty": str(quantity), "type": "market"}
    machine.step(OrderTaken(at_ns, account, name, body, dec(100)))
    moment = datetime.fromtimestamp(at_ns // SECOND_NS, UTC).isoformat()
    row = {**body, "id": name, "client_order_id": name, "status": "filled", "filled_qty": str(quantity)}
    row |= {"submitted_at": moment, "updated_at": moment}
    update = {"event": "fill", "qty": str(quantity), "price": "100", "timestamp": moment, "execution_id": f"e{at_ns}"}
    machine.step(Updated(at_ns, {**update, "order": row}))


@pytest.mark.parametrize("stamp", ["20250603000000000", "20250603103000000"])  # at midnight, or when it comes
@pytest.mark.parametrize("quantities", [("20",), ("-20", "40")])
def test_a_late_split_is_of_what_was_held_before_it_though_five_shares_changed_hands_since(
    quantities: tuple[str, ...], stamp: str
) -> None:
    machine = _machine()
    _fills(machine, "a", "buy", 10, OPEN_NS)
    _fills(machine, "b", "buy", 10, OPEN_NS + SECOND_NS)
    morning_ns = OPEN_NS + DAY_NS
    _broker_has(machine, 20, morning_ns - 12 * 60 * MINUTE_NS)
    _broker_has(machine, 40, morning_ns)  # 2 for 1, and no line says so yet
    _broker_has(machine, 40, morning_ns + 20 * SECOND_NS)
    _fills(machine, "a", "sell", 5, morning_ns + 60 * SECOND_NS)
    _fills(machine, MAIN, "buy", 5, morning_ns + 61 * SECOND_NS)
    line: Json = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-03", "status": "executed"}
    line |= {"net_amount": "0"}
    lines = [{**line, "qty": quantity, "id": f"{stamp}::{n}"} for n, quantity in enumerate(quantities)]
    _report(machine, morning_ns + 60 * MINUTE_NS, [], lines)
    assert machine.books.holders("SPY") == {"a": dec(15), "b": dec(20), MAIN: dec(5)}


@pytest.mark.parametrize("stamp", ["20250603000000000", "20250603093500000"])  # at midnight, or when it comes
@pytest.mark.parametrize("quantities", [("20",), ("-20", "40")])
@pytest.mark.parametrize("early_report", [True, False])  # by a report before the line
def test_shares_that_move_on_the_morning_of_their_split_are_split_with_their_new_holder(
    quantities: tuple[str, ...], stamp: str, *, early_report: bool
) -> None:
    machine = _machine()
    _fills(machine, "a", "buy", 20, OPEN_NS)
    morning_ns = OPEN_NS + DAY_NS - 30 * MINUTE_NS
    _broker_has(machine, 20, morning_ns - 60 * MINUTE_NS)
    machine.step(Transferred(morning_ns - 30 * MINUTE_NS, "a", "b", dec(0), "SPY", dec(10), "me", "try"))
    if early_report:
        _broker_has(machine, 40, morning_ns)
    line: Json = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-03", "status": "executed"}
    line |= {"net_amount": "0"}
    lines = [{**line, "qty": quantity, "id": f"{stamp}::{n}"} for n, quantity in enumerate(quantities)]
    _report(machine, morning_ns + 5 * MINUTE_NS, [], lines)
    assert machine.books.holders("SPY") == {"a": dec(20), "b": dec(20)}  # 2 for 1 of ten each


def test_a_split_of_the_evening_is_of_what_was_held_then_though_one_trades_in_the_morning() -> None:
    machine = _machine()
    _fills(machine, "a", "buy", 3, OPEN_NS)
    _fills(machine, "b", "buy", 2, OPEN_NS + SECOND_NS)
    _fills(machine, "a", "sell", 2, OPEN_NS + DAY_NS)  # two of the new shares, before the lines come
    row = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-02", "status": "executed", "net_amount": "0"}
    lines = [{**row, "id": "20250602180000000::1", "qty": "-5"}, {**row, "id": "20250602180000000::2", "qty": "10"}]
    _report(machine, OPEN_NS + DAY_NS + SECOND_NS, [], lines)
    # 2 for 1 of 3 and 2 is 6 and 4, and a sold 2 of its 6
    assert machine.books.holders("SPY") == {"a": dec(4), "b": dec(4)}


def _broker_has(machine: Bookkeeper, shares: int, at_ns: int, average: str = "1") -> None:
    """A report of the books' own cash, and of so many shares of SPY."""
    rows: list[Json] = [{"symbol": "SPY", "qty": str(shares), "side": "long", "avg_entry_price": average}]
    machine.step(Reported(at_ns, at_ns, {"cash": str(machine.books.sums()[0])}, rows, [], []))


def test_while_a_reverse_splits_line_is_awaited_nobody_sells_anothers_new_shares() -> None:
    machine = _machine(SPY="30")
    books = machine.books
    _fills(machine, "a", "buy", 10, OPEN_NS)
    _broker_has(machine, 40, OPEN_NS + 60 * SECOND_NS, "100")
    morning_ns = OPEN_NS + DAY_NS
    _broker_has(machine, 8, morning_ns, "500")  # 1 for 5 of 40: two are a's, six main's
    assert books.free("a", "SPY") == 10  # it may be news on its way
    _broker_has(machine, 8, morning_ns + 10 * SECOND_NS, "500")
    assert books.free("a", "SPY") == 2
    _fills(machine, "a", "sell", 1, morning_ns + 11 * SECOND_NS)
    assert books.free("a", "SPY") == 1
    _broker_has(machine, 7, morning_ns + 70 * SECOND_NS, "500")
    assert books.free("a", "SPY") == 1
    _fills(machine, "a", "sell", 1, morning_ns + 71 * SECOND_NS)
    assert books.free("a", "SPY") == 0
    row = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-03", "status": "executed", "net_amount": "0"}
    lines = [{**row, "id": "20250603040000000::1", "qty": "-40"}, {**row, "id": "20250603040000000::2", "qty": "8"}]
    _report(machine, morning_ns + 130 * SECOND_NS, [], lines)
    assert books.holders("SPY") == {MAIN: dec(6)}


@pytest.mark.parametrize(
    ("there", "average", "free"),
    [
        (10, "100", 10),  # a person's thirty went to another broker, and no line says so yet
        (4, "1000", 1),  # 1 for 10
        (1, "3000", 0),  # 1 for 30, and a third is paid out: a quarter of a share is no share
        (39, "100", 10),
    ],
)
def test_fewer_shares_that_no_split_made_shut_no_way_out(there: int, average: str, free: int) -> None:
    machine = _machine(SPY="30")
    _fills(machine, "a", "buy", 10, OPEN_NS)
    _broker_has(machine, 40, OPEN_NS + 60 * SECOND_NS, "100")
    for second in (0, 10, 20):
        _broker_has(machine, there, OPEN_NS + DAY_NS + second * SECOND_NS, average)
    assert machine.books.doubts
    assert machine.books.free("a", "SPY") == free


def test_a_person_who_sells_new_shares_before_the_splits_line_shuts_no_desks_way_out() -> None:
    machine = _machine(SPY="5")
    _fills(machine, "a", "buy", 10, OPEN_NS)
    morning_ns = OPEN_NS + DAY_NS
    for second in (0, 10):
        _broker_has(machine, 45, morning_ns + second * SECOND_NS)  # 3 for 1 of 15
    _fills(machine, MAIN, "sell", 12, morning_ns + 20 * SECOND_NS)
    assert machine.books.holders("SPY") == {"a": dec(10), MAIN: dec(-7)}  # of the fifteen that main has
    assert machine.books.free("a", "SPY") == 10
    _broker_has(machine, 33, morning_ns + 70 * SECOND_NS)
    assert machine.books.free("a", "SPY") == 10


def test_shares_that_nobody_else_holds_are_sold_whatever_the_last_report_had() -> None:
    machine = _machine()
    _fills(machine, "a", "buy", 10, OPEN_NS)
    for second in (0, 10, 20):
        _broker_has(machine, 5, OPEN_NS + (60 + second) * SECOND_NS)
    assert machine.books.doubts
    assert machine.books.free("a", "SPY") == 10


def test_a_new_sub_accounts_capital_is_no_gain_of_the_day() -> None:
    machine = _machine()
    _report(machine, OPEN_NS + SECOND_NS, [], [])
    assert machine.books.day == ("2025-06-02", dec(10000))
    machine.step(Transferred(OPEN_NS + 2 * SECOND_NS, MAIN, "c", dec(700), "", dec(0), "gateway.toml", "capital"))
    assert machine.books.day == ("2025-06-02", dec(10700))


@pytest.mark.parametrize("split_at_night", [True, False])
def test_a_split_whose_line_is_late_is_neither_loss_nor_gain_of_the_day(split_at_night: bool) -> None:
    machine, books = _machine(), Ledgers()

    def loss(minute: int, shares: int, price: str | None, *lines: Json) -> Decimal:
        at_ns, row = OPEN_NS + minute * MINUTE_NS, {"symbol": "SPY", "qty": str(shares), "side": "long"}
        row |= {"avg_entry_price": "1", "current_price": price}  # type: ignore[dict-item]
        machine.step(Reported(at_ns, at_ns, {"cash": str(books.sums()[0])}, [row], [], list(lines)))
        return day_loss(books)

    books = machine.books
    _fills(machine, "a", "buy", 10, OPEN_NS)
    loss(1, 10, "100")
    tuesday = 24 * 60
    if not split_at_night:
        assert loss(tuesday, 10, "100") == 0
    for minute in range(1, 4):
        assert loss(tuesday + minute, 20, "50") == 0  # and not 500
    assert books.accounts["a"].last_equity == 10000
    split = {"activity_type": "SPLIT", "symbol": "SPY", "date": "2025-06-03", "status": "executed", "net_amount": "0"}
    assert loss(tuesday + 4, 20, "50", {**split, "id": "20250603040000000::2", "qty": "10"}) == 0
    assert loss(tuesday + 5, 20, "30") == 400
    assert loss(tuesday + 6, 20, None) == loss(tuesday + 7, 20, "0") == 400  # the former price: that is none


@pytest.mark.parametrize("sold", [False, True])
def test_a_day_whose_open_the_gateway_missed_counts_what_was_lost_since_the_day_before(sold: bool) -> None:
    """Ten shares of 100 on Monday evening are worth 70 when it comes back, or were sold for that at the open."""
    machine = _machine()
    _fills(machine, "a", "buy", 10, OPEN_NS)
    row: Json = {"symbol": "SPY", "qty": "10", "side": "long", "avg_entry_price": "100", "current_price": "100"}
    evening_ns, noon_ns = OPEN_NS + 7 * 60 * MINUTE_NS, OPEN_NS + DAY_NS + 150 * MINUTE_NS
    machine.step(Reported(evening_ns, evening_ns, {"cash": "49000"}, [row], [], []))
    order: Json = {"id": "2", "client_order_id": "stop", "symbol": "SPY", "side": "sell", "qty": "10"}
    order |= {"type": "stop", "submitted_at": "2025-06-02T19:00:00Z", "updated_at": "2025-06-03T13:30:00Z"}
    machine.step(OrderTaken(evening_ns, "a", "stop", order, dec(0)))
    order |= {"status": "filled" if sold else "new", "filled_qty": "10" if sold else "0"}
    fill: Json = {"id": "20250603093000000::e9", "activity_type": "FILL", "order_id": "2", "symbol": "SPY"}
    fill |= {"side": "sell", "qty": "10", "price": "70", "cum_qty": "10", "transaction_time": "2025-06-03T13:30:00Z"}
    machine.step(GatewayStarted(noon_ns, "code"))
    positions, cash = ([], "49700") if sold else ([{**row, "current_price": "70"}], "49000")
    machine.step(Reported(noon_ns, noon_ns, {"cash": cash}, positions, [order], [fill] if sold else []))
    assert machine.books.day[0] == "2025-06-03"
    assert day_loss(machine.books) == 300
    assert machine.books.accounts["a"].last_equity == 10000


# --- what the broker sends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [{"qty": "x"}, {"price": None}, {"timestamp": "yesterday"}])
async def test_a_fill_that_cannot_be_read_is_reported_and_ends_nothing(tmp_path: Path, odd: dict[str, object]) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add("fill_partial", quantity=2, then_held=True)
        s.broker.faults.add("update_lost", where={"event": "partial_fill"})
        row = await s.place("a", 5, type="limit", limit_price="500.01")
        order = s.broker.account.orders[row["id"]].shown()
        update: Json = {"event": "partial_fill", "execution_id": "x", "timestamp": "2025-06-02T13:40:00Z"}
        update |= {"qty": "2", "price": "500.01", "order": order}
        with pytest.raises(Exception, match="expected"):
            s.gateway._on_update({**update, **odd})
        await s.settled()
        assert s.held("a") == {"SPY": dec(2)}


async def test_a_ledger_line_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.account.note(s.broker.clock.now_ns(), {"activity_type": "DIV", "symbol": "SPY", "net_amount": "x"})
        s.broker.account.note(s.broker.clock.now_ns(), {"activity_type": "FEE", "net_amount": "0"})
        await s.gateway.wait_for_report(30)
        assert s.gateway.ready
        await s.place("a", 1)


# --- journals and accounts --------------------------------------------------------------------------------------------


async def test_the_journal_of_another_account_is_refused_at_the_start(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await hold(s, "a", 5)
        alpaca.account.account_number = "PA0000OTHER"
        with pytest.raises(Exception, match="PA0000OTHER"):
            async with gateway_on(alpaca, tmp_path):
                pass


async def test_of_two_close_calls_the_answer_to_one_makes_the_others_order_no_strangers(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=CALLS_CROSS, symbols=("QQQ",)) as s:
        await hold(s, "b", 5)
        await hold(s, "a", 5)
        await s.place("a", 4, symbol="QQQ")
        await s.until(lambda: s.held("a") == {"SPY": dec(5), "QQQ": dec(4)})
        s.broker.faults.add("http_reset", where={"path": "/v2/positions/SPY", "method": "DELETE"})
        answers = await asyncio.gather(*(s.ask("a", "DELETE", f"/v2/positions/{symbol}") for symbol in ("SPY", "QQQ")))
        assert [status for status, _ in answers] == [504, 200]
        await s.until(lambda: not s.held("a"))
        assert (s.held("main"), s.held("b")) == ({}, {"SPY": dec(5)})
        await s.settled()


async def test_the_order_of_a_close_call_without_an_answer_is_known_by_the_stream_before_any_list_has_it(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, rules=CALLS_CROSS) as s:
        await hold(s, "a", 5)
        await hold(s, "b", 5)
        s.broker.faults.add("http_reset", where={"path": "/v2/positions/SPY", "method": "DELETE"})
        until_ns = s.gateway.now_ns() + 20 * SECOND_NS
        s.broker.faults.add("stale_read", until_ns=until_ns, age_s=60, where={"path": "/v2/orders"})
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 504
        await s.until(lambda: not s.held("a"))
        assert (s.held("main"), s.held("b")) == ({}, {"SPY": dec(5)})
        await asyncio.sleep(20)
        await s.settled()


def _coin_order(number: int, side: str, symbol: str, quantity: str, price: str) -> Json:
    """A person's order of crypto, filled, as REST shows it."""
    return {
        "id": f"coin-{number}", "client_order_id": f"coin-{number}", "symbol": symbol, "asset_class": "crypto",
        "side": side, "type": "market", "time_in_force": "gtc", "status": "filled", "qty": quantity,
        "filled_qty": quantity, "filled_avg_price": price, "created_at": "2025-06-02T13:31:00Z",
        "updated_at": "2025-06-02T13:31:00Z", "position_intent": f"{side}_to_open",
    }  # fmt: skip


def _coin_fill(number: int, side: str, symbol: str, quantity: str, price: str) -> Json:
    """The ledger's line of its fill."""
    return {
        "id": f"20250602133100000::coin-fill-{number}", "activity_type": "FILL", "symbol": symbol, "side": side,
        "transaction_time": "2025-06-02T13:31:00Z", "type": "fill", "price": price, "qty": quantity,
        "cum_qty": quantity, "leaves_qty": "0", "order_id": f"coin-{number}", "order_status": "filled",
    }  # fmt: skip


def _coin_fee(number: int, symbol: str, quantity: str, usd: str) -> Json:
    """The day's fee of a purchase is taken in coins, that of a sale in USD."""
    return {
        "id": f"20250602000000000::coin-fee-{number}", "activity_type": "CFEE", "symbol": symbol, "qty": quantity,
        "net_amount": usd, "date": "2025-06-02", "description": "Coin Pair Transaction Fee", "status": "executed",
    }  # fmt: skip


def _coin(symbol: str, quantity: str) -> Json:
    return {"symbol": symbol, "asset_class": "crypto", "qty": quantity, "side": "long", "avg_entry_price": "2000"}


def test_crypto_of_a_person_is_mains_whatever_its_fees_take() -> None:
    """2 ETH for 2,000 each with a fee of 0.005 ETH, then 1 sold for 2,100 with a fee of 5.25 USD; `a` trades on."""
    machine, minute_ns = _machine(SPY="5"), 60 * SECOND_NS
    spy: Json = {"symbol": "SPY", "asset_class": "us_equity", "qty": "5", "side": "long", "avg_entry_price": "100"}
    purchase = Reported(
        OPEN_NS + 2 * minute_ns, OPEN_NS + 2 * minute_ns, {"cash": "46000"}, [spy, _coin("ETHUSD", "1.995")],
        [_coin_order(1, "buy", "ETH/USD", "2", "2000")], [_coin_fill(1, "buy", "ETH/USD", "2", "2000")],
    )  # fmt: skip
    machine.step(purchase)
    later = replace(purchase, time_ns=OPEN_NS + 4 * minute_ns, asked_ns=OPEN_NS + 4 * minute_ns, orders=[], lines=[])
    machine.step(later)
    assert (machine.books.differences, machine.books.doubts) == ({}, ())
    assert {s: h.qty for s, h in machine.books.main.holdings.items()} == {"SPY": dec(5), "ETHUSD": dec("1.995")}
    sale = Reported(
        OPEN_NS + 6 * minute_ns, OPEN_NS + 6 * minute_ns, {"cash": "48094.75"}, [spy, _coin("ETHUSD", "0.995")],
        [_coin_order(2, "sell", "ETH/USD", "1", "2100")],
        [
            _coin_fill(2, "sell", "ETH/USD", "1", "2100"),
            _coin_fee(1, "ETHUSD", "-0.005", "0"), _coin_fee(2, "ETHUSD", "0", "-5.25"),
        ],
    )  # fmt: skip
    assert [effect for effect in machine.step(sale) if isinstance(effect, Warn)] == []
    machine.step(replace(sale, time_ns=OPEN_NS + 8 * minute_ns, asked_ns=OPEN_NS + 8 * minute_ns, orders=[], lines=[]))
    assert (machine.books.differences, machine.books.main.cash) == ({}, dec("38094.75"))
    withdrawal = replace(sale, time_ns=OPEN_NS + 10 * minute_ns, asked_ns=OPEN_NS + 10 * minute_ns, orders=[], lines=[])
    machine.step(replace(withdrawal, positions=[spy]))  # sent to a wallet of one's own
    assert (machine.books.differences, list(machine.books.main.holdings)) == ({}, ["SPY"])


def test_a_pair_that_is_paid_in_coins_moves_no_cash() -> None:
    machine, at_ns = _machine(), OPEN_NS + 120 * SECOND_NS
    order, fill = _coin_order(1, "buy", "ETH/BTC", "2", "0.03"), _coin_fill(1, "buy", "ETH/BTC", "2", "0.03")
    coins = [_coin("ETHUSD", "1.995"), _coin("BTCUSD", "0.44")]
    machine.step(Reported(at_ns, at_ns, {"cash": "50000"}, coins, [order], [fill]))
    machine.step(Reported(at_ns + DAY_NS, at_ns + DAY_NS, {"cash": "50000"}, coins, [], []))
    assert (machine.books.differences, machine.books.sums()[0]) == ({}, dec(50000))


@pytest.mark.parametrize("symbol", ["BTC/USD", "BTCUSD", "DOGEUSDT"])
async def test_no_sub_account_trades_or_is_given_crypto(tmp_path: Path, symbol: str) -> None:
    async with stage(tmp_path) as s:
        status, _, words = await s.refused("a", 1, symbol=symbol)
        assert (status, words) == (422, f"gateway: {symbol} is crypto, which is not carried")
        with pytest.raises(ValueError, match=f"{symbol}: crypto is main's alone"):
            await s.gateway.transfer("main", "a", dec(0), symbol, dec(1), "anna", "hers")
