"""The loopback Alpaca as one aiohttp application on 127.0.0.1: wires trading and market data to one venue.

The request log and HTTP faults act here, before any handler; nothing here knows an order's rules. `serving` runs it in
a thread with its own loop, for tests and synchronous programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from daemon.alpaca_api import activity_stream
from daemon.alpaca_api.data_stream import CHANNELS
from daemon.alpaca_api.front import Front, Handler, answer_request
from simulator.clock import SimClock
from simulator.data import contracts_rest
from simulator.data import rest as data_rest
from simulator.data.stream import FaultyHub
from simulator.data.timeline import Timeline
from simulator.faults import NESTED, Fault, Faults, respelt
from simulator.prices.market import Market
from simulator.trading.account import Account
from simulator.trading.backend import ACCOUNT, FaultyActivityStream, FaultyTradingRest, Trading
from simulator.trading.matching import Matching
from simulator.trading.settlement import BackOffice
from simulator.trading.trade_stream import FaultyTradeStream
from simulator.trading.venue import Brokerage, Rules

STREAM_PATHS = (activity_stream.PATH, "/stream", *CHANNELS)
HTML_ERROR = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"

CLOCK = web.RequestKey("clock", SimClock)
KEEP_S = 86_400.0  # of the loop's time: keeps idle connections open


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One REST request at its answer. `status` is 0 without a reply (hang, reset), `key` "" without one."""

    time_ns: int
    method: str
    path: str  # including the query
    body: str
    status: int
    key: str


