"""A server of one market stream, which the tests script message by message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Self

import msgpack
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from daemon.brokers.alpaca.market.socket import BackOff, SocketDeadlines

KEY, SECRET = "PKKEYKEYKEY", "s3cr3t-s3cr3t-s3cr3t"


PATIENCE_S = 20.0


QUICK = SocketDeadlines(open_s=5.0, reply_s=0.15, ping_every_s=0.1, pong_s=0.1, close_s=0.2)


SOON = BackOff(first_s=0.02, most_s=0.05, busy_s=0.02, auth_s=0.02)


class StreamServer:
    """One market-data endpoint. `refuse` says the error code of a subscription, `entry` those of authentications."""

    def __init__(self) -> None:
        self.mute = ""  # connect, auth or subscribe: silent from there on
        self.entry: list[int] = []  # error codes of the next authentications
        self.upgrade: list[HTTPStatus] = []  # statuses of the next upgrades
        self.refuse: Callable[[set[tuple[str, str]]], int] = lambda _pairs: 0
        self.leave_out: set[str] = set()  # symbols that the acknowledgement lacks
        self.asked: list[dict[str, Any]] = []
        self.subscribed: set[tuple[str, str]] = set()
        self.connections: list[ServerConnection] = []
        self.close_codes: list[int | None] = []
        self.url = ""
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._talk, "127.0.0.1", 0, process_request=self._upgrade, ping_interval=None, close_timeout=0.2
        )
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v2/sip"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        assert request.headers["Content-Type"] == "application/msgpack"
        return connection.respond(self.upgrade.pop(0), "no\n") if self.upgrade else None

    async def send(self, *messages: Any) -> None:
        await self.connections[-1].send(msgpack.packb(list(messages)))

    async def _talk(self, socket: ServerConnection) -> None:
        self.connections.append(socket)
        self.subscribed = set()
        try:
            if self.mute != "connect":
                await self.send({"T": "success", "msg": "connected"})
            async for frame in socket:
                message = msgpack.unpackb(frame)
                if self.mute == "connect":
                    continue
                if message["action"] == "auth":
                    await self._enter(message)
                else:
                    self.asked.append(message)
                    await self._change(message)
        except ConnectionClosed:
            pass
        finally:
            self.close_codes.append(socket.close_code)

    async def _enter(self, message: dict[str, Any]) -> None:
        if self.mute == "auth":
            return
        if self.entry:
            await self.send({"T": "error", "code": self.entry.pop(0), "msg": "refused"})
        else:
            assert (message["key"], message["secret"]) == (KEY, SECRET)
            await self.send({"T": "success", "msg": "authenticated"})

    async def _change(self, message: dict[str, Any]) -> None:
        action = message.pop("action")
        pairs = {(channel, symbol) for channel, symbols in message.items() for symbol in symbols}
        if self.mute == "subscribe":
            return
        if action == "subscribe" and (code := self.refuse(pairs | self.subscribed)):
            await self.send({"T": "error", "code": code, "msg": "not this"})
            return
        self.subscribed = self.subscribed | pairs if action == "subscribe" else self.subscribed - pairs
        channels = ("trades", "quotes", "bars", "updatedBars", "statuses")
        listed = {c: [s for name, s in self.subscribed if name == c and s not in self.leave_out] for c in channels}
        await self.send({"T": "subscription", **listed})


async def until(met: Callable[[], object]) -> None:
    """Wait for a condition, patiently."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if met():
                return
            await asyncio.sleep(0.01)
