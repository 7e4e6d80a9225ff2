"""One persistent connection to a market-data stream (handshake, subscriptions, keep-alive, back-off), and its bars.

The wanted set of (channel, symbol) is subscribed after every connect and every change, and compared with the server's
acknowledgement. Each wait has a deadline in real seconds; keys stay inside and are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

from daemon.brokers.alpaca.wire import time_ns
from daemon.brokers.api import EventLogger
from daemon.core.events import BarRejected
from daemon.core.instruments.quotes import fault, values_text
from daemon.host.safe_decode import Unreadable, json_value, msgpack_value
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.pacing import back_off_s
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

Trouble = Literal["lost", "busy", "auth"]
AUTH_CODES = frozenset((402, 409, 411))  # wrong keys, or a feed outside of the plan: a person must act
REQUEST_CODES = frozenset((400, 405, 410, 412, 413))  # refuse one subscribe; the connection goes on
SYMBOL_LIMIT = 405


class StreamError(Exception):
    """The server broke the protocol; the connection is dropped. `trouble` sets the wait; `code`: the server's, or 0."""

    def __init__(self, text: str, trouble: Trouble = "lost", code: int = 0) -> None:
        super().__init__(text)
        self.trouble: Trouble = trouble
        self.code = code


def refusal(message: dict[str, Any]) -> StreamError:
    """Return the error that ends the connection, with the wait before the next one."""
    code, text = code_of(message), message.get("msg")
    trouble: Trouble = "auth" if code in AUTH_CODES else "busy" if code == 406 else "lost"
    return StreamError(f"error {code}: {text}", trouble, code)


def code_of(message: dict[str, Any]) -> int:
    """Return the code of an error message; 0 without one."""
    code = message.get("code")
    return code if isinstance(code, int) else 0


def short(message: dict[str, Any]) -> str:
    """Return the first 200 characters as text."""
    return str(message)[:200]


Pair = tuple[str, str]  # channel, symbol
State = Literal["up", "down"]

MAX_FRAME_BYTES = 4 * 1024 * 1024  # decoding holds up the loop
MAX_FRAMES = 1024  # unread frames
_SILENT = logging.getLogger(__name__)
_SILENT.disabled = True  # the library's debug lines would show the keys


@dataclass(frozen=True, slots=True)
class SocketDeadlines:
    """Timeouts in real seconds."""

    open_s: float = 10.0
    reply_s: float = 10.0  # welcome, authentication and subscription each
    ping_every_s: float = 10.0
    pong_s: float = 10.0
    close_s: float = 2.0


@dataclass(frozen=True, slots=True)
class BackOff:
    """Waits before the next connect, in real seconds, drawn at random up to a growing limit.

    The server keeps a dead session for about 90 s and answers 406 meanwhile: `busy_s` is the longer wait for that.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    busy_s: float = 20.0  # 406, or 429 and 503 on the upgrade
    auth_s: float = 60.0
    steady_s: float = 30.0  # after a connection of this length the count of failures starts again

    def wait_s(self, trouble: Trouble, failures: int, random_unit: float) -> float:
        """Return the wait after the `failures`-th failure in a row (from 1). `random_unit` lies in [0, 1)."""
        if trouble == "auth":
            return self.auth_s * (0.75 + 0.5 * random_unit)
        if trouble == "busy":
            return self.busy_s * (0.5 + random_unit)
        return max(self.first_s / 2, back_off_s(failures + 1, self.first_s, self.most_s, random_unit, sure=0.0))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a stream and its credentials."""

    url: str
    key: str = field(repr=False)
    secret: str = field(repr=False)
    deadlines: SocketDeadlines = SocketDeadlines()
    back_off: BackOff = BackOff()


