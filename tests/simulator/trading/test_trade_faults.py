"""The script of faults on the trading stream, met by the unchanged `TradingStream` and by a bare websocket.

Expected values: the documented handshake and events, and the tape of `trade_listeners.py` (a share costs 500.01).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import warnings
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect

from simulator.faults import Faults
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from tests.support.simulator.trade_listeners import (
    AUTH,
    LISTEN,
    MINUTE_NS,
    OPEN_NS,
    buy,
    events,
    jump,
    listen_with,
    listening,
    receive,
    serving,
    until,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import TradeEvent


@pytest.mark.parametrize(
    ("kind", "parameters", "names"),
    [
        ("update_lost", {"where": {"event": "fill"}}, ["pending_new", "new"]),
        ("update_duplicated", {"where": {"event": "fill"}}, ["pending_new", "new", "fill", "fill"]),
        ("update_reordered", {"where": {"event": "new"}}, ["pending_new", "fill", "new"]),
        ("update_replayed", {}, ["pending_new", "new", "fill", "new", "fill"]),
        ("update_replayed", {"copies": 2}, ["pending_new", "new", "fill", "new", "fill", "new", "fill"]),
        ("unknown_event", {"where": {"event": "new"}}, ["pending_new", "event_of_tomorrow", "fill"]),
        (
            "unknown_event",
            {"where": {"event": "new"}, "extra": True},
            ["pending_new", "event_of_tomorrow", "new", "fill"],
        ),
        ("order_rejected", {}, ["pending_new", "rejected"]),
        ("unknown_enum", {"where": {"event": "new"}}, ["pending_new", "new", "fill"]),
        ("unknown_field", {"where": {"event": "new"}}, ["pending_new", "new", "fill"]),
        ("frame_duplicated", {"where": {"event": "new"}}, ["pending_new", "new", "new", "fill"]),
        ("order_held_back", {}, ["pending_new"]),
    ],
)
async def test_each_fault_of_an_update_is_what_the_script_says(
    kind: str, parameters: dict[str, Any], names: list[str]
) -> None:
    faults = Faults()
    faults.add(kind, **parameters)
    async with serving(faults=faults) as server, listening(server) as messages:
        buy(server)
        await until(lambda: len(messages) >= len(names))
        await asyncio.sleep(0.02)
        assert events(messages) == names
        assert faults.met == {kind: 1}
        replayed = {(m["data"]["event"], m["data"]["execution_id"]) for m in messages}
        assert len(replayed) == len(set(names))  # a copy has the execution id of its original


@pytest.mark.parametrize("kind", ["data_null", "unknown_status", "malformed_json"])
async def test_a_message_that_alpaca_py_cannot_read_is_lost_and_the_next_one_is_not(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    faults.add(kind, where={"event": "new"})
    with caplog.at_level(logging.CRITICAL, logger="alpaca.trading.stream"):
        async with serving(faults=faults) as server, listening(server, raw=False) as messages:
            buy(server)
            await until(lambda: len(messages) == 2)
            assert [update.event for update in messages] == [TradeEvent.PENDING_NEW, TradeEvent.FILL]


async def test_a_late_update_comes_after_its_simulated_time() -> None:
    faults = Faults()
    faults.add("update_late", where={"event": "new"}, delay_s=30)
    async with serving(rate=600.0, faults=faults) as server, listening(server) as messages:
        buy(server)
        await until(lambda: len(messages) == 3)
        assert events(messages) == ["pending_new", "fill", "new"]


async def test_a_fill_that_nobody_hears_is_in_the_books_and_the_dropped_client_comes_back() -> None:
    faults = Faults()
    faults.add("fill_unheard")
    rules = Rules(fill_sizes=(1000, 1000), dead_session_s=0)
    async with serving(faults=faults, rules=rules) as server, listening(server) as messages:
        buy(server)
        await until(lambda: server.account.quantity("SPY") == 1)
        assert "fill" not in events(messages)
        await until(lambda: server.trade_stream.listeners(DEFAULT_KEY) == 1)
        buy(server)
        await until(lambda: "fill" in events(messages))
        assert messages[-1]["data"]["position_qty"] == "2"


async def test_a_stall_swallows_updates_and_the_socket_lives() -> None:
    faults = Faults()
    faults.add("socket_stall", until_ns=OPEN_NS + 20 * MINUTE_NS)
    async with serving(faults=faults) as server, connect(server.trade_stream_url) as socket:
        await listen_with(socket)
        buy(server)
        await asyncio.sleep(0.02)
        await (await socket.ping())  # answered
        jump(server, OPEN_NS + 20 * MINUTE_NS)
        second = buy(server)
        assert (await receive(socket))["data"]["order"]["id"] == second["id"]
        assert faults.met["socket_stall"] == 3


async def test_a_close_code_reaches_the_client_while_nothing_is_published() -> None:
    faults = Faults()
    async with serving(faults=faults) as server, connect(server.trade_stream_url) as socket:
        await listen_with(socket)
        faults.add("socket_close", code=1011)
        with pytest.raises(websockets.ConnectionClosedError) as error:
            await receive(socket)
        assert error.value.rcvd is not None
        assert error.value.rcvd.code == 1011


async def test_a_black_hole_answers_no_ping_and_holds_the_session() -> None:
    faults = Faults()
    async with serving(faults=faults) as server:
        socket = await connect(server.trade_stream_url, ping_interval=None, close_timeout=0.1)
        await listen_with(socket)
        faults.add("socket_black_hole", hold_s=60)
        await until(lambda: faults.met["socket_black_hole"] == 1)
        pong = await socket.ping()
        buy(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pong
        with pytest.raises(websockets.InvalidStatus, match="429"):
            await connect(server.trade_stream_url)
        socket.transport.abort()


async def test_silence_to_pings_leaves_the_data_flowing() -> None:
    faults = Faults()
    async with serving(faults=faults) as server, connect(server.trade_stream_url, ping_interval=None) as socket:
        await listen_with(socket)
        faults.add("ping_silence")
        await until(lambda: faults.met["ping_silence"] == 1)
        pong = await socket.ping()
        buy(server)
        assert (await receive(socket))["data"]["event"] == "pending_new"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pong


@pytest.mark.parametrize("kind", ["mute_after_connect", "mute_after_auth"])
async def test_a_mute_server_takes_the_auth_and_says_nothing(kind: str) -> None:
    faults = Faults()
    faults.add(kind)
    async with serving(faults=faults) as server, connect(server.trade_stream_url, close_timeout=0.1) as socket:
        await socket.send(json.dumps(AUTH))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.recv()


async def test_a_frame_above_a_mebibyte_ends_the_connection_of_alpaca_py_with_1009() -> None:
    faults = Faults()
    faults.add("oversize_frame")
    async with serving(faults=faults) as server, connect(server.trade_stream_url) as socket:
        await listen_with(socket)
        buy(server)
        with pytest.raises(websockets.ConnectionClosedError) as error:
            await receive(socket)
        assert error.value.sent is not None
        assert error.value.sent.code == 1009


async def test_a_listen_that_is_never_acknowledged_brings_no_data() -> None:
    faults = Faults()
    faults.add("mute_after_subscribe")
    async with serving(faults=faults) as server, connect(server.trade_stream_url, close_timeout=0.1) as socket:
        await socket.send(json.dumps(AUTH))
        await receive(socket)
        await socket.send(json.dumps(LISTEN))
        buy(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.recv()


async def test_an_upgrade_may_be_refused_with_503() -> None:
    faults = Faults()
    faults.add("upgrade_refused", status=503, where={"stream": "trade"})
    async with serving(faults=faults) as server:
        with pytest.raises(websockets.InvalidStatus, match="503"):
            await connect(server.trade_stream_url)


async def test_a_fill_before_the_reply_is_told_before_the_order_is_known() -> None:
    faults = Faults()
    faults.add("fill_before_reply", seconds=0.2)
    async with serving(faults=faults) as server, listening(server) as messages:
        client = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url, raw_data=True)
        with contextlib.closing(client._session):
            order = {"symbol": "SPY", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day"}
            reply = asyncio.create_task(asyncio.to_thread(client.post, "/orders", order))
            await until(lambda: len(messages) == 3)
            assert not reply.done()
            response = await reply
        assert isinstance(response, dict)
        assert response["status"] == "pending_new"
