"""The dashboard's process: one event loop serves the API, the stream and the page, on 127.0.0.1 only.

Everything that blocks (SQLite, stepping, ONNX) runs in a few threads. A page that follows the stream gets the newest
state only: one message is in flight, never a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.dashboard import api
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.guard import HEAD_MOST, Guard, failed
from daemon.dashboard.pages.history import DecisionHistory
from daemon.dashboard.pages.occlusion import Explainer
from daemon.dashboard.views import Now
from daemon.engine.recovery import code_digest

STATIC = Path(__file__).parent / "static"
STREAMS_MOST = 64
CONNECTIONS_MOST = 256
BETWEEN_S = 0.5  # looks, and messages of a stream: at most two a second
IDLE_S = 5.0  # between two looks while no page is open
HEARTBEAT_S = 15.0
WRITE_S = 15.0  # a page that reads nothing for this time is dropped
RETRY_MS = 2000
THREADS = 4
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class Channel:
    """One desk, read once for all pages, and the newest message of its streams."""

    def __init__(self, desk: FollowedDesk, pool: ThreadPoolExecutor, digging: ThreadPoolExecutor) -> None:
        self.desk = desk
        self.history = DecisionHistory(desk, digging)
        self.clients = 0
        self.message = b""  # the newest state as an event of the stream
        self.changed = asyncio.Event()  # replaced at each change
        self._pool = pool
        self._lock = asyncio.Lock()
        self._looked = 0.0
        self._shown: Now | None = None

    async def fresh(self) -> None:
        """Renew the picture if it is older than BETWEEN_S."""
        async with self._lock:
            if time.monotonic() - self._looked < BETWEEN_S:
                return
            loop = asyncio.get_running_loop()
            now = await loop.run_in_executor(self._pool, self._look)
            self._looked = time.monotonic()
            if now is not None and (self._shown is None or _same(now) != _same(self._shown)):
                self._shown = now
                self.message = b"event: now\ndata: " + msgspec.json.encode(now) + b"\n\n"
                former, self.changed = self.changed, asyncio.Event()
                former.set()

    def _look(self) -> Now | None:
        self.desk.look()
        try:
            now: Now = api.guarded(partial(api.now, self.desk))
        except api.RefusedRequest:
            return None
        return now

    async def keep_looking(self) -> None:
        """Follow the journal: often while a page is open, rarely while none is."""
        while True:
            look = asyncio.ensure_future(self.fresh())
            await asyncio.wait({look})
            if not look.cancelled() and look.exception() is not None:  # a bug: report it and go on
                sys.stderr.write(f"rltrader-dashboard: a look at {self.desk.name!r} failed: {look.exception()!r}\n")
            behind = not self.desk.picture.caught_up and not self.desk.picture.problem
            await asyncio.sleep(BETWEEN_S if self.clients or behind else IDLE_S)


def _same(now: Now) -> Now:
    return msgspec.structs.replace(now, read_at=0.0)


class Dashboard:
    """The application over some desks. Streams end when `ending` returns True: the process was asked to end."""

    def __init__(self, desks: Mapping[str, FollowedDesk], models_dir: Path) -> None:
        self.desks = desks
        self.models_dir = models_dir
        self.streams = 0
        self.ending: Callable[[], bool] = bool
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        self._digging = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._explainer = Explainer(models_dir)
        self._own_code = code_digest()
        self._channels = {name: Channel(desk, self._pool, self._digging) for name, desk in desks.items()}

    def app(self, port: int) -> ASGIApp:
        """The ASGI application for this port."""
        routes: list[Any] = [Route("/api/desks", self._desks), Route("/api/stream", self._stream)]
        routes += [Route(path, partial(self._answer, answer)) for path, answer in api.ANSWERS.items()]
        routes += [Route("/", _page), Mount("/static", StaticFiles(directory=STATIC))]
        handlers: dict[Any, Any] = {HTTPException: _http_error, api.RefusedRequest: _refused, Exception: _broken}
        return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan), port)

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
            for pool in (self._pool, self._digging):
                pool.shutdown(wait=False, cancel_futures=True)

    def _channel(self, request: Request) -> Channel:
        """Return the desk that the query names, else the first one."""
        name = request.query_params.get("desk")
        if name is None:
            return next(iter(self._channels.values()))
        if name not in self._channels:
            raise api.RefusedRequest(404, f"desk is {name[:60]!r}, expected a name of /api/desks")
        return self._channels[name]

    async def _desks(self, _: Request) -> Response:
        await asyncio.gather(*(channel.fresh() for channel in self._channels.values()))
        return _json([api.desk_line(desk) for desk in self.desks.values()])

    async def _answer(self, answer: api.Answer, request: Request) -> Response:
        channel = self._channel(request)
        await channel.fresh()
        query = {**request.query_params, **request.path_params}
        around = api.AnswerContext(channel.history, self._explainer, self.models_dir, self._own_code, self.streams)
        loop = asyncio.get_running_loop()
        call = partial(api.guarded, partial(answer, channel.desk, query, around))
        return _json(await loop.run_in_executor(self._pool, call))

    async def _stream(self, request: Request) -> ASGIApp:
        channel = self._channel(request)
        if self.streams >= STREAMS_MOST:
            return failed(503, f"{STREAMS_MOST} pages are open already", **{"retry-after": "30"})
        return _Stream(self, channel)


class _Stream:
    """ASGI application: send the newest state of one desk, then each change, until either side ends."""

    def __init__(self, dashboard: Dashboard, channel: Channel) -> None:
        self._dashboard = dashboard
        self._channel = channel

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the states until then."""
        dashboard, channel = self._dashboard, self._channel
        dashboard.streams += 1
        channel.clients += 1
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await _put(send, b"retry: %d\n\n" % RETRY_MS)
            await channel.fresh()
            sent = b""
            while not gone.done() and not dashboard.ending():
                changed, message = channel.changed, channel.message
                if message != sent:
                    sent = message
                    await _put(send, message)
                    await asyncio.sleep(BETWEEN_S)
                elif not await _wait(changed, gone, dashboard):
                    await _put(send, b": still here\n\n")
            await _put(send, b"", more=False)
        except (TimeoutError, OSError):
            pass  # the page read nothing for too long, or is gone
        finally:
            dashboard.streams -= 1
            channel.clients -= 1
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _put(send: Send, body: bytes, *, more: bool = True) -> None:
    await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": more}), WRITE_S)


