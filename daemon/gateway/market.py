"""Market data for all clients over the account's only connections: streams are shared, REST is passed through.

A `SharedStream` is one stream of the broker, open while a client uses it, subscribed to what all clients want together.
A client's authentication and subscriptions are acknowledged once the broker has acknowledged them; a lost stream closes
its clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from aiohttp import WSCloseCode, web

from daemon.alpaca_api.backend import StreamAccounts
from daemon.alpaca_api.data_stream import CHANNELS, ERRORS, OF_TRADES, Channels, DataSessions, DataStreamClient
from daemon.alpaca_api.messages import DataMessage
from daemon.alpaca_api.refusals import Refusal, refusal
from daemon.alpaca_api.wire import Json
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.market.socket import MarketSocket, Pair, State, instant_ns
from daemon.brokers.alpaca.rest.client import NotSent, Refused, RestError, Throttled
from daemon.brokers.api import BrokerError, EventLogger
from daemon.config.tables import STOCK_FEEDS
from daemon.core.session import CLOSES_MIN, OPENS_MIN, new_york_minute
from daemon.gateway.gateway import Gateway, refusal_of
from daemon.gateway.rules import WIDE_OPTION, WIDE_SHARE, middle_of_row
from daemon.gateway.upstream import Upstream
from daemon.host.time.clock import Clock
from strategies.kit.units import MINUTE_NS, SECOND_NS

STREAM_PATHS = frozenset(CHANNELS)
OPEN_S = ANSWER_S = 5.0  # real seconds that a client waits for the broker; below its own patience of ten
DENIED = (406, 409)  # the broker's refusals: no further connection, not in the plan
READ_S = 5.0  # real seconds to read today's bars, while a client's new bars wait
SILENT_NS = 60 * SECOND_NS  # without a message, for a stream with subscriptions
LINGER_S = 30.0  # real seconds that a stream stays open after its last client, for a desk that restarts
DAY_ROWS = 1440  # minutes kept for each symbol
SETTLED_NS = 3 * SECOND_NS  # after a minute's end, until REST has it
FRAME_MESSAGES = 500  # kept bars a frame: alpaca-py accepts 1 MiB


# --- one stream of the broker -----------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class DayBars:
    """Today's minutes of one symbol by start; from `since_ns` on none is missing."""

    since_ns: int
    rows: dict[int, DataMessage] = dataclasses.field(default_factory=dict)


