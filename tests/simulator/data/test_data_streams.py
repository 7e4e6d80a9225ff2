"""What the unchanged alpaca-py hears on the data streams of the loopback Alpaca, bars that go wrong among it.

Expected values: the tape that `stream_clients.py` writes, the documented protocol, and put-call parity.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from typing import Any

import pytest

from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.simulator.stream_clients import (
    AUTHENTICATED,
    CALL,
    CONNECTED,
    GAP,
    MINUTE_NS,
    OPEN_NS,
    PUT,
    SECOND_NS,
    Heard,
    connected,
    eventually,
    option_stream,
    running,
    serving,
    stock_stream,
    tape,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.live import StockDataStream
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame


async def test_a_bar_carries_the_start_of_its_minute_and_the_tapes_values() -> None:
    async with serving() as server:
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_bars(receiver.handler, "SPY")
        async with running(stream):
            bars = await receiver.until(2)
    first = bars[0]
    assert int(first.timestamp.timestamp()) * SECOND_NS == OPEN_NS
    assert (first.open, first.high, first.low, first.close, first.volume) == (545.0, 545.05, 544.95, 545.01, 1000)
    assert int(bars[1].timestamp.timestamp()) * SECOND_NS == OPEN_NS + MINUTE_NS


async def test_a_minute_without_a_trade_has_no_bar() -> None:
    async with serving(start_s=150) as server:
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_bars(receiver.handler, "SPY")
        async with running(stream):
            bars = await receiver.until(3)
    assert [round(bar.timestamp.timestamp() - OPEN_NS / SECOND_NS) // 60 for bar in bars] == [2, 3, GAP + 1]


async def test_daily_bars_grow_with_every_minute() -> None:
    async with serving() as server:
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_daily_bars(receiver.handler, "SPY")
        async with running(stream):
            days = await receiver.until(2)
    assert [day.volume for day in days] == [1000, 1000 + 1001]
    assert [day.high for day in days] == [545.05, 545.06]
    assert {day.timestamp.isoformat() for day in days} == {"2024-07-02T04:00:00+00:00"}  # midnight New York


async def test_a_minutes_quotes_follow_open_low_high_and_close_of_a_rising_bar() -> None:
    async with serving(start_s=-60, rate=30) as server:  # early and slow: a point that is overdue is left out
        stream, receiver = stock_stream(server, raw=True), Heard()
        stream.subscribe_quotes(receiver.handler, "SPY")
        async with running(stream):
            quotes = await receiver.until(4)
    assert [quote["bp"] for quote in quotes[:4]] == [545.0, 544.95, 545.05, 545.01]
    assert [quote["t"].to_unix_nano() - OPEN_NS for quote in quotes[:4]] == [k * 15 * SECOND_NS for k in range(4)]


async def test_option_quotes_keep_put_call_parity() -> None:
    async with serving() as server:
        stream, receiver = option_stream(server), Heard()
        stream.subscribe_quotes(receiver.handler, CALL, PUT)
        async with running(stream):
            quotes = (await receiver.until(2))[:2]  # of one path point: the first that came after the subscription
    (moment,) = {quote.timestamp for quote in quotes}
    minute, step = divmod(round(moment.timestamp() - OPEN_NS / SECOND_NS) // 15, 4)
    spot = (545.00, 544.95, 545.05, 545.01)[step] + minute / 100  # open, low, high and close, a cent more each minute
    mids = {quote.symbol: (quote.bid_price + quote.ask_price) / 2 for quote in quotes}
    assert mids[CALL] - mids[PUT] == pytest.approx(spot - 545, abs=0.02)  # S - K with r = q = 0, cents rounded
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
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_bars(receiver.handler, "SPY")
        async with running(stream):
            bars = await receiver.until(1)
    assert int(bars[0].timestamp.timestamp()) * SECOND_NS == OPEN_NS + MINUTE_NS
    assert server.faults.met["string_time"] == 1


async def test_alpaca_py_comes_back_after_a_close_by_the_server() -> None:
    async with serving(rate=60) as server:
        stream, receiver = stock_stream(server), Heard()
        stream.subscribe_bars(receiver.handler, "SPY")
        async with running(stream):
            await receiver.until(1)
            server.faults.add("socket_close", code=1001)
            await receiver.until(3)
    assert server.faults.met["socket_close"] == 1


async def test_wrong_keys_are_an_error_that_alpaca_py_only_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def auth_failed() -> bool:
        return "auth failed" in caplog.text

    async with serving() as server:
        stream = StockDataStream(DEFAULT_KEY, "wrong", url_override=server.stream_url)
        stream.subscribe_bars(Heard().handler, "SPY")
        with caplog.at_level(logging.ERROR, "alpaca.data.live.websocket"):
            async with running(stream):
                await eventually(auth_failed)


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
        times: list[str] = []
        while len(times) < 3:
            times += [bar["t"] for bar in await socket.hear()]
    assert times == [f"2024-07-02T13:{30 + minute}:00Z" for minute in minutes]


async def test_a_bar_may_tell_prices_that_cannot_be() -> None:
    async with serving() as server, connected(server.stream_url) as socket:
        server.faults.add("bar_absurd", where={"start_ns": OPEN_NS}, factor=10)
        assert await socket.hear() == CONNECTED
        assert await socket.log_in() == AUTHENTICATED
        await socket.ask({"action": "subscribe", "bars": ["*"]})
        bars: list[Any] = []
        while len(bars) < 2:
            bars += await socket.hear()
    first, second = tape()[:2]
    assert [bar["c"] for bar in bars[:2]] == [pytest.approx(10 * first.close), pytest.approx(second.close)]
