"""The stock and option data streams: handshake, subscriptions, and the market published to whoever asked for it.

A session is one socket and speaks the documented protocol; the hub holds the sessions and the timeline of the tape.
Only what somebody subscribed to is priced, and each message is encoded once for each codec.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from strategies.contract import Bar
from tests.alpaca_server.bar_history import corrections
from tests.alpaca_server.data_fields import bar_fields, merged, never_trades, quote_fields, rfc3339, trade_fields
from tests.alpaca_server.market import BAR_DELAY_NS, MINUTE_NS, POINT_NS, SECOND_NS
from tests.alpaca_server.tape import midnight_ns, new_york_date

if TYPE_CHECKING:
    from tests.alpaca_server.faults import Fault
    from tests.alpaca_server.server import AlpacaServer

log = logging.getLogger("tests.alpaca_server.data_stream")

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
TEST_SYMBOL = "FAKEPACA"  # what the test stream calls the underlying
CHANNEL_OF = {"t": "trades", "q": "quotes", "b": "bars", "u": "updatedBars", "d": "dailyBars", "s": "statuses"}
CHANNEL_OF |= {"l": "lulds", "c": "corrections", "x": "cancelErrors"}
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
AUTH_TIMEOUT_S = 10.0  # real seconds: the client's own waits are real too
GOODBYE_S = 3.0  # real seconds for the closing handshake
OPTION_QUOTES_MAX = 1_000
OUTBOX_FRAMES = 1_024  # waiting for one client; more makes it a slow client
OVERSIZE = 1_100_000  # bytes, above the 1 MiB that alpaca-py takes
_STOCK = re.compile(r"\*|[A-Z][A-Z0-9./]{0,10}")
_OPTION = re.compile(r"\*|[A-Z0-9]{1,7}\d{6}[CP]\d{8}")
_BAR, _TICK = 0, 1  # events of the timeline, in their order at one time

Fields = dict[str, Any]


class Message:
    """One data message: type, symbol, time and fields. `packed` and `text` are made once, when first needed."""

    __slots__ = ("_packed", "_text", "channel", "fields", "symbol", "time_ns")

    def __init__(self, kind: str, symbol: str, time_ns: int, fields: Mapping[str, Any]) -> None:
        self.channel = CHANNEL_OF.get(kind, "")
        self.symbol = symbol
        self.time_ns = time_ns
        self.fields: Fields = {"T": kind, "S": symbol, **fields}
        self._packed = b""
        self._text = b""

    @property
    def packed(self) -> bytes:
        """The message in msgpack, `t` a Timestamp extension with nanoseconds."""
        self._packed = self._packed or msgspec.msgpack.encode({**self.fields, "t": timestamp(self.time_ns)})
        return self._packed

    @property
    def text(self) -> bytes:
        """The message in JSON, `t` an RFC 3339 text."""
        self._text = self._text or msgspec.json.encode({**self.fields, "t": rfc3339(self.time_ns)})
        return self._text

    def renamed(self, symbol: str) -> Message:
        """The same message of another symbol."""
        return Message(self.fields["T"], symbol, self.time_ns, {k: v for k, v in self.fields.items() if k not in "TS"})


def timestamp(time_ns: int) -> msgspec.msgpack.Ext:
    """The msgpack Timestamp of a time after 1970: 32, 64 or 96 bits, as the msgpack specification has it."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    if seconds >> 34:
        return msgspec.msgpack.Ext(-1, fraction.to_bytes(4, "big") + seconds.to_bytes(8, "big"))
    if fraction or seconds >> 32:
        return msgspec.msgpack.Ext(-1, (fraction << 34 | seconds).to_bytes(8, "big"))
    return msgspec.msgpack.Ext(-1, seconds.to_bytes(4, "big"))


def frame(messages: list[bytes], *, msgpack: bool) -> bytes:
    """An array of encoded messages."""
    if not msgpack:
        return b"[" + b",".join(messages) + b"]"
    count = len(messages)
    header = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return header + b"".join(messages)