class AlpacaServer(Brokerage):
    """All five services on one port (a free one for 0), for the duration of an `async with`.

    `accounts` are by key; without any there is one with `DEFAULT_KEY`, `DEFAULT_SECRET` and 10,000.00 USD. Raises
    OSError if the port cannot be bound. Attributes are for the loop's own thread, others use `RunningServer`.
    """

    def __init__(
        self,
        market: Market,
        clock: SimClock,
        *,
        faults: Faults | None = None,
        accounts: Iterable[Account] = (),
        rules: Rules | None = None,
        trade_stream: type[FaultyTradeStream] = FaultyTradeStream,
        port: int = 0,
    ) -> None:
        super().__init__(market, clock, faults=faults, accounts=accounts, rules=rules)
        self.requests: list[LoggedRequest] = []
        self.trade_stream = trade_stream(self)
        self.matching = Matching(self, self.trade_stream)
        self.back_office = BackOffice(self.matching)
        self.data_stream = FaultyHub(self)
        self.port = port
        self._front = FaultyFront(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None

    @property
    def trading_url(self) -> str:
        """The base address of trading REST, without version."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data_url(self) -> str:
        """The base address of market-data REST, without version."""
        return self.trading_url

    @property
    def stream_url(self) -> str:
        """The address of the stock stream (SIP)."""
        return f"ws://127.0.0.1:{self.port}/v2/sip"

    @property
    def option_stream_url(self) -> str:
        """The address of the option stream (indicative)."""
        return f"ws://127.0.0.1:{self.port}/v1beta1/indicative"

    @property
    def trade_stream_url(self) -> str:
        """The address of the trading stream for any account; `trade_stream_url_of` counts sessions by account."""
        return f"ws://127.0.0.1:{self.port}/stream"

    def trade_stream_url_of(self, account: Account) -> str:
        """Return the address of one account's trading stream: only its own second session is answered 429."""
        return f"{self.trade_stream_url}/{account.account_number}"

    def by_hand(self, action: str, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Act as a person on the web page: `place` (as POST /v2/orders), `cancel` (order_id), `close` (symbol).

        Returns the order as REST shows it. Raises `Refusal` if the broker would refuse it, ValueError for another
        action. `key` names the account, by default the first.
        """
        account = self.account if key is None else self.accounts[key]
        return self.matching.by_hand(account, action, fields)

    async def __aenter__(self) -> Self:
        self.faults.now_ns = self.clock.now_ns
        self.faults.exposed = self.exposed
        app = web.Application(middlewares=[self._middleware], client_max_size=2**24)
        trading = Trading(self.matching)
        app.router.add_routes(FaultyTradingRest(trading).routes())
        app.router.add_routes(FaultyActivityStream(trading).routes())
        app.router.add_routes(self.trade_stream.routes())
        app.router.add_routes(self.data_stream.routes())
        for module in (data_rest, contracts_rest):
            app.router.add_routes(module.routes(self))
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True, keepalive_timeout=KEEP_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._tasks = [
            asyncio.create_task(self.back_office.run(), name="alpaca-back-office"),
            asyncio.create_task(Timeline(self.data_stream).play(), name="alpaca-tape"),
            asyncio.create_task(self.data_stream.watch(), name="alpaca-strikes"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self.trade_stream.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for result in results:
            if isinstance(result, Exception) and error is None:
                raise result

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in STREAM_PATHS or request.path.startswith("/stream/"):
            return await handler(request)
        body = await request.text()
        key = request.headers.get("APCA-API-KEY-ID", "")
        request[CLOCK] = self.clock
        way = f"{key} {request.method} {request.path}"
        await self.clock.on_the_way(way, asked=True)
        status = 0
        try:
            reply = await self._front.answer(request, handler)
            status = reply.status
        finally:  # before the reply: a client that has it finds the request in the log
            path = request.path_qs
            self.requests.append(LoggedRequest(self.clock.now_ns(), request.method, path, body, status, key))
        await self.clock.on_the_way(way, asked=True)
        return reply


class FaultyFront(Front[Account]):
    """The front of REST with scripted faults; they act after the handler, unless set otherwise."""

    def __init__(self, venue: Brokerage) -> None:
        limits = {"limit": venue.rules.rate_limit, "data_limit": venue.rules.data_rate_limit}
        super().__init__(ACCOUNT, venue.authentic, venue.clock.now_ns, **limits)
        self._faults = venue.faults

    def denied(self, request: web.Request, account: Account | None) -> int:
        """Return 401 for wrong credentials, or the scripted status."""
        denial = self._faults.take("auth_failed", _context(request))
        return super().denied(request, account) if denial is None else int(denial.get("status", 401))

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the handler's reply, or the one changed by the script."""
        context = _context(request)
        fault = next((f for kind in HTTP_FAULTS if (f := self._faults.take(kind, context)) is not None), None)
        if fault is None:
            return await answer_request(request, handler)
        moment = fault.get("moment", "before" if fault.kind in {"http_429", "http_error", "http_html"} else "after")
        reply: web.StreamResponse | None = None if moment == "before" else await answer_request(request, handler)
        return await _spoilt(request, handler, fault, reply)


def _context(request: web.Request) -> dict[str, str]:
    """Return the context of faults of a REST request."""
    key = request.headers.get("APCA-API-KEY-ID", "")
    return {"stream": "rest", "method": request.method, "path": request.path, "key": key}


HTTP_FAULTS = (
    "http_429",
    "http_error",
    "http_html",
    "http_hang",
    "http_reset",
    "http_slow",
    "http_empty_body",
    "malformed_json",
    "http_unknown_field",
    "http_unknown_enum",
    "quantity_exponent",
    "quantity_too_fine",
)


async def _spoilt(
    request: web.Request, handler: Handler, fault: Fault, reply: web.StreamResponse | None
) -> web.StreamResponse:
    """Return the response under `fault`; `reply` is None if the request has not been handled."""
    match fault.kind:
        case "http_429":
            wait = fault.get("retry_after_s")
            headers = {} if wait is None else {"Retry-After": str(wait)}
            return web.json_response({"message": "too many requests."}, status=429, headers=headers)
        case "http_error":
            return _error(int(fault.get("status", 500)), str(fault.get("body", "json")))
        case "http_html":
            return _error(502, "html")
        case "http_hang":
            await request[CLOCK].hold(float(fault.get("seconds", 60)))
            return await _cut(request)
        case "http_reset":
            return await _cut(request)
        case "http_slow":
            await request[CLOCK].hold(float(fault.get("seconds", 1)))
        case "http_empty_body":
            return web.Response(status=200)
        case "malformed_json":
            broken_body = NESTED.decode() if fault.get("nested", False) else '{"id":"'
            return web.Response(text=broken_body, content_type="application/json")
        case "http_unknown_field":
            return _change(reply or await answer_request(request, handler), {"field_of_tomorrow": {"value": [1, None]}})
        case "quantity_exponent" | "quantity_too_fine":
            reply = reply or await answer_request(request, handler)
            if isinstance(reply, web.Response) and reply.text:
                reply.text = json.dumps(respelt(fault.kind, json.loads(reply.text)))
        case _:
            name = str(fault.get("field", "status"))
            return _change(reply or await answer_request(request, handler), {name: f"{name}_of_tomorrow"})
    return reply or await answer_request(request, handler)


def _error(status: int, body: str) -> web.Response:
    if body == "html":
        return web.Response(text=HTML_ERROR, status=status, content_type="text/html")
    if body == "empty":
        return web.Response(status=status)
    return web.json_response({"code": 50010000, "message": "internal server error occurred"}, status=status)


async def _cut(request: web.Request) -> web.StreamResponse:
    """Reset the connection without a reply; the handler ends as cancelled by the lost client."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(1.0)
    return web.Response(status=500)


def _change(reply: web.StreamResponse, fields: dict[str, Any]) -> web.StreamResponse:
    """Return the reply with `fields` in its object, or in the first object of its list."""
    if isinstance(reply, web.Response) and reply.text:
        body = json.loads(reply.text)
        target = body[0] if isinstance(body, list) and body else body
        if isinstance(target, dict):
            target.update(fields)
        reply.text = json.dumps(body)
    return reply


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
