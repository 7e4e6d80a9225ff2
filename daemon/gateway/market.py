"""Market data for all clients over the account's only connections: REST is passed through, streams are shared."""

from __future__ import annotations

from aiohttp import web

from daemon.alpaca_api.refusals import Refusal
from daemon.brokers.alpaca.rest.client import Refused, RestError, Throttled
from daemon.brokers.api import BrokerError
from daemon.gateway.upstream import Upstream


class MarketRelay:
    """The data services: GET requests as the broker answers them."""

    paths: frozenset[str] = frozenset()

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def stream_routes(self) -> list[web.RouteDef]:
        """The streams' routes."""
        return []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One GET below /v2/stocks or /v1beta1."""
        _, version, path = request.path.split("/", 2)
        try:
            return web.json_response(await self._upstream.get_data(version, f"/{path}", request.query))
        except Refused as refused:
            raise Refusal(refused.status, refused.code, refused.message, **refused.extra) from None
        except Throttled:
            raise Refusal(429, 42910000, "rate limit exceeded") from None
        except (RestError, BrokerError) as error:
            raise Refusal(504, None, f"gateway: no market data: {error}") from None
