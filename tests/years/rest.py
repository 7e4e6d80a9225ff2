"""A shorter way for REST: request and answer go from client to server without a byte of HTTP, while no fault spoils it.

The same virtual time passes, the server's own routes answer, and a killed process never hears of its answer. Where a
fault of HTTP waits or the network is down, everything goes the long way: connections, bytes and parsers.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from urllib3 import PoolManager
from urllib3.exceptions import ProtocolError
from yarl import URL

from simulator.server import HTTP_FAULTS, AlpacaServer
from tests.years.loop import OWNER, Process, YearsLoop, wait_in_work
from tests.years.wires import WAY_US, Listener, Network

PEER = ("127.0.0.1", 0)
LONG_WAY = PoolManager.urlopen


class _Asked(NamedTuple):
    """A request on the short way."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


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

    def send(self, request: _Asked) -> _Heard | None:
        """Send, and wait within work of a thread; None where the way has closed before the server heard of it.

        Raises ProtocolError where the server dies meanwhile.
        """
        loop, port = self._loop, port_of(request.url)
        answer: asyncio.Future[web.Response | None] = loop.create_future()
        back = contextvars.copy_context()

        def deliver(reply: web.Response | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        def reset() -> None:
            if not answer.done():
                answer.set_exception(ProtocolError("Connection reset by peer"))

        def arrive() -> None:
            listener: Listener | None = loop.listeners.get(port)
            if listener is None or not back.run(self.open, port):
                loop.outside(self._way_ns(), deliver, None, context=back)
                return
            factory = cast("Any", listener.factory)  # a server's own, or a door before it
            owner, handler = listener.owner, getattr(factory, "server", factory).request_handler
            owed: asyncio.Future[Any] = loop.create_future()

            def respond(task: asyncio.Task[web.StreamResponse]) -> None:
                if owner is not None:
                    self._answering[owner].pop(owed, None)
                reply = task.result()
                assert isinstance(reply, web.Response)
                loop.outside(self._way_ns(), deliver, reply, context=back)

            if owner is not None:
                self._owes(owner)[owed] = None
                owed.add_done_callback(
                    lambda _: loop.outside(self._way_ns(), reset, context=back), context=self._nobody
                )
            context = self._nobody.copy()
            context.run(OWNER.set, owner)
            task = loop.create_task(handler(_request(request, loop)), context=context)
            task.add_done_callback(respond, context=context)

        loop.outside(self._way_ns(), arrive, context=self._nobody)
        reply = wait_in_work(answer)
        return None if reply is None else _Heard(reply)

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


def _request(question: _Asked, loop: YearsLoop) -> web.Request:
    """The request as the server's routes see it."""
    host, target, url = _target(question.url)
    headers, body = CIMultiDict({"Host": host, **question.headers}), question.body or b""
    message = RawRequestMessage(
        question.method, target, HttpVersion11, CIMultiDictProxy(headers), (), False, None, False, False, url,
    )  # fmt: skip
    protocol, nothing = cast("Any", PROTOCOL), cast("Any", None)
    request = web.Request(message, nothing, protocol, nothing, nothing, loop, client_max_size=2**24)
    request._read_bytes = body
    return request


@lru_cache(maxsize=4096)  # the same questions, again and again
def _target(address: str) -> tuple[str, str, URL]:
    """Host, target and URL of a request."""
    parts = urlsplit(address)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return parts.netloc, target, URL(target, encoded=True)


class _Heard(io.BytesIO):
    """An answer as urllib3 gives it, with its body still to be read."""

    def __init__(self, reply: web.Response) -> None:
        body = reply.body
        assert body is None or isinstance(body, bytes | bytearray)
        super().__init__(body or b"")
        self.status, self.headers = reply.status, reply.headers

    def read1(self, size: int | None = -1, *, decode_content: bool = True) -> bytes:
        """The next part."""
        del decode_content
        return super().read1(-1 if size is None else size)


@lru_cache(maxsize=64)
def _port(host: str) -> int:
    return int(host.rpartition(":")[2])


def port_of(url: str) -> int:
    """The port of an address of this network."""
    return _port(url.split("/", 3)[2])


def lay_short_way(loop: YearsLoop, network: Network, server: AlpacaServer) -> None:
    """Let the REST clients of this process take the short way to `server`, and to others of its network."""
    way = ShortWay(loop, network, server)

    def urlopen(self: PoolManager, method: str, url: str, **how: Any) -> Any:
        response = way.send(_Asked(method, url, how["headers"], how["body"])) if way.open(port_of(url)) else None
        return LONG_WAY(self, method, url, **how) if response is None else response

    PoolManager.urlopen = urlopen  # type: ignore[assignment]
