"""Quotes from a stream, conflated: the newest of each contract or share, with the extremes of its mids since.

`QuoteBook` keeps the quotes, `LiveQuotes` selects what is quoted and emits quotes: of contracts on a socket of their
own, of shares on the socket of their bars. A quote that is crossed, negative, early or no number is counted and
dropped; the step judges its age.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from decimal import Decimal
from typing import Any, Protocol

from daemon.brokers.alpaca.market.socket import MarketSocket, Silence, State, instant_ns
from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.api import EventLogger
from daemon.core.events import Contract, Event, Quote, QuotesReceived
from daemon.core.instruments.quotes import FUTURE_NS
from daemon.host.time.clock import Clock
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS

CHANNEL = "quotes"
CENT = Decimal("0.01")
FINE = Decimal("0.0001")  # USD: shares below a dollar
_ZERO = Decimal(0)
_HIGHEST = Decimal(1_000_000)

TakeMessage = Callable[[dict[str, Any]], None]
OpenSocket = Callable[[TakeMessage], MarketSocket]
"""Returns the socket of the quotes, whose messages go to the argument."""
ReadQuotes = Callable[[tuple[str, ...]], Awaitable[dict[str, dict[str, Any]]]]
"""Reads the newest quotes over REST, by symbol; those without one are absent. Raises RestError."""
SIDE_STRIKES = 2  # neighbours that are streamed on each side of a contract


def with_neighbours(contracts: Iterable[Contract], symbols: Collection[str]) -> frozenset[str]:
    """Return these contracts with both rights of SIDE_STRIKES strikes on each side, of the same expiry.

    A contract that is not in the listing has no neighbours.
    """
    strikes: dict[str, dict[Decimal, list[str]]] = {}
    place: dict[str, Contract] = {}
    for contract in contracts:
        strikes.setdefault(contract.expiry, {}).setdefault(contract.strike, []).append(contract.symbol)
        if contract.symbol in symbols:
            place[contract.symbol] = contract
    chosen = set(symbols)
    for contract in place.values():
        ladder = strikes[contract.expiry]
        rungs = sorted(ladder)
        at = rungs.index(contract.strike)
        for strike in rungs[max(0, at - SIDE_STRIKES) : at + SIDE_STRIKES + 1]:
            chosen.update(ladder[strike])
    return frozenset(chosen)


class StreamRecorder(Protocol):
    """Records what the stream carries, next to the desk. No method raises or waits."""

    def attach(self, socket: MarketSocket, last_bar: Callable[[], tuple[int, float]]) -> None:
        """Use this stream; `last_bar` returns start and close of the underlying's newest minute."""

    def streamed(self, symbols: frozenset[str]) -> None:
        """Note what the desk streams."""

    def begin(self, session: Session) -> None:
        """Record this session from now on."""

    def listed(self, contracts: tuple[Contract, ...]) -> None:
        """Choose contracts from this listing."""

    def take(self, symbol: str, message: dict[str, Any]) -> None:
        """Take a quote of the stream."""

    def on_state(self, state: State) -> None:
        """Note a connect or a lost connection."""

    def end(self, session: Session) -> None:
        """Make the session's file."""

    async def run(self) -> None:
        """Record until cancelled."""


