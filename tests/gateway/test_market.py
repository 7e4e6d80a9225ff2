"""Market data through the gateway: real alpaca-py streams, bare clients and a desk's own feed, over one connection.

Prices are the stage's: a share is quoted 500.00 to 500.01, each minute's bar closes at 500.00.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets

from daemon.alpaca_api.data_stream import OUTBOX_FRAMES
from daemon.alpaca_api.messages import DataMessage
from daemon.gateway import server
from daemon.gateway.command import with_feeds
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from simulator.trading.venue import Rules
from strategies.kit.units import MINUTE_NS, SECOND_NS
from tests.support.alpaca.market_desk import (
    MarketDesk,
)
from tests.support.gateway_stage import CALL, HALF_DAY, KEYS, OPEN_NS, Stage, stage
from tests.support.log import LogRecorder
from tests.support.simulator.stream_clients import (
    AUTHENTICATED,
    CONNECTED,
    Heard,
    Socket,
    connected,
    error,
    eventually,
    running,
)
from tests.support.simulator.trade_listeners import trade_updates

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.live import OptionDataStream, StockDataStream
    from alpaca.data.requests import StockBarsRequest, StockLatestQuoteRequest
    from alpaca.data.timeframe import TimeFrame

SIP, INDICATIVE = "/v2/sip", "/v1beta1/indicative"
pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")


def url(s: Stage, path: str = SIP) -> str:
    return f"ws://127.0.0.1:{s.server.port}{path}"


def subscribe(**channels: list[str]) -> dict[str, object]:
    return {"action": "subscribe", **channels}


async def log_in(socket: Socket, name: str) -> Any:
    return await socket.ask({"action": "auth", "key": KEYS[name].key, "secret": KEYS[name].secret})


@contextlib.asynccontextmanager
async def entered(s: Stage, name: str, path: str = SIP, *, msgpack: bool = False) -> AsyncIterator[Socket]:
    """A bare client of a sub-account that is authenticated."""
    async with connected(url(s, path), msgpack=msgpack) as socket:
        assert await socket.hear() == CONNECTED

        async def let_in() -> bool:  # the broker holds a session that was lost for a moment
            return bool(await log_in(socket, name) == AUTHENTICATED)

        await eventually(let_in)
        yield socket


def upstream(s: Stage, path: str = SIP) -> list[Any]:
    """The gateway's sockets at the broker."""
    return [session for session in s.broker.data_stream.sessions if session.path == path]


def subscribed(s: Stage, path: str = SIP) -> dict[str, set[str]]:
    """What the broker gives the gateway, on its one connection."""
    (session,) = upstream(s, path)
    return {channel: set(symbols) for channel, symbols in session.subscribed.items() if symbols}


def minute_of(row: Any) -> int:
    """The minute since the open of a raw bar."""
    at = datetime.fromisoformat(row["t"]) if isinstance(row["t"], str) else row["t"]
    seconds = at.timestamp() if isinstance(at, datetime) else at.to_unix()  # alpaca-py has a Timestamp of msgpack
    return round(seconds - OPEN_NS / SECOND_NS) // 60


async def bars_until(socket: Socket, last: int) -> list[int]:
    """The minutes of the bars that come next, up to `last`."""
    minutes: list[int] = []
    while last not in minutes:
        minutes += [minute_of(row) for row in await socket.hear() if row["T"] == "b"]
    return minutes


async def close_code(socket: Socket) -> int | None:
    """The code with which the server closes."""
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(100):
            await socket.hear()
    return socket.socket.close_code


# --- one connection ---------------------------------------------------------------------------------------------------


