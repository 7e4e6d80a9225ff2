"""The gateway's servers on loopback: Alpaca's protocols for the sub-accounts' clients, and a socket for its operator.

A client has the keys of one sub-account and sees only that. While the broker is away the account's services answer 503
and the trade stream is cut, so that a client reconciles as after a lost connection to Alpaca.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from daemon.alpaca_api.activity_stream import ActivityStreamServer
from daemon.alpaca_api.front import Front, answer_request
from daemon.alpaca_api.trade_stream import TradeStreamServer
from daemon.alpaca_api.trading_rest import TradingRest
from daemon.alpaca_api.wire import Json, money, text
from daemon.gateway.config import ClientKeys
from daemon.gateway.events import MAIN
from daemon.gateway.gateway import ALL, Gateway
from daemon.gateway.market import STREAM_PATHS, MarketRelay, SharedQuestions
from daemon.host.loopback import ADDRESS, not_had
from daemon.host.time.virtual_time import look_s, while_clients_wait
from daemon.operator.control.client import LOOK_S, SOCKET, address, is_there

ACCOUNT = web.RequestKey("account", str)
CONTROL_SOCKET = SOCKET
PASSED = ("/v2/clock", "/v2/calendar", "/v2/assets", "/v2/options/contracts")
"""Paths of the trading service that belong to no account: passed through, and cached for a moment."""
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._:-]+)+")
"""Every served path, decoded once: none can lead elsewhere at the broker."""
BODY_MAX = 256 * 1024  # bytes of a request
ACTIVITY_STREAMS = 8  # a client's at once
STRANGERS_MAX = 128  # connections without a client's keys at once: the broker's connections need files too
CLIENTS_MAX = 256  # connections with keys at once: beyond that the least recently used idle one is closed
ONE_CLIENT_MAX = 128  # connections of one client, idle or in use: a request whose body never comes stays in use
_CONNECTION: ContextVar[RequestHandler] = ContextVar("connection")  # of the request that is answered


class Door:
    """Accepts connections for `server` and bounds their number.

    `clients` have shown keys: each with its sub-account, the most recently used last. `busy` are in use.
    """

    def __init__(self, server: web.Server, clients: dict[RequestHandler, str], busy: set[RequestHandler]) -> None:
        self.server, self._clients, self._busy = server, clients, busy

    def __call__(self) -> RequestHandler:
        """Return the handler of a new connection."""
        connections = self.server.connections  # the oldest first
        for client in self._clients.keys() - connections:
            del self._clients[client]
        strangers = [connection for connection in connections if connection not in self._clients]
        idle = [connection for connection in self._clients if connection not in self._busy]
        excess = strangers[: max(len(strangers) + 1 - STRANGERS_MAX, 0)]
        excess += idle[: max(len(self._clients) - CLIENTS_MAX, 0)]
        for connection in (*excess, *self._too_many_of_one()):
            if connection.transport is not None:
                connection.transport.abort()
        return self.server()

    def _too_many_of_one(self) -> Iterator[RequestHandler]:
        """Yield what a client has beyond its number: those that are not in use first, then by their last use."""
        by_client: dict[str, list[RequestHandler]] = {}
        for connection in sorted(self._clients, key=self._busy.__contains__):
            by_client.setdefault(self._clients[connection], []).append(connection)
        for connections in by_client.values():
            yield from connections[: max(len(connections) - ONE_CLIENT_MAX, 0)]


class Clients:
    """The sub-accounts' keys, and how their sessions of the trade stream are held."""

    binary_frames = True
    dead_session_s = 0.0  # a closed loopback socket is gone at once

    def __init__(self, gateway: Gateway, keys: Mapping[str, ClientKeys]) -> None:
        self._gateway = gateway
        self._names = {pair.key: name for name, pair in keys.items()}
        self._keys = dict(keys)
        self.used: dict[RequestHandler, str] = {}  # connections with keys, the most recent last -> sub-account

    def now_ns(self) -> int:
        """The gateway's time."""
        return self._gateway.now_ns()

    def authentic(self, key: str, secret: str) -> str | None:
        """Return the sub-account of these keys; None for wrong ones."""
        name = self._names.get(key)
        secret_bytes = secret.encode(errors="surrogatepass")  # a header may hold bytes that are not text
        if name is None or not hmac.compare_digest(self._keys[name].secret.encode(), secret_bytes):
            return None
        if (connection := _CONNECTION.get(None)) is not None:
            self.used.pop(connection, None)
            self.used[connection] = name
        return name

    def number(self, key: str, secret: str) -> str | None:
        """Return the sub-account's number; None for wrong keys."""
        name = self.authentic(key, secret)
        return None if name is None else self._gateway.books.accounts[name].number

    def numbers(self) -> Iterable[str]:
        """Return the numbers of all sub-accounts."""
        return [self._gateway.books.accounts[name].number for name in self._keys]

    def key_of(self, name: str) -> str:
        """Return the key of a sub-account, "" for one without clients."""
        pair = self._keys.get(name)
        return "" if pair is None else pair.key


