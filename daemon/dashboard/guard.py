"""The checks that every request passes first, and the headers of every answer.

Only GET, only short paths, only our own name as host (a page of another site that had its name rebound to 127.0.0.1
is refused), nothing from another origin. No cookie is ever set and no other origin ever allowed.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def failed(status: int, text: str, **headers: str) -> Response:
    """Make an error answer in JSON that is not cached."""
    body = msgspec.json.encode({"error": text})
    return Response(body, status, {"cache-control": "no-store", **headers}, media_type="application/json")


class RequestGuard:
    """An ASGI application around another one. `port` is the one that we listen on."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
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
            return failed(405, "this page is only for reading: GET alone", allow="GET")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_MOST:
            return failed(414, f"the address is longer than {TARGET_MOST} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_MOST:
            return failed(431, f"the headers are longer than {HEAD_MOST} bytes")
        hosts, origins, sites = (_all(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return failed(400, "this host name is not served: use http://127.0.0.1 and the port of the dashboard")
        if any(origin.lower() not in self._origins for origin in origins):
            return failed(403, "another site asks: only the dashboard's own pages may")
        if scope["path"].startswith("/api/") and any(site == "cross-site" for site in sites):
            return failed(403, "another site asks: only the dashboard's own pages may")
        return None


def _all(scope: Any, name: bytes) -> list[str]:
    """All values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
