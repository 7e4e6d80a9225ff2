"""Front of a REST server: credentials, rate limits, and the bodies of refusals.

A middleware calls `Front.answer`, which calls the handlers; it knows no path except those of market data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from aiohttp import web

from daemon.alpaca_api.refusals import Refusal
from strategies.kit.units import MINUTE_NS

A = TypeVar("A")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DATA_PREFIXES = ("/v2/stocks", "/v1/corporate-actions", "/v1beta1/")


class Front(Generic[A]):
    """Checks credentials and rate limits. `authentic` maps a key and its secret to the account, or None.

    Handlers find the account under `account`. `limit` and `data_limit` are the requests of one key to trading and to
    market data in a minute of `now_ns`.
    """

    def __init__(
        self,
        account: web.RequestKey[A],
        authentic: Callable[[str, str], A | None],
        now_ns: Callable[[], int],
        *,
        limit: int = 200,
        data_limit: int = 10_000,
    ) -> None:
        self._account = account
        self._authentic = authentic
        self._now_ns = now_ns
        self._limits = {False: limit, True: data_limit}
        self._request_counts: dict[tuple[str, bool], tuple[int, int]] = {}  # (key, data) -> (window, requests)

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the handler's reply with the headers of the limit; 401 for wrong credentials, 429 beyond the limit."""
        key = request.headers.get("APCA-API-KEY-ID", "")
        account = self._authentic(key, request.headers.get("APCA-API-SECRET-KEY", ""))
        status = self.denied(request, account)
        if status or account is None:
            return web.json_response({"message": "unauthorized." if status == 401 else "forbidden."}, status=status)
        headers, within = self._spend(key, data=request.path.startswith(DATA_PREFIXES))
        if not within:
            refusal = {"code": 42910000, "message": "rate limit exceeded"}
            return web.json_response(refusal, status=429, headers=headers)
        request[self._account] = account
        reply = await self.handle(request, handler)
        reply.headers.update(headers)
        return reply

    def denied(self, request: web.Request, account: A | None) -> int:
        """Return the HTTP status of a refusal, 0 if the client is admitted; never 0 without an account."""
        del request
        return 401 if account is None else 0

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the handler's answer, or the refusal that it raises."""
        return await answer_request(request, handler)

    def _spend(self, key: str, *, data: bool) -> tuple[dict[str, str], bool]:
        """Count one request of the fixed minute; return the three headers, and whether it is within the limit."""
        window = self._now_ns() // MINUTE_NS
        limit = self._limits[data]
        former, request_count = self._request_counts.get((key, data), (window, 0))
        request_count = 1 if former != window else request_count + 1
        self._request_counts[key, data] = (window, request_count)
        headers = {
            "X-Ratelimit-Limit": str(limit),
            "X-Ratelimit-Remaining": str(max(limit - request_count, 0)),
            "X-Ratelimit-Reset": str((window + 1) * 60),
        }
        return headers, request_count <= limit


async def answer_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the handler's reply; refusals, unknown paths and wrong methods get the bodies that Alpaca sends."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.body(), status=refusal.status)
    except web.HTTPNotFound:
        return web.json_response({"code": 40410000, "message": "endpoint not found."}, status=404)
    except web.HTTPMethodNotAllowed:
        return web.json_response({"code": 40510000, "message": "method not allowed"}, status=405)
