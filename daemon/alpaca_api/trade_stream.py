"""Trading stream: `trade_updates` over one websocket per account, with the documented handshake and no replay.

Updates without a listener are lost. A key identifies its account.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from daemon.alpaca_api.backend import StreamAccounts
from daemon.alpaca_api.wire import Json, stamp, ulid
from strategies.kit.units import SECOND_NS

STREAMS = ("trade_updates",)
AUTH_TIMEOUT_S = 10.0  # real seconds, as on the data streams
STRANGERS_MAX = 32  # most sockets that have not authenticated yet
OUTBOX_FRAMES = 10_000  # frames that may wait for one client; more cuts it
OTHER_SESSION = {"code": 406, "message": "connection limit exceeded"}  # the words of the market-data streams
MESSAGE_MAX = 1 << 20  # bytes of one client message


@dataclasses.dataclass(slots=True, eq=False)
class TradeStreamClient:
    """One client's session. It may outlive its socket: the server holds a dead session until `dead_until_ns`."""

    ws: web.WebSocketResponse
    transport: asyncio.Transport | None
    binary: bool
    packed: bool
    number: str = ""  # of the account, if the address has one
    key: str = ""
    listening: bool = False
    dead_until_ns: int | None = None
    outgoing: asyncio.Queue[bytes] = dataclasses.field(default_factory=asyncio.Queue)


C = TypeVar("C", bound=TradeStreamClient)


