"""The dashboard's application: the API, the stream and the page over some desks.

Everything that blocks (SQLite, stepping, ONNX) runs in a few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from daemon.dashboard import api
from daemon.dashboard.api import TextFile
from daemon.dashboard.desks import FollowedDesk, OwnCode
from daemon.dashboard.guard import RequestGuard, failed
from daemon.dashboard.pages.fleet import fleet_page
from daemon.dashboard.pages.occlusion import Explainer
from daemon.dashboard.queries import RefusedRequest, guarded
from daemon.dashboard.stream import Channel, OpenStreams, Stream

STATIC = Path(__file__).parent / "static"


def json_response(value: Any) -> Response:
    body = msgspec.json.encode(value)
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


def fleet_response(desks: Iterable[FollowedDesk]) -> Response:
    """`GET /api/fleet`."""
    return json_response(fleet_page([desk.picture for desk in desks], time.time()))


def file_response(answered: TextFile) -> Response:
    headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{answered.name}"'}
    return Response(answered.text, headers=headers, media_type=answered.kind)


async def page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return failed(status, "there is nothing here" if status == 404 else f"HTTP status {status}")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)
    return failed(error.status, error.text)


async def _broken(_: Request, error: Exception) -> Response:
    return failed(
        500, f"a bug in the dashboard ({type(error).__name__}): its log has the details; trading is not affected"
    )


HANDLERS: dict[Any, Any] = {HTTPException: _http_error, RefusedRequest: _refused, Exception: _broken}
"""Exception -> the coroutine that makes its response."""


STREAMS_MOST = 64
THREADS = 4


class Dashboard:
    """The application over some desks. Streams end when the process was asked to end."""

    def __init__(self, desks: Mapping[str, FollowedDesk], models_dir: Path) -> None:
        self.desks = desks
        self.models_dir = models_dir
        self.streams = OpenStreams()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        self._digging = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._explainer = Explainer(models_dir)
        self._code = OwnCode()
        self._channels = {name: Channel(desk, self._pool, self._digging) for name, desk in desks.items()}

    def app(self, port: int) -> ASGIApp:
        """The ASGI application for this port."""
        routes: list[Any] = [Route("/api/desks", self._desks), Route("/api/stream", self._stream)]
        routes.append(Route("/api/fleet", self._fleet))
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
            for pool in (self._pool, self._digging):
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
        return fleet_response(self.desks.values())

    async def _answer(self, answer: api.Answer, request: Request) -> Response:
        channel = self._channel(request)
        await channel.fresh()
        query = {**request.query_params, **request.path_params}
        own_code = self._code.digest(channel.desk.picture.meta.get("strategy", ""))
        around = api.AnswerContext(channel.history, self._explainer, self.models_dir, own_code, self.streams.count)
        loop = asyncio.get_running_loop()
        call = partial(guarded, partial(answer, channel.desk, query, around))
        answered = await loop.run_in_executor(self._pool, call)
        return file_response(answered) if isinstance(answered, api.TextFile) else json_response(answered)

    async def _stream(self, request: Request) -> ASGIApp:
        channel = self._channel(request)
        if self.streams.count >= STREAMS_MOST:
            return failed(503, f"{STREAMS_MOST} pages are open already", **{"retry-after": "30"})
        return Stream(self.streams, channel)


def names(desks: Sequence[FollowedDesk]) -> str:
    """List the desks for the first line of the log."""
    return ", ".join(desk.name if desk.name.isprintable() else ascii(desk.name) for desk in desks)