class QuoteBook:
    """The newest quote of each symbol, on a grid of prices. `take` returns quotes and resets their range of mids."""

    def __init__(self, now_ns: Callable[[], int] | None = None, grid: Decimal = CENT) -> None:
        """With `now_ns`, drop quotes from the future: one would stay fresh and make all later ones older."""
        self.counts: Counter[str] = Counter()  # dropped quotes by reason (see `_judge`)
        self._now_ns = now_ns
        self._grid = grid
        self._quotes: dict[str, Quote] = {}
        self._news: set[str] = set()  # quoted since the last `take`

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._quotes

    def add(self, symbol: str, bid: object, ask: object, quoted_ns: int) -> str:
        """Add a quote (USD a share, 0 no such side); return the reason when it is dropped, else ""."""
        prices = _price(bid, self._grid), _price(ask, self._grid)
        reason = self._judge(symbol, prices, quoted_ns)
        if reason:
            self.counts[reason] += 1
            return reason
        low, high = prices
        assert low is not None
        assert high is not None
        middle = (low + high) / 2
        last = self._quotes.get(symbol)
        lowest = middle if last is None else min(last.low, middle)
        highest = middle if last is None else max(last.high, middle)
        self._quotes[symbol] = Quote(symbol, low, high, lowest, highest, quoted_ns)
        self._news.add(symbol)
        return ""

    def _judge(self, symbol: str, prices: tuple[Decimal | None, Decimal | None], quoted_ns: int) -> str:
        bid, ask = prices
        if bid is None or ask is None:
            return "not_finite"
        if bid < 0 or ask < 0:
            return "negative"
        if not bid and not ask:
            return "empty"
        if bid > ask > 0:
            return "crossed"
        if self._now_ns is not None and quoted_ns > self._now_ns() + FUTURE_NS:
            return "early"
        last = self._quotes.get(symbol)
        return "older" if last is not None and quoted_ns < last.quoted_ns else ""

    def take(self, symbols: Iterable[str] | None = None) -> tuple[Quote, ...]:
        """Return the newest quotes of these symbols (None: all), in their order, and reset their ranges."""
        chosen = sorted(self._quotes if symbols is None else self._quotes.keys() & set(symbols))
        quotes = tuple([self._quotes[symbol] for symbol in chosen])
        for quote in quotes:
            middle = (quote.bid + quote.ask) / 2
            self._quotes[quote.symbol] = Quote(quote.symbol, quote.bid, quote.ask, middle, middle, quote.quoted_ns)
        self._news -= set(chosen)
        return quotes

    def news(self, symbols: Collection[str]) -> set[str]:
        """Return those of these symbols that were quoted since the last `take`."""
        return self._news & set(symbols)

    def keep_only(self, symbols: Collection[str]) -> None:
        """Drop symbols that are no longer watched."""
        for gone in self._quotes.keys() - set(symbols):
            del self._quotes[gone]
            self._news.discard(gone)


