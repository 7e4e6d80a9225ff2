"""The data streams of the loopback Alpaca, driven by the unchanged alpaca-py and by a bare websocket.

Expected values: the tape that this file writes, the documented protocol, and put-call parity.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets

from strategies.contract import Bar, Session
from tests.alpaca_server import data_stream
from tests.alpaca_server.clock import SimClock
from tests.alpaca_server.market import Market
from tests.alpaca_server.server import DEFAULT_KEY, DEFAULT_SECRET, AlpacaServer

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.live import OptionDataStream, StockDataStream
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
OPEN_NS = 1_719_927_000 * SECOND_NS  # 2024-07-02 13:30 UTC
SESSIONS = [
    Session("2024-07-02", OPEN_NS, OPEN_NS + 390 * MINUTE_NS),
    Session("2024-07-03", OPEN_NS + 1440 * MINUTE_NS, OPEN_NS + 1650 * MINUTE_NS),  # a half day
]
CALL, PUT = "SPY240703C00545000", "SPY240703P00545000"
GAP = 4  # the minute in which nothing trades
PATIENCE_S = 20.0


def tape() -> list[Bar]:
    """Thirty rising minutes from 545.00 on, one cent each; minute GAP has no bar."""
    rows = [(minute, 545 + minute / 100) for minute in range(30) if minute != GAP]
    return [
        Bar("SPY", OPEN_NS + m * MINUTE_NS, p, round(p + 0.05, 2), round(p - 0.05, 2), round(p + 0.01, 2), 1000 + m)
        for m, p in rows
    ]


@contextlib.asynccontextmanager
async def serving(start_s: float = -3.0, rate: float = 240.0) -> AsyncIterator[AlpacaServer]:
    """The server, `start_s` simulated seconds from the open, at `rate` simulated seconds a second."""
    market = Market.from_bars(tape(), sessions=SESSIONS)
    clock = SimClock.starting_now(OPEN_NS + int(start_s * SECOND_NS), rate)
    async with AlpacaServer(market, clock) as server:
        yield server


class Heard:
    """What a handler of alpaca-py was given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._more = asyncio.Event()

    async def handler(self, message: Any) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, count: int) -> list[Any]:
        """The messages, as soon as there are `count`."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.messages) < count:
                self._more.clear()
                await self._more.wait()
        return self.messages


@contextlib.asynccontextmanager
async def running(stream: Any) -> AsyncIterator[None]:
    """alpaca-py's own loop as a task; the socket is closed at the end."""
    task = asyncio.create_task(stream._run_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.close()


def stock_stream(server: AlpacaServer, *, raw: bool = False) -> Any:
    return StockDataStream(DEFAULT_KEY, DEFAULT_SECRET, raw_data=raw, url_override=server.stream_url)


def option_stream(server: AlpacaServer, *, raw: bool = False) -> Any:
    return OptionDataStream(DEFAULT_KEY, DEFAULT_SECRET, raw_data=raw, url_override=server.option_stream_url)


class Socket:
    """A bare client in either codec."""

    def __init__(self, socket: websockets.ClientConnection, *, msgpack: bool) -> None:
        self.socket = socket
        self.msgpack = msgpack

    async def say(self, message: object) -> None:
        await self.socket.send(msgspec.msgpack.encode(message) if self.msgpack else json.dumps(message))

    async def hear(self) -> Any:
        """The next frame, which is an array."""
        async with asyncio.timeout(PATIENCE_S):
            data = await self.socket.recv()
        return msgspec.msgpack.decode(data) if isinstance(data, bytes) else json.loads(data)

    async def ask(self, message: object) -> Any:
        await self.say(message)
        return await self.hear()

    async def log_in(self) -> Any:
        return await self.ask({"action": "auth", "key": DEFAULT_KEY, "secret": DEFAULT_SECRET})

    async def logs_in(self) -> bool:
        return bool(await self.log_in() == AUTHENTICATED)


@contextlib.asynccontextmanager
async def connected(url: str, *, msgpack: bool = False, headers: dict[str, str] | None = None) -> AsyncIterator[Socket]:
    codec = {"Content-Type": "application/msgpack"} if msgpack else {}
    async with websockets.connect(url, additional_headers=codec | (headers or {}), ping_interval=None) as socket:
        yield Socket(socket, msgpack=msgpack)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `condition` holds; asked every 10 ms."""
    for _ in range(int(PATIENCE_S * 100)):
        if await condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("what was waited for never came")


def error(code: int, text: str) -> list[dict[str, object]]:
    return [{"T": "error", "code": code, "msg": text}]


CONNECTED = [{"T": "success", "msg": "connected"}]
AUTHENTICATED = [{"T": "success", "msg": "authenticated"}]


# --- what alpaca-py hears -----------------------------------------------------------------------------------------


async def test_a_bar_carries_the_start_of_its_minute_and_the_tapes_values() -> None:
    async with serving() as server:
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_bars(heard.handler, "SPY")
        async with running(stream):
            bars = await heard.until(2)
    first = bars[0]
    assert int(first.timestamp.timestamp()) * SECOND_NS == OPEN_NS
    assert (first.open, first.high, first.low, first.close, first.volume) == (545.0, 545.05, 544.95, 545.01, 1000)
    assert int(bars[1].timestamp.timestamp()) * SECOND_NS == OPEN_NS + MINUTE_NS


async def test_a_minute_without_a_trade_has_no_bar() -> None:
    async with serving(start_s=150) as server:
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_bars(heard.handler, "SPY")
        async with running(stream):
            bars = await heard.until(3)
    assert [round(bar.timestamp.timestamp() - OPEN_NS / SECOND_NS) // 60 for bar in bars] == [2, 3, GAP + 1]


async def test_daily_bars_grow_with_every_minute() -> None:
    async with serving() as server:
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_daily_bars(heard.handler, "SPY")
        async with running(stream):
            days = await heard.until(2)
    assert [day.volume for day in days] == [1000, 1000 + 1001]
    assert [day.high for day in days] == [545.05, 545.06]
    assert {day.timestamp.isoformat() for day in days} == {"2024-07-02T04:00:00+00:00"}  # midnight New York


async def test_a_minutes_quotes_follow_open_low_high_and_close_of_a_rising_bar() -> None:
    async with serving(start_s=-1, rate=30) as server:  # slow: a point that is overdue is left out
        stream, heard = stock_stream(server, raw=True), Heard()
        stream.subscribe_quotes(heard.handler, "SPY")
        async with running(stream):
            quotes = await heard.until(4)
    assert [quote["bp"] for quote in quotes[:4]] == [545.0, 544.95, 545.05, 545.01]
    assert [quote["t"].to_unix_nano() - OPEN_NS for quote in quotes[:4]] == [k * 15 * SECOND_NS for k in range(4)]


async def test_option_quotes_keep_put_call_parity() -> None:
    async with serving() as server:
        stream, heard = option_stream(server), Heard()
        stream.subscribe_quotes(heard.handler, CALL, PUT)
        async with running(stream):
            quotes = await heard.until(2)
    mids = {quote.symbol: (quote.bid_price + quote.ask_price) / 2 for quote in quotes[:2]}
    assert mids[CALL] - mids[PUT] == pytest.approx(545.00 - 545, abs=0.02)  # S - K with r = q = 0, cents rounded
    assert all(0 < quote.bid_price < quote.ask_price for quote in quotes)


async def test_alpaca_py_follows_a_corrected_bar_and_history_has_it_too() -> None:
    async with serving() as server:
        server.faults.add("bar_corrected", where={"symbol": "SPY"}, shift=0.5)
        stream, bars, updates = stock_stream(server), Heard(), Heard()
        stream.subscribe_bars(bars.handler, "SPY")
        stream.subscribe_updated_bars(updates.handler, "SPY")
        async with running(stream):
            (update,) = await updates.until(1)
        client = StockHistoricalDataClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.data_url)
        request = StockBarsRequest(
            symbol_or_symbols="SPY", timeframe=TimeFrame.Minute, start=update.timestamp, end=update.timestamp
        )
        history: Any = await asyncio.to_thread(client.get_stock_bars, request)
    assert bars.messages[0].close == 545.01
    assert (update.timestamp, update.close, update.high) == (bars.messages[0].timestamp, 545.51, 545.51)
    assert [bar.close for bar in history["SPY"]] == [545.51]


async def test_a_text_for_a_time_loses_that_message_and_the_stream_goes_on() -> None:
    async with serving() as server:
        server.faults.add("string_time", where={"stream": "stock"})
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_bars(heard.handler, "SPY")
        async with running(stream):
            bars = await heard.until(1)
    assert int(bars[0].timestamp.timestamp()) * SECOND_NS == OPEN_NS + MINUTE_NS
    assert server.faults.met["string_time"] == 1


async def test_alpaca_py_comes_back_after_a_close_by_the_server() -> None:
    async with serving(rate=60) as server:
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_bars(heard.handler, "SPY")
        async with running(stream):
            await heard.until(1)
            server.faults.add("socket_close", code=1001)
            await heard.until(3)
    assert server.faults.met["socket_close"] == 1


async def test_wrong_keys_are_an_error_that_alpaca_py_only_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def said() -> bool:
        return "auth failed" in caplog.text

    async with serving() as server:
        stream = StockDataStream(DEFAULT_KEY, "wrong", url_override=server.stream_url)
        stream.subscribe_bars(Heard().handler, "SPY")
        with caplog.at_level(logging.ERROR, "alpaca.data.live.websocket"):
            async with running(stream):
                await eventually(said)


# --- bars that go wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "minutes"),
    [
        ("bar_gap", [1, 2, 3]),
        ("bar_duplicated", [0, 0, 1]),
        ("bar_reordered", [1, 0, 2]),
        ("bar_late", [1, 0, 2]),
    ],
)
async def test_the_script_makes_the_first_bar_go_wrong(fault: str, minutes: list[int]) -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add(fault, where={"start_ns": OPEN_NS}, **({"delay_s": 70} if fault == "bar_late" else {}))
        assert await socket.hear() == CONNECTED
        assert await socket.log_in() == AUTHENTICATED
        await socket.ask({"action": "subscribe", "bars": ["*"]})
        heard: list[str] = []
        while len(heard) < 3:
            heard += [bar["t"] for bar in await socket.hear()]
    assert heard == [f"2024-07-02T13:{30 + minute}:00Z" for minute in minutes]


# --- the protocol -------------------------------------------------------------------------------------------------


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
        data_stream.hub(server).auth_timeout_s = 0.05
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
        halt = data_stream.Message("s", "SPY", OPEN_NS, {"sc": "H", "sm": "Trading Halt", "rc": "", "rm": "", "z": "B"})
        for _ in range(data_stream.OUTBOX_FRAMES + 1):  # all in one turn of the loop: nothing can be sent in between
            data_stream.hub(server).publish([halt])
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
            heard = {"mute_after_connect": [], "mute_after_auth": [CONNECTED]}
            for expected in heard.get(fault, [CONNECTED, AUTHENTICATED]):
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
    found = {"data_null": lambda: spoilt, "unknown_event": lambda: spoilt[0]["T"]}
    assert found.get(fault, lambda: spoilt[0]["field_of_tomorrow"])() == expected
    assert good["T"] == "b"


async def test_alpaca_py_comes_back_after_a_frame_that_is_no_msgpack() -> None:
    async with serving() as server:
        server.faults.add("malformed_json", where={"stream": "stock"})
        stream, heard = stock_stream(server), Heard()
        stream.subscribe_bars(heard.handler, "SPY")
        async with running(stream):
            bars = await heard.until(1)
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
    clock = SimClock.starting_now(extended.start_ns - SECOND_NS, 600)
    async with AlpacaServer(market, clock) as server, connected(server.option_stream_url, msgpack=True) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", "quotes": [CALL]})
        (quote,) = await socket.hear()
        assert server.clock.now_ns() >= OPEN_NS
    assert quote["S"] == CALL


# --- the wire -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channel", "kind"), [("quotes", "q"), ("trades", "t"), ("bars", "b")])
async def test_messages_have_the_keys_of_recorded_ones_with_the_type_first(
    data_dir: Path, channel: str, kind: str
) -> None:
    lines = (data_dir / "alpaca_stream_samples.jsonl").read_text().splitlines()
    frames = [json.loads(line)["frame"] for line in lines]
    recorded = next(row for frame in frames if isinstance(frame, list) for row in frame if row["T"] == kind)
    async with serving() as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", channel: ["SPY"]})
        ours = (await socket.hear())[0]
    assert list(ours) == list(recorded)
    assert {key: type(ours[key]) for key in ours if key not in "aspbshlcv"} == {
        key: type(recorded[key]) for key in recorded if key not in "aspbshlcv"
    }


@pytest.mark.parametrize(
    ("time_ns", "packed"),
    [
        (1 * SECOND_NS, "d6ff00000001"),  # timestamp 32
        (1 * SECOND_NS + 1, "d7ff0000000400000001"),  # timestamp 64: 30 bits of nanoseconds, 34 of seconds
        ((1 << 34) * SECOND_NS + 1, "c70cff000000010000000400000000"),  # timestamp 96
    ],
)
def test_a_time_is_packed_as_the_msgpack_specification_has_it(time_ns: int, packed: str) -> None:
    assert msgspec.msgpack.encode(data_stream.timestamp(time_ns)).hex() == packed


@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_a_frame_of_encoded_messages_is_one_array(count: int) -> None:
    rows = [{"T": "b", "n": number} for number in range(count)]
    packed = data_stream.frame([msgspec.msgpack.encode(row) for row in rows], msgpack=True)
    text = data_stream.frame([msgspec.json.encode(row) for row in rows], msgpack=False)
    assert msgspec.msgpack.decode(packed) == msgspec.json.decode(text) == rows