async def test_two_alpaca_py_streams_share_one_connection_and_each_hears_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path, symbols=("AAPL", "KO"), rate=60) as s:
        streams = [
            StockDataStream(KEYS[name].key, KEYS[name].secret, raw_data=True, url_override=url(s)) for name in "ab"
        ]
        bars, quotes, bars_of_b = Heard(), Heard(), Heard()
        streams[0].subscribe_bars(bars.handler, "SPY", "AAPL")
        streams[0].subscribe_quotes(quotes.handler, "SPY")
        streams[1].subscribe_bars(bars_of_b.handler, "SPY", "KO")
        async with running(streams[0]), running(streams[1]):
            await bars.until(24)
            await bars_of_b.until(24)
            await quotes.until(3)
            assert subscribed(s) == {"bars": {"SPY", "AAPL", "KO"}, "quotes": {"SPY"}}
        assert {row["S"] for row in bars.messages} == {"SPY", "AAPL"}
        assert {row["S"] for row in bars_of_b.messages} == {"SPY", "KO"}
        assert {(row["bp"], row["ap"]) for row in quotes.messages} == {(500.0, 500.01)}
        for listener, symbol in ((bars, "AAPL"), (bars_of_b, "KO")):
            minutes = [minute_of(row) for row in listener.messages if row["S"] == symbol]
            assert minutes == list(range(len(minutes)))  # from the open on, though they came ten minutes later


