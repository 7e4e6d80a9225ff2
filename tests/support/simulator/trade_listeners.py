"""The tape, the server and the listeners that the tests of the trading stream share.

Nothing is tested here. One price stands all day: one share costs 500.01 to buy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection

from daemon.alpaca_api.trade_stream import TradeSessions
from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS
from tests.support.simulator.lone_loop import clock_of_loop

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading.stream import TradingStream


MINUTE_NS = 60 * SECOND_NS
OPEN_NS = 1_748_871_000 * SECOND_NS  # 2025-06-02 13:30 UTC
SESSIONS = [Session("2025-06-02", OPEN_NS, OPEN_NS + 390 * MINUTE_NS)]
MARKET = Market.from_bars(
    [Bar("SPY", OPEN_NS + m * MINUTE_NS, 500.0, 500.0, 500.0, 500.0, 1000.0) for m in range(390)], sessions=SESSIONS
)
CALL = "SPY250602C00500000"
PATIENCE_S = 20.0
AUTH = {"action": "auth", "key": DEFAULT_KEY, "secret": DEFAULT_SECRET}
LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}
UNKNOWN = {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}}


@contextlib.asynccontextmanager
async def serving(rate: float = 1e-6, **settings: Any) -> AsyncIterator[AlpacaServer]:
    """The server ten minutes after the open; by default time stands still."""
    settings.setdefault("rules", Rules(fill_sizes=(1000, 1000), dead_session_s=60))
    clock = clock_of_loop(OPEN_NS + 10 * MINUTE_NS, rate)
    async with AlpacaServer(MARKET, clock, **settings) as server:
        yield server


def listening(server: AlpacaServer, *, raw: bool = True) -> contextlib.AbstractAsyncContextManager[list[Any]]:
    """What alpaca-py's own stream hears of the server's first account."""
    return trade_updates(server.trade_stream, server.trade_stream_url, DEFAULT_KEY, DEFAULT_SECRET, raw=raw)


@contextlib.asynccontextmanager
async def trade_updates(
    server: TradeSessions[Any], url: str, key: str, secret: str, *, raw: bool = False
) -> AsyncIterator[list[Any]]:
    """What alpaca-py's own stream hands to its handler, from the moment the server knows that it listens."""
    heard: list[Any] = []

    async def hear(update: Any) -> None:
        heard.append(update)

    stream = TradingStream(key, secret, raw_data=raw, url_override=url)
    stream.subscribe_trade_updates(hear)
    forever: Any = stream._run_forever  # has no type hints; `run` cannot be used inside of a loop
    running = asyncio.create_task(forever())
    try:
        await until(lambda: server.listeners(key) == 1)
        yield heard
    finally:
        while not running.done():  # its loop swallows a cancel that meets it at a bad moment
            running.cancel()
            await asyncio.wait({running}, timeout=1)
        await asyncio.gather(running, return_exceptions=True)
        await stream.close()


async def until(true: Callable[[], bool]) -> None:
    """Return as soon as `true()` holds; asked every 5 ms."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in itertools.takewhile(lambda _: not true(), itertools.count()):
            await asyncio.sleep(0.005)


def buy(server: AlpacaServer, quantity: int = 1, **fields: Any) -> dict[str, Any]:
    """A person buys shares on the web page; returns the order as it is shown."""
    return server.by_hand("place", **{"symbol": "SPY", "qty": str(quantity), "side": "buy", **fields})


def events(heard: list[Any]) -> list[str]:
    """The names of the events heard."""
    return [message["data"]["event"] for message in heard]


async def receive(socket: ClientConnection) -> Any:
    """The next frame."""
    async with asyncio.timeout(PATIENCE_S):
        return json.loads(await socket.recv())


async def listen_with(socket: ClientConnection) -> None:
    """Authenticate and listen, both acknowledged."""
    for message in (AUTH, LISTEN):
        await socket.send(json.dumps(message))
        await receive(socket)


def jump(server: AlpacaServer, ns: int) -> None:
    """Time goes to `ns`, and all that lies between happens."""
    server.clock.jump_to(ns)
    server.back_office.advance(ns)
