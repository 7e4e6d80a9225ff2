"""What `bench_latency` is compared with, on the same machine at the same time: a bare round trip, and a bare fsync."""

from __future__ import annotations

import asyncio
import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack
import requests
from aiohttp import web
from websockets.asyncio.client import connect

ECHOES, ECHO_EVERY_S = 300, 0.3  # through nearly the whole session: the machine treats both alike


def serve_echoes(pipe: Connection) -> None:
    asyncio.run(_echo(pipe))


async def _echo(pipe: Connection) -> None:
    """A bare server: a short message over a websocket now and then, and the time at which each POST for it came."""
    sent: dict[int, float] = {}
    took: list[float] = []

    async def stream(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for number in range(ECHOES):
            await asyncio.sleep(ECHO_EVERY_S)
            sent[number] = time.monotonic()
            await socket.send_bytes(msgpack.packb([{"T": "b", "S": "SPY", "n": number, "o": 1.5, "h": 1.5, "l": 1.5}]))
        await asyncio.sleep(5 * ECHO_EVERY_S)
        await socket.close()
        return socket

    async def order(request: web.Request) -> web.Response:
        number = json.loads(await request.text())["n"]
        took.append(time.monotonic() - sent[number])
        return web.json_response({"id": number})

    app = web.Application()
    app.router.add_routes([web.get("/stream", stream), web.post("/orders", order)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send(runner.addresses[0][1])
    await asyncio.to_thread(pipe.recv)
    await runner.cleanup()
    pipe.send(took)


async def answer_echoes(port: int, folder: Path) -> list[float]:
    """The bare client: a message in, a POST out; then, on its own, a block to the disk, of which the seconds return."""
    took, session, block = [], requests.Session(), bytes(4096)
    session.trust_env = False
    with (folder / "block").open("wb", buffering=0) as file:
        async with connect(f"ws://127.0.0.1:{port}/stream", proxy=None, ping_interval=None) as socket:
            async for frame in socket:
                number = msgpack.unpackb(frame)[0]["n"]
                body = {"n": number, "symbol": "SPY", "qty": 1, "side": "buy", "type": "limit", "limit_price": "1.50"}
                session.post(f"http://127.0.0.1:{port}/orders", json=body, timeout=5)
                began = time.monotonic()
                file.write(block)
                os.fsync(file.fileno())
                took.append(time.monotonic() - began)
    return took