@dataclasses.dataclass(slots=True, eq=False)
class Session:
    """One socket of a data stream, from the upgrade to its end."""

    hub: Hub
    path: str
    msgpack: bool
    socket: web.WebSocketResponse
    request: web.Request
    key: str = ""  # once authenticated
    subscribed: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    mute: bool = False  # nothing is said any more
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
        faults = self.hub.server.faults
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
            patience_s = 0.0 if code == WSCloseCode.ABNORMAL_CLOSURE else GOODBYE_S
            asyncio.get_running_loop().call_later(patience_s, self.cut)  # a client may never read the goodbye

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

    def deliver(self, messages: Iterable[Message]) -> None:
        """Send the data messages that were subscribed to, as one frame, spoilt where the script says so."""
        wanted = [message for message in messages if self.wants(message)]
        if not wanted or self.deaf or self.mute or self.dark:
            return
        faults = self.hub.server.faults
        if not faults.waiting():
            data = [message.packed if self.msgpack else message.text for message in wanted]
            self.send(frame(data, msgpack=self.msgpack))
            return
        if faults.active("socket_stall", self.context()) is not None:
            if not self.stalled:
                self.take("socket_stall")
            self.stalled = True
            return
        self.stalled = False
        for whole in _spoilt(self, wanted):
            self.send(whole)

    def wants(self, message: Message) -> bool:
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
                    asyncio.get_running_loop().call_later(GOODBYE_S, self.cut)  # what it did not read keeps it open
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
        faults = self.hub.server.faults
        if self.key:
            self.error(403)
        elif faults.take("mute_after_auth", context):
            self.mute = True
        elif self.hub.server.authentic(key, secret) is None or faults.take("auth_failed", context):
            self.error(402)
        elif faults.take("insufficient_subscription", context):
            self.error(409)
        elif faults.take("connection_limit", context) or not self.hub.claim(self, key):
            self.error(406)
        else:
            self.key = key
            self.control({"T": "success", "msg": "authenticated"})
            log.info("%s stream %s: authenticated", self.stream, self.path)

    def subscribe(self, asked: Mapping[str, object], add: bool) -> None:
        """Add or take away symbols: all of the request, or an error and nothing. The ack lists the whole set."""
        offered = CHANNELS[self.path]
        refusal = self.refusal(asked, offered)
        after = {name: set(symbols) for name, symbols in self.subscribed.items()}
        if refusal is None:
            for channel, symbols in asked.items():
                names = set(map(str, symbols)) if isinstance(symbols, list) else set()
                for name in (channel, "corrections", "cancelErrors") if channel == "trades" else (channel,):
                    after[name] = after.get(name, set()) | names if add else after.get(name, set()) - names
            if self.stream == "option" and len(after.get("quotes", ())) > OPTION_QUOTES_MAX:
                refusal = 405
        if refusal is not None:
            self.error(refusal)
            return
        self.subscribed = after
        if self.take("mute_after_subscribe"):
            self.mute = True
        self.control({"T": "subscription"} | {name: sorted(after.get(name, ())) for name in offered})
        log.info("%s stream %s: %d subscriptions", self.stream, self.path, sum(map(len, after.values())))
        if self.take("symbol_limit"):
            self.error(405)
            self.deaf = True

    def refusal(self, asked: Mapping[str, object], offered: tuple[str, ...]) -> int | None:
        """The error that a subscription request meets, whatever is subscribed already."""
        pattern = _OPTION if self.stream == "option" else _STOCK
        for channel, symbols in asked.items():
            if channel not in offered:
                return 410
            if channel in {"corrections", "cancelErrors"} or not isinstance(symbols, list):
                return 400
            if any(not isinstance(name, str) or pattern.fullmatch(name) is None for name in symbols):
                return 400
            if self.stream == "option" and channel == "quotes" and "*" in symbols:
                return 413
        return None


