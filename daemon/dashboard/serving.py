"""Serve the dashboard from a socket on 127.0.0.1 until SIGTERM or SIGINT."""

from __future__ import annotations

import socket

import uvicorn

from daemon.dashboard.guard import HEAD_MOST
from daemon.dashboard.server import Dashboard
from daemon.dashboard.stream import WRITE_S

CONNECTIONS_MOST = 256


def listen(port: int) -> socket.socket:
    """Open a socket on 127.0.0.1; port 0 takes a free one. The kernel drops a peer that does not read.

    Raises:
        OSError: the port cannot be had; the text names it and the cure.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_S * 2000))
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise OSError(f"port {port}: {error.strerror}: choose another with --port, or 0 for a free one") from error
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
    dashboard.streams.ending = lambda: server.should_exit
    await server.serve(sockets=[listening])
