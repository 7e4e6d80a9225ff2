"""Stock and option data streams of one server: their sockets, their limits, and the messages published to them.

`DataStreamClient` speaks the documented protocol on one socket: handshake, subscriptions, sent data. `DataSessions`
holds all clients, and the union of their subscriptions. The source of the messages is elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from daemon.alpaca_api.backend import StreamAccounts
from daemon.alpaca_api.messages import DataMessage, frame
from daemon.alpaca_api.wire import Json
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
"""The channels of each path."""
OF_TRADES = ("corrections", "cancelErrors")  # sent with a subscription to trades
OPTION_QUOTES_MAX = 1_000
AUTH_TIMEOUT_S = 10.0  # real seconds: the client's own timeouts are real too
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
CLOSE_TIMEOUT_S = 3.0  # real seconds for the closing handshake
OUTBOX_FRAMES = 1_024  # frames that may wait for one client; more makes it a slow client
_STOCK = re.compile(r"\*|[A-Z][A-Z0-9./]{0,10}")
_OPTION = re.compile(r"\*|[A-Z0-9]{1,7}\d{6}[CP]\d{8}")

Channels = Mapping[str, frozenset[str]]
"""Symbols by channel; `*` is all of them."""


def refusal(stream: str, subscription: Mapping[str, object], channels: tuple[str, ...]) -> int | None:
    """Return the error of a subscription request, independent of present subscriptions; None if it is valid."""
    pattern = _OPTION if stream == "option" else _STOCK
    for channel, symbols in subscription.items():
        if channel not in channels:
            return 410
        if channel in OF_TRADES or not isinstance(symbols, list):
            return 400
        if any(not isinstance(name, str) or pattern.fullmatch(name) is None for name in symbols):
            return 400
        if stream == "option" and channel == "quotes" and "*" in symbols:
            return 413
    return None


@dataclasses.dataclass(slots=True, eq=False)
class DataStreamClient:
    """One socket of a data stream, from the upgrade to its end."""

    hub: DataSessions[Any]
    path: str
    msgpack: bool
    socket: web.WebSocketResponse
    request: web.Request
    key: str = ""  # once authenticated
    subscribed: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    asked: dict[str, set[str]] | None = None  # requested subscription, until the hub has granted it
    parted: bool = False  # one of the two sides has sent a close frame
    dead_until_ns: int = 0  # until when a vanished client's session is held; 0: the usual time
    outbox: list[bytes] = dataclasses.field(default_factory=list)
    wakeup: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    closing: int | None = None  # the close code, once decided

    @property
    def stream(self) -> str:
        """`stock` or `option`."""
        return "option" if self.path.startswith("/v1beta1") else "stock"

    # --- out --------------------------------------------------------------------------------------------------------

    def control(self, message: Json) -> None:
        """Send one control message as an array of its own."""
        encode = msgspec.msgpack.encode if self.msgpack else msgspec.json.encode
        self.send(frame([encode(message)], msgpack=self.msgpack))

    def error(self, code: int) -> None:
        """Send a documented error."""
        self.control({"T": "error", "code": code, "msg": ERRORS[code]})

    def send(self, data: bytes) -> None:
        """Queue a frame; a client that reads too slowly gets 407 and is closed."""
        if self.closing is not None:
            return
        self.outbox.append(data)
        self.wakeup.set()
        if len(self.outbox) > OUTBOX_FRAMES:
            self.outbox.clear()
            self.error(407)
            self.close(WSCloseCode.POLICY_VIOLATION)

    def close(self, code: int) -> None:
        """Close after the queued frames; 1006 cuts the connection at once, without a close frame."""
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
        """Send the queued frames, until the close or a lost client."""
        with contextlib.suppress(ConnectionError):
            await self._write()

    async def _write(self) -> None:
        while True:
            await self.wakeup.wait()
            self.wakeup.clear()
            if self.closing is None:
                await self.hub.on_the_way(self)
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
        """Send the subscribed messages as one frame."""
        messages_wanted = [message for message in messages if self.wants(message)]
        if messages_wanted:
            for data in self.frames(messages_wanted):
                self.send(data)

    def frames(self, messages: list[DataMessage]) -> Iterator[bytes]:
        """Yield the frames of these messages."""
        data = [message.packed if self.msgpack else message.text for message in messages]
        yield frame(data, msgpack=self.msgpack)

    def wants(self, message: DataMessage) -> bool:
        """Return whether the message's channel and symbol are subscribed."""
        symbols = self.subscribed.get(message.channel, set())
        return message.symbol in symbols or "*" in symbols

    # --- in ---------------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Answer the client until it leaves; a client that does not authenticate in time is closed with 404."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.hub.auth_timeout_s
        while self.closing is None:
            seconds_left = max(deadline - loop.time(), 0.001) if self.must_authenticate() else None
            try:
                message = await self.socket.receive(timeout=seconds_left)
            except TimeoutError:
                self.error(404)
                self.close(WSCloseCode.POLICY_VIOLATION)
                return
            match message.type:
                case WSMsgType.CLOSING | WSMsgType.CLOSED | WSMsgType.ERROR:
                    return
                case _ if self.ignores(message):
                    pass
                case WSMsgType.PING:
                    await self.socket.pong(message.data)
                case WSMsgType.CLOSE:
                    self.parted = True
                    loop.call_later(CLOSE_TIMEOUT_S, self.cut)  # unread data would keep it open
                    await self.socket.close(drain=False)
                    return
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    await self.answer(message.data)
                case _:
                    pass

    def must_authenticate(self) -> bool:
        """Return whether the client must still send its credentials in time."""
        return not self.key

    def ignores(self, message: WSMessage) -> bool:
        """Return whether to ignore this message."""
        del message
        return False

    async def answer(self, data: bytes | str) -> None:
        """Handle one message of the client."""
        try:
            raw = data.encode() if isinstance(data, str) else data
            message = (msgspec.msgpack if self.msgpack and raw is data else msgspec.json).decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            message = None
        action = message.get("action") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(action, str):
            self.error(400)
        elif action == "auth":
            await self.authenticate(str(message.get("key", "")), str(message.get("secret", "")))
        elif action not in {"subscribe", "unsubscribe"}:
            self.error(400)
        elif not self.key:
            self.error(401)
        else:
            symbols = {name: value for name, value in message.items() if name != "action"}
            await self.subscribe(symbols, action == "subscribe")

    async def authenticate(self, key: str, secret: str) -> None:
        """Check the credentials: 402, 406 and 409 leave the socket open, so the client may try again on it."""
        if self.key:
            self.error(403)
        elif not self.hub.authentic(self, key, secret):
            self.error(402)
        elif not self.hub.permitted(self, key):
            self.error(409)
        elif not self.hub.claim(self, key):
            self.error(406)
        else:
            self.key = key  # its place is taken while the hub opens
            if error_code := await self.hub.opened(self):
                self.key = ""
                self.error(error_code)
                return
            self.control({"T": "success", "msg": "authenticated"})
            self.hub.say(f"{self.stream} stream {self.path}: authenticated")

    async def subscribe(self, subscription: Mapping[str, object], add: bool) -> None:
        """Add or remove symbols: all of the request, or an error and no change. The answer lists the whole set."""
        error_code = refusal(self.stream, subscription, CHANNELS[self.path])
        channels_after = {name: set(symbols) for name, symbols in self.subscribed.items()}
        if error_code is None:
            for channel, symbols in subscription.items():
                names = set(map(str, symbols)) if isinstance(symbols, list) else set()
                for name in (channel, *OF_TRADES) if channel == "trades" else (channel,):
                    channels_after[name] = (
                        channels_after.get(name, set()) | names if add else channels_after.get(name, set()) - names
                    )
            too_many = self.stream == "option" and len(channels_after.get("quotes", ())) > OPTION_QUOTES_MAX
            if too_many or (add and not self.hub.has_room(self, channels_after)):
                error_code = 405
        if error_code is None:
            self.asked = channels_after
            self.hub.subscriptions_changed(self.path)
            error_code = await self.hub.granted(self) or None
            self.asked = None
        if error_code is not None:
            self.error(error_code)
        else:
            self.subscribed = channels_after
            self.acknowledge()
        self.hub.subscriptions_changed(self.path)

    @property
    def wanted(self) -> Mapping[str, set[str]]:
        """The present subscription, or the requested one until it is decided."""
        return self.subscribed if self.asked is None else self.asked

    def acknowledge(self) -> None:
        """Send the complete present subscription."""
        channels = {name: sorted(self.subscribed.get(name, ())) for name in CHANNELS[self.path]}
        self.control({"T": "subscription"} | channels)
        count = sum(map(len, self.subscribed.values()))
        self.hub.say(f"{self.stream} stream {self.path}: {count} subscriptions")

    def ended(self, now_ns: int) -> bool:
        """Return whether this session frees its place for the next one, though its socket still exists."""
        del now_ns
        return self.parted


