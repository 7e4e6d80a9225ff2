"""The tape, the server and the two clients that the tests of the data streams share: alpaca-py's and a bare one.

Nothing is tested here. The tape writes its own bars, so that each message of a test can be written by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import websockets

from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.contract import Bar, Session
from tests.support.simulator.lone_loop import clock_of_loop

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.data.live import OptionDataStream, StockDataStream


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
    clock = clock_of_loop(OPEN_NS + int(start_s * SECOND_NS), rate)
    async with AlpacaServer(market, clock) as server:
        yield server


class Heard:
    """What a handler of alpaca-py was given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._more = asyncio.Event()

    async def handler(self, message: Any) -> None:
        """What alpaca-py calls with each message."""
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
        while not task.done():  # its loop swallows a cancel that meets it at a bad moment
            task.cancel()
            await asyncio.wait({task}, timeout=1)
        await asyncio.gather(task, return_exceptions=True)
        await stream.close()


def stock_stream(server: AlpacaServer, *, raw: bool = False) -> Any:
    """alpaca-py's stock stream on this server."""
    return StockDataStream(DEFAULT_KEY, DEFAULT_SECRET, raw_data=raw, url_override=server.stream_url)


def option_stream(server: AlpacaServer, *, raw: bool = False) -> Any:
    """alpaca-py's option stream on this server."""
    return OptionDataStream(DEFAULT_KEY, DEFAULT_SECRET, raw_data=raw, url_override=server.option_stream_url)


class Socket:
    """A bare client in either codec."""

    def __init__(self, socket: websockets.ClientConnection, *, msgpack: bool) -> None:
        self.socket = socket
        self.msgpack = msgpack

    async def say(self, message: object) -> None:
        """Send one message in this client's codec."""
        await self.socket.send(msgspec.msgpack.encode(message) if self.msgpack else json.dumps(message))

    async def hear(self) -> Any:
        """The next frame, which is an array."""
        async with asyncio.timeout(PATIENCE_S):
            data = await self.socket.recv()
        return msgspec.msgpack.decode(data) if isinstance(data, bytes) else json.loads(data)

    async def ask(self, message: object) -> Any:
        """Send one message and return the next frame."""
        await self.say(message)
        return await self.hear()

    async def log_in(self) -> Any:
        """Authenticate; returns the server's word."""
        return await self.ask({"action": "auth", "key": DEFAULT_KEY, "secret": DEFAULT_SECRET})

    async def logs_in(self) -> bool:
        """Whether the server takes the right keys."""
        return bool(await self.log_in() == AUTHENTICATED)


@contextlib.asynccontextmanager
async def connected(url: str, *, msgpack: bool = False, headers: dict[str, str] | None = None) -> AsyncIterator[Socket]:
    """A bare client whose upgrade was answered with 101."""
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
    """The frame of a documented error."""
    return [{"T": "error", "code": code, "msg": text}]


CONNECTED = [{"T": "success", "msg": "connected"}]
AUTHENTICATED = [{"T": "success", "msg": "authenticated"}]
