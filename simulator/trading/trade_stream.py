"""The trading stream: `trade_updates` over one websocket an account, with the documented handshake and no replay.

What is published without a listener is lost. Faults of sockets and messages act here, on the way out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import dataclasses
import itertools
import json
from collections import defaultdict
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from daemon.alpaca_api.wire import stamp
from simulator.faults import NESTED, Fault
from simulator.trading.account import Account
from simulator.trading.venue import Brokerage
from strategies.kit.units import SECOND_NS

STREAMS = ("trade_updates",)
LATEST_REORDER_S = 60.0  # a held-back update goes out after this, even without a successor
TERMINAL_EVENTS = frozenset({"fill", "canceled", "expired", "rejected", "replaced"})
OVERSIZE_BYTES = 1_100_000
Message = dict[str, Any]


@dataclasses.dataclass(slots=True, eq=False)
class TradeStreamClient:
    """One client's session. It may outlive its socket: `dead_until_ns` is until when the server holds the dead one."""

    ws: web.WebSocketResponse
    transport: asyncio.Transport | None
    binary: bool
    packed: bool
    account: str = ""  # the number in the address, where it has one
    key: str = ""
    listening: bool = False
    mute: bool = False
    black: bool = False
    dead_until_ns: int | None = None
    outgoing: asyncio.Queue[bytes | None] = dataclasses.field(default_factory=asyncio.Queue)


