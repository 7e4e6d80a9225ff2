"""The protocol of the data streams, asked of the loopback Alpaca by a bare websocket: who may say what, and when.

Expected values: the tape that `stream_clients.py` writes, the documented protocol, and put-call parity.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import websockets

from daemon.alpaca_api.data_stream import OUTBOX_FRAMES
from daemon.alpaca_api.messages import DataMessage
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.simulator.stream_clients import (
    AUTHENTICATED,
    CALL,
    CONNECTED,
    OPEN_NS,
    PATIENCE_S,
    SECOND_NS,
    connected,
    error,
    eventually,
    serving,
)


async def test_subscribing_adds_unsubscribing_takes_away_and_the_ack_lists_everything() -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        assert await socket.hear() == CONNECTED
        assert await socket.log_in() == AUTHENTICATED
        await socket.ask({"action": "subscribe", "trades": ["AAPL"]})
        second = await socket.ask({"action": "subscribe", "quotes": ["CLDR", "AMD"], "bars": ["*"]})
        third = await socket.ask({"action": "unsubscribe", "bars": ["*"], "quotes": ["AMD"]})
    empty: dict[str, list[str]] = {"updatedBars": [], "dailyBars": [], "statuses": [], "lulds": []}
    with_trades = {"trades": ["AAPL"], "corrections": ["AAPL"], "cancelErrors": ["AAPL"]}
    assert second == [{"T": "subscription", "quotes": ["AMD", "CLDR"], "bars": ["*"], **with_trades, **empty}]
    assert third == [{"T": "subscription", "quotes": ["CLDR"], "bars": [], **with_trades, **empty}]


STOCK, OPTION = "/v2/sip", "/v1beta1/indicative"


@pytest.mark.parametrize(
    ("path", "message", "code", "text"),
    [
        (STOCK, {"action": "dance"}, 400, "invalid syntax"),
        (STOCK, ["subscribe"], 400, "invalid syntax"),
        (STOCK, {"action": "subscribe", "bars": ["no symbol"]}, 400, "invalid syntax"),
        (STOCK, {"action": "auth", "key": "a", "secret": "b"}, 403, "already authenticated"),
        (STOCK, {"action": "subscribe", "news": ["SPY"]}, 410, "invalid subscribe action for this feed"),
        (OPTION, {"action": "subscribe", "bars": [CALL]}, 410, "invalid subscribe action for this feed"),
        (OPTION, {"action": "subscribe", "quotes": ["*"]}, 413, "star subscription is not allowed for option quotes"),
        (
            OPTION,
            {"action": "subscribe", "quotes": [f"SPY240703C{strike:08d}" for strike in range(1001)]},
            405,
            "symbol limit exceeded",
        ),
    ],
)
async def test_a_refused_request_gets_its_documented_error_and_changes_nothing(
    path: str, message: object, code: int, text: str
) -> None:
    async with serving(-3600) as server, connected(f"ws://127.0.0.1:{server.port}{path}", msgpack=True) as socket:
        assert await socket.hear() == CONNECTED
        assert await socket.log_in() == AUTHENTICATED
        good = {"action": "subscribe", "quotes": [CALL if path == OPTION else "SPY"]}
        before = await socket.ask(good)
        assert await socket.ask(message) == error(code, text)
        assert await socket.ask(good) == before


async def test_before_authentication_nothing_is_subscribed_and_wrong_keys_leave_the_socket_open() -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        assert await socket.hear() == CONNECTED
        assert await socket.ask({"action": "subscribe", "bars": ["SPY"]}) == error(401, "not authenticated")
        assert await socket.ask({"action": "auth", "key": "x", "secret": "y"}) == error(402, "auth failed")
        assert await socket.log_in() == AUTHENTICATED


async def test_keys_in_the_headers_of_the_upgrade_authenticate_too() -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    async with serving(-3600) as server, connected(server.stream_url, headers=keys) as socket:
        assert [await socket.hear(), await socket.hear()] == [CONNECTED, AUTHENTICATED]


async def test_who_does_not_authenticate_in_time_is_told_404_and_closed() -> None:
    async with serving(-3600) as server:
        server.data_stream.auth_timeout_s = 0.05
        async with connected(server.stream_url) as socket:
            assert await socket.hear() == CONNECTED
            assert await socket.hear() == error(404, "auth timeout")
            with pytest.raises(websockets.ConnectionClosed):
                await socket.hear()


async def test_options_without_msgpack_are_refused_with_412() -> None:
    async with serving(-3600) as server, connected(server.option_stream_url) as socket:
        assert await socket.hear() == error(412, "option messages are only available in MsgPack format")


async def test_a_fragmented_request_is_put_together() -> None:
    async with serving(-3600) as server, connected(server.stream_url, msgpack=True) as socket:
        await socket.hear()
        await socket.log_in()
        request = msgspec.msgpack.encode({"action": "subscribe", "bars": ["SPY"]})
        await socket.socket.send([request[:7], request[7:20], request[20:]])
        (ack,) = await socket.hear()
    assert ack["bars"] == ["SPY"]


async def test_a_key_has_one_session_for_each_endpoint_and_the_next_waits_on_its_open_socket() -> None:
    async with serving(-3600) as server, connected(server.stream_url) as second:
        await second.hear()
        async with connected(server.stream_url) as first, connected(server.option_stream_url, msgpack=True) as option:
            await first.hear()
            await option.hear()
            assert await first.log_in() == AUTHENTICATED
            assert await option.log_in() == AUTHENTICATED
            assert await second.log_in() == error(406, "connection limit exceeded")
        await eventually(second.logs_in)  # the first said goodbye


async def test_a_vanished_clients_session_is_held_for_ninety_simulated_seconds() -> None:
    async with serving(-3600, rate=300) as server:
        async with connected(server.stream_url) as first:
            await first.hear()
            await first.log_in()
            first.socket.transport.abort()
        gone_ns = server.clock.now_ns()
        async with connected(server.stream_url) as second:
            await second.hear()
            assert await second.log_in() == error(406, "connection limit exceeded")
            await eventually(second.logs_in)
            assert server.clock.now_ns() - gone_ns >= 89 * SECOND_NS


async def test_a_black_hole_neither_answers_pings_nor_lets_the_next_session_in() -> None:
    async with serving(-3600) as server, connected(server.stream_url) as dark, connected(server.stream_url) as second:
        await dark.hear()
        await second.hear()
        await dark.log_in()
        await asyncio.wait_for(await dark.socket.ping(), PATIENCE_S)
        server.faults.add("socket_black_hole", hold_s=10_000)

        async def fell() -> bool:
            return server.faults.met["socket_black_hole"] == 1

        await eventually(fell)
        pong = await dark.socket.ping()
        await dark.say({"action": "subscribe", "bars": ["SPY"]})
        assert await second.log_in() == error(406, "connection limit exceeded")  # some time has passed
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pong, 0.1)
        dark.socket.transport.abort()


async def test_a_client_that_does_not_read_is_told_407_and_closed() -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "statuses": ["SPY"]})
        halt = DataMessage("s", "SPY", OPEN_NS, {"sc": "H", "sm": "Trading Halt", "rc": "", "rm": "", "z": "B"})
        for _ in range(OUTBOX_FRAMES + 1):  # all in one turn of the loop: nothing can be sent in between
            server.data_stream.publish_stocks([halt])
        assert await socket.hear() == error(407, "slow client")
        with pytest.raises(websockets.ConnectionClosed):
            await socket.hear()


@pytest.mark.parametrize("fault", ["mute_after_connect", "mute_after_auth", "mute_after_subscribe"])
async def test_a_mute_server_answers_pings_and_says_nothing(fault: str) -> None:
    async with serving(-3600) as server:
        server.faults.add(fault)
        async with connected(server.stream_url) as socket:
            await socket.say({"action": "auth", "key": DEFAULT_KEY, "secret": DEFAULT_SECRET})
            await socket.say({"action": "subscribe", "bars": ["SPY"]})
            await asyncio.wait_for(await socket.socket.ping(), PATIENCE_S)  # all before it was read
            greetings = {"mute_after_connect": [], "mute_after_auth": [CONNECTED]}
            for expected in greetings.get(fault, [CONNECTED, AUTHENTICATED]):
                assert await socket.hear() == expected
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.socket.recv(), 0.1)


async def test_the_upgrade_is_refused_with_the_status_of_the_script() -> None:
    async with serving(-3600) as server:
        server.faults.add("upgrade_refused", status=503)
        with pytest.raises(websockets.InvalidStatus, match="503"):
            async with connected(server.stream_url):
                pass


async def test_the_test_stream_knows_its_one_symbol() -> None:
    async with serving() as server, connected(f"ws://127.0.0.1:{server.port}/v2/test") as socket:
        await socket.hear()
        await socket.log_in()
        ack = await socket.ask({"action": "subscribe", "bars": ["FAKEPACA"]})
        (bar,) = await socket.hear()
    assert ack == [{"T": "subscription", "trades": [], "quotes": [], "bars": ["FAKEPACA"]}]
    assert (bar["S"], bar["c"]) == ("FAKEPACA", 545.01)