def _price(value: object, grid: Decimal) -> Decimal | None:
    """Return a price on the wire (a number, by its shortest text) on the grid; None when it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(repr(value))
    if not number.is_finite() or abs(number) > _HIGHEST:
        return None
    return number.quantize(grid) if number else _ZERO.quantize(grid)


class LiveQuotes:
    """Selects what is streamed, and emits quotes between bars. `run` together with the socket's run.

    `shares` are always streamed; a desk of contracts has none and streams those it watches. What is attended is
    streamed too, and quoted between bars.
    """

    def __init__(
        self,
        open_socket: OpenSocket,
        read: ReadQuotes,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        clock: Clock,
        in_session: Callable[[], bool],
        conflate_ns: int,
        silence_ns: int,
        breath_s: float,
        shares: tuple[str, ...] = (),
        recorder: StreamRecorder | None = None,
    ) -> None:
        self.book = QuoteBook(clock.now_ns, FINE if shares else CENT)
        self.socket = open_socket(self._take)
        self._read = read
        self._put = put
        self._log = log
        self._clock = clock
        self._in_session = in_session
        self._conflate_ns = conflate_ns
        self._silence_ns = silence_ns
        self._breath_s = breath_s
        self._shares = shares
        self._recorder = recorder
        self._streamed: frozenset[str] = frozenset()
        self._came_ns: dict[str, int] = {}  # when the newest streamed quote of each share came; of contracts under ""
        self._contracts: tuple[Contract, ...] = ()
        self._watched: tuple[str, ...] = ()
        self._attended: frozenset[str] = frozenset()
        self._unasked: set[str] = set()
        self._quote_came = asyncio.Event()
        self._asked = asyncio.Event()
        self._restream()

    def note_listed(self, contracts: tuple[Contract, ...]) -> None:
        """Set the listing, from which neighbours come."""
        self._contracts = contracts
        self._restream()

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Stream these contracts and their neighbours, so that a quote precedes the answer that needs it."""
        if symbols != self._watched:
            self._watched = symbols
            self._restream()

    def attend(self, symbols: frozenset[str]) -> None:
        """Stream these too, and emit their quotes between bars."""
        if symbols == self._attended:
            return  # called at every step
        self._attended = symbols
        self._restream()
        if self.book.news(symbols):
            self._quote_came.set()

    def closing(self, symbol: str) -> tuple[Quote, ...]:
        """Return the quotes that close a bar of `symbol`: its own, or those of all contracts."""
        return self.book.take((symbol,) if self._shares else None)

    async def run(self) -> None:
        """Emit attended quotes and request first quotes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._conflate(), name="quote conflater")
            tasks.create_task(self._ask_unquoted(), name="first quotes")
            tasks.create_task(self._watch_silence(), name="quote silence watch")

    def _restream(self) -> None:
        """Stream exactly what is wanted now; ask for first quotes of what is new."""
        symbols = with_neighbours(self._contracts, self._watched) | self._attended | frozenset(self._shares)
        new, gone = symbols - self._streamed, self._streamed - symbols
        self._streamed = symbols
        if new:
            self.socket.subscribe(CHANNEL, new)
        if gone:
            self.socket.unsubscribe(CHANNEL, gone)
            self.book.keep_only(symbols)
        if self._recorder is not None and (new or gone):
            self._recorder.streamed(symbols)
        self._ask_for({symbol for symbol in new if symbol not in self.book})

    def _ask_for(self, symbols: Collection[str]) -> None:
        self._unasked |= set(symbols)
        if self._unasked:
            self._asked.set()

    def _take(self, message: dict[str, Any]) -> None:
        if message["T"] != "q":
            return
        symbol = str(message["S"])
        if self._recorder is not None:
            self._recorder.take(symbol, message)
        if symbol not in self._streamed:
            return  # buffered from before an unsubscribe
        if not self.book.add(symbol, message["bp"], message["ap"], instant_ns(message["t"])):
            self._came_ns[symbol if self._shares else ""] = self._clock.now_ns()
            self._on_quote(symbol)

    def _on_quote(self, symbol: str) -> None:
        if symbol in self._attended:
            self._quote_came.set()

    async def _conflate(self) -> None:
        while True:
            await self._quote_came.wait()
            self._quote_came.clear()
            news = self.book.news(self._attended)
            if news:
                now_ns = self._clock.now_ns()
                self._put(QuotesReceived(now_ns, 0, self.book.take(news)))
                await self._clock.sleep_until(now_ns + self._conflate_ns)

    async def _watch_silence(self) -> None:
        """After a silence in session: log, reconnect (less and less often) and read REST each minute.

        Each share is expected to be quoted; of contracts any one.
        """
        silence = Silence(self._silence_ns, self._clock.now_ns())
        while True:
            expected = self._streamed and self._in_session()
            newest_ns = min(self._came_ns.get(symbol, 0) for symbol in self._shares or ("",))
            again_ns = silence.look(self._clock.now_ns(), newest_ns if expected else None)
            if silence.looks:
                self._ask_for(self._streamed)
            if silence.loud:
                quiet_s = silence.quiet_ns // SECOND_NS
                self._log("quotes_silent", contracts=len(self._streamed), quiet_s=quiet_s)
                self.socket.force_reconnect("no quote came")
            await asyncio.sleep(self._breath_s)
            await self._clock.sleep_until(again_ns)

    async def _ask_unquoted(self) -> None:
        """Request a first quote over REST for newly streamed symbols; for all while the stream is silent."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            symbols = tuple(sorted(self._unasked & self._streamed))
            self._unasked.clear()
            if not symbols:
                continue
            try:
                answer = await self._read(symbols)
            except RestError as error:
                self._log("quotes_unavailable", symbols=symbols, problem=str(error))
                continue
            odd = [symbol for symbol in symbols if symbol in answer and not self._note(symbol, answer[symbol])]
            if odd:
                self._log("quotes_unavailable", symbols=odd, problem="the answer has no bid, ask or time for them")

    def _note(self, symbol: str, raw: dict[str, Any]) -> bool:
        """Add REST's quote unless the stream's is newer; False when it cannot be read."""
        if symbol not in self._streamed:
            return True
        try:
            self.book.add(symbol, raw["bp"], raw["ap"], instant_ns(raw["t"]))
        except (LookupError, TypeError, ValueError):
            return False
        self._on_quote(symbol)
        return True
