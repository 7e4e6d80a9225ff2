"""The stock and option data streams of one server: their sockets, what is published to them, who may have one.

`DataStreamClient` speaks the documented protocol at one socket: handshake, subscriptions, what goes out, spoilt where
the script has it. `Hub` has all of them. The market's events are in `timeline.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from simulator.data.fields import rfc3339
from simulator.data.messages import DataMessage, Fields, frame, timestamp
from simulator.faults import NESTED, Fault
from simulator.trading.venue import Brokerage
from strategies.kit.units import SECOND_NS

STOCK_CHANNELS = (
    "trades",
    "quotes",
    "bars",
    "updatedBars",
    "dailyBars",
    "statuses",
    "lulds",
    "corrections",
    "cancelErrors",
)
CHANNELS = {
    "/v2/sip": STOCK_CHANNELS,
    "/v2/iex": STOCK_CHANNELS,
    "/v2/test": ("trades", "quotes", "bars"),
    "/v1beta1/indicative": ("trades", "quotes"),
    "/v1beta1/opra": ("trades", "quotes"),
}
OPTION_QUOTES_MAX = 1_000
_STOCK = re.compile(r"\*|[A-Z][A-Z0-9./]{0,10}")
_OPTION = re.compile(r"\*|[A-Z0-9]{1,7}\d{6}[CP]\d{8}")


def refusal(stream: str, subscription: Mapping[str, object], offered: tuple[str, ...]) -> int | None:
    """The error that a subscription request of this stream meets, whatever is subscribed already."""
    pattern = _OPTION if stream == "option" else _STOCK
    for channel, symbols in subscription.items():
        if channel not in offered:
            return 410
        if channel in {"corrections", "cancelErrors"} or not isinstance(symbols, list):
            return 400
        if any(not isinstance(name, str) or pattern.fullmatch(name) is None for name in symbols):
            return 400
        if stream == "option" and channel == "quotes" and "*" in symbols:
            return 413
    return None


log = logging.getLogger("simulator.data.stream")
TEST_SYMBOL = "FAKEPACA"  # what the test stream calls the underlying
AUTH_TIMEOUT_S = 10.0  # real seconds: the client's own waits are real too
OVERSIZE = 1_100_000  # bytes, above the 1 MiB that alpaca-py takes
SOCKET_FAULTS = ("socket_drop", "socket_close", "socket_black_hole", "slow_client")
ERRORS = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    412: "option messages are only available in MsgPack format",
    413: "star subscription is not allowed for option quotes",
}
BY_SUBSCRIPTION = ("/v2/sip", "/v1beta1/opra")
CLOSE_TIMEOUT_S = 3.0  # real seconds for the closing handshake
OUTBOX_FRAMES = 1_024  # waiting for one client; more makes it a slow client


@dataclasses.dataclass(slots=True, eq=False)
class DataStreamClient:
    """One socket of a data stream, from the upgrade to its end."""

    hub: Hub
    path: str
    msgpack: bool
    socket: web.WebSocketResponse
    request: web.Request
    key: str = ""  # once authenticated
    subscribed: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    mute: bool = False  # nothing is sent any more
    deaf: bool = False  # data are cut, control messages go on
    dark: bool = False  # half-open: nothing is read or sent
    silent: bool = False  # pings are not answered
    stalled: bool = False
    parted: bool = False  # one of the two sides sent a close frame
    dead_until_ns: int = 0  # how long the server holds a session that went dark
    outbox: list[bytes] = dataclasses.field(default_factory=list)
    wakeup: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    closing: int | None = None  # the close code, once decided

    @property
    def stream(self) -> str:
        """`stock` or `option`: the name of the stream in the context of faults."""
        return "option" if self.path.startswith("/v1beta1") else "stock"

    def context(self, **more: object) -> dict[str, object]:
        """The context of faults at this socket."""
        return {"stream": self.stream, "path": self.path, "key": self.key, **more}

    def take(self, name: str, /, **more: object) -> Fault | None:
        """The fault `name` where it is armed for this socket."""
        faults = self.hub.venue.faults
        return faults.take(name, self.context(**more)) if faults.waiting(name) else None

    # --- out --------------------------------------------------------------------------------------------------------

    def control(self, message: Fields) -> None:
        """Send one control message, an array of its own."""
        encode = msgspec.msgpack.encode if self.msgpack else msgspec.json.encode
        self.send(frame([encode(message)], msgpack=self.msgpack))

    def error(self, code: int) -> None:
        """Send a documented error."""
        self.control({"T": "error", "code": code, "msg": ERRORS[code]})

    def send(self, data: bytes) -> None:
        """Put a frame into the outbox; a client that reads too slowly gets 407 and is closed."""
        if self.mute or self.dark or self.closing is not None:
            return
        self.outbox.append(data)
        self.wakeup.set()
        if len(self.outbox) > OUTBOX_FRAMES:
            self.outbox.clear()
            self.error(407)
            self.close(WSCloseCode.POLICY_VIOLATION)

    def close(self, code: int) -> None:
        """Close after what waits; 1006 cuts the connection without a close frame, at once."""
        if self.closing is None:
            self.closing = code
            self.wakeup.set()
            patience_s = 0.0 if code == WSCloseCode.ABNORMAL_CLOSURE else CLOSE_TIMEOUT_S
            asyncio.get_running_loop().call_later(patience_s, self.cut)  # a client may never read the close frame

    def cut(self) -> None:
        """Reset the connection at once."""
        if self.request.transport is not None:
            self.request.transport.abort()

    async def write(self) -> None:
        """Send what the outbox holds, until the close or a lost client."""
        with contextlib.suppress(ConnectionError):
            await self._write()

    async def _write(self) -> None:
        while True:
            await self.wakeup.wait()
            self.wakeup.clear()
            if self.closing is None:
                await self.hub.venue.clock.on_the_way(f"{self.path} {self.key}", asked=False)
                self.wakeup.clear()
            waiting, self.outbox = self.outbox, []
            for data in waiting:
                if self.msgpack:
                    await self.socket.send_bytes(data)
                else:
                    await self.socket.send_str(data.decode())
            if self.closing == WSCloseCode.ABNORMAL_CLOSURE:
                return
            if self.closing is not None:
                self.parted = True
                await self.socket.close(code=self.closing)
                return

    def deliver(self, messages: Iterable[DataMessage]) -> None:
        """Send the data messages that were subscribed to, as one frame, spoilt where the script has it."""
        subscribed = [message for message in messages if self.wants(message)]
        if not subscribed or self.deaf or self.mute or self.dark:
            return
        faults = self.hub.venue.faults
        if not faults.waiting():
            data = [message.packed if self.msgpack else message.text for message in subscribed]
            self.send(frame(data, msgpack=self.msgpack))
            return
        if faults.active("socket_stall", self.context()) is not None:
            if not self.stalled:
                self.take("socket_stall")
            self.stalled = True
            return
        self.stalled = False
        for whole in self._spoilt(subscribed):
            self.send(whole)

    def _spoilt(self, messages: list[DataMessage]) -> Iterator[bytes]:
        """The frames that go out for one frame of messages under the script of faults."""
        first = messages[0]
        about = {"message": first.fields["T"], "symbol": first.symbol}
        if fault := self.take("malformed_json", **about):
            broken = b"\xc1\xff" if self.msgpack else b'[{"T":"q","S":'
            yield NESTED if fault.get("nested", False) else broken
            return
        if self.take("data_null", **about):
            yield frame([b"\xc0" if self.msgpack else b"null"], msgpack=self.msgpack)
            return
        rows = [dict(message.fields) for message in messages]
        if fault := self.take("unknown_event", **about):
            strange = {**rows[0], "T": "zz"}
            rows = [strange, *rows] if fault.get("extra", False) else [strange, *rows[1:]]
            messages = [first, *messages] if fault.get("extra", False) else messages
        if fault := self.take("unknown_enum", **about):
            rows[0][str(fault.get("field", "z"))] = "of tomorrow"
        if self.take("unknown_field", **about):
            rows[0]["field_of_tomorrow"] = {"value": [1, None]}
        as_text = not self.msgpack or self.take("string_time", **about) is not None
        encode = msgspec.msgpack.encode if self.msgpack else msgspec.json.encode
        data = [
            encode({**row, "t": rfc3339(message.time_ns) if as_text else timestamp(message.time_ns)})
            for row, message in zip(rows, messages, strict=True)
        ]
        whole = frame(data, msgpack=self.msgpack)
        if self.take("oversize_frame", **about):
            whole = frame(data[:1] * (OVERSIZE // len(data[0]) + 1), msgpack=self.msgpack)
        yield whole
        if self.take("frame_duplicated", **about):
            yield whole

    def wants(self, message: DataMessage) -> bool:
        """Whether the message's channel and symbol are subscribed."""
        symbols = self.subscribed.get(message.channel, set())
        return message.symbol in symbols or "*" in symbols

    # --- in ---------------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Answer the client until it goes; a client that does not authenticate in time is closed with 404."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.hub.auth_timeout_s
        while self.closing is None:
            left = None if self.key or self.mute else max(deadline - loop.time(), 0.001)
            try:
                received = await self.socket.receive(timeout=left)
            except TimeoutError:
                self.error(404)
                self.close(WSCloseCode.POLICY_VIOLATION)
                return
            match received.type:
                case WSMsgType.CLOSING | WSMsgType.CLOSED | WSMsgType.ERROR:
                    return
                case _ if self.dark:
                    pass
                case WSMsgType.PING if not self.silent:
                    self.silent = self.take("ping_silence") is not None
                    if not self.silent:
                        await self.socket.pong(received.data)
                case WSMsgType.CLOSE:
                    self.parted = True
                    asyncio.get_running_loop().call_later(
                        CLOSE_TIMEOUT_S, self.cut
                    )  # what it did not read keeps it open
                    await self.socket.close(drain=False)
                    return
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    self.answer(received.data)
                case _:
                    pass

    def answer(self, data: bytes | str) -> None:
        """One message of the client."""
        try:
            raw = data.encode() if isinstance(data, str) else data
            message = (msgspec.msgpack if self.msgpack and raw is data else msgspec.json).decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = None
        action = message.get("action") if isinstance(message, dict) else None
        if not isinstance(message, dict) or action not in {"auth", "subscribe", "unsubscribe"}:
            self.error(400)
        elif action == "auth":
            self.authenticate(str(message.get("key", "")), str(message.get("secret", "")))
        elif not self.key:
            self.error(401)
        else:
            self.subscribe({name: value for name, value in message.items() if name != "action"}, action == "subscribe")

    def authenticate(self, key: str, secret: str) -> None:
        """Take the credentials: 402, 406 and 409 leave the socket open, so the client may try again on it."""
        context = {"stream": self.stream, "path": self.path, "key": key}
        faults = self.hub.venue.faults
        if self.key:
            self.error(403)
        elif faults.take("mute_after_auth", context):
            self.mute = True
        elif self.hub.venue.authentic(key, secret) is None or faults.take("auth_failed", context):
            self.error(402)
        elif faults.take("insufficient_subscription", context) or self.beyond_plan():
            self.error(409)
        elif faults.take("connection_limit", context) or not self.hub.claim(self, key):
            self.error(406)
        else:
            self.key = key
            self.control({"T": "success", "msg": "authenticated"})
            log.info("%s stream %s: authenticated", self.stream, self.path)

    def beyond_plan(self) -> bool:
        """Whether this stream is by subscription, and the account has the free plan."""
        return self.hub.venue.rules.free_plan and self.path in BY_SUBSCRIPTION

    def subscribe(self, subscription: Mapping[str, object], add: bool) -> None:
        """Add or take away symbols: all of the request, or an error and nothing. The ack lists the whole set."""
        offered = CHANNELS[self.path]
        refused = refusal(self.stream, subscription, offered)
        after = {name: set(symbols) for name, symbols in self.subscribed.items()}
        if refused is None:
            for channel, symbols in subscription.items():
                names = set(map(str, symbols)) if isinstance(symbols, list) else set()
                for name in (channel, "corrections", "cancelErrors") if channel == "trades" else (channel,):
                    after[name] = after.get(name, set()) | names if add else after.get(name, set()) - names
            if self.stream == "option" and len(after.get("quotes", ())) > OPTION_QUOTES_MAX:
                refused = 405
        if refused is not None:
            self.error(refused)
            return
        self.subscribed = after
        if self.take("mute_after_subscribe"):
            self.mute = True
        self.control({"T": "subscription"} | {name: sorted(after.get(name, ())) for name in offered})
        log.info("%s stream %s: %d subscriptions", self.stream, self.path, sum(map(len, after.values())))
        if self.take("symbol_limit"):
            self.error(405)
            self.deaf = True


