"""The loopback Alpaca in a thread with its own loop, for tests and synchronous programs.

All of the server runs on that thread; `call` runs a function there and returns its result.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import AlpacaServer

Result = TypeVar("Result")
Running = tuple[AlpacaServer, asyncio.AbstractEventLoop, asyncio.Event]
START_LIMIT_S = 120.0


class RunningServer:
    """A running server in another thread. Addresses and `faults` may be used directly, the rest through `call`."""

    def __init__(self, server: AlpacaServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.faults = server.faults
        self.trading_url = server.trading_url
        self.data_url = server.data_url
        self.stream_url = server.stream_url
        self.option_stream_url = server.option_stream_url
        self.trade_stream_url = server.trade_stream_url
        self._loop = loop

    def call(self, function: Callable[..., Result], *arguments: Any, **keywords: Any) -> Result:
        """Run `function` on the server's loop; returns its result or raises its exception."""

        async def on_loop() -> Result:
            return function(*arguments, **keywords)

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(START_LIMIT_S)

    def jump_to(self, ns: int) -> None:
        """Move the clock to `ns`, and process everything up to it before this returns."""

        def jump() -> None:
            self.server.clock.jump_to(ns)
            self.server.back_office.advance(ns)
            self.server.matching.changed.set()

        self.call(jump)

    def by_hand(self, action: str, **fields: Any) -> dict[str, Any]:
        """Call `AlpacaServer.by_hand` from this thread."""
        return self.call(self.server.by_hand, action, **fields)


@contextlib.contextmanager
def serving(market: Market, clock: SimClock, **settings: Any) -> Iterator[RunningServer]:
    """Serve in a thread for the duration of a `with`; `settings` are those of `AlpacaServer`.

    Raises the exception of the server's start; and at the end that of a failed background task.
    """
    running: Future[Running] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="alpaca-server") as thread:
        end = thread.submit(_run, _serve(running, market, clock, settings), clock)
        futures: set[Future[Any]] = {running, end}
        wait(futures, START_LIMIT_S, FIRST_COMPLETED)
        if end.done():
            end.result()
        server, loop, stop = running.result(0)
        try:
            yield RunningServer(server, loop)
        finally:
            loop.call_soon_threadsafe(stop.set)
            with clock.passing():
                end.result(START_LIMIT_S)


def _run(work: Coroutine[Any, Any, None], clock: SimClock) -> None:
    with asyncio.Runner(loop_factory=clock.new_loop) as runner:
        runner.run(work)
    clock.leave()


async def _serve(running: Future[Running], market: Market, clock: SimClock, settings: dict[str, Any]) -> None:
    async with AlpacaServer(market, clock, **settings) as server:
        stop = asyncio.Event()
        running.set_result((server, asyncio.get_running_loop(), stop))
        await stop.wait()
        clock.end_serving()