class SharedStream:
    """One path's stream of the broker.

    `publish` gets the messages of one frame, `on_message` each message, `on_error` a broker's error that answers no
    request; `on_loss` is called when the stream is gone.
    """

    def __init__(
        self,
        path: str,
        url: str,
        upstream: Upstream,
        clock: Clock,
        publish: Callable[[str, list[DataMessage]], None],
        on_message: Callable[[str, DataMessage], None],
        on_error: Callable[[str, int], None],
        on_loss: Callable[[str], None],
        log: EventLogger,
    ) -> None:
        self.path = path
        self.socket: MarketSocket | None = None
        self._url, self._upstream, self._clock, self._log = url, upstream, clock, log
        self._publish, self._on_message = publish, on_message
        self._on_error, self._on_loss = on_error, on_loss
        self._task: asyncio.Task[None] | None = None
        self._pairs: frozenset[Pair] = frozenset()
        self._came: list[DataMessage] = []
        self._news = asyncio.Event()
        self._heard_ns = clock.now_ns()  # time of the newest message, or of the first subscription
        self._was_silent = False  # silent when the last subscription ended
        self._bars: dict[str, DayBars] = {}
        self._reading = asyncio.Lock()

    # --- its life ---

    def open(self) -> MarketSocket:
        """Return its connection, opened if it is not open yet."""
        if self.socket is None:
            socket = self._upstream.market_socket(
                self._url,
                self._take,
                lambda state: self._on_state(socket, state),
                self._tell_news,
                lambda code: self._on_error(self.path, code),
            )
            self.socket = socket
            self._task = asyncio.create_task(self._run(socket, self._task), name=f"line {self.path}")
            self._task.add_done_callback(self._on_end)
            _subscribe(socket, frozenset(), self._pairs)
        return self.socket

    async def _run(self, socket: MarketSocket, former: asyncio.Task[None] | None) -> None:
        """Keep the connection, after the former one was closed: the broker allows one."""
        if former is not None:
            await asyncio.wait({former})
        await socket.run()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Log a fault of the gateway itself, which does not end the trading side."""
        if task.cancelled():
            return
        if (problem := task.exception()) is not None:
            self._log("gateway_stream_failed", path=self.path, problem=repr(problem))
        if self._task is task:
            self.socket = None
            self._drop_line()
            self._tell_news()

    def was_silent(self) -> bool:
        """Return whether the stream was silent for long, so that a returning client probably left because of it."""
        return self._was_silent or self._is_silent()

    def renew(self) -> None:
        """Close the connection, so that it is opened anew."""
        self._log("gateway_stream_silent", path=self.path)
        self._was_silent = False
        self._heard_ns = self._clock.now_ns()
        self.shut()
        self._drop_line()

    def _is_silent(self) -> bool:
        now_ns = self._clock.now_ns()
        expected = bool(self._pairs) and in_hours(now_ns) and in_hours(now_ns - SILENT_NS)
        return expected and now_ns - self._heard_ns >= SILENT_NS

    def shut(self) -> None:
        """Close the connection, if it is open."""
        if self._task is not None and self.socket is not None:
            self.socket = None
            self._bars.clear()
            self._task.cancel()

    async def close(self) -> None:
        """Close the connection and wait for its end."""
        self.shut()
        if self._task is not None:
            await asyncio.wait({self._task})

    def _on_state(self, socket: MarketSocket, state: State) -> None:
        if state == "down" and self.socket is socket:
            self._drop_line()
        self._tell_news()

    def _drop_line(self) -> None:
        self._bars.clear()
        self._on_loss(self.path)

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, holds: Callable[[], object], within_s: float) -> bool:
        """Wait until `holds()` is true; False when it is not within these real seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._news.wait()
        return bool(holds())

    # --- what is subscribed ---

    def want(self, channels: Channels) -> None:
        """Subscribe to this, and to nothing else."""
        pairs = pairs_of(channels)
        for symbol in {s for channel, s in self._pairs - pairs if channel == "bars"}:
            self._bars.pop(symbol, None)
        if self.socket is not None:
            _subscribe(self.socket, self._pairs, pairs)
        if not self._pairs:
            self._heard_ns = self._clock.now_ns()
        elif not pairs:
            self._was_silent = self._is_silent()
        self._pairs = pairs

    # --- what comes ---

    def _take(self, message: Json) -> None:
        """Take a message; all of one frame go on together. Raises what `MarketSocket` counts as unreadable."""
        news = DataMessage(message["T"], str(message["S"]), instant_ns(message["t"]), message)
        if not news.channel or not (news.packed and news.text):  # what cannot be written fails here, and for all
            return
        self._heard_ns = self._clock.now_ns()
        self._keep(news)
        self._on_message(self.path, news)
        if not self._came:
            asyncio.get_running_loop().call_soon(self._flush)
        self._came.append(news)

    def _flush(self) -> None:
        messages, self._came = self._came, []
        self._publish(self.path, messages)

    def _keep(self, message: DataMessage) -> None:
        """Keep a minute for who comes later; an updated one takes its place.

        One of the future is not kept: who had it would take all until then for bars from before it.
        """
        if message.channel not in ("bars", "updatedBars") or message.symbol not in self._bars:
            return
        if message.time_ns > self._heard_ns:
            return
        rows = self._bars[message.symbol].rows
        if message.channel == "bars" or message.time_ns in rows:
            rows[message.time_ns] = message if message.channel == "bars" else _as_bar(message)
        if len(rows) > DAY_ROWS:
            del rows[min(rows)]

    def keep_bars(self, symbols: Iterable[str]) -> None:
        """Keep the minutes of these symbols from now on."""
        for symbol in symbols:
            self._bars.setdefault(symbol, DayBars(self._clock.now_ns()))

    async def since_open(self, symbols: Collection[str]) -> list[DataMessage]:
        """Return today's minutes of these symbols, oldest first; none outside of 9:30 to 16:00 New York."""
        now_ns = self._clock.now_ns()
        if self.path.rpartition("/")[2] not in STOCK_FEEDS or not in_hours(now_ns):
            return []
        open_ns = wire.day_start_ns(now_ns) + OPENS_MIN * MINUTE_NS
        await self._read_missing(symbols, open_ns, now_ns)
        days = [self._bars[symbol] for symbol in symbols if symbol in self._bars]
        rows = [row for day in days for start_ns, row in day.rows.items() if start_ns >= open_ns]
        return sorted(rows, key=lambda row: (row.time_ns, row.symbol))

    async def _read_missing(self, symbols: Collection[str], open_ns: int, now_ns: int) -> None:
        """Read the minutes that the stream did not bring, once for all who wait."""
        async with self._reading:
            days = {s: self._bars[s] for s in symbols if s in self._bars and self._bars[s].since_ns > open_ns}
            if not days:
                return
            try:
                async with asyncio.timeout(READ_S):
                    await self._clock.sleep_until(now_ns // MINUTE_NS * MINUTE_NS + SETTLED_NS)
                    feed, until_ns = self.path.rpartition("/")[2], self._clock.now_ns()
                    bars_by_symbol = await self._upstream.market.minutes(tuple(sorted(days)), open_ns, until_ns, feed)
                for symbol, day in days.items():
                    for row in bars_by_symbol.get(symbol, []):
                        start_ns = instant_ns(row["t"])
                        if start_ns + MINUTE_NS <= until_ns:
                            day.rows.setdefault(start_ns, DataMessage("b", symbol, start_ns, row))
                    day.since_ns = open_ns
            except (BrokerError, TimeoutError, KeyError, TypeError, ValueError) as problem:
                self._log(
                    "gateway_bars_missing", path=self.path, symbols=sorted(days), problem=str(problem) or "no answer"
                )


def in_hours(now_ns: int) -> bool:
    """Return whether the market may be open at this time of day."""
    return OPENS_MIN <= new_york_minute(now_ns) < CLOSES_MIN


def pairs_of(channels: Mapping[str, Collection[str]]) -> frozenset[Pair]:
    """Return the pairs to subscribe at the broker for these channels, without channels that come with trades."""
    return frozenset((c, symbol) for c, symbols in channels.items() if c not in OF_TRADES for symbol in symbols)


def _subscribe(socket: MarketSocket, old_pairs: frozenset[Pair], new_pairs: frozenset[Pair]) -> None:
    """Subscribe to new pairs and unsubscribe from those that are gone."""
    for channel in sorted({channel for channel, _ in old_pairs | new_pairs}):
        socket.unsubscribe(channel, {symbol for c, symbol in old_pairs - new_pairs if c == channel})
        socket.subscribe(channel, {symbol for c, symbol in new_pairs - old_pairs if c == channel})


def _as_bar(message: DataMessage) -> DataMessage:
    return DataMessage("b", message.symbol, message.time_ns, {k: v for k, v in message.fields.items() if k != "T"})


# --- the clients ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True, eq=False)
class RelayClient(DataStreamClient):
    """One socket of a client. New bars of symbols in `catching` wait until the earlier ones were sent."""

    hub: RelaySessions
    entered: bool = False  # authenticated while the broker's stream was up
    catching: set[str] = dataclasses.field(default_factory=set)
    caught: dict[str, int] = dataclasses.field(default_factory=dict)  # start of the newest earlier bar
    owed: list[int] = dataclasses.field(default_factory=list)  # errors that follow the acknowledgement

    def wants(self, message: DataMessage) -> bool:
        """Return whether the client is subscribed to the message and has its earlier bars."""
        if message.channel in ("bars", "updatedBars") and message.symbol in self.catching:
            return False
        if message.channel == "bars" and message.time_ns <= self.caught.get(message.symbol, -1):
            return False
        return super(RelayClient, self).wants(message)

    def acknowledge(self) -> None:
        """Send the list of subscriptions, then the broker's errors that waited for it."""
        super(RelayClient, self).acknowledge()
        codes, self.owed = self.owed, []
        for code in codes:
            self.error(code)

    def catch_up(self, symbols: Collection[str], earlier: Iterable[DataMessage]) -> None:
        """Send the earlier bars of symbols that are still subscribed; new ones follow."""
        bars = self.subscribed.get("bars", set())
        messages = [message for message in earlier if message.symbol in bars]
        for first in range(0, len(messages), FRAME_MESSAGES):
            for data in self.frames(messages[first : first + FRAME_MESSAGES]):
                self.send(data)
        self.caught.update({message.symbol: message.time_ns for message in messages})
        self.catching.difference_update(symbols)


class RelaySessions(DataSessions[RelayClient]):
    """All clients of the streams, and the broker's streams that they use."""

    def __init__(
        self,
        accounts: StreamAccounts,
        upstream: Upstream,
        clock: Clock,
        log: EventLogger,
        symbols_max: int,
        on_message: Callable[[str, DataMessage], None],
    ) -> None:
        limits = {path: symbols_max for path in CHANNELS if path.startswith("/v2/")}
        super().__init__(
            accounts, RelayClient, limits=limits, on_wanted=lambda path, channels: self.lines[path].want(channels)
        )
        self._upstream, self._log, self._symbols_max = upstream, log, symbols_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._shutting: dict[str, asyncio.TimerHandle] = {}
        urls = {path: upstream.market_url(path) for path in CHANNELS}
        self.lines = {
            path: SharedStream(
                path, url, upstream, clock, self.publish, on_message, self._pass_refusal, self._close_clients, log
            )
            for path, url in urls.items()
            if url
        }

    def permitted(self, session: RelayClient, key: str) -> bool:
        """Return whether the gateway can reach this stream."""
        del key
        return session.path in self.lines

    async def opened(self, session: RelayClient) -> int:
        """Wait for the broker's stream; return its error 406 or 409, or close the client where it is away."""
        if (timer := self._shutting.pop(session.path, None)) is not None:
            timer.cancel()
        line = self.lines[session.path]
        if line.was_silent() and await self._is_open() and line.was_silent():
            line.renew()
        socket = line.open()
        await line.until(lambda: socket.up or socket.denied in DENIED or line.socket is not socket, OPEN_S)
        if not socket.up and socket.denied in DENIED:
            return socket.denied
        session.entered = socket.up
        if not socket.up:
            session.close(WSCloseCode.INTERNAL_ERROR)
        return 0

    async def _is_open(self) -> bool:
        """Return whether the market is open, True if unknown: on a half day's afternoon silence is no fault."""
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(OPEN_S):
                return (await self._upstream.clock()).is_open is not False
        return True

    async def granted(self, session: RelayClient) -> int:
        """Wait until the broker grants what is new; return its refusal, or close the client where it is away."""
        line, request = self.lines[session.path], session.asked or {}
        fresh = pairs_of(request) - pairs_of(session.subscribed)

        def refused_pairs() -> frozenset[Pair]:
            return frozenset() if line.socket is None else fresh & line.socket.refused

        def decided() -> bool:
            gone = line.socket is None or session.closing is not None
            return gone or bool(refused_pairs()) or (line.socket is not None and fresh <= line.socket.granted)

        if not await line.until(decided, ANSWER_S) or line.socket is None:
            session.close(WSCloseCode.INTERNAL_ERROR)
            return 0
        if denied_pairs := refused_pairs():
            code = next((line.socket.codes[pair] for pair in sorted(denied_pairs) if line.socket.codes.get(pair)), 405)
            return code if code in ERRORS else 400
        bars = {symbol for channel, symbol in fresh if channel == "bars"} - {"*"}
        if bars and session.closing is None:
            session.catching |= bars
            line.keep_bars(bars)
            task = asyncio.create_task(self._catch_up(session, line, bars), name=f"bars since the open {line.path}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return 0

    async def _catch_up(self, session: RelayClient, line: SharedStream, symbols: set[str]) -> None:
        earlier: list[DataMessage] = []
        try:
            earlier = await line.since_open(symbols)
        finally:
            session.catch_up(symbols, earlier)

    def has_room(self, session: RelayClient, channels_after: Mapping[str, set[str]]) -> bool:
        """Return whether all clients are within the plan's limit; log the symbols beyond it."""
        room = super().has_room(session, channels_after)
        if not room:
            current = {symbol for symbols in self.wanted(session.path).values() for symbol in symbols}
            beyond = {symbol for symbols in channels_after.values() for symbol in symbols} - current
            self._log(
                "gateway_symbols_refused", path=session.path, symbols=sorted(beyond), symbols_max=self._symbols_max
            )
        return room

    def leave(self, session: RelayClient) -> None:
        """Remove a closed socket; after the last one the broker's stream is closed some time later."""
        super().leave(session)
        path = session.path
        if path in self.lines and path not in self._shutting and not self._has_clients(path):
            self._shutting[path] = asyncio.get_running_loop().call_later(LINGER_S, self._shut, path)

    def _has_clients(self, path: str) -> bool:
        return any(session.key and session.path == path for session in self.sessions)

    def _shut(self, path: str) -> None:
        self._shutting.pop(path, None)
        if not self._has_clients(path):
            self.lines[path].shut()

    def _pass_refusal(self, path: str, code: int) -> None:
        """Pass on to clients an error that the broker sent on its own."""
        for session in self.sessions:
            if session.path == path and session.entered and code in ERRORS:
                if session.asked is None:
                    session.error(code)
                else:
                    session.owed.append(code)

    def _close_clients(self, path: str) -> None:
        """Close the clients of a lost stream, so that they know of the gap."""
        sessions = [session for session in self.sessions if session.path == path and session.entered]
        if sessions:
            self._log("gateway_stream_cut", path=path, clients=len(sessions))
        for session in sessions:
            session.close(WSCloseCode.INTERNAL_ERROR)

    async def close(self) -> None:
        """Close all clients and all of the broker's streams."""
        for timer in self._shutting.values():
            timer.cancel()
        for session in list(self.sessions):
            session.close(WSCloseCode.GOING_AWAY)
        for task in list(self._tasks):
            task.cancel()
        for line in self.lines.values():
            await line.close()


# --- REST -------------------------------------------------------------------------------------------------------------

LATEST_NS, HISTORY_NS = SECOND_NS, 5 * SECOND_NS  # how long answers are kept
KEPT_MOST, KEPT_BYTES = 256, 2 * 1024 * 1024  # number of answers, and bytes of the largest
UNDER_WAY_MOST = 16  # a client's requests at once: the broker's budget is shared
Question = tuple[str, str, tuple[tuple[str, str], ...]]


class SharedQuestions:
    """Requests to the broker, each sent once for all who wait for it, with few of each client under way."""

    def __init__(self, most: int) -> None:
        """Allow each client `most` questions at once."""
        self._most = most
        self._asking: dict[Hashable, asyncio.Task[bytes]] = {}
        self._under_way: Counter[str] = Counter()  # by client

    @contextlib.contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """Count a request of this client while it lasts. Raises Refusal where it has too many."""
        if self._under_way[client] >= self._most:
            raise refusal("rate_limit")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1

    async def answer(self, question: Hashable, ask: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Return the answer of a request under way, else of `ask`; a cancelled client cancels it for no other."""
        asking = self._asking.get(question)
        if asking is None:
            asking = self._asking[question] = asyncio.create_task(ask(), name=f"asks the broker: {question}")
            asking.add_done_callback(partial(self._on_end, question))
        return await asyncio.shield(asking)

    def _on_end(self, question: Hashable, task: asyncio.Task[bytes]) -> None:
        del self._asking[question]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: all who waited may be gone

    def close(self) -> None:
        """Cancel the questions under way."""
        for task in self._asking.values():
            task.cancel()


class SharedAnswers:
    """GET requests to the broker's market data: equal ones are sent once, and answers are cached.

    Answers about the present are kept for a second, history for five; what may still grow is not kept.
    """

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream, self._clock = upstream, clock
        self.questions = SharedQuestions(UNDER_WAY_MOST)
        self._cache: dict[Question, tuple[int, bytes]] = {}  # (end of validity, body)

    async def get(self, version: str, path: str, query: Mapping[str, str]) -> bytes:
        """Return the body as JSON. Raises RestError."""
        question = version, path, tuple(sorted(query.items()))
        entry = self._cache.get(question)
        if entry is not None and self._clock.now_ns() < entry[0]:
            return entry[1]
        return await self.questions.answer(question, lambda: self._ask(question))

    async def _ask(self, question: Question) -> bytes:
        version, path, query = question
        body = msgspec.json.encode(await self._upstream.get_data(version, path, dict(query)))
        now_ns = self._clock.now_ns()
        keep_ns = kept_for_ns(path, dict(query), now_ns)
        if keep_ns and len(body) <= KEPT_BYTES:
            if len(self._cache) >= KEPT_MOST:
                self._cache = {name: entry for name, entry in self._cache.items() if now_ns < entry[0]}
            if len(self._cache) < KEPT_MOST:
                self._cache[question] = (now_ns + keep_ns, body)
        return body


def kept_for_ns(path: str, query: Mapping[str, str], now_ns: int) -> int:
    """Return how long an answer may be reused, in ns: 0 for what the next minute may change."""
    if "latest" in path or "snapshots" in path:
        return LATEST_NS
    try:
        past = wire.time_ns(query.get("end"), "end") <= now_ns - MINUTE_NS
    except wire.Malformed:
        return 0
    return HISTORY_NS if past else 0


# --- both -------------------------------------------------------------------------------------------------------------


class MarketRelay:
    """The gateway's market-data services. Quotes and bars of subscribed symbols become its prices."""

    def __init__(self, gateway: Gateway, clients: StreamAccounts, log: EventLogger) -> None:
        self._gateway = gateway
        upstream, clock, table = gateway.upstream, gateway.clock, gateway.settings.gateway
        self.sessions = RelaySessions(clients, upstream, clock, log, table.stream_symbols_max, self._note_price)
        self._answers = SharedAnswers(upstream, clock)

    def stream_routes(self) -> list[web.RouteDef]:
        """Return the streams' routes."""
        return self.sessions.routes()

    async def answer(self, request: web.Request, account: str) -> web.StreamResponse:
        """Answer one GET below /v2/stocks or /v1beta1 as the broker does. Raises Refusal."""
        _, version, path = request.path.split("/", 2)
        try:
            with self._answers.questions.turn(account):
                body = await self._answers.get(version, f"/{path}", request.query)
        except Refused as refusal_error:
            raise refusal_of(refusal_error) from None
        except (Throttled, NotSent):  # by the broker, or by the gateway's own budget
            raise refusal("rate_limit") from None
        except (RestError, BrokerError) as error:
            raise Refusal(504, None, f"gateway: no market data: {error}") from None
        return web.Response(body=body, content_type="application/json")

    def _note_price(self, path: str, message: DataMessage) -> None:
        """Take the price of a quote or a bar, unless a newer one is known."""
        time_and_price = price_of(message, WIDE_OPTION if path.startswith("/v1beta1/") else WIDE_SHARE)
        if time_and_price is None:
            return
        at_ns, price = min(time_and_price[0], self._gateway.now_ns()), time_and_price[1]
        newest = self._gateway.prices.get(message.symbol)
        if newest is None or newest[0] <= at_ns:
            self._gateway.prices[message.symbol] = (at_ns, price)

    async def close(self) -> None:
        """Close all sockets of clients and of the broker."""
        self._answers.questions.close()
        await self.sessions.close()


def price_of(message: DataMessage, wide: Decimal) -> tuple[int, Decimal] | None:
    """Return time and price (USD a share) of a quote's middle or of a minute's close, at its end; None without one."""
    fields = message.fields
    try:
        if message.channel == "quotes":
            middle = middle_of_row(fields, wide)
            return None if middle is None else (message.time_ns, middle)
        if message.channel in ("bars", "updatedBars"):
            close = wire.decimal(fields.get("c"), "c")
            return (message.time_ns + MINUTE_NS, close) if close > 0 else None
    except wire.Malformed:
        return None
    return None
