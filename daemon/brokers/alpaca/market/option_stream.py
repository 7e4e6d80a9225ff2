"""Option quotes from the stream, conflated: the newest of each contract, with the extremes of its mids since.

`QuoteBook` keeps the quotes, `OptionStream` feeds it, `LiveQuotes` selects contracts and emits quotes. A quote that is
crossed, negative, early or no number is counted and dropped; the step judges its age.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from typing import Any, Protocol

from daemon.brokers.alpaca.market.chain import with_neighbours
from daemon.brokers.alpaca.market.silence import Silence
from daemon.brokers.alpaca.market.socket import Endpoint, MarketSocket, State
from daemon.brokers.alpaca.market.stock_stream import instant_ns
from daemon.brokers.alpaca.rest.errors import RestError
from daemon.brokers.api import LogEvent
from daemon.core.events import Contract, Event, Quote, QuotesReceived
from daemon.core.risk.marks import FUTURE_NS
from daemon.host.time.clock import Clock
from strategies.kit.units import SECOND_NS

CHANNEL = "quotes"
_CENT = Decimal("0.01")
_ZERO = Decimal(0)
_HIGHEST = Decimal(1_000_000)


class QuoteBook:
    """The newest quote of each contract. `take` returns quotes and resets their range of mids."""

    def __init__(self, now_ns: Callable[[], int] | None = None) -> None:
        """With `now_ns`, drop quotes from the future: one would stay fresh and make all later ones older."""
        self.counts: Counter[str] = Counter()  # dropped quotes by reason (see `_judge`)
        self._now_ns = now_ns
        self._quotes: dict[str, Quote] = {}
        self._news: set[str] = set()  # quoted since the last `take`

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._quotes

    def add(self, symbol: str, bid: object, ask: object, quoted_ns: int) -> str:
        """Add a quote (USD a share, 0 no such side); return the reason when it is dropped, else ""."""
        prices = _price(bid), _price(ask)
        reason = self._judge(symbol, prices, quoted_ns)
        if reason:
            self.counts[reason] += 1
            return reason
        low, high = prices
        assert low is not None
        assert high is not None
        middle = (low + high) / 2
        known = self._quotes.get(symbol)
        lowest = middle if known is None else min(known.low, middle)
        highest = middle if known is None else max(known.high, middle)
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
        known = self._quotes.get(symbol)
        return "older" if known is not None and quoted_ns < known.quoted_ns else ""

    def take(self, symbols: Iterable[str] | None = None) -> tuple[Quote, ...]:
        """Return the newest quotes of these contracts (None: all), by symbol, and reset their ranges."""
        chosen = sorted(self._quotes if symbols is None else self._quotes.keys() & set(symbols))
        given = tuple([self._quotes[symbol] for symbol in chosen])
        for quote in given:
            middle = (quote.bid + quote.ask) / 2
            self._quotes[quote.symbol] = Quote(quote.symbol, quote.bid, quote.ask, middle, middle, quote.quoted_ns)
        self._news -= set(chosen)
        return given

    def news(self, symbols: Collection[str]) -> set[str]:
        """Return those of these contracts that were quoted since the last `take`."""
        return self._news & set(symbols)

    def keep_only(self, symbols: Collection[str]) -> None:
        """Drop contracts that are no longer watched."""
        for gone in self._quotes.keys() - set(symbols):
            del self._quotes[gone]
            self._news.discard(gone)


def _price(value: object) -> Decimal | None:
    """Return whole cents of a price on the wire (a number, by its shortest text); None when it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(repr(value))
    if not number.is_finite() or abs(number) > _HIGHEST:
        return None
    return number.quantize(_CENT) if number else _ZERO.quantize(_CENT)


