"""The market half of the loopback Alpaca: stub with its signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tests.alpaca_server.server import AlpacaServer


def routes(server: AlpacaServer) -> list[web.RouteDef]:
    """The routes of this module, bound to `server`."""
    return []