class Hub:
    """The sessions of one server's data streams, and the timeline that is published to them."""

    def __init__(self, server: AlpacaServer) -> None:
        self.server = server
        self.auth_timeout_s = AUTH_TIMEOUT_S
        self.sessions: list[Session] = []
        self._held: dict[tuple[str, str], int] = {}  # (key, path) -> until when the vanished client's session lives
        self._queue: list[tuple[int, int, int, Callable[[], None]]] = []  # time, order, number, what happens then
        self._numbers = itertools.count()
        self._after_next: list[Message] = []  # bars that are sent after their successors

    # --- sessions ---------------------------------------------------------------------------------------------------

    def claim(self, session: Session, key: str) -> bool:
        """Whether `key` may have this session: one for each key and endpoint, dead ones count while they are held."""
        now_ns = self.server.clock.now_ns()
        for other in self.sessions:
            same = other is not session and (other.key, other.path) == (key, session.path)
            if same and not other.parted and (not other.dark or now_ns < other.dead_until_ns):
                return False
        return now_ns >= self._held.get((key, session.path), 0)

    def leave(self, session: Session) -> None:
        """A socket is gone; without a close frame its session is held for a while."""
        self.sessions.remove(session)
        if session.key and not session.parted:
            dead_ns = self.server.clock.now_ns() + int(self.server.rules.dead_session_s * SECOND_NS)
            self._held[session.key, session.path] = session.dead_until_ns or dead_ns
        log.info("%s stream %s: %s", session.stream, session.path, "closed" if session.parted else "vanished")

    def strike(self) -> None:
        """Let the armed faults of sockets befall the sessions."""
        if not self.server.faults.waiting(*SOCKET_FAULTS):
            return
        for session in [session for session in self.sessions if session.key and not session.dark]:
            if session.take("socket_drop"):
                session.close(WSCloseCode.ABNORMAL_CLOSURE)
            if fault := session.take("socket_close"):
                session.close(int(fault.get("code", 1000)))
            if fault := session.take("socket_black_hole"):
                hold_ns = int(float(fault.get("hold_s", self.server.rules.dead_session_s)) * SECOND_NS)
                session.dark, session.dead_until_ns = True, self.server.clock.now_ns() + hold_ns
                asyncio.get_running_loop().call_later(self.server.clock.real_s(hold_ns), session.cut)
            if fault := session.take("slow_client"):
                if not fault.get("silent", False):
                    session.error(407)
                session.close(WSCloseCode.POLICY_VIOLATION)

    async def watch(self) -> None:
        """Strike for ever, so that sockets fail outside of trading hours too."""
        while True:
            await asyncio.sleep(min(max(self.server.clock.real_s(5 * SECOND_NS), 0.02), 0.25))
            self.strike()

    # --- the timeline -----------------------------------------------------------------------------------------------

    def publish(self, messages: list[Message]) -> None:
        """Send stock messages to the sessions that asked for them; the test stream has them under its own symbol."""
        if not messages:
            return
        market = self.server.market
        renamed = [message.renamed(TEST_SYMBOL) for message in messages if message.symbol == market.symbol]
        for session in list(self.sessions):
            if session.stream == "stock":
                session.deliver(renamed if session.path == "/v2/test" else messages)

    async def play(self) -> None:
        """Publish the tape from now on, each event at its simulated time, to its end."""
        clock, starts = self.server.clock, sorted(set(itertools.chain(*self.server.market.starts.values())))
        begun_ns = clock.now_ns()
        index = bisect_left(starts, begun_ns - 2 * MINUTE_NS)
        while self._queue or index < len(starts):
            while index < len(starts) and (not self._queue or starts[index] <= self._queue[0][0]):
                self._plan(starts[index])
                index += 1
            time_ns, _, _, happen = heapq.heappop(self._queue)
            if time_ns > begun_ns:
                await clock.sleep_until(time_ns)
                happen()

    def _plan(self, start_ns: int) -> None:
        for at_ns in range(start_ns, start_ns + MINUTE_NS, POINT_NS):
            self._at(at_ns, _TICK, partial(self._tick, at_ns))
        self._at(start_ns + MINUTE_NS + BAR_DELAY_NS, _BAR, partial(self._close, start_ns))

    def _at(self, time_ns: int, order: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time_ns, order, next(self._numbers), happen))

    def _tick(self, at_ns: int) -> None:
        """A path point: quotes and trades to each session, priced once. Points that are overdue are left out."""
        self.strike()
        if self.server.clock.now_ns() >= at_ns + POINT_NS:
            return
        made: dict[tuple[str, str], Message | None] = {}
        market, open_now = self.server.market, self.server.market.session_at(at_ns) is not None
        for session in list(self.sessions):
            if session.stream == "option" and not open_now:
                continue
            messages = []
            for kind, channel in (("q", "quotes"), ("t", "trades")):
                for name in sorted(session.subscribed.get(channel, ())):
                    for symbol in market.bars if name == "*" and session.stream == "stock" else (name,):
                        if (kind, symbol) not in made:
                            made[kind, symbol] = self._point_message(kind, symbol, session.stream, at_ns)
                        messages.append(made[kind, symbol])
            session.deliver(message for message in messages if message is not None)

    def _point_message(self, kind: str, symbol: str, stream: str, at_ns: int) -> Message | None:
        market = self.server.market
        listed = market.symbol if symbol == TEST_SYMBOL else symbol
        if (listed in market.bars) != (stream == "stock"):
            return None
        fields = (quote_fields if kind == "q" else trade_fields)(market, listed, at_ns)
        if fields is None or (kind == "t" and stream == "option" and never_trades(listed)):
            return None
        if kind == "q" and self.server.faults.waiting("quote_gap", "quote_one_sided", "quote_crossed"):
            context = {"stream": stream, "symbol": symbol}
            if self.server.faults.take("quote_gap", context):
                return None
            if fault := self.server.faults.take("quote_one_sided", context):
                side = "a" if fault.get("side", "bid") == "ask" else "b"
                fields |= {f"{side}p": 0.0, f"{side}s": 0}
            if self.server.faults.take("quote_crossed", context):
                fields |= {"bp": fields["ap"], "ap": fields["bp"]}
        return Message(kind, symbol, at_ns, fields)

    def _close(self, start_ns: int) -> None:
        """A minute ended a second ago: its bars, late or wrong where the script says so, and the running daily bars."""
        messages: list[Message] = []
        overtaken, self._after_next = self._after_next, []
        daily = any(session.subscribed.get("dailyBars") for session in self.sessions)
        for symbol, starts in self.server.market.starts.items():
            index = bisect_left(starts, start_ns)
            if index < len(starts) and starts[index] == start_ns:
                messages += self._bar_messages(self.server.market.bars[symbol][index])
                messages += self._daily(symbol, start_ns) if daily else []
        self.publish(messages)
        self.publish(overtaken)

    def _bar_messages(self, bar: Bar) -> list[Message]:
        message = Message("b", bar.symbol, bar.start_ns, bar_fields(bar))
        faults = self.server.faults
        if not faults.waiting(*BAR_FAULTS):
            return [message]
        context = {"stream": "stock", "symbol": bar.symbol, "start_ns": bar.start_ns}
        ended_ns = bar.start_ns + MINUTE_NS + BAR_DELAY_NS
        if fault := faults.take("bar_corrected", context):
            self._correct(bar, float(fault.get("shift", 0.05)))
        if faults.take("bar_gap", context):
            return []
        if faults.take("bar_reordered", context):
            self._after_next.append(message)
            return []
        if fault := faults.take("bar_late", context):
            late_ns = ended_ns + int(float(fault.get("delay_s", 30)) * SECOND_NS)
            self._at(late_ns, _BAR, lambda: self.publish([message]))
            return []
        fault = faults.take("bar_duplicated", context)
        return [message] * (1 if fault is None else int(fault.get("copies", 2)))

    def _correct(self, bar: Bar, shift: float) -> None:
        """A late trade moves the close by `shift` USD: `u` half a minute after the bar's end, and history from then."""
        close = round(bar.close + shift, 4)
        high, low = max(bar.high, close), min(bar.low, close)
        changed = Bar(bar.symbol, bar.start_ns, bar.open, high, low, close, bar.volume + 100)
        known_ns = bar.start_ns + MINUTE_NS + MINUTE_NS // 2
        corrections(self.server)[bar.symbol, bar.start_ns] = (known_ns, changed)
        update = Message("u", bar.symbol, bar.start_ns, bar_fields(changed))
        self._at(known_ns, _BAR, lambda: self.publish([update]))

    def _daily(self, symbol: str, start_ns: int) -> list[Message]:
        session = self.server.market.session_at(start_ns)
        if session is None:
            return []
        rows = self.server.market.session_bars(session.date, symbol)
        label_ns = midnight_ns(new_york_date(start_ns))
        bar = merged((bar for bar in rows if bar.start_ns <= start_ns), label_ns)
        return [] if bar is None else [Message("d", symbol, label_ns, bar_fields(bar))]