class TradeStreamServer:
    """All sessions of the trading stream of one server."""

    TICKING = ("socket_drop", "socket_close", "socket_black_hole", "ping_silence")

    def __init__(self, venue: Brokerage) -> None:
        self.venue = venue
        self.connections: list[TradeStreamClient] = []
        self._number = itertools.count(1)
        self._new: dict[str, bytes] = {}  # by order id: the update `new`, for replays
        self._held_back: defaultdict[str, list[bytes]] = defaultdict(list)  # by key: updates that wait for the next

    def routes(self) -> list[web.RouteDef]:
        """The trading stream for any account, and the same for the account of a number."""
        return [web.get("/stream", self.serve), web.get("/stream/{account}", self.serve)]

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it leaves; HTTP 429 where another session is alive or a dead one is still held."""
        context = {"stream": "trade", "key": request.headers.get("APCA-API-KEY-ID", "")}
        refused = self.venue.faults.take("upgrade_refused", context)
        if refused is not None:
            return web.Response(status=int(refused.get("status", 429)))
        number = request.match_info.get("account", "")
        if number and number not in {account.account_number for account in self.venue.accounts.values()}:
            return web.json_response({"code": 40410000, "message": "endpoint not found."}, status=404)
        if self._full(number) or self.venue.faults.take("connection_limit", context) is not None:
            return web.json_response({"message": "too many requests."}, status=429)
        packed = request.headers.get("Content-Type", "") == "application/msgpack"
        ws = web.WebSocketResponse(max_msg_size=0, compress=False)  # declined: Alpaca may, and it costs time
        binary = packed or self.venue.rules.binary_trade_frames
        transport = request.transport if isinstance(request.transport, asyncio.Transport) else None
        connection = TradeStreamClient(ws, transport, binary, packed, number)
        connection.mute = self.venue.faults.take("mute_after_connect", context) is not None
        self.connections.append(connection)
        writer = asyncio.create_task(self._write(connection), name="alpaca-trade-stream-writer")
        try:
            await ws.prepare(request)
            async for message in ws:
                if message.type in {WSMsgType.TEXT, WSMsgType.BINARY} and not connection.mute:
                    await self._read(connection, message.data)
        finally:
            writer.cancel()
            self._left(connection)
        return ws

    def listeners(self, key: str) -> int:
        """How many sessions of this account listen to trade updates now."""
        return sum(c.key == key and c.listening and c.dead_until_ns is None for c in self.connections)

    def cut(self, key: str | None = None, *, hold_s: float | None = None) -> None:
        """Cut the connections (of one account) without a close frame; the dead session is held for `hold_s`."""
        for connection in self._alive(key):
            self._hold(connection, hold_s)
            if connection.transport is not None:
                connection.transport.abort()

    def close(self) -> None:
        """End all sessions, at the server's own end."""
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self.connections.clear()

    def tick(self) -> None:
        """Let the script's faults of sockets happen, also while nothing is published."""
        if not self.venue.faults.waiting(*self.TICKING):
            return
        for connection in self._alive(None):
            if connection.key:
                self._socket_faults(connection)

    def _full(self, number: str) -> bool:
        """Whether the account of this number has a session, alive or held; without one, whether all could have."""
        now_ns = self.venue.clock.now_ns()
        self.connections = [c for c in self.connections if c.dead_until_ns is None or c.dead_until_ns > now_ns]
        if number:
            return any(number == c.account or number == self._number_of(c.key) for c in self.connections)
        return len(self.connections) >= len(self.venue.accounts)

    def _number_of(self, key: str) -> str:
        return self.venue.accounts[key].account_number if key else ""

    def _alive(self, key: str | None) -> list[TradeStreamClient]:
        return [c for c in self.connections if c.dead_until_ns is None and (key is None or c.key == key)]

    def _hold(self, connection: TradeStreamClient, hold_s: float | None = None) -> None:
        seconds = self.venue.rules.dead_session_s if hold_s is None else hold_s
        connection.dead_until_ns = self.venue.clock.now_ns() + int(seconds * SECOND_NS)
        connection.listening = False

    def _left(self, connection: TradeStreamClient) -> None:
        """A close frame frees the session at once; without one (1006) it is held as dead."""
        if connection.dead_until_ns is not None:
            return
        if connection.key and connection.ws.close_code in {None, WSCloseCode.ABNORMAL_CLOSURE}:
            self._hold(connection)
        elif connection in self.connections:
            self.connections.remove(connection)

    async def _write(self, connection: TradeStreamClient) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            while (frame := await connection.outgoing.get()) is not None:
                await self.venue.clock.on_the_way(f"trades {connection.key}", asked=False)
                if connection.binary:
                    await connection.ws.send_bytes(frame)
                else:
                    await connection.ws.send_str(frame.decode())

    # --- from the clients -------------------------------------------------------------------------------------------

    async def _read(self, connection: TradeStreamClient, data: str | bytes) -> None:
        try:
            message = (
                msgspec.msgpack.decode(data) if connection.packed and isinstance(data, bytes) else json.loads(data)
            )
            action, fields = message["action"], message.get("data") or message
        except (ValueError, KeyError, TypeError, AttributeError, msgspec.DecodeError):
            self._reply(connection, {"action": "error", "data": {"error_message": "internal server error"}})
            await asyncio.sleep(0)
            await connection.ws.close()
            return
        context = {"stream": "trade", "key": connection.key or str(fields.get("key_id", fields.get("key", "")))}
        if action in {"auth", "authenticate"}:
            self._authenticate(connection, fields, context)
        elif action == "listen":
            self._listen(connection, fields, context)

    def _authenticate(self, connection: TradeStreamClient, fields: Message, context: dict[str, str]) -> None:
        if self.venue.faults.take("mute_after_auth", context) is not None:
            connection.mute = True
            return
        key = str(fields.get("key_id", fields.get("key", "")))
        account = self.venue.authentic(key, str(fields.get("secret_key", fields.get("secret", ""))))
        other = any(c is not connection for c in self._alive(key))
        strange = account is not None and connection.account not in {"", account.account_number}
        if account is None or other or strange or self.venue.faults.take("auth_failed", context) is not None:
            status = "unauthorized"
        else:
            status, connection.key = "authorized", key
        self._reply(connection, {"stream": "authorization", "data": {"status": status, "action": "authenticate"}})

    def _listen(self, connection: TradeStreamClient, fields: Message, context: dict[str, str]) -> None:
        if not connection.key:
            refusal = {"status": "unauthorized", "action": "listen"}
            self._reply(connection, {"stream": "authorization", "data": refusal})
            return
        streams = [name for name in fields.get("streams", []) if name in STREAMS]
        if self.venue.faults.take("mute_after_subscribe", context) is not None:
            connection.mute = True
            return
        self._reply(connection, {"stream": "listening", "data": {"streams": streams}})
        connection.listening = bool(streams)

    def _reply(self, connection: TradeStreamClient, message: Message) -> None:
        connection.outgoing.put_nowait(_encode(message, packed=connection.packed))

    # --- from the server --------------------------------------------------------------------------------------------

    def publish(self, account: Account, update: Message) -> None:
        """Send a trade update to the account's listener, through all that the script has for it."""
        order = update["order"]
        context: dict[str, object] = {
            "stream": "trade",
            "key": account.key,
            "event": update["event"],
            "symbol": order["symbol"],
            "side": order["side"],
            "client_order_id": order["client_order_id"],
        }
        at_ns = self.venue.clock.now_ns()
        identity = base64.b32hexencode(f"{at_ns:015d}{next(self._number):04d}".encode()[:16]).decode()[:26]
        data = {**update, "event_id": identity, "at": stamp(at_ns // 1000 * 1000)}
        for connection in self._alive(account.key):
            if connection.listening:
                self._socket_faults(connection)
        for message in self._spoilt(data, context):
            self._route(account, message, order["id"], context)

    def _spoilt(self, data: Message, context: dict[str, object]) -> list[Any]:
        """Return the messages sent instead of the true one (`extra`: with it); usually just that."""
        true: Message = {"stream": "trade_updates", "data": data}
        if not self.venue.faults.waiting():
            return [true]
        for kind in SPOILERS:
            fault = self.venue.faults.take(kind, context)
            if fault is not None:
                wrong = _spoil(fault, copy.deepcopy(true))
                return [wrong, true] if fault.get("extra") else [wrong]
        return [true]

    def _route(self, account: Account, message: Any, order_id: str, context: dict[str, object]) -> None:
        faults, key = self.venue.faults, account.key
        frame = message if isinstance(message, bytes) else _encode(message, packed=False)
        if context["event"] == "new":
            self._new[order_id] = frame
        if faults.take("update_lost", context) is not None:
            return
        late = faults.take("update_late", context)
        if late is not None:
            delay_s = self.venue.clock.real_s(int(float(late.get("delay_s", 10)) * SECOND_NS))
            asyncio.get_running_loop().call_later(delay_s, self._send, key, [frame])
            return
        if faults.take("update_reordered", context) is not None:
            self._held_back[key].append(frame)
            delay_s = self.venue.clock.real_s(int(LATEST_REORDER_S * SECOND_NS))
            asyncio.get_running_loop().call_later(delay_s, self._send, key, [])
            return
        frames = [frame]
        if faults.take("update_duplicated", context) or faults.take("frame_duplicated", context):
            frames.append(frame)
        before = self._new.pop(order_id, None) if context["event"] in TERMINAL_EVENTS else None
        if context["event"] == "fill":
            replayed = faults.take("update_replayed", context)
            if replayed is not None and before is not None:
                frames += [before, frame] * int(replayed.get("copies", 1))
        self._send(key, frames)

    def _send(self, key: str, frames: list[bytes]) -> None:
        """Put frames (and what waited for a successor) on the account's sockets."""
        frames = frames + self._held_back.pop(key, [])
        for connection in self._alive(key):
            if not connection.listening or connection.mute or connection.black:
                continue
            if self.venue.faults.take("socket_stall", {"stream": "trade", "key": key}) is not None:
                continue
            for frame in frames:
                packed = msgspec.msgpack.encode(msgspec.json.decode(frame)) if connection.packed else frame
                connection.outgoing.put_nowait(packed)

    def _socket_faults(self, connection: TradeStreamClient) -> None:
        context = {"stream": "trade", "key": connection.key}
        faults = self.venue.faults
        if (fault := faults.take("socket_drop", context)) is not None:
            self.cut(connection.key, hold_s=fault.get("hold_s"))
        elif (fault := faults.take("socket_close", context)) is not None:
            self._close(connection, int(fault.get("code", 1000)))
        elif (fault := faults.take("socket_black_hole", context)) is not None:
            self._black_hole(connection, float(fault.get("hold_s", self.venue.rules.dead_session_s)))
        elif faults.take("ping_silence", context) is not None:
            connection.ws._autoping = False  # aiohttp has no public way to stop answering

    def _close(self, connection: TradeStreamClient, code: int) -> None:
        if code == WSCloseCode.ABNORMAL_CLOSURE:
            self.cut(connection.key, hold_s=0)
            return
        connection.listening = False
        self.connections.remove(connection)
        closing = asyncio.get_running_loop().create_task(connection.ws.close(code=code, message=b"", drain=False))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _black_hole(self, connection: TradeStreamClient, hold_s: float) -> None:
        """Nothing is read or sent any more and no FIN goes out; the socket itself dies when the session does."""
        connection.black = True
        self._hold(connection, hold_s)
        if connection.transport is not None:
            connection.transport.pause_reading()
            delay_s = self.venue.clock.real_s(int(hold_s * SECOND_NS))
            asyncio.get_running_loop().call_later(delay_s, connection.transport.abort)


SPOILERS = (
    "data_null",
    "malformed_json",
    "unknown_event",
    "unknown_status",
    "unknown_enum",
    "unknown_field",
    "oversize_frame",
)


def _spoil(fault: Fault, message: Message) -> Any:
    """The message as `fault` makes it; bytes where it is no JSON any more."""
    data = message["data"]
    match fault.kind:
        case "data_null":
            message["data"] = None
        case "malformed_json":
            return NESTED if fault.get("nested", False) else b'{"stream":"trade_updates","data":{'
        case "unknown_event":
            data["event"] = str(fault.get("event", "event_of_tomorrow"))
        case "unknown_status":
            data["order"] = {**data["order"], "status": str(fault.get("status", "status_of_tomorrow"))}
        case "unknown_enum":
            data["order"] = {**data["order"], str(fault.get("field", "type")): "enum_of_tomorrow"}
        case "unknown_field":
            data["field_of_tomorrow"] = {"value": [1, None]}
            data["order"] = {**data["order"], "field_of_tomorrow": 1}
        case "oversize_frame":
            data["padding"] = "x" * OVERSIZE_BYTES
    return message


def _encode(message: Any, *, packed: bool) -> bytes:
    return msgspec.msgpack.encode(message) if packed else msgspec.json.encode(message)