class MarketSocket:
    """Runs one stream. `on_message` gets each data message as a dict whose `t` is a `msgpack.Timestamp`.

    `on_message` may raise KeyError, TypeError, ValueError, AttributeError or ArithmeticError for an unreadable message:
    it is counted and logged, the rest of its batch goes on. `on_state` gets `up` when everything wanted was subscribed
    or refused, and `down` when the connection is gone. `on_news` is called when a subscription was granted or refused,
    and when a connection ended or failed; `on_error` with the code of an error that answers no request.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        on_message: Callable[[dict[str, Any]], None],
        on_state: Callable[[State], None],
        log: EventLogger,
        on_news: Callable[[], None] | None = None,
        on_error: Callable[[int], None] | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.up = False
        self.denied = 0  # the server's code that ended the last connection, until the next one is up
        self.codes: dict[Pair, int] = {}  # of refused pairs, 0 without one
        self.counts: Counter[str] = Counter()  # messages, bad, frames_unread, connects
        self.refused: frozenset[Pair] = frozenset()  # by the server, on this connection
        self._endpoint = endpoint
        self._on_message = on_message
        self._on_state = on_state
        self._on_news = on_news or (lambda: None)
        self._on_error = on_error or (lambda _code: None)
        self._log = log
        self._rng = rng or random.SystemRandom()
        self._sleep = sleep
        self._wanted_pairs: set[Pair] = set()
        self._spare: frozenset[Pair] = frozenset()  # wanted only where the server has room for them
        self._granted_pairs: set[Pair] = set()
        self._change = asyncio.Event()
        self._leave: asyncio.Future[str] | None = None
        self._reply: asyncio.Future[dict[str, Any]] | None = None

    def subscribe(self, channel: str, symbols: Iterable[str]) -> None:
        """Add these to the wanted set; refused ones are requested again."""
        pairs = {(channel, symbol) for symbol in symbols}
        self._wanted_pairs |= pairs
        self.refused -= pairs
        self._change.set()

    def unsubscribe(self, channel: str, symbols: Iterable[str]) -> None:
        """Remove these from the wanted set."""
        self._wanted_pairs -= {(channel, symbol) for symbol in symbols}
        self._change.set()

    def spare(self, channel: str, symbols: Iterable[str]) -> None:
        """Set what to stream where the server has room after all that is wanted; refused ones are requested again."""
        self._spare = frozenset((channel, symbol) for symbol in symbols)
        self.refused -= self._spare
        self._change.set()

    @property
    def granted(self) -> frozenset[Pair]:
        """The subscriptions that the server last acknowledged."""
        return frozenset(self._granted_pairs)

    def force_reconnect(self, reason: str) -> None:
        """Drop the present connection, if it is past its handshake, and reconnect."""
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(reason)

    async def run(self) -> None:
        """Keep the stream until cancelled; then close the socket with a close frame."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            trouble, reason = await self._visit()
            self._on_news()
            failures = 1 if loop.time() - began >= self._endpoint.back_off.steady_s else failures + 1
            wait_s = self._endpoint.back_off.wait_s(trouble, failures, self._rng.random())
            name = {"lost": "stream_lost", "busy": "stream_busy", "auth": "stream_refused"}[trouble]
            self._log(name, url=self._endpoint.url, reason=reason, wait_s=round(wait_s, 2))
            await self._sleep(wait_s)

    # --- one connection -------------------------------------------------------------------------------------------

    async def _visit(self) -> tuple[Trouble, str]:
        """Connect and stay until the connection ends; return the cause."""
        limits, refusal_code = self._endpoint.deadlines, 0
        self.counts["connects"] += 1
        try:
            async with connect(
                self._endpoint.url,
                additional_headers={"Content-Type": "application/msgpack"},
                open_timeout=limits.open_s,
                ping_interval=limits.ping_every_s,
                ping_timeout=limits.pong_s,
                close_timeout=limits.close_s,
                max_size=MAX_FRAME_BYTES,
                max_queue=MAX_FRAMES,
                proxy=None,
                logger=_SILENT,
            ) as socket:
                try:
                    await self._enter(socket)
                    return "lost", await self._stay(socket)
                finally:
                    await socket.close()  # a close frame in every case: else the server keeps the session
        except StreamError as error:
            refusal_code = error.code
            return error.trouble, str(error)
        except InvalidStatus as error:
            status = error.response.status_code
            trouble: Trouble = "auth" if status in {401, 403} else "busy" if status in {429, 503} else "lost"
            return trouble, f"HTTP {status} on the upgrade, expected 101"
        except TimeoutError:
            return "lost", f"no answer within {limits.open_s:g} s of connecting"
        except (WebSocketException, InvalidHandshake, OSError) as error:
            return "lost", f"{type(error).__name__}: {error}"
        finally:
            self.denied = refusal_code
            self._granted_pairs = set()
            self.refused = frozenset()
            if self.up:
                self.up = False
                self._on_state("down")

    async def _enter(self, socket: ClientConnection) -> None:
        """Wait for the welcome and authenticate. Raises StreamError."""
        await self._expect(socket, "connected", "the welcome")
        entry = {"action": "auth", "key": self._endpoint.key, "secret": self._endpoint.secret}
        await socket.send(msgpack.packb(entry))
        await self._expect(socket, "authenticated", "the reply to the authentication")

    async def _expect(self, socket: ClientConnection, msg: str, subject: str) -> None:
        limit_s = self._endpoint.deadlines.reply_s
        try:
            async with asyncio.timeout(limit_s):
                frame = await socket.recv()
        except TimeoutError as error:
            raise StreamError(f"{subject} did not come within {limit_s:g} s") from error
        messages = self._unpack(frame)
        first = messages[0] if messages else {}
        if first.get("T") == "error":
            raise refusal(first)
        if first.get("T") != "success" or first.get("msg") != msg:
            raise StreamError(f"{subject} was {short(first)}, expected success {msg!r}")

    async def _stay(self, socket: ClientConnection) -> str:
        """Read messages and keep the subscriptions up to date until one of both fails, or `force_reconnect`."""
        leave: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._leave = leave
        reading = asyncio.ensure_future(self._read(socket))
        asking = asyncio.ensure_future(self._keep_subscribed(socket))
        try:
            await asyncio.wait((reading, asking, leave), return_when=asyncio.FIRST_COMPLETED)
            if leave.done():
                return leave.result()
            for task in (reading, asking):
                if task.done():
                    task.result()
            return f"the server closed the connection: code {socket.close_code} {socket.close_reason}".rstrip()
        finally:
            self._leave = None
            reading.cancel()
            asking.cancel()
            await asyncio.gather(reading, asking, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            for message in self._unpack(frame):
                self._take(message)

    def _unpack(self, frame: str | bytes) -> list[dict[str, Any]]:
        """Unpack a frame's messages; count and log those that are no maps, or a frame that is no array.

        msgpack is requested; JSON, from a server without it, never begins like an array of msgpack.
        """
        try:
            if isinstance(frame, str) or frame[:1] in (b"[", b"{"):
                messages = json_value(frame)
            else:
                messages = msgpack_value(frame)
        except Unreadable as error:
            self._bad(f"a frame of {len(frame)} bytes: {error}")
            return []
        if not isinstance(messages, list):
            messages = [messages]
        maps = [message for message in messages if isinstance(message, dict)]
        if len(maps) < len(messages):
            odd = next(message for message in messages if not isinstance(message, dict))
            self._bad(f"{type(odd).__name__} instead of a map", len(messages) - len(maps))
        return maps

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("T")
        if kind in ("subscription", "error"):  # a tuple: an unhashable kind must not raise
            self._control(message)
            return
        if kind == "success":
            return
        self.counts["messages"] += 1
        try:
            self._on_message(message)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            self._bad(f"{short(message)}: {type(error).__name__}: {error}")

    def _bad(self, fault: str, more: int = 1) -> None:
        count_before = self.counts["bad"]
        self.counts["bad"] = count = count_before + more
        if count.bit_length() > count_before.bit_length():  # at the 1st, 2nd, 4th, 8th …: the log stays readable
            self._log("message_unreadable", url=self._endpoint.url, what=fault, count=count)

    def _control(self, message: dict[str, Any]) -> None:
        if message.get("T") == "error" and code_of(message) not in REQUEST_CODES:
            raise refusal(message)
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(message)
        elif message.get("T") == "error":
            self._log("stream_error", url=self._endpoint.url, code=code_of(message), text=str(message.get("msg")))
            self._on_error(code_of(message))

    # --- subscriptions --------------------------------------------------------------------------------------------

    async def _keep_subscribed(self, socket: ClientConnection) -> None:
        while True:
            self._change.clear()
            missing = self._wanted_pairs - self._granted_pairs - self.refused
            if missing:
                await self._ask_for(socket, sorted(missing))
            obsolete = self._granted_pairs - self._wanted_pairs - self._spare
            if obsolete:
                await self._drop(socket, obsolete)
            if not self.up:
                self.up, self.denied = True, 0
                self._log("stream_up", url=self._endpoint.url, subscribed=len(self._granted_pairs))
                self._on_state("up")
            more = self._spare - self._granted_pairs - self.refused - self._wanted_pairs
            if more and (await self._request(socket, "subscribe", sorted(more))).get("T") == "error":
                self.refused |= more
            self._on_news()
            if not self._change.is_set():
                await self._change.wait()

    async def _ask_for(self, socket: ClientConnection, pairs: list[Pair]) -> None:
        """Subscribe. A refused request was dropped as a whole: halve it until the refused pair stands alone."""
        waiting = [pairs]
        while waiting:
            part = waiting.pop()
            reply = await self._request(socket, "subscribe", part)
            if reply.get("T") != "error":
                missing = [pair for pair in part if pair not in self._granted_pairs]
                if missing:
                    self._refuse(missing, 0, "left out of the acknowledgement")
                continue
            code, text = code_of(reply), str(reply.get("msg"))
            if code == SYMBOL_LIMIT and self._granted_pairs - self._wanted_pairs:
                await self._drop(socket, self._granted_pairs - self._wanted_pairs)  # makes room
                waiting.append(part)
            elif len(part) > 1:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
            else:
                full = code == SYMBOL_LIMIT  # then nothing more fits either
                self._refuse(
                    sorted({*part, *(pair for rest in waiting for pair in rest)} if full else part), code, text
                )
                waiting = [] if full else waiting

    async def _drop(self, socket: ClientConnection, pairs: Iterable[Pair]) -> None:
        """Unsubscribe. Messages of pairs that the server keeps are harmless."""
        pairs = sorted(pairs)
        await self._request(socket, "unsubscribe", pairs)
        self._granted_pairs -= set(pairs)

    async def _request(self, socket: ClientConnection, action: str, pairs: list[Pair]) -> dict[str, Any]:
        """Send one request and wait for its acknowledgement or error. Raises StreamError past the deadline."""
        channels: dict[str, list[str]] = {}
        for channel, symbol in pairs:
            channels.setdefault(channel, []).append(symbol)
        limit_s = self._endpoint.deadlines.reply_s
        self._reply = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                await socket.send(msgpack.packb({"action": action, **channels}))
                reply = await self._reply
        except TimeoutError as error:
            raise StreamError(f"the reply to {action} did not come within {limit_s:g} s") from error
        finally:
            self._reply = None
        if reply.get("T") == "subscription":  # the whole set, with unrequested channels
            own_pairs = self._granted_pairs.union(pairs)
            lists = [(channel, symbols) for channel, symbols in reply.items() if isinstance(symbols, list)]
            self._granted_pairs = {
                (c, symbol) for c, symbols in lists for symbol in map(str, symbols) if (c, symbol) in own_pairs
            }
        return reply

    def _refuse(self, pairs: list[Pair], code: int, text: str) -> None:
        self.refused |= set(pairs)
        self.codes.update(dict.fromkeys(pairs, code))
        symbols = [f"{channel}:{symbol}" for channel, symbol in pairs]
        self._log("subscription_refused", url=self._endpoint.url, symbols=symbols, code=code, text=text)


CHANNELS = ("bars", "updatedBars", "statuses")
QUOTES = "quotes"  # the channel of shares' and of contracts' quotes
HALTED = frozenset(("H", "P", "2"))  # tape C and O: halt, volatility pause; tape A and B: halt
RESUMED = frozenset(("T", "3"))


@dataclass(frozen=True, slots=True)
class TradingStatus:
    """A change of a symbol's trading status. `halted` None for other changes than halt and resumption."""

    symbol: str
    code: str
    text: str
    reason: str
    halted: bool | None


def instant_ns(value: object) -> int:
    """Return nanoseconds UTC of a `msgpack.Timestamp` or an RFC 3339 text of up to nine digits. Raises ValueError."""
    if isinstance(value, msgpack.Timestamp):
        return int(value.to_unix_nano())
    return time_ns(value, "t")


def read_bar(message: dict[str, Any], symbol: str, session: Session, interval_s: int, now_ns: int) -> Bar | BarRejected:
    """Parse and check a raw bar (stream or REST; `t o h l c v`) of `symbol` within `session`.

    Raises KeyError, TypeError or ValueError without a start or numbers.
    """
    start_ns = instant_ns(message["t"])
    prices = [_number(message[name]) for name in "ohlcv"]
    name = str(message.get("S", symbol))
    if name != symbol:
        detail = f"{values_text(prices)}; the bar is of {name}, expected {symbol}"
        return BarRejected(now_ns, name, start_ns, "wrong_symbol", detail)
    reason = fault(prices, (start_ns - session.open_ns) % (interval_s * SECOND_NS))
    if reason:
        return BarRejected(now_ns, symbol, start_ns, reason, values_text(prices))
    return Bar(symbol, start_ns, *prices)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan  # rejected as not finite
    try:
        return float(value)
    except OverflowError:
        return math.inf


class StockStream:
    """The socket of the stock stream, with handlers of its messages. `symbols`: at least one."""

    def __init__(
        self,
        endpoint: Endpoint,
        symbols: tuple[str, ...],
        interval_s: int,
        *,
        calendar: SessionCalendar,
        now_ns: Callable[[], int],
        on_bar: Callable[[Bar, Session], None],
        on_rejected: Callable[[BarRejected], None],
        on_status: Callable[[TradingStatus], None],
        on_state: Callable[[State], None],
        log: EventLogger,
    ) -> None:
        self._symbols = symbols
        self._interval_s = interval_s
        self._calendar = calendar
        self._now_ns = now_ns
        self._on_bar = on_bar
        self._on_rejected = on_rejected
        self._on_status = on_status
        self._on_quote: Callable[[dict[str, Any]], None] = _ignore
        self.socket = MarketSocket(endpoint, on_message=self._take, on_state=on_state, log=log)
        for channel in CHANNELS:
            self.socket.subscribe(channel, symbols)

    def quoted_to(self, take: Callable[[dict[str, Any]], None]) -> MarketSocket:
        """Pass quotes on to `take`, as they come; returns the socket, which subscribes to them."""
        self._on_quote = take
        return self.socket

    def _take(self, message: dict[str, Any]) -> None:
        match message["T"]:
            case "b" | "u":
                session = self._session_at(instant_ns(message["t"]))
                if session is None:
                    return
                symbol = self._symbols[0] if len(self._symbols) == 1 else self._symbol_of(message)
                bar = read_bar(message, symbol, session, self._interval_s, self._now_ns())
                if isinstance(bar, BarRejected):
                    self._on_rejected(bar)
                else:
                    self._on_bar(bar, session)
            case "q":
                self._on_quote(message)
            case "s":
                self._on_status(read_status(message))
            case _:
                pass  # types that were not requested

    def _symbol_of(self, message: dict[str, Any]) -> str:
        """Return which of several symbols the bar should be of. Raises KeyError where it names none."""
        symbol = str(message["S"])
        return symbol if symbol in self._symbols else ", ".join(self._symbols)

    def _session_at(self, start_ns: int) -> Session | None:
        try:
            return self._calendar.at(start_ns)
        except CalendarError as error:  # a time out of range is a bad message, not a bad calendar
            raise ValueError(str(error)) from error


def _ignore(_message: dict[str, Any]) -> None:
    """Drop a quote: none were requested."""


def read_status(message: dict[str, Any]) -> TradingStatus:
    """Parse a raw trading status (`sc sm rc rm`). Raises KeyError without symbol or code."""
    code = str(message["sc"])
    is_halted = True if code in HALTED else False if code in RESUMED else None
    reason = f"{message.get('rc', '')} {message.get('rm', '')}".strip()
    return TradingStatus(str(message["S"]), code, str(message.get("sm", "")), reason, is_halted)


class Silence:
    """Counts silent polls. `limit_ns` is how long quiet may last."""

    def __init__(self, limit_ns: int, now_ns: int) -> None:
        self.looks = 0  # silent polls in a row
        self.quiet_ns = 0  # how long it was quiet at the last poll
        self._limit_ns = limit_ns
        self._since_ns = now_ns  # nothing was expected before

    @property
    def loud(self) -> bool:
        """Return whether this silent poll calls for loud action."""
        return self.looks > 0 and self.looks & (self.looks - 1) == 0

    def look(self, now_ns: int, newest_ns: int | None) -> int:
        """Poll; return when to poll again. `newest_ns` is the time of the newest news, None when none is expected."""
        if newest_ns is None:
            self.looks, self.quiet_ns, self._since_ns = 0, 0, now_ns
            return now_ns + MINUTE_NS
        begun_ns = max(newest_ns, self._since_ns)
        self.quiet_ns = now_ns - begun_ns
        if self.quiet_ns < self._limit_ns:
            self.looks = 0
            return min(begun_ns + self._limit_ns, now_ns + MINUTE_NS)
        self.looks += 1
        return now_ns + MINUTE_NS
