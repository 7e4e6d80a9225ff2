"""The dashboard's application (the API, the stream and the page over some desks), and its server on 127.0.0.1.

Everything that blocks (SQLite, stepping, ONNX) runs in a few threads. Each request passes the same checks first: host,
method, size of its head.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from daemon.dashboard import api
from daemon.dashboard.api import TextFile
from daemon.dashboard.desks import FollowedDesk, OwnCode, fleet_page
from daemon.dashboard.pages.occlusion import Explainer
from daemon.dashboard.pages.runs import RunShelf
from daemon.dashboard.queries import RefusedRequest, guard_answer
from daemon.dashboard.stream import WRITE_S, Channel, OpenStreams, Stream
from daemon.host.loopback import listen
from daemon.operator.gateway_view import gateway_view
from strategies.kit.quantity import to_json

TARGET_MOST = 2048  # bytes of path and query
HEAD_MOST = 16 * 1024  # bytes of all headers
NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


def error_response(status: int, text: str, **headers: str) -> Response:
    """Make an error answer in JSON that is not cached."""
    body = msgspec.json.encode({"error": text})
    return Response(body, status, {"cache-control": "no-store", **headers}, media_type="application/json")


class RequestGuard:
    """ASGI middleware that refuses unsuitable requests. `port` is the one that we listen on."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] != "GET":
            return error_response(405, "this page is only for reading: GET alone", allow="GET")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_MOST:
            return error_response(414, f"the address is longer than {TARGET_MOST} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_MOST:
            return error_response(431, f"the headers are longer than {HEAD_MOST} bytes")
        hosts, origins, sites = (_all(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return error_response(
                400, "this host name is not served: use http://127.0.0.1 and the port of the dashboard"
            )
        if any(origin.lower() not in self._origins for origin in origins):
            return error_response(403, "another site asks: only the dashboard's own pages may")
        if scope["path"].startswith("/api/") and any(site == "cross-site" for site in sites):
            return error_response(403, "another site asks: only the dashboard's own pages may")
        return None


def _all(scope: Any, name: bytes) -> list[str]:
    """Return all values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


STATIC = Path(__file__).parent / "static"


def json_response(value: Any) -> Response:
    body = msgspec.json.encode(value, enc_hook=to_json)
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


def fleet_response(desks: Iterable[FollowedDesk], gateways: Iterable[Path]) -> Response:
    """`GET /api/fleet`: the desks, and the accounts behind gateways."""
    now_s = time.time()
    fleet = msgspec.structs.asdict(fleet_page([desk.picture for desk in desks], now_s))
    return json_response(fleet | {"gateways": [gateway_view(folder, now_s) for folder in gateways]})


def file_response(text_file: TextFile) -> Response:
    headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{text_file.name}"'}
    return Response(text_file.text, headers=headers, media_type=text_file.kind)


async def page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return error_response(status, "there is nothing here" if status == 404 else f"HTTP status {status}")


async def _refusal_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)
    return error_response(error.status, error.text)


async def _error_response(_: Request, error: Exception) -> Response:
    return error_response(
        500, f"a bug in the dashboard ({type(error).__name__}): its log has the details; trading is not affected"
    )


HANDLERS: dict[Any, Any] = {HTTPException: _http_error, RefusedRequest: _refusal_response, Exception: _error_response}
"""Exception -> the coroutine that makes its response."""


STREAMS_MOST = 64
THREADS = 4


class Dashboard:
    """The application over some desks. Streams end when the process is asked to end."""

    def __init__(
        self,
        desks: Mapping[str, FollowedDesk],
        models_dir: Path,
        gateways: Sequence[Path] = (),
        runs: Sequence[Path] = (),
    ) -> None:
        self.desks, self.gateways = desks, tuple(gateways)
        self._shelf = RunShelf(runs)
        self._shelving = ThreadPoolExecutor(1, thread_name_prefix="runs")
        self.models_dir = models_dir
        self.streams = OpenStreams()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        self._digging = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._explainer = Explainer(models_dir)
        self._code = OwnCode()
        self._channels = {name: Channel(desk, self._pool, self._digging) for name, desk in desks.items()}

    def app(self, port: int) -> ASGIApp:
        """Return the ASGI application for this port."""
        routes: list[Any] = [Route("/api/desks", self._desks), Route("/api/stream", self._stream)]
        routes += [Route("/api/fleet", self._fleet), Route("/api/sparks", self._sparks)]
        routes += [Route("/api/runs", self._runs), Route("/api/runs/compare", self._comparison)]
        routes += [Route(path, partial(self._answer, answer)) for path, answer in api.ANSWERS.items()]
        routes += [Route("/", page), Mount("/static", StaticFiles(directory=STATIC))]
        return RequestGuard(Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=self._lifespan), port)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(channel.keep_looking()) for channel in self._channels.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for channel in self._channels.values():
                channel.history.close()
            for pool in (self._pool, self._digging, self._shelving):
                pool.shutdown(wait=False, cancel_futures=True)

    def _channel(self, request: Request) -> Channel:
        """Return the desk that the query names, else the first one."""
        name = request.query_params.get("desk")
        if name is None:
            return next(iter(self._channels.values()))
        if name not in self._channels:
            raise RefusedRequest(404, f"desk is {name[:60]!r}, expected a name of /api/desks")
        return self._channels[name]

    async def _desks(self, _: Request) -> Response:
        await asyncio.gather(*(channel.fresh() for channel in self._channels.values()))
        return json_response([api.desk_line(desk) for desk in self.desks.values()])

    async def _fleet(self, _: Request) -> Response:
        await asyncio.gather(*(channel.fresh() for channel in self._channels.values()))
        return fleet_response(self.desks.values(), self.gateways)

    async def _sparks(self, _: Request) -> Response:
        await asyncio.gather(*(channel.fresh() for channel in self._channels.values()))
        loop = asyncio.get_running_loop()
        courses = (loop.run_in_executor(self._pool, api.spark, desk) for desk in self.desks.values())
        return json_response(dict(zip(self.desks, await asyncio.gather(*courses), strict=True)))

    async def _runs(self, _: Request) -> Response:
        call = partial(guard_answer, self._shelf.runs)
        return json_response(await asyncio.get_running_loop().run_in_executor(self._shelving, call))

    async def _comparison(self, request: Request) -> Response:
        call = partial(guard_answer, partial(self._shelf.comparison, request.query_params.getlist("id")))
        return json_response(await asyncio.get_running_loop().run_in_executor(self._shelving, call))

    async def _answer(self, answer: api.Answer, request: Request) -> Response:
        channel = self._channel(request)
        await channel.fresh()
        query = {**request.query_params, **request.path_params}
        own_code = self._code.digest(channel.desk.picture.meta.get("strategy", ""))
        around = api.AnswerContext(channel.history, self._explainer, self.models_dir, own_code, self.streams.count)
        loop = asyncio.get_running_loop()
        call = partial(guard_answer, partial(answer, channel.desk, query, around))
        result = await loop.run_in_executor(self._pool, call)
        return file_response(result) if isinstance(result, api.TextFile) else json_response(result)

    async def _stream(self, request: Request) -> ASGIApp:
        channel = self._channel(request)
        if self.streams.count >= STREAMS_MOST:
            return error_response(503, f"{STREAMS_MOST} pages are open already", **{"retry-after": "30"})
        return Stream(self.streams, channel)


def names(desks: Sequence[FollowedDesk]) -> str:
    """List the desks for the first line of the log."""
    return ", ".join(desk.name if desk.name.isprintable() else ascii(desk.name) for desk in desks)


CONNECTIONS_MOST = 256


def open_door(port: int) -> socket.socket:
    """Listen on the loopback address; the kernel drops a peer that does not read. Raises as `listen`."""
    listening = listen("port", port, "choose another with --port, or 0 for a free one")
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_S * 2000))
    return listening


class _Connection(H11Protocol):
    """A connection. Beyond the limit the oldest idle one is closed, so silent clients block no others."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since_s = self.loop.time()
        lasting = [other for other in self.connections if not other.transport.is_closing()]
        idle = [other for other in lasting if isinstance(other, _Connection) and other.is_idle]
        if len(lasting) >= CONNECTIONS_MOST:
            min(idle, key=lambda other: other.since_s).transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no answer is pending."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete


class _Server(uvicorn.Server):
    """uvicorn's server; it reports on stdout that it serves once SIGINT and SIGTERM would end it in order."""

    def __init__(self, config: uvicorn.Config, serving: str) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(self._serving)
        sys.stdout.flush()


async def serve(dashboard: Dashboard, listening: socket.socket, serving: str) -> None:
    """Serve until SIGTERM or SIGINT; writes `serving` to stdout once requests are answered."""
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        dashboard.app(port),
        http=_Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MOST,
        h11_max_incomplete_event_size=2 * HEAD_MOST,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config, serving)
    dashboard.streams.ending = lambda: server.should_exit
    await server.serve(sockets=[listening])