async def test_alpaca_pys_option_stream_hears_quotes_and_their_middle_is_the_gateways_price(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s:
        stream = OptionDataStream(KEYS["a"].key, KEYS["a"].secret, url_override=url(s, INDICATIVE))
        listener = Heard()
        stream.subscribe_quotes(listener.handler, CALL)
        async with running(stream):
            (first, *_) = await listener.until(1)
            await s.until(lambda: CALL in s.gateway.prices)
            assert subscribed(s, INDICATIVE) == {"quotes": {CALL}}
        middle = (Decimal(str(first.bid_price)) + Decimal(str(first.ask_price))) / 2
        assert abs(s.gateway.prices[CALL][1] - middle) < Decimal("0.5")


async def test_no_connection_is_open_before_a_client_and_what_nobody_has_any_more_is_unsubscribed(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, symbols=("AAPL",)) as s:
        assert upstream(s) == []
        async with connected(url(s)) as stranger:
            assert await stranger.hear() == CONNECTED
            assert await stranger.ask({"action": "auth", "key": "x", "secret": "y"}) == error(402, "auth failed")
            assert upstream(s) == []
        async with entered(s, "a") as one, entered(s, "b") as two:
            await one.ask(subscribe(bars=["SPY"], quotes=["SPY"]))
            await two.ask(subscribe(bars=["SPY", "AAPL"]))
            await one.ask({"action": "unsubscribe", "bars": ["SPY"], "quotes": ["SPY"]})
            await s.until(lambda: subscribed(s) == {"bars": {"SPY", "AAPL"}})
        await s.until(lambda: subscribed(s) == {})
        await asyncio.sleep(31)
        assert upstream(s) == []


async def test_a_second_session_of_one_client_is_refused_with_406(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, entered(s, "a"), connected(url(s)) as second:
        await second.hear()
        assert await log_in(second, "a") == error(406, "connection limit exceeded")


async def test_messages_come_with_all_fields_and_nanoseconds_in_both_codecs(tmp_path: Path) -> None:
    # Alpaca's examples of its stream documentation, with an unknown field
    time_ns = OPEN_NS + 123_456_789
    rows: dict[str, dict[str, Any]] = {
        "s": {"sc": "H", "sm": "Trading Halt", "rc": "T12", "rm": "Halt", "z": "B"},
        "t": {"i": 96921, "x": "D", "p": 126.55, "s": 1, "c": ["@", "I"], "z": "C", "later": {"a": [1, None]}},
        "l": {"u": 500.5, "d": 499.5, "i": "B", "z": "C"},
        "c": {"x": "M", "oi": 52983525, "op": 1.0, "os": 1, "oc": ["@"], "ci": 2, "cp": 1.1, "cs": 1, "cc": ["@"]},
        "x": {"i": 465, "x": "D", "p": 385.31, "s": 333, "a": "C", "z": "B"},
        "d": {"o": 1.0, "h": 2.0, "l": 0.5, "c": 1.5, "v": 10},
        "u": {"o": 500.0, "h": 500.0, "l": 500.0, "c": 500.0, "v": 1001},
    }
    subscription = subscribe(trades=["SPY"], statuses=["SPY"], lulds=["SPY"], dailyBars=["SPY"], updatedBars=["SPY"])
    async with stage(tmp_path, rate=1e-6) as s, entered(s, "a") as one, entered(s, "b", msgpack=True) as two:
        await one.ask(subscription)
        await two.ask(subscription)
        s.broker.data_stream.publish_stocks([DataMessage(kind, "SPY", time_ns, row) for kind, row in rows.items()])
        text = await one.hear()
        packed = await two.hear()
        stamp = "2025-06-02T13:30:00.123456789Z"
        assert text == [{"T": kind, "S": "SPY", **row, "t": stamp} for kind, row in rows.items()]
        # the msgpack specification's 64 bit timestamp: 30 bits of nanoseconds, 34 of seconds
        moment = msgspec.msgpack.Ext(-1, (123_456_789 << 34 | OPEN_NS // SECOND_NS).to_bytes(8, "big"))
        raw = msgspec.msgpack.encode([{"T": kind, "S": "SPY", **row, "t": moment} for kind, row in rows.items()])
        assert packed == msgspec.msgpack.decode(raw)


# --- who comes later --------------------------------------------------------------------------------------------------


async def test_who_comes_later_gets_the_bars_since_the_open_each_once_before_newer_ones(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s, entered(s, "a") as one:
        await one.ask(subscribe(bars=["SPY"]))
        minutes = await bars_until(one, 15)
        assert minutes == list(range(len(minutes)))
        history_requests = sum(request.path.startswith("/v2/stocks/bars") for request in s.broker.requests)
        async with entered(s, "b", msgpack=True) as two:
            await two.say(subscribe(bars=["SPY"]))
            assert (await two.hear())[0]["T"] == "subscription"
            minutes = await bars_until(two, 18)
            assert minutes == list(range(len(minutes)))
        # what the gateway streamed and read once is not asked for again
        assert sum(request.path.startswith("/v2/stocks/bars") for request in s.broker.requests) == history_requests == 1


async def test_who_comes_after_a_bar_of_the_future_hears_the_bars_of_the_present(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s, entered(s, "a") as one:
        await one.ask(subscribe(bars=["SPY"]))
        await bars_until(one, 12)
        s.broker.faults.add("bar_ahead", minutes=30)
        minutes = await bars_until(one, 15)
        (ahead,) = [minute for minute in minutes if minute > 30]
        async with entered(s, "b") as two:
            await two.ask(subscribe(bars=["SPY"]))
            minutes = await bars_until(two, 18)
            assert minutes == list(range(19))
            assert ahead in await bars_until(two, ahead)  # its own bar, when its minute is over


async def test_bars_go_on_where_the_history_gives_no_answer(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s, entered(s, "a") as one:
        s.broker.faults.add("http_error", status=500, where={"path": "/v2/stocks/bars"})
        await one.ask(subscribe(bars=["SPY"]))
        minutes = await bars_until(one, 20)
        assert minutes == list(range(minutes[0], minutes[0] + len(minutes)))
        assert s.log.of("gateway_bars_missing")[0]["symbols"] == ["SPY"]


# --- limits, faults, bad clients --------------------------------------------------------------------------------------


async def test_symbols_beyond_the_plan_are_refused_with_405_and_named_in_the_log(tmp_path: Path) -> None:
    more = {"stream_symbols_max": 2}
    async with (
        stage(tmp_path, symbols=("AAPL", "KO"), gateway_table=more) as s,
        entered(s, "a") as one,
        entered(s, "b") as two,
    ):
        await one.ask(subscribe(bars=["SPY"]))
        await two.ask(subscribe(quotes=["SPY", "AAPL"]))
        assert await two.ask(subscribe(bars=["KO"])) == error(405, "symbol limit exceeded")
        assert s.log.of("gateway_symbols_refused") == [{"path": SIP, "symbols": ["KO"], "symbols_max": 2}]
        assert subscribed(s) == {"bars": {"SPY"}, "quotes": {"SPY", "AAPL"}}


async def test_what_the_broker_refuses_is_the_clients_error_and_changes_nothing(tmp_path: Path) -> None:
    first, second = ([f"SPY250602C{strike:08d}" for strike in range(start, start + 600)] for start in (1000, 2000))
    async with (
        stage(tmp_path) as s,
        entered(s, "a", INDICATIVE, msgpack=True) as one,
        entered(s, "b", INDICATIVE, msgpack=True) as two,
    ):
        assert len((await one.ask(subscribe(quotes=first)))[0]["quotes"]) == 600
        # Alpaca has at most 1000 option quotes on a connection
        assert await two.ask(subscribe(quotes=second)) == error(405, "symbol limit exceeded")
        await s.until(lambda: subscribed(s, INDICATIVE) == {"quotes": set(first)})
        assert (await two.ask(subscribe(quotes=first[:1])))[0]["quotes"] == first[:1]


async def test_a_stream_outside_of_the_plan_is_409_for_the_client(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=Rules(free_plan=True)) as s, connected(url(s)) as socket:
        await socket.hear()
        assert await log_in(socket, "a") == error(409, "insufficient subscription")
        assert s.gateway.ready


async def test_a_stream_that_the_gateway_has_no_address_for_is_409(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, connected(url(s, "/v2/iex")) as socket:
        await socket.hear()
        assert await log_in(socket, "a") == error(409, "insufficient subscription")


async def test_a_lost_stream_closes_its_clients_and_they_are_let_in_when_it_is_back(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s:
        async with entered(s, "a") as one, entered(s, "b") as two:
            await one.ask(subscribe(quotes=["SPY"]))
            s.broker.faults.add("socket_drop", where={"stream": "stock"})
            assert (await close_code(one), await close_code(two)) == (1011, 1011)
        assert s.gateway.ready
        await s.place("a", 1)
        assert s.log.of("gateway_stream_cut") == [{"path": SIP, "clients": 2}]
        async with entered(s, "b") as again:
            assert subscribed(s) == {}
            await again.ask(subscribe(quotes=["SPY"]))
            assert (await again.hear())[0]["S"] == "SPY"


async def test_who_comes_while_the_broker_is_away_waits_a_little_and_is_closed(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, connected(url(s)) as socket:
        s.broker.faults.add("upgrade_refused", status=503, times=1000)
        await socket.hear()
        await socket.say({"action": "auth", "key": KEYS["a"].key, "secret": KEYS["a"].secret})
        assert await close_code(socket) == 1011


async def test_a_stream_that_turned_deaf_is_opened_anew_when_a_client_comes_back(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s:
        async with entered(s, "a") as one:
            s.broker.faults.add("symbol_limit", where={"stream": "stock"})  # 405 after the ack, no data
            await one.ask(subscribe(quotes=["SPY"]))
            assert await one.hear() == error(405, "symbol limit exceeded")
            await asyncio.sleep(2)  # two minutes of the market
        async with entered(s, "a") as one:
            await one.ask(subscribe(quotes=["SPY"]))
            assert (await one.hear())[0]["S"] == "SPY"
        assert s.log.of("gateway_stream_silent") == [{"path": SIP}]


async def test_on_a_half_days_afternoon_a_silent_stream_is_left_to_who_has_it(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60, sessions=HALF_DAY) as s:
        s.broker.clock.jump_to(HALF_DAY[0].close_ns + 30 * MINUTE_NS)
        async with entered(s, "a") as one:
            await one.ask(subscribe(quotes=["SPY"]))
            (line,) = upstream(s)
            await asyncio.sleep(2)  # two minutes of the market
            async with entered(s, "b") as two:
                await two.ask(subscribe(quotes=["SPY"]))
                assert upstream(s) == [line]
                assert one.socket.close_code is None


async def test_a_slow_client_is_told_407_and_nobody_else_is_disturbed(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s, entered(s, "a") as slow, entered(s, "b") as other:
        await slow.ask(subscribe(statuses=["SPY"]))
        await other.ask(subscribe(lulds=["SPY"]))
        halt = DataMessage("s", "SPY", OPEN_NS, {"sc": "H", "sm": "Trading Halt", "rc": "", "rm": "", "z": "B"})
        for _ in range(OUTBOX_FRAMES + 1):  # all in one turn of the loop: nothing can be sent in between
            s.server.relay.sessions.publish(SIP, [halt])
        assert await slow.hear() == error(407, "slow client")
        assert await close_code(slow) == 1008
        band = DataMessage("l", "SPY", OPEN_NS, {"u": 500.5, "d": 499.5, "i": "B", "z": "C"})
        s.broker.data_stream.publish_stocks([band])
        assert [row["T"] for row in await other.hear()] == ["l"]


async def test_garbage_of_a_client_and_of_the_broker_disturbs_nobody(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s, entered(s, "a") as bad, entered(s, "b") as good:
        await good.ask(subscribe(statuses=["SPY"], quotes=["SPY"]))
        garbage: list[object] = [{"action": ["auth"]}, 7, {"action": "subscribe", "bars": 1}, subscribe(x=[])]
        assert [(await bad.ask(message))[0]["code"] for message in garbage] == [400, 400, 400, 410]
        strange: list[tuple[str, dict[str, Any]]] = [
            ("q", {"bp": "x", "ap": None}),
            ("q", {"bp": -1, "ap": 5}),
            ("q", {"bp": 1.0, "ap": 199_999.0}),
            ("s", {"sc": "T"}),
        ]
        before = s.gateway.prices.get("SPY")
        s.broker.data_stream.publish_stocks([DataMessage(kind, "SPY", OPEN_NS, row) for kind, row in strange])
        assert [row["T"] for row in await good.hear()] == ["q", "q", "q", "s"]
        (at_broker,) = upstream(s)
        at_broker.control({"T": ["q"], "S": 5, "t": "never"})
        at_broker.control({"T": "s", "t": "2025-06-02T13:30:00Z"})
        s.broker.data_stream.publish_stocks([DataMessage("s", "SPY", OPEN_NS, {"sc": "H"})])
        assert [row["sc"] for row in await good.hear()] == ["H"]
        assert s.gateway.prices.get("SPY") == before


async def test_a_client_that_leaves_its_connections_open_takes_no_place_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENTS_MAX", 5)
    async with stage(tmp_path) as s, entered(s, "a") as listener:
        before, writers = files(), list[asyncio.StreamWriter]()
        head = f"APCA-API-KEY-ID: {KEYS['b'].key}\r\nAPCA-API-SECRET-KEY: {KEYS['b'].secret}\r\n"
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
            writer.write(f"GET /v2/account HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
            assert b"200" in await reader.readline()
            writers.append(writer)
        await s.until(lambda: files() <= before + len(writers) + 8)
        await s.place("a", 1)
        await listener.ask(subscribe(statuses=["SPY"]))  # the oldest of all, and in use
        for writer in writers:
            writer.close()


async def test_requests_whose_bodies_never_come_take_no_file_that_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ONE_CLIENT_MAX", 5)
    async with stage(tmp_path) as s, entered(s, "a") as listener:
        writers, ends = list[asyncio.StreamWriter](), list[asyncio.Task[bytes]]()
        head = f"APCA-API-KEY-ID: {KEYS['b'].key}\r\nAPCA-API-SECRET-KEY: {KEYS['b'].secret}\r\nContent-Length: 9\r\n"
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
            writer.write(f"POST /v2/orders HTTP/1.1\r\nHost: x\r\n{head}\r\n{{".encode())
            writers.append(writer)
            ends.append(asyncio.create_task(reader.read()))
            await s.until(lambda: "b" in list(s.server.clients.used.values())[-1:])
        await s.until(lambda: sum(end.done() for end in ends) >= 20)
        await s.place("a", 1)
        await listener.ask(subscribe(statuses=["SPY"]))
        for writer in writers:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)


def files() -> int:
    """Open files of this process."""
    return len([*Path("/proc/self/fd").iterdir()])


async def test_connections_of_strangers_take_no_client_s_place_whatever_they_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STRANGERS_MAX", 5)
    keys = KEYS["b"]
    async with (
        stage(tmp_path) as s,
        entered(s, "a") as listener,
        trade_updates(s.server.trade_stream, s.stream_url, keys.key, keys.secret, raw=True) as updates,
    ):
        await s.ask("a", "GET", "/v2/account")  # and its connection is kept
        before = files()
        strangers = [await asyncio.open_connection("127.0.0.1", s.server.port) for _ in range(40)]
        for place, (_, writer) in enumerate(strangers):
            writer.write((b"", b"GET /v2/account HTT", b"\xff\x00" * 50)[place % 3])
        await s.until(lambda: files() <= before + len(strangers) + 5)
        await s.place("b", 1)
        await s.until(lambda: "fill" in str(updates))
        assert (await s.ask("a", "GET", "/v2/account"))[0] == 200
        await listener.ask(subscribe(statuses=["SPY"]))
        for _, writer in strangers:
            writer.close()


# --- prices -----------------------------------------------------------------------------------------------------------


async def test_quotes_and_bars_are_the_gateways_prices_the_newest_wins(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s, entered(s, "a") as one:
        await one.ask(subscribe(quotes=["SPY", "KO"], bars=["KO"]))
        now_ns = s.gateway.now_ns()

        def quote(symbol: str, bid: float, ask: float, age_s: float) -> DataMessage:
            return DataMessage("q", symbol, now_ns - int(age_s * SECOND_NS), {"bp": bid, "ap": ask})

        bar = DataMessage("b", "KO", OPEN_NS, {"o": 70.0, "h": 70.0, "l": 70.0, "c": 70.25, "v": 1})
        s.broker.data_stream.publish_stocks([quote("SPY", 510.0, 510.5, 1), quote("SPY", 490.0, 490.5, 2), bar])
        await s.until(lambda: "KO" in s.gateway.prices)
        assert s.gateway.prices["SPY"] == (now_ns - SECOND_NS, Decimal("510.25"))
        assert s.gateway.prices["KO"] == (OPEN_NS + MINUTE_NS, Decimal("70.25"))


# --- REST -------------------------------------------------------------------------------------------------------------


def historical(s: Stage, name: str) -> StockHistoricalDataClient:
    return StockHistoricalDataClient(KEYS[name].key, KEYS[name].secret, url_override=s.url)


def request_count(s: Stage, path: str) -> int:
    return sum(request.path.startswith(path) for request in s.broker.requests)


@pytest.mark.host_time
async def test_alpaca_pys_histories_are_asked_once_for_all_and_pages_work(tmp_path: Path) -> None:
    def read(name: str, call: Callable[[StockHistoricalDataClient], Any]) -> Any:
        return asyncio.to_thread(call, historical(s, name))

    def bars(client: StockHistoricalDataClient) -> Any:
        since, until = (datetime.fromtimestamp(OPEN_NS / 1e9 + 60 * minute, UTC) for minute in (0, 8))
        return client.get_stock_bars(
            StockBarsRequest(symbol_or_symbols=["SPY", "KO"], timeframe=TimeFrame.Minute, start=since, end=until)
        )

    def quote(client: StockHistoricalDataClient) -> Any:
        return client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="SPY"))

    async with stage(tmp_path, symbols=("KO",), rate=1e-6) as s:
        for answer in await asyncio.gather(*(read(name, bars) for name in "abab")):
            assert {symbol: len(rows) for symbol, rows in answer.data.items()} == {"SPY": 9, "KO": 9}
        assert request_count(s, "/v2/stocks/bars") == 1
        for answer in await asyncio.gather(*(read(name, quote) for name in "abab")):
            assert answer["SPY"].bid_price == 500.0
        assert request_count(s, "/v2/stocks/quotes/latest") == 1
        pages: list[list[int]] = []
        query = {"symbols": "SPY", "timeframe": "1Min", "limit": "4"}
        for _ in range(3):
            _, page = await s.ask("a", "GET", "/v2/stocks/bars", **query)
            pages.append([minute_of(row) for row in page["bars"]["SPY"]])
            query["page_token"] = page["next_page_token"]
        assert pages == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


async def test_answers_of_the_present_are_kept_for_a_second(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        query = {"symbols": "SPY"}
        for _ in range(3):
            await s.ask("a", "GET", "/v2/stocks/quotes/latest", **query)
        assert request_count(s, "/v2/stocks/quotes/latest") == 1
        await asyncio.sleep(1.1)
        await s.ask("b", "GET", "/v2/stocks/quotes/latest", **query)
        assert request_count(s, "/v2/stocks/quotes/latest") == 2
        for _ in range(2):  # a history that may still grow is asked for each time
            await s.ask("a", "GET", "/v2/stocks/bars", timeframe="1Min", **query)
        assert request_count(s, "/v2/stocks/bars") == 2


async def test_the_plans_403_and_the_rates_429_reach_the_client(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=Rules(free_plan=True)) as s:
        status, body = await s.ask("a", "GET", "/v2/stocks/quotes/latest", symbols="SPY", feed="sip")
        assert (status, "subscription does not permit" in body["message"]) == (403, True)
        s.broker.faults.add("http_429", where={"path": "/v2/stocks/trades/latest"})
        status, body = await s.ask("a", "GET", "/v2/stocks/trades/latest", symbols="SPY")
        assert (status, body["code"]) == (429, 42910000)


async def test_a_client_that_floods_meets_429_and_the_others_do_not(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6, gateway_table={"data_requests_a_minute": 3}) as s:
        path = "/v2/stocks/quotes/latest"
        codes = [(await s.ask("a", "GET", path, symbols="SPY"))[0] for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert (await s.ask("b", "GET", path, symbols="SPY"))[0] == 200
        with pytest.raises(APIError):
            await asyncio.to_thread(
                historical(s, "a").get_stock_latest_quote, StockLatestQuoteRequest(symbol_or_symbols="SPY")
            )


async def test_a_feed_by_the_plan_is_found_out_at_the_start(tmp_path: Path) -> None:
    for free, expected in ((True, ("iex", "indicative")), (False, ("sip", "opra"))):
        async with stage(tmp_path / str(free), rules=Rules(free_plan=free), feed={}) as s:
            assert s.gateway.settings.upstream.feed.name == "auto"
            feed = (await with_feeds(s.gateway.settings, s.gateway.upstream, tmp_path, LogRecorder())).upstream.feed
            assert (feed.name, feed.options) == expected


# --- a desk -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Behind:
    """The gateway's addresses, as a desk is set to them."""

    data_url: str
    stream_url: str
    option_stream_url: str


async def test_a_desks_own_feed_loses_no_minute_behind_the_gateway(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=60) as s:
        sim = s.broker.clock
        clock = Clock.simulated(sim.anchor_unix_s, sim.sim_start_ns, sim.rate, sim.real_ns)
        place: Any = Behind(s.url, url(s), url(s, INDICATIVE))
        keys = (KEYS["a"].key, KEYS["a"].secret)
        days = SessionCalendar.load("2025-05-26", "2025-06-06")
        desk = MarketDesk(place, clock, tmp_path / "bars", days=days, keys=keys)
        day = days.around("2025-06-02")[0]
        try:
            async with desk.running():
                await desk.until(lambda: max(desk.minutes_of(day), default=-1) >= 13)
                s.broker.faults.add("socket_drop", where={"stream": "stock"})
                await desk.until(lambda: "stream_lost" in desk.log.names())
                await desk.until(lambda: max(desk.minutes_of(day), default=-1) >= 18)
                desk.feed.watch((CALL,))
                await s.until(lambda: subscribed(s, INDICATIVE) == {"quotes": {CALL}})
        finally:
            await desk.lane.close()
        minutes = desk.minutes_of(day)
        assert minutes == list(range(len(minutes)))