async def _wait(changed: asyncio.Event, gone: asyncio.Future[None], dashboard: Dashboard) -> bool:
    """Wait for a change or the end of either side; False after HEARTBEAT_S."""
    until = time.monotonic() + HEARTBEAT_S
    while time.monotonic() < until:
        if gone.done() or dashboard.ending():
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), BETWEEN_S)
            return True
    return False


def _json(value: Any) -> Response:
    body = msgspec.json.encode(value)
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return failed(status, "there is nothing here" if status == 404 else f"HTTP status {status}")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, api.RefusedRequest)
    return failed(error.status, error.text)


async def _broken(_: Request, error: Exception) -> Response:
    return failed(
        500, f"a bug in the dashboard ({type(error).__name__}): its log has the details; trading is not affected"
    )


def listen(port: int) -> socket.socket:
    """Open a socket on 127.0.0.1; port 0 takes a free one. The kernel drops a peer that does not read."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_S * 2000))
    listening.bind(("127.0.0.1", port))
    listening.listen(128)
    return listening


async def serve(dashboard: Dashboard, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        dashboard.app(port),
        http="h11",
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
    server = uvicorn.Server(config)
    dashboard.ending = lambda: server.should_exit
    await server.serve(sockets=[listening])


def names(desks: Sequence[FollowedDesk]) -> str:
    """List the desks for the first line of the log."""
    return ", ".join(desk.name if desk.name.isprintable() else ascii(desk.name) for desk in desks)