class Hub:
    """The sessions of one server's data streams, and what is published to them."""

    def __init__(self, venue: Brokerage) -> None:
        self.venue = venue
        self.auth_timeout_s = AUTH_TIMEOUT_S
        self.sessions: list[DataStreamClient] = []
        self._held: dict[tuple[str, str], int] = {}  # (key, path) -> until when the vanished client's session lives

    def routes(self) -> list[web.RouteDef]:
        """The stock and option streams; any path of CHANNELS."""
        return [web.get(path, self.serve) for path in CHANNELS]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One socket from its upgrade to its end."""
        key = request.headers.get("APCA-API-KEY-ID", "")
        stream = "option" if request.path.startswith("/v1beta1") else "stock"
        context = {"stream": stream, "path": request.path, "key": key}
        if fault := self.venue.faults.take("upgrade_refused", context):
            return web.json_response({"message": "too many requests."}, status=int(fault.get("status", 429)))
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
        await socket.prepare(request)
        msgpack = request.headers.get("Content-Type") == "application/msgpack"
        session = DataStreamClient(self, request.path, msgpack, socket, request)
        self.sessions.append(session)
        writer = asyncio.create_task(session.write(), name=f"alpaca-writer-{request.path}")
        try:
            session.mute = self.venue.faults.take("mute_after_connect", context) is not None
            if stream == "option" and not msgpack:
                session.error(412)
                session.close(WSCloseCode.POLICY_VIOLATION)
            else:
                session.control({"T": "success", "msg": "connected"})
            if key and session.closing is None:
                session.authenticate(key, request.headers.get("APCA-API-SECRET-KEY", ""))
            await session.read()
            if session.closing is not None:
                await writer
        except ConnectionError:
            log.info("%s stream %s: the client went while it was answered", stream, request.path)
        finally:
            writer.cancel()
            self.leave(session)
        return socket

    def claim(self, session: DataStreamClient, key: str) -> bool:
        """Whether `key` may have this session: one for each key and endpoint, dead ones count while they are held."""
        now_ns = self.venue.clock.now_ns()
        for other in self.sessions:
            same = other is not session and (other.key, other.path) == (key, session.path)
            if same and not other.parted and (not other.dark or now_ns < other.dead_until_ns):
                return False
        return now_ns >= self._held.get((key, session.path), 0)

    def leave(self, session: DataStreamClient) -> None:
        """A socket is gone; without a close frame its session is held for a while."""
        self.sessions.remove(session)
        if session.key and not session.parted:
            dead_ns = self.venue.clock.now_ns() + int(self.venue.rules.dead_session_s * SECOND_NS)
            self._held[session.key, session.path] = session.dead_until_ns or dead_ns
        log.info("%s stream %s: %s", session.stream, session.path, "closed" if session.parted else "vanished")

    def strike(self) -> None:
        """Let the armed faults of sockets befall the sessions."""
        if not self.venue.faults.waiting(*SOCKET_FAULTS):
            return
        for session in [session for session in self.sessions if session.key and not session.dark]:
            if session.take("socket_drop"):
                session.close(WSCloseCode.ABNORMAL_CLOSURE)
            if fault := session.take("socket_close"):
                session.close(int(fault.get("code", 1000)))
            if fault := session.take("socket_black_hole"):
                hold_ns = int(float(fault.get("hold_s", self.venue.rules.dead_session_s)) * SECOND_NS)
                session.dark, session.dead_until_ns = True, self.venue.clock.now_ns() + hold_ns
                asyncio.get_running_loop().call_later(self.venue.clock.real_s(hold_ns), session.cut)
            if fault := session.take("slow_client"):
                if not fault.get("silent", False):
                    session.error(407)
                session.close(WSCloseCode.POLICY_VIOLATION)

    async def watch(self) -> None:
        """Strike for ever, so that sockets fail outside of trading hours too."""
        while True:
            armed = self.venue.faults.waiting(*SOCKET_FAULTS)
            await asyncio.sleep(self.venue.clock.nap_s((5 if armed else 60) * SECOND_NS))
            self.strike()

    def publish(self, messages: list[DataMessage]) -> None:
        """Send stock messages to the sessions that asked for them; the test stream has them under its own symbol."""
        if not messages:
            return
        market = self.venue.market
        renamed = [message.renamed(TEST_SYMBOL) for message in messages if message.symbol == market.symbol]
        for session in list(self.sessions):
            if session.stream == "stock":
                session.deliver(renamed if session.path == "/v2/test" else messages)