SOCKET_FAULTS = ("socket_drop", "socket_close", "socket_black_hole", "slow_client")
BAR_FAULTS = ("bar_corrected", "bar_gap", "bar_reordered", "bar_late", "bar_duplicated")
_HUBS: WeakKeyDictionary[AlpacaServer, Hub] = WeakKeyDictionary()


def hub(server: AlpacaServer) -> Hub:
    """The data streams of this server."""
    if server not in _HUBS:
        _HUBS[server] = Hub(server)
    return _HUBS[server]


def routes(server: AlpacaServer) -> list[web.RouteDef]:
    """The stock and option streams; any path of CHANNELS."""

    async def connect(request: web.Request) -> web.StreamResponse:
        return await _connect(hub(server), request)

    return [web.get(path, connect) for path in CHANNELS]


async def run(server: AlpacaServer) -> None:
    """Publish the market on all data streams until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hub(server).play(), name="alpaca-tape")
        tasks.create_task(hub(server).watch(), name="alpaca-strikes")


async def _connect(streams: Hub, request: web.Request) -> web.StreamResponse:
    """One socket from its upgrade to its end."""
    key = request.headers.get("APCA-API-KEY-ID", "")
    stream = "option" if request.path.startswith("/v1beta1") else "stock"
    context = {"stream": stream, "path": request.path, "key": key}
    if fault := streams.server.faults.take("upgrade_refused", context):
        return web.json_response({"message": "too many requests."}, status=int(fault.get("status", 429)))
    socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
    await socket.prepare(request)
    msgpack = request.headers.get("Content-Type") == "application/msgpack"
    session = Session(streams, request.path, msgpack, socket, request)
    streams.sessions.append(session)
    writer = asyncio.create_task(session.write(), name=f"alpaca-writer-{request.path}")
    try:
        session.mute = streams.server.faults.take("mute_after_connect", context) is not None
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
        streams.leave(session)
    return socket


def _spoilt(session: Session, messages: list[Message]) -> Iterator[bytes]:
    """The frames that go out for one frame of messages under the script of faults."""
    first = messages[0]
    about = {"message": first.fields["T"], "symbol": first.symbol}
    if session.take("malformed_json", **about):
        yield b"\xc1\xff" if session.msgpack else b'[{"T":"q","S":'
        return
    if session.take("data_null", **about):
        yield frame([b"\xc0" if session.msgpack else b"null"], msgpack=session.msgpack)
        return
    rows = [dict(message.fields) for message in messages]
    if fault := session.take("unknown_event", **about):
        strange = {**rows[0], "T": "zz"}
        rows = [strange, *rows] if fault.get("extra", False) else [strange, *rows[1:]]
        messages = [first, *messages] if fault.get("extra", False) else messages
    if fault := session.take("unknown_enum", **about):
        rows[0][str(fault.get("field", "z"))] = "of tomorrow"
    if session.take("unknown_field", **about):
        rows[0]["field_of_tomorrow"] = {"value": [1, None]}
    as_text = not session.msgpack or session.take("string_time", **about) is not None
    encode = msgspec.msgpack.encode if session.msgpack else msgspec.json.encode
    data = [
        encode({**row, "t": rfc3339(message.time_ns) if as_text else timestamp(message.time_ns)})
        for row, message in zip(rows, messages, strict=True)
    ]
    whole = frame(data, msgpack=session.msgpack)
    if session.take("oversize_frame", **about):
        whole = frame(data[:1] * (OVERSIZE // len(data[0]) + 1), msgpack=session.msgpack)
    yield whole
    if session.take("frame_duplicated", **about):
        yield whole
