"""The metrics' HTTP server: prometheus_client's application on the loopback address, in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ADDRESS = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost", "[::1]", "")  # as whom a client may ask for us; the port is that of its tunnel
CLIENT_TIMEOUT_S = 5.0  # for a client to ask and to take the answer: the others wait for it


class MetricsError(OSError):
    """The metrics cannot be served; the text names the address and the cure."""


async def serve(registry: CollectorRegistry, port: int, log: Callable[..., None]) -> None:
    """Serve on the loopback address until cancelled. Raises MetricsError where the port cannot be had."""
    server = await asyncio.to_thread(_listen, port, registry)
    threading.Thread(target=_serve, args=(server,), name="metrics", daemon=True).start()
    try:
        log("metrics_listening", url=f"http://{ADDRESS}:{server.server_port}/metrics")
        await asyncio.Event().wait()
    finally:  # the server's thread polls for its end twice a second: nothing waits for it
        threading.Thread(target=server.shutdown, name="metrics end", daemon=True).start()


class _Request(WSGIRequestHandler):
    """One scrape. A client that is silent, or sends byte by byte, is dropped after a timeout; nothing is logged."""

    def setup(self) -> None:
        """Begin, and see to its end."""
        super().setup()
        self._end = threading.Timer(CLIENT_TIMEOUT_S, self._drop)
        self._end.daemon = True
        self._end.start()

    def finish(self) -> None:
        """End in time."""
        self._end.cancel()
        super().finish()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Do nothing: scrapes are not logged."""


class _Server(WSGIServer):
    """One client at a time: many clients take no threads and no files from trading."""

    def handle_error(self, *_: object) -> None:
        """Do nothing: a client that went away is not logged."""


def _listen(port: int, registry: CollectorRegistry) -> WSGIServer:
    try:
        return make_server(ADDRESS, port, _application(registry), _Server, _Request)
    except OSError as error:
        raise MetricsError(
            f"metrics cannot be served at {ADDRESS}:{port}: {error.strerror or error}: expected a free port: end "
            f"what has it, or choose another metrics.port"
        ) from error


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


def _serve(server: WSGIServer) -> None:
    with server:
        server.serve_forever()
