"""The REST doors against the loopback Alpaca and against bare sockets that misbehave.

Expected values: the documented protocol, and what the server counted. The desk of the other tests of the link is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from daemon.brokers.alpaca.assemble import accesses
from daemon.brokers.alpaca.rest.client import (
    READING,
    Access,
    BoundClient,
    Deadlines,
    MethodRefused,
    NotSent,
    QueuedClient,
    Refused,
    RequestQueue,
    RestError,
    StatusError,
    Throttled,
    Unanswered,
)
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads, submission
from daemon.config.load import Credentials, load
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from tests.support.alpaca.rest_desk import CALL, MINUTE_NS, NAME, OPEN_NS, PATIENT, SHORT, UNANSWERED, buy, desk
from tests.support.outside.mosquitto import certificates

WHOLE_SOON = Deadlines(connect_s=60.0, read_s=60.0, whole_s=0.5, call_s=60.0, pages_s=60.0)


# --- the body of an order -----------------------------------------------------------------------------------------


def test_a_submission_has_exactly_the_documented_keys_and_exact_numbers() -> None:
    assert submission(buy(quantity=3, limit="0.30")) == {
        "symbol": CALL,
        "qty": "3",
        "side": "buy",
        "type": "limit",
        "time_in_force": "day",
        "limit_price": "0.30",
        "client_order_id": NAME,
        "position_intent": "buy_to_open",
    }
    shares = submission(SubmitOrder(NAME, "SPY", -1, 100, None, "sell_to_close", 0))
    assert "position_intent" not in shares
    assert (shares["type"], shares["side"], "limit_price" in shares) == ("market", "sell", False)
    assert submission(buy(limit="1E+1"))["limit_price"] == "10"


def test_a_stop_of_shares_lasts_until_it_is_cancelled_and_one_of_options_for_the_day() -> None:
    shares = submission(SubmitOrder(NAME, "SPY", -1, 100, None, "", 0, stop_price=Decimal("55.00")))
    assert shares == {
        "symbol": "SPY",
        "qty": "100",
        "side": "sell",
        "type": "stop",
        "time_in_force": "gtc",
        "stop_price": "55.00",
        "client_order_id": NAME,
    }
    stop = SubmitOrder(NAME, CALL, -1, 3, Decimal("0.55"), "sell_to_close", 0, stop_price=Decimal("1.10"))
    calls = submission(stop)
    assert (calls["type"], calls["time_in_force"], calls["stop_price"], calls["limit_price"]) == (
        "stop_limit",
        "day",
        "1.10",
        "0.55",
    )


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_each_method_of_the_library_goes_through_the_bounded_session(method: str) -> None:
    """The session allows no method here, and the address takes no connection: nothing else of the library may send."""
    clock = Clock.real()
    queue = RequestQueue("test", TokenBucket(clock.now_ns, 60, 60), clock)
    client = BoundClient(Access("http://127.0.0.1:9", "key", "secret"), queue, frozenset())
    with pytest.raises(MethodRefused, match=f"^{method.upper()} through a client"):
        getattr(client, method)("/orders")


async def test_a_broker_that_is_not_there_and_a_stranger_s_certificate_are_no_connection(tmp_path: Any) -> None:
    certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "broker.crt", tmp_path / "broker.key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    clock = Clock.real()
    queue = RequestQueue("test", TokenBucket(clock.now_ns, 60, 60), clock)
    for url, problem in (
        (f"https://127.0.0.1:{port}", "certificate verify failed"),
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://broker.invalid", "Failed to resolve"),
    ):
        with pytest.raises(Unanswered, match=f"^no connection to {url}: .*{problem}"):
            await QueuedClient(Access(url, "key", "secret"), queue, READING).get("/account")
    await queue.close()
    server.close()
    await server.wait_closed()


# --- the server's answers, by the door ----------------------------------------------------------------------------


async def test_an_order_is_submitted_found_listed_filled_and_in_the_ledger() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        raw = await it.orders.submit(buy(quantity=2))
        assert (raw["client_order_id"], raw["qty"], raw["status"]) == (NAME, "2", "pending_new")
        await asyncio.sleep(0.05)
        order = await it.reads.order_by_client_id(NAME)
        assert order is not None
        assert (order["id"], order["status"], order["filled_qty"]) == (raw["id"], "filled", "2")
        assert await it.reads.order_by_id(raw["id"]) == order
        assert await it.reads.order_by_client_id("nobody") is None
        assert await it.reads.open_orders() == []
        assert [row["id"] for row in await it.reads.orders_since(OPEN_NS)] == [raw["id"]]
        assert [row["qty"] for row in await it.reads.positions()] == ["2"]
        fills = await it.reads.activities(OPEN_NS)
        assert [(row["activity_type"], row["cum_qty"]) for row in fills] == [("FILL", "2")]
        assert (await it.reads.account())["account_number"] == "PA3LOOPBACK1"
        assert (await it.reads.clock())["is_open"] is True
        assert "fractional_trading" in await it.reads.configurations()
        assert [day["date"] for day in await it.reads.calendar("2024-07-02", "2024-07-03")] == [
            "2024-07-02",
            "2024-07-03",
        ]
        assert (await it.reads.asset("SPY"))["symbol"] == "SPY"


async def test_market_data_comes_whole() -> None:
    async with desk() as it:
        bars = await it.data.bars("SPY", OPEN_NS, OPEN_NS + MINUTE_NS - 1, "iex")
        assert [bar["t"] for bar in bars] == ["2024-07-02T13:30:00Z"]
        assert await it.data.bars("QQQ", OPEN_NS, OPEN_NS + MINUTE_NS, "iex") == []
        quote = (await it.data.latest_quotes(("SPY",), "iex"))["SPY"]
        assert quote["bp"] <= 545.0 <= quote["ap"]
        contracts = await it.reads.option_contracts("SPY", "2024-07-02", "2024-07-03", Decimal(540), Decimal(550))
        symbols = tuple(row["symbol"] for row in contracts)
        assert CALL in symbols
        assert all("540" <= row["strike_price"] <= "550" for row in contracts)
        assert set(await it.data.latest_option_quotes((CALL,), "indicative")) == {CALL}
        chain = await it.data.option_chain("SPY", "2024-07-03", "2024-07-03", 545, 545, "indicative")
        assert set(chain) == {CALL, CALL.replace("C", "P")}


async def test_more_orders_than_a_page_holds_come_each_once() -> None:
    async with desk(deadlines=Deadlines()) as it:
        for _ in range(503):
            it.server.by_hand(
                "place", symbol="SPY", qty="1", side="buy", type="limit", time_in_force="day", limit_price="1"
            )
            await asyncio.sleep(0.001)
        rows = await it.reads.orders_since(OPEN_NS)
        assert len({row["id"] for row in rows}) == len(rows) == 503
        assert it.count("GET", "/v2/orders") == 2


async def test_more_activities_than_a_page_holds_come_each_once() -> None:
    async with desk() as it:
        for _ in range(205):
            it.server.account.note(it.server.clock.now_ns(), {"activity_type": "FEE", "net_amount": "-0.01"})
            await asyncio.sleep(0.001)
        rows = await it.reads.activities(OPEN_NS)
        assert len({row["id"] for row in rows}) == len(rows) == 205
        assert it.count("GET", "/v2/account/activities") == 3


async def test_an_exercise_and_its_shares_of_one_id_are_two_lines() -> None:
    async with desk() as it:
        kinds = ("OPEXC", "OPTRD", "FEE")
        for kind, name in zip(kinds, ("one", "one", "two"), strict=True):
            it.server.account.note(OPEN_NS + MINUTE_NS, {"activity_type": kind, "net_amount": "0"}, name=name)
        label = "20240702093100000::"
        ids = [f"{label}one", f"{label}one OPTRD", f"{label}two"]
        rows = await it.reads.activities(OPEN_NS)
        assert [(row["activity_type"], row["id"]) for row in rows] == list(zip(kinds, ids, strict=True))


async def test_an_entry_whose_time_has_passed_is_not_sent_but_an_exit_is() -> None:
    async with desk() as it:
        with pytest.raises(NotSent, match="not sent"):
            await it.orders.submit(buy(valid_s=60))
        assert it.posts() == 0
        with pytest.raises(Refused):  # it reached the broker, where nothing is held
            await it.orders.submit(SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", OPEN_NS))
        assert it.posts() == 1


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "parameters"), UNANSWERED)
async def test_whatever_the_server_does_one_submission_is_one_post(kind: str, parameters: dict[str, Any]) -> None:
    async with desk() as it:
        it.server.faults.add(kind, times=9, where={"method": "POST"}, **parameters)
        with pytest.raises(Unanswered):
            await it.orders.submit(buy())
        assert sum(it.server.faults.met.values()) == 1
        assert it.posts() <= 1  # a request that hangs is counted when it ends


async def test_a_refusal_says_status_code_message_and_the_rest() -> None:
    async with desk() as it:
        it.server.faults.add("order_refused", status=403, code=40310000, message="insufficient buying power")
        with pytest.raises(Refused) as caught:
            await it.orders.submit(buy())
        assert str(caught.value) == "403 40310000 insufficient buying power"
        await it.orders.submit(buy())
        with pytest.raises(Refused, match="must be unique") as caught:
            await it.orders.submit(buy())
        assert caught.value.status == 422


async def test_429_is_throttled_once_and_its_word_pauses_the_lane() -> None:
    async with desk() as it:
        it.server.faults.add("http_429", retry_after_s=7, where={"method": "POST"})
        with pytest.raises(Throttled) as caught:
            await it.orders.submit(buy())
        assert caught.value.retry_after_s == 7
        assert it.posts() == 1
        asking = asyncio.create_task(it.orders.cancel("nothing"))
        await asyncio.wait({asking}, timeout=0.1)
        assert not asking.done()
        asking.cancel()


@contextlib.asynccontextmanager
async def bare(
    *parts: bytes, gap_s: float = 0.0, deadlines: Deadlines = PATIENT
) -> AsyncIterator[tuple[TradingReads, TradingOrders, list[bytes]]]:
    """A server that answers every request with these bytes, `gap_s` apart, and what it was asked."""
    calls: list[bytes] = []

    serving: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            calls.append(await reader.readuntil(b"\r\n\r\n"))
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(gap_s)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clock = Clock.real()
    lanes = tuple(RequestQueue(name, TokenBucket(clock.now_ns, 6000, 100), clock) for name in ("reads", "orders"))
    access = Access(f"http://127.0.0.1:{port}", DEFAULT_KEY, DEFAULT_SECRET, deadlines)
    try:
        yield TradingReads(access, lanes[0]), TradingOrders(access, lanes[1]), calls
    finally:
        for lane in lanes:
            await lane.close()
        await asyncio.gather(*(task for task in serving if task is not None))
        server.close()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        http(b""),
        http(b"[]"),
        http(b'"text"'),
        http(b"{"),
        http(b"\xff\xfe{}"),
        http(b"[" * 200_000),
        http(b'{"id": "\\ud800"}'),
        http(b'{"id": 1}', "302 Found", "Location: http://127.0.0.1:1/"),
        http(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/"),
        http(b"{}", "408 Request Timeout"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_an_answer_that_cannot_be_read_is_no_answer_and_is_asked_for_once(answer: bytes) -> None:
    async with bare(answer) as (reads, orders, calls):
        with pytest.raises(Unanswered):
            await reads.account()
        assert len(calls) == 1
        with pytest.raises(Unanswered):
            await orders.submit(SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", 0))
        assert len(calls) == 2


@contextlib.asynccontextmanager
async def kept_alive() -> AsyncIterator[tuple[TradingReads, TradingOrders, list[tuple[int, bytes]], list[Any]]]:
    """A server that keeps connections open, a desk's own clients, requests by their connection, and the connections."""
    calls: list[tuple[int, bytes]] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        number = len(writers)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0"
                )
                await reader.readexactly(int(length.split(b":")[1]))
                calls.append((number, head.split(b" ")[0]))
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"id": "x"}')
                await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    keys = Credentials(api_key_id=SecretStr(DEFAULT_KEY), api_secret_key=SecretStr(DEFAULT_SECRET))
    clock = Clock.real()
    lanes = [RequestQueue(name, TokenBucket(clock.now_ns, 6000, 100), clock) for name in ("orders", "reads")]
    orders, reads, _ = accesses(load(None, {"alpaca.trading_url": url}), keys)
    try:
        yield TradingReads(reads, lanes[1]), TradingOrders(orders, lanes[0]), calls, writers
    finally:
        for lane in lanes:
            await lane.close()
        for writer in writers:
            writer.close()
        server.close()


