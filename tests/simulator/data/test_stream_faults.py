"""The script of faults on the data streams: spoilt frames, refused keys, stalls, closes and odd quotes.

Expected values: the tape that `stream_clients.py` writes, the documented protocol, and put-call parity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import websockets

from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.venue import Rules
from strategies.kit.contract import Bar
from tests.support.simulator.lone_loop import clock_of_loop
from tests.support.simulator.stream_clients import (
    AUTHENTICATED,
    CALL,
    MINUTE_NS,
    OPEN_NS,
    PATIENCE_S,
    PUT,
    SECOND_NS,
    SESSIONS,
    Heard,
    connected,
    error,
    eventually,
    running,
    serving,
    stock_stream,
    tape,
)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("data_null", [None]), ("unknown_event", "zz"), ("unknown_field", {"value": [1, None]})],
)
async def test_the_script_spoils_a_frame(fault: str, expected: object) -> None:
    async with serving() as server, connected(server.stream_url, msgpack=True) as socket:
        server.faults.add(fault, where={"stream": "stock"})
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "bars": ["SPY"]})
        spoilt = await socket.hear()
        (good,) = await socket.hear()
    spoilers = {"data_null": lambda: spoilt, "unknown_event": lambda: spoilt[0]["T"]}
    assert spoilers.get(fault, lambda: spoilt[0]["field_of_tomorrow"])() == expected
    assert good["T"] == "b"


async def test_alpaca_py_comes_back_after_a_frame_that_is_no_msgpack() -> None:
    async with serving() as server:
        server.faults.add("malformed_json", where={"stream": "stock"})
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_bars(receiver.handler, "SPY")
        async with running(stream):
            bars = await receiver.until(1)
    assert bars[0].timestamp.timestamp() * SECOND_NS > OPEN_NS


async def test_an_oversize_frame_makes_a_client_with_the_usual_limit_leave_with_1009() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("oversize_frame", where={"stream": "stock"})
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "bars": ["SPY"]})
        with pytest.raises(websockets.ConnectionClosedError, match="1009"):  # above 1 MiB
            await socket.hear()


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("auth_failed", 402, "auth failed"),
        ("connection_limit", 406, "connection limit exceeded"),
        ("insufficient_subscription", 409, "insufficient subscription"),
    ],
)
async def test_the_script_refuses_right_keys_and_the_socket_stays_open(fault: str, code: int, text: str) -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        server.faults.add(fault, where={"stream": "stock"})
        await socket.hear()
        assert await socket.log_in() == error(code, text)
        assert await socket.log_in() == AUTHENTICATED


async def test_a_free_plan_has_no_stream_by_subscription() -> None:
    async with serving(-3600) as server:
        server.rules = Rules(free_plan=True)
        async with connected(server.stream_url) as socket:
            await socket.hear()
            assert await socket.log_in() == error(409, "insufficient subscription")
        async with connected(server.stream_url.replace("/sip", "/iex")) as socket:
            await socket.hear()
            assert await socket.log_in() == AUTHENTICATED


async def test_a_symbol_limit_after_the_ack_leaves_a_session_without_data() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("symbol_limit")
        await socket.hear()
        await socket.log_in()
        (ack,) = await socket.ask({"action": "subscribe", "bars": ["SPY"], "quotes": ["SPY"]})
        assert ack["bars"] == ["SPY"]
        assert await socket.hear() == error(405, "symbol limit exceeded")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.socket.recv(), 0.5)


async def test_what_falls_into_a_stall_is_lost_and_pings_are_answered_meanwhile() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("socket_stall", until_ns=OPEN_NS + 150 * SECOND_NS)
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "bars": ["SPY"]})
        await asyncio.wait_for(await socket.socket.ping(), PATIENCE_S)
        (bar,) = await socket.hear()
    assert bar["t"] == "2024-07-02T13:32:00Z"  # those of 13:30 and 13:31 were due before 13:32:30


async def test_silence_to_pings_leaves_the_data_flowing() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("ping_silence")
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "bars": ["SPY"]})
        pong = await socket.socket.ping()
        assert [bar["T"] for bar in await socket.hear()] == ["b"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pong, 0.05)


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011])
async def test_the_script_closes_the_socket_with_its_code(code: int) -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        server.faults.add("socket_close", code=code)
        with pytest.raises(websockets.ConnectionClosed):
            await socket.hear()
        assert socket.socket.close_code == code


async def test_a_dropped_session_is_held_and_the_next_login_meets_406() -> None:
    async with serving(-3600, rate=300) as server:
        async with connected(server.stream_url) as first:
            await first.hear()
            await first.log_in()
            server.faults.add("socket_drop")
            with pytest.raises(websockets.ConnectionClosed):
                await first.hear()
        async with connected(server.stream_url) as second:
            await second.hear()
            assert await second.log_in() == error(406, "connection limit exceeded")
            await eventually(second.logs_in)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_slow_client_is_told_so_or_not_and_closed(silent: bool) -> None:
    async with serving(-3600) as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        server.faults.add("slow_client", silent=silent)
        if not silent:
            assert await socket.hear() == error(407, "slow client")
        with pytest.raises(websockets.ConnectionClosed):
            await socket.hear()


async def test_a_frame_may_come_twice_and_a_word_may_be_one_of_tomorrow() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("frame_duplicated", where={"message": "q"})
        server.faults.add("unknown_enum", where={"message": "q"}, field="bx")
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "quotes": ["SPY"]})
        first, second = await socket.hear(), await socket.hear()
    assert first == second
    assert first[0]["bx"] == "of tomorrow"


@pytest.mark.parametrize(
    ("fault", "holds"),
    [
        ("quote_one_sided", lambda quote: quote["bp"] == 0 and quote["bs"] == 0 and quote["ap"] > 0),
        ("quote_crossed", lambda quote: quote["bp"] > quote["ap"]),
        ("quote_gap", lambda quote: quote["S"] == PUT),
        ("quote_empty", lambda quote: quote["bp"] == quote["ap"] == 0),
        ("quote_absurd", lambda quote: quote["bp"] == 0.01 < quote["ap"]),
        ("quote_wide", lambda quote: abs(quote["bp"] / quote["ap"] - 3 / 8) < 0.02),
        ("quote_ahead", lambda quote: quote["t"].second % 15 == 14),  # 59 s after a path point
    ],
)
async def test_the_script_makes_an_option_quote_go_wrong(fault: str, holds: Callable[[Any], bool]) -> None:
    async with serving() as server, connected(server.option_stream_url, msgpack=True) as socket:
        server.faults.add(fault, where={"symbol": CALL})
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "quotes": [CALL, PUT]})
        assert holds((await socket.hear())[0])


async def test_options_are_not_quoted_outside_of_regular_hours() -> None:
    extended = Bar("SPY", OPEN_NS - 5 * MINUTE_NS, 544.0, 544.0, 544.0, 544.0, 100)
    market = Market.from_bars([extended, *tape()], sessions=SESSIONS)
    clock = clock_of_loop(extended.start_ns - SECOND_NS, 600)
    async with AlpacaServer(market, clock) as server, connected(server.option_stream_url, msgpack=True) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "quotes": [CALL]})
        (quote,) = await socket.hear()
        assert server.clock.now_ns() >= OPEN_NS
    assert quote["S"] == CALL
