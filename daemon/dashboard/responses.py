"""The HTTP responses of the dashboard: JSON, files, the page, and failures."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from daemon.dashboard.api import TextFile
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.guard import failed
from daemon.dashboard.pages.fleet import fleet_page
from daemon.dashboard.queries import RefusedRequest

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