async def test_an_order_after_a_quiet_hour_goes_out_over_the_connection_that_the_reads_keep_open() -> None:
    sale = SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", 0)
    async with kept_alive() as (reads, orders, calls, writers):
        await reads.account()
        await reads.clock()
        await orders.submit(sale)
        assert calls == [(1, b"GET"), (1, b"GET"), (1, b"POST")]
        writers[0].close()  # as a server does with an idle one
        await writers[0].wait_closed()
        await orders.submit(sale)
        assert calls[3:] == [(2, b"POST")]
        await reads.account()
        assert calls[4:] == [(2, b"GET")]


async def test_an_order_goes_out_in_one_piece() -> None:
    sends: list[bytes] = []

    class Recording(socket.socket):
        def sendall(self, data: Any, *more: Any) -> None:
            sends.append(bytes(data))
            super().sendall(data, *more)

    async with kept_alive() as (_, orders, calls, _writers):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket, "socket", Recording)
            await orders.submit(SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", 0))
    assert calls == [(1, b"POST")]
    (whole,) = sends
    head, _, body = whole.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert json.loads(body)["client_order_id"] == NAME


@pytest.mark.host_time
async def test_an_answer_that_stops_in_the_middle_ends_at_the_deadline() -> None:
    async with bare(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", gap_s=1.0, deadlines=SHORT) as (reads, _, calls):
        with pytest.raises(Unanswered, match="Read timed out"):
            await reads.account()
        assert len(calls) == 1


@pytest.mark.host_time
async def test_a_body_that_trickles_in_ends_at_the_deadline() -> None:
    parts = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *([b" "] * 20)]
    async with bare(*parts, gap_s=0.1, deadlines=WHOLE_SOON) as (reads, _, _requests):
        with pytest.raises(Unanswered, match="not whole in time"):
            await reads.account()


@pytest.mark.host_time
@pytest.mark.parametrize(
    "begun", [b"HTTP/1.1 200 OK\r\nX-Never-Ends: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
async def test_headers_that_trickle_in_end_at_the_deadline_and_the_next_call_has_its_turn(begun: bytes) -> None:
    async with bare(begun, *([b"0"] * 20), gap_s=0.1, deadlines=WHOLE_SOON) as (reads, _, requests):
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(Unanswered, match="no answer in time"):
                await reads.account()
            assert time.monotonic() - began < 1.5  # of the 2 s that all of it takes
        assert len(requests) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message":"gateway: no report: 401 - unauthorized."}', "HTTP 503: gateway: no report: 401 - unauthorized."),
        (b'{"message":"no healthy upstream"}', "HTTP 503"),
        (b"<html>503</html>", "HTTP 503"),
    ],
)
async def test_what_a_gateway_says_of_a_broker_that_is_away_is_passed_on(body: bytes, words: str) -> None:
    async with bare(http(body, "503 Service Unavailable")) as (reads, _, _requests):
        with pytest.raises(Unanswered) as caught:
            await reads.account()
        assert str(caught.value) == words


async def test_a_404_of_another_kind_is_not_a_missing_order() -> None:
    pages = (b"<html>404</html>", b"404 page not found\n", b"{}")  # the second one is what a Go server has by itself
    for body in (b'{"code":40410000,"message":"endpoint not found."}', *pages):
        async with bare(http(body, "404 Not Found")) as (reads, _, _requests):
            for look_up in (reads.order_by_client_id, reads.order_by_id):
                with pytest.raises(Refused):
                    await look_up(NAME)


async def test_a_contract_whose_quote_is_null_has_none() -> None:
    async with bare(http(b'{"quotes":{"SPY240703C00545000":null}}')) as (reads, _, _requests):
        assert await MarketData(reads.access, reads._client.queue).latest_option_quotes((CALL,), "opra") == {}


async def test_another_orders_answer_to_a_look_up_is_no_answer() -> None:
    async with bare(http(b'{"id":"x","client_order_id":"other"}')) as (reads, _, _requests):
        with pytest.raises(Unanswered, match="got 'other'"):
            await reads.order_by_client_id(NAME)


async def test_pages_that_never_end_are_given_up() -> None:
    body = b'{"option_contracts":[],"next_page_token":"again"}'
    async with bare(http(body)) as (reads, _, calls):
        with pytest.raises(Unanswered, match="do not end"):
            await reads.option_contracts("SPY", "2024-07-02", "2024-07-03", 1, 2)
        assert len(calls) == 2


# --- what may never happen ----------------------------------------------------------------------------------------


async def test_a_client_for_reading_refuses_every_other_method_in_the_process() -> None:
    async with desk() as it:
        doors = (it.reads._client, it.data._stocks, it.data._options)
        for door in doors:
            for act in (door.client.post, door.client.put, door.client.patch, door.client.delete):
                with pytest.raises(MethodRefused, match="for GET only"):
                    act("/orders", {})
        with pytest.raises(MethodRefused):
            it.orders._client.client.patch("/orders/x", {})
        assert it.server.requests == []


@pytest.mark.parametrize("status", [429, 504])  # those that the library asks again for, unless it is kept from it
async def test_the_library_never_sends_a_request_twice(status: int) -> None:
    async with bare(http(b"{}", f"{status} Not Now")) as (reads, orders, calls):
        with pytest.raises(RestError):
            await reads.account()
        with pytest.raises(RestError):
            await orders.submit(SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", 0))
        assert len(calls) == 2


async def test_a_netrc_never_replaces_the_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with bare(http(b"{}")) as (reads, _, calls):
        await reads.account()
        assert b"Authorization" not in calls[0]
        assert DEFAULT_KEY.encode() in calls[0]


async def test_keys_that_are_not_known_are_refused_by_the_name_of_the_address() -> None:
    async with bare(http(b'{"code":1,"message":"no such key"}', "401 Unauthorized")) as (reads, _, __):
        with pytest.raises(Refused, match=r"^401 1 no such key at http://127\.0\.0\.1:\d+$"):
            await reads.account()


def render(error: BaseException) -> str:
    """All that a log, a traceback or a debugger's glance at this exception would show."""
    text = "".join(traceback.format_exception(error))
    errors: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return text + "".join(f"{one!r} {getattr(one, '__dict__', '')}" for one in errors)


async def test_no_key_is_in_any_error_or_repr() -> None:
    echo = f'{{"code":1,"message":"key {DEFAULT_KEY} and {DEFAULT_SECRET} are wrong"}}'.encode()
    calls: list[Callable[[TradingReads, TradingOrders], Awaitable[object]]] = [
        lambda reads, _: reads.account(),
        lambda _, orders: orders.submit(SubmitOrder(NAME, CALL, -1, 1, None, "sell_to_close", 0)),
    ]
    for answer in (http(echo, "401 Unauthorized"), http(DEFAULT_SECRET.encode(), "403 Forbidden"), http(b""), b""):
        for call in calls:
            async with bare(answer) as (reads, orders, _):
                with pytest.raises(RestError) as caught:
                    await call(reads, orders)
                text = render(caught.value) + repr(reads) + repr(orders) + repr(reads._client)
                assert DEFAULT_KEY not in text
                assert DEFAULT_SECRET not in text
                assert not isinstance(caught.value.__context__, StatusError | HTTPError)
    access = Access("http://127.0.0.1:1", DEFAULT_KEY, DEFAULT_SECRET)
    assert repr(access) == str(access) == "Access(url='http://127.0.0.1:1')"


async def test_a_closed_lane_sends_nothing() -> None:
    async with desk() as it:
        await it.lanes[0].close()
        with pytest.raises(NotSent, match="closed"):
            await it.orders.submit(buy())
        assert it.server.requests == []