C = TypeVar("C", bound=DataStreamClient)


class DataSessions(Generic[C]):
    """Sessions of one server's data streams; `client` makes one of its socket.

    `limits` is the most symbols that all sessions of a path may have together: 405 for more, and `*` is always more; a
    path that is not named has no limit. `on_wanted` is called with a path and the union of its subscriptions when that
    changes.
    """

    def __init__(
        self,
        accounts: StreamAccounts,
        client: type[C],
        *,
        limits: Mapping[str, int] | None = None,
        on_wanted: Callable[[str, Channels], None] | None = None,
    ) -> None:
        self.accounts = accounts
        self.auth_timeout_s = AUTH_TIMEOUT_S
        self.sessions: list[C] = []
        self._client = client
        self._limits = dict(limits or {})
        self._on_wanted = on_wanted
        self._last_channels: dict[str, Channels] = {}  # by path, as last reported
        # (key, path) -> end of the vanished client's session
        self._held_sessions: dict[tuple[str, str], int] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the stock and option streams: all paths of CHANNELS."""
        return [web.get(path, self.serve) for path in CHANNELS]

    def wanted(self, path: str) -> Channels:
        """Return the union of the subscriptions of a path; channels without a symbol are left out."""
        sessions = [session.wanted for session in self.sessions if session.path == path]
        names = {name: [symbols[name] for symbols in sessions if symbols.get(name)] for name in CHANNELS[path]}
        return {name: frozenset().union(*symbols) for name, symbols in names.items() if symbols}

    def publish(self, path: str, messages: list[DataMessage]) -> None:
        """Send messages to the subscribed sessions of this path."""
        for session in list(self.sessions):
            if session.path == path:
                session.deliver(messages)

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one socket from its upgrade to its end."""
        key = request.headers.get("APCA-API-KEY-ID", "")
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
        await socket.prepare(request)
        msgpack = request.headers.get("Content-Type") == "application/msgpack"
        session = self._client(self, request.path, msgpack, socket, request)
        self.sessions.append(session)
        writer = asyncio.create_task(session.write(), name=f"alpaca-writer-{request.path}")
        try:
            self.came(session, key)
            if session.stream == "option" and not msgpack:
                session.error(412)
                session.close(WSCloseCode.POLICY_VIOLATION)
            else:
                session.control({"T": "success", "msg": "connected"})
            if key and session.closing is None:
                await session.authenticate(key, request.headers.get("APCA-API-SECRET-KEY", ""))
            await session.read()
            if session.closing is not None:
                await writer
        except ConnectionError:
            self.say(f"{session.stream} stream {request.path}: the client went while it was answered")
        finally:
            writer.cancel()
            self.leave(session)
        return socket

    def came(self, session: C, key: str) -> None:
        """Handle an opened socket; `key` is from its headers, nothing has been sent yet."""

    def authentic(self, session: C, key: str, secret: str) -> bool:
        """Return whether these are an account's credentials."""
        del session
        return self.accounts.number(key, secret) is not None

    def permitted(self, session: C, key: str) -> bool:
        """Return whether this account's plan includes the session's stream."""
        del session, key
        return True

    def claim(self, session: C, key: str) -> bool:
        """Return whether `key` may have this session: one per key and endpoint, including dead ones that are held."""
        now_ns = self.accounts.now_ns()
        for other in self.sessions:
            same = other is not session and (other.key, other.path) == (key, session.path)
            if same and not other.ended(now_ns):
                return False
        return now_ns >= self._held_sessions.get((key, session.path), 0)

    async def opened(self, session: C) -> int:
        """Wait until an authenticated session can be served; returns the error that refuses it, 0 for none."""
        del session
        return 0

    async def granted(self, session: C) -> int:
        """Wait until a session's request can be served; returns the error that refuses it, 0 for none."""
        del session
        return 0

    def leave(self, session: C) -> None:
        """Handle a closed socket; without a close frame its session is held for a while."""
        self.sessions.remove(session)
        if session.key and not session.parted:
            dead_ns = self.accounts.now_ns() + int(self.accounts.dead_session_s * SECOND_NS)
            self._held_sessions[session.key, session.path] = session.dead_until_ns or dead_ns
        self.say(f"{session.stream} stream {session.path}: {'closed' if session.parted else 'vanished'}")
        self.subscriptions_changed(session.path)

    def has_room(self, session: C, channels_after: Mapping[str, set[str]]) -> bool:
        """Return whether the path's limit allows this session to have `channels_after`."""
        limit = self._limits.get(session.path)
        if limit is None:
            return True
        other_channels = [
            other.wanted for other in self.sessions if other is not session and other.path == session.path
        ]
        symbols = set().union(*(names for channels in (*other_channels, channels_after) for names in channels.values()))
        return "*" not in symbols and len(symbols) <= limit

    def subscriptions_changed(self, path: str) -> None:
        """Report the union of the subscriptions, if it has changed."""
        if self._on_wanted is None:
            return
        channels = self.wanted(path)
        if channels != self._last_channels.get(path, {}):
            self._last_channels[path] = channels
            self._on_wanted(path, channels)

    async def on_the_way(self, session: C) -> None:
        """Wait for the latency of frames to this client before they are sent."""

    def say(self, words: str) -> None:
        """Report an event of a session, as a text."""
