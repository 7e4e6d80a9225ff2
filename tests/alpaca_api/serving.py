"""Two accounts and a server for the handlers of a test; nothing is tested here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable

from aiohttp import web

from tests.support.simulator.stream_clients import Socket, connected

NOW_NS = 1_719_927_000 * 1_000_000_000  # 2024-07-02 13:30 UTC
KEYS = {"PKONE": ("one", "PA1"), "PKTWO": ("two", "PA2")}
"""Key -> secret and account number."""


class Two:
    """Two accounts at a time that stands still."""

    binary_frames = False
    dead_session_s = 90.0

    def now_ns(self) -> int:
        return NOW_NS

    def number(self, key: str, secret: str) -> str | None:
        expected, number = KEYS.get(key, ("", ""))
        return number if secret and secret == expected else None

    def numbers(self) -> Iterable[str]:
        return [number for _, number in KEYS.values()]


@contextlib.asynccontextmanager
async def served(routes: Iterable[web.RouteDef], *middlewares: object) -> AsyncIterator[str]:
    """The address (host and port) at which these routes are served."""
    app = web.Application(middlewares=middlewares)  # type: ignore[arg-type]
    app.router.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def logged_in(url: str, key: str) -> AsyncIterator[Socket]:
    """A bare client of a data stream that has authenticated."""
    async with connected(url) as socket:
        await socket.hear()
        await socket.ask({"action": "auth", "key": key, "secret": KEYS[key][0]})
        yield socket