class TradeSessions(Generic[C]):
    """All sessions of one server's trading stream; `client` makes one of its socket."""

    def __init__(self, accounts: StreamAccounts, client: type[C]) -> None:
        self.accounts = accounts
        self.connections: list[C] = []
        self._client = client
        self._count = itertools.count(1)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the stream for any account, and for the account of a number."""
        return [web.get("/stream", self.serve), web.get("/stream/{account}", self.serve)]

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it leaves; HTTP 429 if another session is alive or a dead one is still held."""
        number = request.match_info.get("account", "")
        if number and number not in self.accounts.numbers():
            return web.json_response({"code": 40410000, "message": "endpoint not found."}, status=404)
        if self.full(request, number):
            return web.json_response({"message": "too many requests."}, status=429)
        packed = request.headers.get("Content-Type", "") == "application/msgpack"
        ws = web.WebSocketResponse(max_msg_size=MESSAGE_MAX, compress=False)  # compression costs time
        binary = packed or self.accounts.binary_frames
        transport = request.transport if isinstance(request.transport, asyncio.Transport) else None
        connection = self._client(ws, transport, binary, packed, number)
        self.came(request, connection)
        self.connections.append(connection)
        writer = asyncio.create_task(self._write(connection), name="alpaca-trade-stream-writer")
        try:
            await ws.prepare(request)
            async for message in ws:
                if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    await self.read(connection, message.data)
        finally:
            writer.cancel()
            self._release(connection)
        return ws

    def came(self, request: web.Request, connection: C) -> None:
        """Handle a new socket; nothing has been read from it yet."""

    def full(self, request: web.Request, number: str) -> bool:
        """Return whether this account has a session, alive or held; without a number, whether all could have one."""
        del request
        self._forget_dead()
        if number:
            return any(c.number == number for c in self.connections)
        return len(self.connections) >= len(list(self.accounts.numbers()))

    def _forget_dead(self) -> None:
        """Drop the dead sessions whose holding time is over."""
        now_ns = self.accounts.now_ns()
        self.connections = [c for c in self.connections if c.dead_until_ns is None or c.dead_until_ns > now_ns]

    def listeners(self, key: str) -> int:
        """Return how many sessions of this account listen to trade updates now."""
        return sum(c.key == key and c.listening and c.dead_until_ns is None for c in self.connections)

    def cut(self, key: str | None = None, *, hold_s: float | None = None) -> None:
        """Cut the connections (of one account) without a close frame; the dead session is held for `hold_s`."""
        for connection in self.alive(key):
            self.hold(connection, hold_s)
            if connection.transport is not None:
                connection.transport.abort()

    def close(self) -> None:
        """End all sessions when the server ends."""
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self.connections.clear()

    def alive(self, key: str | None) -> list[C]:
        """Return the sessions (of one account) that are not dead."""
        return [c for c in self.connections if c.dead_until_ns is None and (key is None or c.key == key)]

    def hold(self, connection: C, hold_s: float | None = None) -> None:
        """Hold the session of a client that is gone."""
        seconds = self.accounts.dead_session_s if hold_s is None else hold_s
        connection.dead_until_ns = self.accounts.now_ns() + int(seconds * SECOND_NS)
        connection.listening = False

    def _release(self, connection: C) -> None:
        """A close frame frees the session at once; without one (1006) it is held as dead."""
        if connection.dead_until_ns is not None:
            return
        if connection.key and connection.ws.close_code in {None, WSCloseCode.ABNORMAL_CLOSURE}:
            self.hold(connection)
        elif connection in self.connections:
            self.connections.remove(connection)

    async def _write(self, connection: C) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            while True:
                frame = await connection.outgoing.get()
                await self.on_the_way(connection)
                if connection.binary:
                    await connection.ws.send_bytes(frame)
                else:
                    await connection.ws.send_str(frame.decode())

    async def on_the_way(self, connection: C) -> None:
        """Wait for the latency of a frame to this client before it is sent."""

    # --- from the clients -------------------------------------------------------------------------------------------

    async def read(self, connection: C, data: str | bytes) -> None:
        """Handle one message of the client; an invalid one ends the session."""
        try:
            action, fields = _parse(data, packed=connection.packed)
        except (ValueError, RecursionError, msgspec.DecodeError):
            self._reply(connection, {"action": "error", "data": {"error_message": "internal server error"}})
            await asyncio.sleep(0)
            await connection.ws.close()
            return
        if action in {"auth", "authenticate"}:
            self.authenticate(connection, fields)
        elif action == "listen":
            self.listen(connection, fields)

    def authenticate(self, connection: C, fields: Json) -> None:
        """Check the credentials; right ones of an account that has another session are refused with a code."""
        key, secret = credentials(fields)
        number = self.admitted(connection, key, secret)
        if number is not None:
            connection.key, connection.number = key, number
        status = "unauthorized" if number is None else "authorized"
        data: Json = {"status": status, "action": "authenticate"}
        if number is None and self.accounts.number(key, secret) is not None and self._has_other(connection, key):
            data |= OTHER_SESSION
        self._reply(connection, {"stream": "authorization", "data": data})

    def admitted(self, connection: C, key: str, secret: str) -> str | None:
        """Return the account number of these credentials; None if they are wrong or the account has another session."""
        number = self.accounts.number(key, secret)
        strange = connection.number not in {"", number}
        return None if strange or self._has_other(connection, key) else number

    def _has_other(self, connection: C, key: str) -> bool:
        return any(c is not connection for c in self.alive(key))

    def listen(self, connection: C, fields: Json) -> None:
        """Subscribe an authenticated client to its streams."""
        if not connection.key:
            refusal = {"status": "unauthorized", "action": "listen"}
            self._reply(connection, {"stream": "authorization", "data": refusal})
            return
        names = fields.get("streams")
        streams = [name for name in names if name in STREAMS] if isinstance(names, list) else []
        self._reply(connection, {"stream": "listening", "data": {"streams": streams}})
        connection.listening = bool(streams)

    def _reply(self, connection: C, message: Json) -> None:
        connection.outgoing.put_nowait(encode(message, packed=connection.packed))
        self._cut_slow(connection)

    def _cut_slow(self, connection: C) -> None:
        """Cut a client that reads too slowly."""
        if connection.outgoing.qsize() > OUTBOX_FRAMES and connection.transport is not None:
            connection.transport.abort()

    # --- from the server --------------------------------------------------------------------------------------------

    def publish(self, key: str, update: Json) -> None:
        """Send a trade update to the account's listener, with `event_id` and `at` added if missing."""
        self.send(key, [encode(self.message(update), packed=False)])

    def message(self, update: Json) -> Json:
        """Return the update as a message of the stream."""
        if "event_id" not in update:
            at_ns = self.accounts.now_ns()
            event_id = ulid(at_ns // 1_000_000, next(self._count))
            update = {**update, "event_id": event_id, "at": stamp(at_ns // 1000 * 1000)}
        return {"stream": "trade_updates", "data": update}

    def send(self, key: str, frames: list[bytes]) -> None:
        """Send frames of JSON to the account's listeners; a client that reads too slowly is cut."""
        for connection in self.alive(key):
            if not self.hears(connection):
                continue
            for frame in frames:
                payload = msgspec.msgpack.encode(msgspec.json.decode(frame)) if connection.packed else frame
                connection.outgoing.put_nowait(payload)
            self._cut_slow(connection)

    def hears(self, connection: C) -> bool:
        """Return whether trade updates are sent to this client now."""
        return connection.listening


class TradeStreamServer(TradeSessions[TradeStreamClient]):
    """The trading stream of one server, on which unauthenticated sockets block no account.

    An unauthenticated socket takes no account's place: it is cut after `auth_timeout_s`, or earlier if `STRANGERS_MAX`
    newer ones wait.
    """

    def __init__(self, accounts: StreamAccounts, *, auth_timeout_s: float = AUTH_TIMEOUT_S) -> None:
        super().__init__(accounts, TradeStreamClient)
        self._auth_timeout_s = auth_timeout_s

    def full(self, request: web.Request, number: str) -> bool:
        """Return whether this account has a session, alive or held; the handshake refuses a second one too."""
        self._forget_dead()
        del request
        return bool(number) and any(c.number == number and c.key for c in self.connections)

    def came(self, request: web.Request, connection: TradeStreamClient) -> None:
        """Handle a new socket; it must authenticate in time."""
        del request
        strangers = [c for c in self.connections if not c.key]
        for stranger in strangers[: max(len(strangers) + 1 - STRANGERS_MAX, 0)]:
            _cut_stranger(stranger)
        asyncio.get_running_loop().call_later(self._auth_timeout_s, _cut_stranger, connection)


def _cut_stranger(connection: TradeStreamClient) -> None:
    if not connection.key and connection.transport is not None:
        connection.transport.abort()


def _parse(data: str | bytes, *, packed: bool) -> tuple[str, Json]:
    """Return action and fields of a client's message. Raises ValueError, RecursionError or DecodeError if invalid."""
    message = msgspec.msgpack.decode(data) if packed and isinstance(data, bytes) else json.loads(data)
    action = message.get("action") if isinstance(message, dict) else None
    fields = (message.get("data") or message) if action is not None else None
    if isinstance(fields, dict):
        return str(action), fields
    raise ValueError("neither an action nor its fields")


def credentials(fields: Json) -> tuple[str, str]:
    """Return key and secret of a message, by the names of the old and the new handshake; empty if missing."""
    key = str(fields.get("key_id", fields.get("key", "")))
    return key, str(fields.get("secret_key", fields.get("secret", "")))


def encode(message: Any, *, packed: bool) -> bytes:
    """Return a message as msgpack or JSON."""
    return msgspec.msgpack.encode(message) if packed else msgspec.json.encode(message)