class GatewayServer:
    """The sockets of a running gateway, open within an `async with`."""

    def __init__(self, gateway: Gateway, clients: Clients, relay: MarketRelay, *, port: int, control: Path) -> None:
        self.gateway, self.clients, self.port = gateway, clients, port
        self.trade_stream = TradeStreamServer(clients)
        self.relay, self._control = relay, control
        table = gateway.settings.gateway
        self._front = Front(
            ACCOUNT,
            clients.authentic,
            gateway.now_ns,
            limit=table.requests_a_minute,
            data_limit=table.data_requests_a_minute,
        )
        self.refusals: Counter[str] = Counter()  # by HTTP status
        self._runners: list[web.AppRunner] = []
        self._listening: asyncio.Server | None = None
        self._busy: set[RequestHandler] = set()
        self._inode = (0, 0)  # (device, inode) of the operator's socket
        self._cache: dict[str, tuple[float, bytes]] = {}  # answers passed through, by path and query
        self._questions = SharedQuestions(PASSING_MOST)  # requests under way

    def publish(self, account: str, update: Json) -> None:
        """Send a trade update to its sub-account's clients."""
        key = self.clients.key_of(account)
        if key:
            self.trade_stream.publish(key, update)

    def listens(self, account: str) -> bool:
        """Return whether a client receives the trade updates of a sub-account."""
        key = self.clients.key_of(account)
        return bool(key) and self.trade_stream.listeners(key) > 0

    def on_state(self, ready: bool) -> None:
        """Cut the clients' trade streams when the broker's is gone."""
        if not ready:
            self.trade_stream.cut(hold_s=0)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._middleware], client_max_size=BODY_MAX)
        app.router.add_routes(TradingRest(self.gateway, ACCOUNT).routes())
        app.router.add_routes(self.trade_stream.routes())
        activities = ActivityStreamServer(self.gateway, self.clients.authentic, most=ACTIVITY_STREAMS)
        app.router.add_routes(activities.routes())
        app.router.add_routes(self.relay.stream_routes())
        app.router.add_routes([web.get(f"{path}{{rest:(/.*)?}}", self._pass) for path in PASSED])
        app.router.add_routes([web.get("/v2/stocks/{rest:.*}", self._data), web.get("/v1beta1/{rest:.*}", self._data)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=600.0)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        door = Door(runner.server, self.clients.used, self._busy)
        try:
            self._listening = await asyncio.get_running_loop().create_server(door, ADDRESS, self.port)
        except OSError as error:
            raise not_had("gateway.port", self.port, error, "end what has it, or choose another") from error
        self.port = self._listening.sockets[0].getsockname()[1]
        await self._open_control()
        return self

    async def _open_control(self) -> None:
        """Open the operator's socket, which only its owner may use."""
        app = web.Application(middlewares=[_plain_errors])
        operator = Operator(self.gateway)
        app.router.add_routes(operator.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        old_umask = os.umask(0o177)
        try:
            with address(self._control.parent) as short:
                await web.UnixSite(runner, short).start()  # asyncio replaces a socket that no process serves
        finally:
            os.umask(old_umask)
        facts = os.lstat(self._control)
        self._inode = facts.st_dev, facts.st_ino

    async def keep_control(self) -> NoReturn:
        """Open the operator's socket again after its file was removed."""
        while True:
            await asyncio.sleep(look_s(LOOK_S))
            if not is_there(self._control.parent, CONTROL_SOCKET, self._inode):
                with contextlib.suppress(OSError):  # something else has its place for now
                    await self._open_control()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trade_stream.close()
        await self.relay.close()
        self._questions.close()
        if self._listening is not None:
            self._listening.close()
        for runner in self._runners:
            await runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        _CONNECTION.set(request.protocol)
        self._busy.add(request.protocol)
        try:
            return await self._answer(request, handler)
        finally:
            self._busy.discard(request.protocol)

    async def _answer(self, request: web.Request, handler: Any) -> web.StreamResponse:
        path = request.path
        if _PATH.fullmatch(unquote(request.raw_path.partition("?")[0])) is None:
            return web.json_response({"code": 40410000, "message": "endpoint not found."}, status=404)
        if path == "/stream" or path.startswith("/stream/"):
            if not self.gateway.ready:
                status = 429 if self.gateway.stream_taken else 503  # by 429 a desk keeps what it holds
                return web.json_response({"message": f"gateway: {self.gateway.away()}"}, status=status)
            return await handler(request)  # type: ignore[no-any-return]
        if path in STREAM_PATHS or path.startswith("/v2beta1/"):
            return await handler(request)  # type: ignore[no-any-return]
        with while_clients_wait():
            answer = await self._front.answer(request, handler)
        if answer.status >= 400:
            self.refusals[str(answer.status)] += 1
        return answer

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        """Pass on the broker's answer on clock, calendar, assets and contracts, requested once for all who wait.

        These calls are few, so a client may have only some under way. Raises Refusal.
        """
        name, account, now_s = request.path_qs, request[ACCOUNT], asyncio.get_running_loop().time()
        entry = self._cache.get(name)
        if entry is not None and now_s - entry[0] <= KEPT_S:
            return web.Response(body=entry[1], content_type="application/json")
        path, query = request.path.removeprefix("/v2"), dict(request.query)

        async def ask() -> bytes:
            body = json.dumps(await self.gateway.pass_through(path, query)).encode()
            if path != "/clock":  # a comparison of clocks needs a fresh answer
                if len(self._cache) >= KEPT_MOST:
                    self._cache.clear()
                self._cache[name] = (asyncio.get_running_loop().time(), body)
            return body

        with self._questions.turn(account):
            body = await self._questions.answer(name, ask)
        return web.Response(body=body, content_type="application/json")

    async def _data(self, request: web.Request) -> web.StreamResponse:
        """Answer with the broker's market data."""
        return await self.relay.answer(request, request[ACCOUNT])


PASSING_MOST = 8  # a client's passed-through requests under way: all clients share 30 calls a minute
KEPT_S, KEPT_MOST = 60.0, 32  # of passed-through answers: a list of all assets has megabytes


# --- the operator -----------------------------------------------------------------------------------------------------


class Operator:
    """Requests on the operator's socket, as JSON; a wrong one gets 400 with words."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the requests that a person can make to a running gateway."""
        return [
            web.get("/status", self.status),
            web.post("/transfer", self.transfer),
            web.post("/accept", self.accept),
            web.post("/halt", self.halt),
            web.post("/resume", self.resume),
            web.post("/panic", self.panic),
            web.post("/lift", self.lift),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Return the account with its sub-accounts, their sum and the broker's figures."""
        del request
        return web.json_response(status_of(self._gateway))

    async def transfer(self, request: web.Request) -> web.Response:
        """Move cash or a quantity."""
        body = await request.json()
        texts = [str(body.get(name, 0)) for name in ("cash", "quantity")]
        try:
            cash, quantity = map(Decimal, texts)
        except InvalidOperation:
            words = f"cash is {texts[0]!r}, quantity {texts[1]!r}"
            raise ValueError(f"{words}: cash and quantity are numbers, such as 2500 or 12") from None
        await self._gateway.transfer(
            str(body["source"]), str(body["target"]), cash, str(body.get("symbol", "")), quantity,
            str(body.get("by", "")), str(body.get("why", "")),
        )  # fmt: skip
        return web.json_response(status_of(self._gateway))

    async def accept(self, request: web.Request) -> web.Response:
        """Give a sub-account the difference of books and broker."""
        body = await request.json()
        try:
            figure = Decimal(str(body["figure"]))
        except InvalidOperation:
            raise ValueError(f"{body['figure']}: expected what the broker has, such as 12 or 10234.51") from None
        await self._gateway.accept(
            str(body["what"]), figure, str(body["account"]), str(body.get("by", "")), str(body.get("why", ""))
        )
        return web.json_response(status_of(self._gateway))

    async def halt(self, request: web.Request) -> web.Response:
        """Deny new risk to all sub-accounts."""
        body = await request.json()
        by = str(body.get("by", ""))
        await self._gateway.halt("operator", f"{body.get('why') or 'no reason given'} (by {by})", by)
        return web.json_response(status_of(self._gateway))

    async def resume(self, request: web.Request) -> web.Response:
        """Allow new risk again."""
        body = await request.json()
        await self._gateway.resume(str(body.get("by", "")), str(body.get("why", "")), _seen_ns(body))
        return web.json_response(status_of(self._gateway))

    async def panic(self, request: web.Request) -> web.Response:
        """Cancel and close all of one sub-account, or of the account."""
        body = await request.json()
        name, names = str(body.get("account", "")), self._names()
        if name not in (*names, ALL):
            expected = f"{', '.join(names)}, or {ALL} for everything, a person's too"
            raise ValueError(f"{name or 'nothing'} cannot be closed: expected {expected}")
        return web.json_response(await self._gateway.panic(name, str(body.get("by", ""))))

    async def lift(self, request: web.Request) -> web.Response:
        """Lift the fence that a panic left on a sub-account, or the account's own."""
        body = await request.json()
        name, names = str(body.get("account", "")), self._names()
        if name not in (*names, ALL):
            raise ValueError(f"{name or 'nothing'} has no fence: expected {', '.join(names)}, or {ALL} for its own")
        await self._gateway.lift(name, str(body.get("by", "")), _seen_ns(body))
        return web.json_response(status_of(self._gateway))

    def _names(self) -> list[str]:
        return [name for name in self._gateway.books.accounts if name != MAIN]


def _seen_ns(body: Json) -> int:
    """Return when the person looked, 0 where the request does not have it. Raises ValueError."""
    time_text = str(body.get("seen", ""))
    if time_text and not (time_text.isascii() and time_text.isdecimal()):
        raise ValueError(f"seen is {time_text[:40]!r}: expected the time that a refusal named, or nothing")
    return int(time_text[:20] or 0)


@web.middleware
async def _plain_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await answer_request(request, handler)
    except (ValueError, KeyError, TypeError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return web.json_response({"message": words}, status=400)


def status_of(gateway: Gateway) -> Json:
    """Return the gateway's state for `status`, the dashboard and metrics: figures in USD as text."""
    books = gateway.books
    cash, quantities = books.sums()
    prices = {symbol: gateway.price(symbol) or price for symbol, (_, price) in gateway.prices.items()}
    accounts = [
        {
            "name": name,
            "account_number": account.number,
            "cash": money(account.cash),
            "equity": money(books.worth(name, prices)),
            "last_equity": money(account.last_equity),
            "capital": money(account.capital),
            "reserved": money(books.reserved_usd(name)),
            "suspended": account.suspended,
            "positions": {symbol: text(holding.qty) for symbol, holding in sorted(account.holdings.items())},
            "open_orders": sum(order.account == name for order in books.open_orders()),
        }
        for name, account in books.accounts.items()
    ]
    symbols = sorted(quantities.keys() | books.broker_held.keys())
    return {
        "schema": "gateway_status",
        "v": 1,
        "time_ns": gateway.now_ns(),
        "account": gateway.statement(),
        "ready": gateway.ready,
        "away": gateway.away(),
        "blocked": gateway.block_reason,
        "halt": None if books.halt is None else {"reason": books.halt[0], "detail": books.halt[1]},
        "reported_ns": books.reported_ns,
        "accounts": accounts,
        "sum": {
            "cash": money(cash),
            "equity": money(sum((books.worth(name, prices) for name in books.accounts), Decimal(0))),
            "positions": {s: text(quantities.get(s, Decimal(0))) for s in symbols},
        },
        "broker": {
            "cash": money(books.broker_cash),
            "equity": str(books.broker_account.get("equity", "")),
            "positions": {s: text(books.broker_held.get(s, Decimal(0))) for s in symbols},
        },
        "differences": [words for _, words in books.differences.values()],
        "doubts": list(books.doubts),
    }
