"""The trading stream with scripted faults of sockets and messages; see `daemon.alpaca_api.trade_stream`."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import defaultdict
from typing import Any

from aiohttp import WSCloseCode, web

from daemon.alpaca_api.trade_stream import TradeSessions, TradeStreamClient, credentials, encode
from daemon.alpaca_api.wire import Json
from simulator.faults import NESTED, Fault, respelt
from simulator.trading.venue import Brokerage, Listed
from strategies.kit.units import SECOND_NS

LATEST_REORDER_S = 60.0  # a held-back update is sent after this, even without a successor
TERMINAL_EVENTS = frozenset({"fill", "canceled", "expired", "rejected", "replaced"})
OVERSIZE_BYTES = 1_100_000


@dataclasses.dataclass(slots=True, eq=False)
class FaultyClient(TradeStreamClient):
    """One client's session: nothing is read or sent while it is `mute`, or `black` without a FIN."""

    mute: bool = False
    black: bool = False


class FaultyTradeStream(TradeSessions[FaultyClient]):
    """All sessions of one server's trading stream."""

    TICKING = ("socket_drop", "socket_close", "socket_black_hole", "ping_silence")

    def __init__(self, venue: Brokerage) -> None:
        super().__init__(Listed(venue), FaultyClient)
        self.venue = venue
        self._new: dict[str, bytes] = {}  # by order id: the update `new`, for replays
        self._held_back: defaultdict[str, list[bytes]] = defaultdict(list)  # by key: updates that wait for the next one

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one client, unless the script refuses the upgrade."""
        refusal = self.venue.faults.take("upgrade_refused", _asking(request))
        if refusal is not None:
            return web.Response(status=int(refusal.get("status", 429)))
        return await super().serve(request)

    def full(self, request: web.Request, number: str) -> bool:
        """Return whether no session is left, or the script pretends so."""
        return super().full(request, number) or self._takes("connection_limit", _asking(request))

    def came(self, request: web.Request, connection: FaultyClient) -> None:
        """Handle a new socket, mute under that fault."""
        connection.mute = self._takes("mute_after_connect", _asking(request))

    def tick(self) -> None:
        """Apply scripted socket faults, also while nothing is published."""
        if not self.venue.faults.waiting(*self.TICKING):
            return
        for connection in self.alive(None):
            if connection.key:
                self._socket_faults(connection)

    async def on_the_way(self, connection: FaultyClient) -> None:
        """Delay a message by the clock's latency."""
        await self.venue.clock.on_the_way(f"trades {connection.key}", asked=False)

    async def read(self, connection: FaultyClient, data: str | bytes) -> None:
        """Handle one message of a client that is not mute."""
        if not connection.mute:
            await super().read(connection, data)

    def authenticate(self, connection: FaultyClient, fields: Json) -> None:
        """Check the credentials, or fall silent."""
        if self._takes("mute_after_auth", _of(connection, fields)):
            connection.mute = True
            return
        super().authenticate(connection, fields)

    def admitted(self, connection: FaultyClient, key: str, secret: str) -> str | None:
        """Return the account number of these credentials, unless the script refuses them."""
        number = super().admitted(connection, key, secret)
        if number is None or self._takes("auth_failed", {"stream": "trade", "key": connection.key or key}):
            return None
        return number

    def listen(self, connection: FaultyClient, fields: Json) -> None:
        """Subscribe an authenticated client to its streams, or fall silent."""
        if connection.key and self._takes("mute_after_subscribe", _of(connection, fields)):
            connection.mute = True
            return
        super().listen(connection, fields)

    def _takes(self, kind: str, context: dict[str, str]) -> bool:
        return self.venue.faults.take(kind, context) is not None

    # --- from the server --------------------------------------------------------------------------------------------

    def publish(self, key: str, update: Json) -> None:
        """Send a trade update to the account's listener, under the scripted faults."""
        order = update["order"]
        context: dict[str, object] = {
            "stream": "trade",
            "key": key,
            "event": update["event"],
            "symbol": order["symbol"],
            "side": order["side"],
            "client_order_id": order["client_order_id"],
        }
        true = self.message(update)
        for connection in self.alive(key):
            if connection.listening:
                self._socket_faults(connection)
        for message in self._spoilt(true, context):
            self._route(key, message, order["id"], context)

    def _spoilt(self, true: Json, context: dict[str, object]) -> list[Any]:
        """Return the messages sent instead of the true one (`extra`: with it); usually just that."""
        if not self.venue.faults.waiting():
            return [true]
        for kind in SPOILERS:
            fault = self.venue.faults.take(kind, context)
            if fault is not None:
                wrong = _spoil(fault, copy.deepcopy(true))
                return [wrong, true] if fault.get("extra") else [wrong]
        return [true]

    def _route(self, key: str, message: Any, order_id: str, context: dict[str, object]) -> None:
        faults = self.venue.faults
        frame = message if isinstance(message, bytes) else encode(message, packed=False)
        if context["event"] == "new":
            self._new[order_id] = frame
        if faults.take("update_lost", context) is not None:
            return
        late = faults.take("update_late", context)
        if late is not None:
            delay_s = self.venue.clock.real_s(int(float(late.get("delay_s", 10)) * SECOND_NS))
            asyncio.get_running_loop().call_later(delay_s, self.send, key, [frame])
            return
        if faults.take("update_reordered", context) is not None:
            self._held_back[key].append(frame)
            delay_s = self.venue.clock.real_s(int(LATEST_REORDER_S * SECOND_NS))
            asyncio.get_running_loop().call_later(delay_s, self.send, key, [])
            return
        frames = [frame]
        if faults.take("update_duplicated", context) or faults.take("frame_duplicated", context):
            frames.append(frame)
        order_before = self._new.pop(order_id, None) if context["event"] in TERMINAL_EVENTS else None
        if context["event"] == "fill":
            replay = faults.take("update_replayed", context)
            if replay is not None and order_before is not None:
                frames += [order_before, frame] * int(replay.get("copies", 1))
        self.send(key, frames)

    def send(self, key: str, frames: list[bytes]) -> None:
        """Send frames, and those that waited for a successor, to the account's listeners."""
        super().send(key, frames + self._held_back.pop(key, []))

    def hears(self, connection: FaultyClient) -> bool:
        """Return whether trade updates are sent to this client now."""
        if not super().hears(connection) or connection.mute or connection.black:
            return False
        return not self._takes("socket_stall", {"stream": "trade", "key": connection.key})

    def _socket_faults(self, connection: FaultyClient) -> None:
        context = {"stream": "trade", "key": connection.key}
        faults = self.venue.faults
        if (fault := faults.take("socket_drop", context)) is not None:
            self.cut(connection.key, hold_s=fault.get("hold_s"))
        elif (fault := faults.take("socket_close", context)) is not None:
            self._close(connection, int(fault.get("code", 1000)))
        elif (fault := faults.take("socket_black_hole", context)) is not None:
            self._black_hole(connection, float(fault.get("hold_s", self.venue.rules.dead_session_s)))
        elif faults.take("ping_silence", context) is not None:
            connection.ws._autoping = False  # aiohttp has no public way to stop its answers to pings

    def _close(self, connection: FaultyClient, code: int) -> None:
        if code == WSCloseCode.ABNORMAL_CLOSURE:
            self.cut(connection.key, hold_s=0)
            return
        connection.listening = False
        self.connections.remove(connection)
        closing = asyncio.get_running_loop().create_task(connection.ws.close(code=code, message=b"", drain=False))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _black_hole(self, connection: FaultyClient, hold_s: float) -> None:
        """Stop reading and sending without a FIN; the socket is closed with the session."""
        connection.black = True
        self.hold(connection, hold_s)
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
    "quantity_exponent",
    "quantity_too_fine",
    "oversize_frame",
)


def _spoil(fault: Fault, message: Json) -> Any:
    """Return the message changed by `fault`; bytes if it is no longer JSON."""
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
        case "quantity_exponent" | "quantity_too_fine":
            message["data"] = respelt(fault.kind, data)
        case "oversize_frame":
            data["padding"] = "x" * OVERSIZE_BYTES
    return message


def _asking(request: web.Request) -> dict[str, str]:
    """Return the context of faults of an upgrade."""
    return {"stream": "trade", "key": request.headers.get("APCA-API-KEY-ID", "")}


def _of(connection: FaultyClient, fields: Json) -> dict[str, str]:
    """Return the context of faults of a client's message."""
    return {"stream": "trade", "key": connection.key or credentials(fields)[0]}