class OptionStream:
    """The socket of the option stream: keeps a set of contracts subscribed and adds their quotes to `book`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        book: QuoteBook,
        on_quote: Callable[[str], None],
        on_state: Callable[[State], None],
        log: LogEvent,
    ) -> None:
        self.watched: frozenset[str] = frozenset()
        self._book = book
        self._on_quote = on_quote
        self.socket = MarketSocket(endpoint, on_message=self._take, on_state=on_state, log=log)

    def watch(self, symbols: frozenset[str]) -> frozenset[str]:
        """Stream exactly these contracts; return the new ones."""
        new, gone = symbols - self.watched, self.watched - symbols
        self.watched = symbols
        if new:
            self.socket.subscribe(CHANNEL, new)
        if gone:
            self.socket.unsubscribe(CHANNEL, gone)
            self._book.keep_only(symbols)
        return new

    def _take(self, message: dict[str, Any]) -> None:
        if message["T"] != "q":
            return
        symbol = str(message["S"])
        if symbol not in self.watched:
            return  # buffered from before an unsubscribe
        if not self._book.add(symbol, message["bp"], message["ap"], instant_ns(message["t"])):
            self._on_quote(symbol)


class QuoteReads(Protocol):
    """Source of the newest quotes over REST, by OCC symbol; contracts without one are absent. Raises RestError."""

    async def latest_option_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, dict[str, Any]]: ...


class LiveQuotes:
    """Selects streamed contracts, and emits quotes between bars. `run` together with the socket's run."""

    def __init__(
        self,
        endpoint: Endpoint,
        reads: QuoteReads,
        feed: str,
        put: Callable[[Event], None],
        log: LogEvent,
        *,
        clock: Clock,
        in_session: Callable[[], bool],
        conflate_ns: int,
        silence_ns: int,
        breath_s: float,
    ) -> None:
        self.book = QuoteBook(clock.now_ns)
        self.stream = OptionStream(
            endpoint, book=self.book, on_quote=self._on_streamed, on_state=lambda _state: None, log=log
        )
        self._reads = reads
        self._feed = feed
        self._put = put
        self._log = log
        self._clock = clock
        self._in_session = in_session
        self._conflate_ns = conflate_ns
        self._silence_ns = silence_ns
        self._breath_s = breath_s
        self._streamed_ns = 0  # when the newest streamed quote came
        self._contracts: tuple[Contract, ...] = ()
        self._watched: tuple[str, ...] = ()
        self._attended: frozenset[str] = frozenset()
        self._unasked: set[str] = set()
        self._quote_came = asyncio.Event()
        self._asked = asyncio.Event()

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

    async def run(self) -> None:
        """Emit attended quotes and request first quotes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._conflate(), name="quote conflater")
            tasks.create_task(self._ask_unquoted(), name="first quotes")
            tasks.create_task(self._watch_silence(), name="quote silence watch")

    def _restream(self) -> None:
        new = self.stream.watch(with_neighbours(self._contracts, self._watched) | self._attended)
        self._ask_for({symbol for symbol in new if symbol not in self.book})

    def _ask_for(self, symbols: Collection[str]) -> None:
        self._unasked |= set(symbols)
        if self._unasked:
            self._asked.set()

    def _on_streamed(self, symbol: str) -> None:
        self._streamed_ns = self._clock.now_ns()
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
        """After a silence in session: log, reconnect (less and less often) and read REST each minute."""
        silence = Silence(self._silence_ns, self._clock.now_ns())
        while True:
            expected = self.stream.watched and self._in_session()
            again_ns = silence.look(self._clock.now_ns(), self._streamed_ns if expected else None)
            if silence.looks:
                self._ask_for(self.stream.watched)
            if silence.loud:
                quiet_s = silence.quiet_ns // SECOND_NS
                self._log("quotes_silent", contracts=len(self.stream.watched), quiet_s=quiet_s)
                self.stream.socket.force_reconnect("no quote came")
            await asyncio.sleep(self._breath_s)
            await self._clock.sleep_until(again_ns)

    async def _ask_unquoted(self) -> None:
        """Request a first quote over REST for newly watched contracts; for all while the stream is silent."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            asked = tuple(sorted(self._unasked & self.stream.watched))
            self._unasked.clear()
            if not asked:
                continue
            try:
                answer = await self._reads.latest_option_quotes(asked, self._feed)
            except RestError as error:
                self._log("quotes_unavailable", symbols=asked, problem=str(error))
                continue
            odd = [symbol for symbol in asked if symbol in answer and not self._note(symbol, answer[symbol])]
            if odd:
                self._log("quotes_unavailable", symbols=odd, problem="the answer has no bid, ask or time for them")

    def _note(self, symbol: str, raw: dict[str, Any]) -> bool:
        """Add REST's quote unless the stream's is newer; False when it cannot be read."""
        if symbol not in self.stream.watched:
            return True
        try:
            self.book.add(symbol, raw["bp"], raw["ap"], instant_ns(raw["t"]))
        except (LookupError, TypeError, ValueError):
            return False
        self._on_quote(symbol)
        return True
