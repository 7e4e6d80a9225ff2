"""A shorter way for REST: request and answer go from client to server without a byte of HTTP, while no fault spoils it.

The same virtual time passes, the server's own routes answer, and a killed process never hears of its answer. Where a
fault of HTTP waits or the network is down, everything goes the long way: connections, bytes and parsers.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import requests
from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from requests.structures import CaseInsensitiveDict
from yarl import URL

from daemon.brokers.alpaca.rest.client import BoundSession
from simulator.server import HTTP_FAULTS, AlpacaServer
from tests.years.loop import OWNER, Process, YearsLoop, wait_in_work
from tests.years.wires import WAY_US, Listener, Network

PEER = ("127.0.0.1", 0)
LONG_WAY = requests.Session.send
LONG_REQUEST = requests.Session.request


class _Asked(SimpleNamespace):
    """A request on the short way: what `requests` would make a PreparedRequest of."""

    method: str
    url: str
    options: dict[str, Any]


class _Protocol:
    """What a request knows of its connection: there is none."""

    transport = ssl_context = None
    peername = sockname = PEER


PROTOCOL = _Protocol()


class ShortWay:
    """The way of one world, to all servers of its network. Faults of HTTP are those of the broker's `server`."""

    def __init__(self, loop: YearsLoop, network: Network, server: AlpacaServer) -> None:
        self._loop, self._network, self._server = loop, network, server
        self._nobody = contextvars.copy_context()
        self._nobody.run(OWNER.set, None)
        self._answering: dict[Process, dict[asyncio.Future[Any], None]] = {}  # what each server's process owes

    def open(self, port: int) -> bool:
        """Whether nothing spoils the way of the running process to this port."""
        network = self._network
        if network.down or self._loop.now_ns < network.spoilt_until_ns or network.is_barred(OWNER.get()):
            return False
        return port != self._server.port or not self._server.faults.waiting(*HTTP_FAULTS)

    def send(self, asked: _Asked) -> requests.Response | None:
        """Send, and wait within work of a thread; None where the way has closed before the server heard of it.

        Raises requests.ConnectionError where the server dies meanwhile.
        """
        loop, port = self._loop, port_of(asked.url)
        answer: asyncio.Future[web.Response | None] = loop.create_future()
        back = contextvars.copy_context()

        def heard(reply: web.Response | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        def reset() -> None:
            if not answer.done():
                answer.set_exception(requests.ConnectionError("Connection reset by peer"))

        def arrive() -> None:
            listener: Listener | None = loop.listeners.get(port)
            if listener is None or not back.run(self.open, port):
                loop.outside(self._way_ns(), heard, None, context=back)
                return
            factory = cast("Any", listener.factory)  # a server's own, or a door before it
            owner, handler = listener.owner, getattr(factory, "server", factory).request_handler
            owed: asyncio.Future[Any] = loop.create_future()

            def answered(task: asyncio.Task[web.StreamResponse]) -> None:
                if owner is not None:
                    self._answering[owner].pop(owed, None)
                reply = task.result()
                assert isinstance(reply, web.Response)
                loop.outside(self._way_ns(), heard, reply, context=back)

            if owner is not None:
                self._owes(owner)[owed] = None
                owed.add_done_callback(
                    lambda _: loop.outside(self._way_ns(), reset, context=back), context=self._nobody
                )
            context = self._nobody.copy()
            context.run(OWNER.set, owner)
            task = loop.create_task(handler(_request(asked, loop)), context=context)
            task.add_done_callback(answered, context=context)

        loop.outside(self._way_ns(), arrive, context=self._nobody)
        reply = wait_in_work(answer)
        return None if reply is None else _response(asked, reply)

    def _owes(self, owner: Process) -> dict[asyncio.Future[Any], None]:
        """The answers that this process owes; they are reset when it dies."""
        if owner not in self._answering:
            owing: dict[asyncio.Future[Any], None] = {}
            self._answering[owner] = owing

            def died() -> None:
                for owed in owing:
                    owed.set_result(None)

            owner.on_death.append(died)
        return self._answering[owner]

    def _way_ns(self) -> int:
        return self._loop.chance.randint(*WAY_US) * 1_000


def _request(asked: _Asked, loop: YearsLoop) -> web.Request:
    """The request as the server's routes see it."""
    host, target, url = _target(asked.url, tuple((asked.options.get("params") or {}).items()))
    headers = CIMultiDict({"Host": host, **asked.options.get("headers", {})})
    body = b""
    if asked.options.get("json") is not None:
        body = json.dumps(asked.options["json"], allow_nan=False).encode()
        headers["Content-Type"] = "application/json"
    message = RawRequestMessage(
        asked.method, target, HttpVersion11, CIMultiDictProxy(headers), (), False, None, False, False, url,
    )  # fmt: skip
    protocol, nothing = cast("Any", PROTOCOL), cast("Any", None)
    request = web.Request(message, nothing, protocol, nothing, nothing, loop, client_max_size=2**24)
    request._read_bytes = body
    return request


@lru_cache(maxsize=4096)  # the same questions, again and again
def _target(address: str, params: tuple[tuple[str, Any], ...]) -> tuple[str, str, URL]:
    """Host, target and URL of a request."""
    parts = urlsplit(address)
    query = urlencode([(name, value) for name, value in params if value is not None])
    query = "&".join(filter(None, (parts.query, query)))
    target = f"{parts.path or '/'}?{query}" if query else parts.path or "/"
    return parts.netloc, target, URL(target, encoded=True)


def _response(asked: _Asked, reply: web.Response) -> requests.Response:
    """The answer as `requests` gives it, with its body still to be read."""
    response = requests.Response()
    body = reply.body
    assert body is None or isinstance(body, bytes | bytearray)
    response.status_code = reply.status
    response.headers = CaseInsensitiveDict(reply.headers)
    response.encoding = "utf-8"
    response.url = asked.url
    response.reason = reply.reason
    response.raw = _Body(bytes(body or b""))
    return response


class _Body(io.BytesIO):
    """A body as urllib3 lets one read it."""

    def read1(self, size: int | None = -1, *, decode_content: bool = True) -> bytes:
        """The next part."""
        del decode_content
        return super().read1(-1 if size is None else size)

    def release_conn(self) -> None:
        """There is no connection."""


@lru_cache(maxsize=64)
def _port(host: str) -> int:
    return int(host.rpartition(":")[2])


def port_of(url: str) -> int:
    """The port of an address of this network."""
    return _port(url.split("/", 3)[2])


def lay_short_way(loop: YearsLoop, network: Network, server: AlpacaServer) -> None:
    """Let the REST clients of this process take the short way to `server`, and to others of its network."""
    way = ShortWay(loop, network, server)

    def request(self: BoundSession, method: str, url: str, **options: Any) -> requests.Response:
        if not way.open(port_of(url)):
            return LONG_REQUEST(self, method, url, **options)
        options.pop("allow_redirects", None)
        asked: Any = _Asked(method=method.upper(), url=url, options=options)
        return self.send(asked)

    def send(self: requests.Session, asked: Any, **settings: Any) -> requests.Response:
        if not isinstance(asked, _Asked):
            return LONG_WAY(self, asked, **settings)
        response = way.send(asked)
        if response is not None:
            return response
        made = requests.Request(asked.method, asked.url, **_of(asked.options))
        return LONG_WAY(self, self.prepare_request(made), **settings)

    BoundSession.request = request  # type: ignore[method-assign,assignment]
    requests.Session.send = send  # type: ignore[method-assign,assignment]


def _of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in ("headers", "params", "json")}
