"""The metrics' HTTP server: prometheus_client's application on the loopback address, in a thread and a loop of its own.

A client is answered when its whole request has come: a silent or slow one delays no other.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote
from wsgiref.handlers import SimpleHandler

from prometheus_client import CollectorRegistry, make_wsgi_app

from daemon.host.loopback import ADDRESS, listen

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOSTS = ("127.0.0.1", "localhost", "[::1]", "")  # accepted host names; the port may be a tunnel's
CLIENT_TIMEOUT_S = 5.0  # for a client to send its request, and to take the answer
CLIENTS_MOST = 16  # at once: beyond that the oldest is dropped, so that trading keeps its files
HEAD_MOST = 16 * 1024  # bytes of a request


async def serve(registry: CollectorRegistry, port: int, log: Callable[..., None]) -> None:
    """Serve on the loopback address until cancelled. Raises OSError where the port is not available."""
    listening = listen("metrics.port", port, "end what has it, or choose another")
    scrapes, loop = _Scrapes(_application(registry)), asyncio.SelectorEventLoop()
    url = f"http://{ADDRESS}:{listening.getsockname()[1]}/metrics"
    threading.Thread(target=_run, args=(loop, scrapes.serve(listening)), name="metrics", daemon=True).start()
    try:
        log("metrics_listening", url=url)
        await asyncio.Event().wait()
    finally:
        loop.call_soon_threadsafe(scrapes.over.set)


def _run(loop: asyncio.AbstractEventLoop, server: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(server)


class _Scrapes:
    """Answers one request a connection, until `over` is set. Used in its own loop."""

    def __init__(self, application: WSGIApplication) -> None:
        self.over = asyncio.Event()
        self._application = application
        self._clients: dict[asyncio.StreamWriter, None] = {}  # the oldest first

    async def serve(self, listening: socket.socket) -> None:
        """Serve until it is over, then answer all accepted clients: none keeps an open socket."""
        async with await asyncio.start_server(self._client, sock=listening, limit=HEAD_MOST):
            await self.over.wait()
            asyncio.get_running_loop().remove_reader(listening)  # closing while accepting would leave one open
            while clients := asyncio.all_tasks() - {asyncio.current_task()}:  # each ends within CLIENT_TIMEOUT_S
                await asyncio.wait(clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a client, or drop it; nothing is logged."""
        if len(self._clients) >= CLIENTS_MOST:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.transport.abort()
        self._clients[writer] = None
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.transport.set_write_buffer_limits(high=0)
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError, http.client.HTTPException):
            pass
        finally:
            self._clients.pop(writer, None)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        """Return the application's answer to a request without a body. Raises HTTPException."""
        request, _, lines = head.partition(b"\r\n")
        method, target, *_ = [*request.decode("latin-1").split(), "", ""]
        path, _, query = target.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": "HTTP/1.0",
            "SERVER_NAME": ADDRESS,
        }
        for name, value in http.client.parse_headers(io.BytesIO(lines)).items():
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        answer = io.BytesIO()
        SimpleHandler(io.BytesIO(), answer, io.StringIO(), environ).run(self._application)
        return answer.getvalue()


def _application(registry: CollectorRegistry) -> WSGIApplication:
    """Serve prometheus_client's application for known host names only (a defence against DNS rebinding).

    A scrape that raises answers with the error, so that no traceback gets into the log.
    """
    scrape = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if re.sub(r":\d*$", "", environ.get("HTTP_HOST", "")).lower() not in HOSTS:
            start_response("400 Bad Request", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"this host name is not served: ask for 127.0.0.1, or let the proxy do so\n"]
        try:
            answer: Iterable[bytes] = scrape(environ, start_response)
        except Exception as error:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{type(error).__name__}: {error}\n".encode()]
        return answer

    return application
