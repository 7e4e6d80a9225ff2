"""What comes in at the front of REST: wrong credentials, too many requests, and bodies that are none."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from daemon.alpaca_api.front import Front, Handler
from daemon.alpaca_api.queries import json_body
from tests.alpaca_api.serving import NOW_NS, Two, served

NUMBER = web.RequestKey("number", str)
HEADERS = {"APCA-API-KEY-ID": "PKONE", "APCA-API-SECRET-KEY": "one"}


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"number": request[NUMBER], "body": await json_body(request)})


def front(limit: int) -> Handler:
    at_the_front = Front(NUMBER, Two().number, lambda: NOW_NS, limit=limit)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await at_the_front.answer(request, handler)

    return middleware  # type: ignore[return-value]


async def test_each_key_has_its_own_requests_of_a_minute_and_a_wrong_secret_spends_none() -> None:
    async with served([web.get("/v2/echo", echo)], front(2)) as address, aiohttp.ClientSession() as client:
        url, other = f"http://{address}/v2/echo", {"APCA-API-KEY-ID": "PKTWO", "APCA-API-SECRET-KEY": "two"}
        statuses = []
        for headers in (HEADERS, {**HEADERS, "APCA-API-SECRET-KEY": "no"}, HEADERS, HEADERS, other):
            async with client.get(url, headers=headers) as reply:
                statuses.append((reply.status, reply.headers.get("X-Ratelimit-Remaining")))
    assert statuses == [(200, "1"), (401, None), (200, "0"), (429, "0"), (200, "1")]


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b"[" * 100_000, b"\xff", b"1" * 10_000, b'{"qty": ' + b"1" * 5_000 + b"}"]
)
async def test_a_body_that_is_no_object_is_refused_with_422(body: bytes) -> None:
    async with served([web.post("/v2/echo", echo)], front(200)) as address, aiohttp.ClientSession() as client:
        async with client.post(f"http://{address}/v2/echo", data=body, headers=HEADERS) as reply:
            assert reply.status == 422
            assert await reply.json() == {"code": 40010001, "message": "request body format is invalid"}
        async with client.get(f"http://{address}/v2/nowhere", headers=HEADERS) as reply:
            assert (reply.status, (await reply.json())["code"]) == (404, 40410000)
