"""Option quotes from the stream, conflated: the newest of each contract, with the extremes of its mids in between.

`QuoteBook` is pure and keeps what was quoted; `OptionStream` feeds it. A quote that is crossed, negative or no number
is counted and dropped; how old a quote may be is not judged here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from typing import Any

from daemon.core.events import Quote
from daemon.shell.alpaca.market_socket import Endpoint, MarketSocket, State, Tell
from daemon.shell.alpaca.stock_stream import instant_ns

CHANNEL = "quotes"
_CENT = Decimal("0.01")
_ZERO = Decimal(0)
_HIGHEST = Decimal(1_000_000)


class QuoteBook:
    """The newest quote of each contract. `take` gives quotes out and begins their range of mids anew."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # dropped quotes by reason: not_finite, negative, crossed, older
        self._quotes: dict[str, Quote] = {}
        self._news: set[str] = set()  # quoted since it was last given

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._quotes

    def add(self, symbol: str, bid: object, ask: object, quoted_ns: int) -> str:
        """Note a quote (USD a share, 0 no such side); the reason when it is dropped, else ""."""
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
        if bid > ask > 0:
            return "crossed"
        known = self._quotes.get(symbol)
        return "older" if known is not None and quoted_ns < known.quoted_ns else ""

    def take(self, symbols: Iterable[str] | None = None) -> tuple[Quote, ...]:
        """The newest quotes of these contracts (None: all), in order of symbol; their ranges begin anew."""
        chosen = sorted(self._quotes if symbols is None else self._quotes.keys() & set(symbols))
        given = tuple([self._quotes[symbol] for symbol in chosen])
        for quote in given:
            middle = (quote.bid + quote.ask) / 2
            self._quotes[quote.symbol] = Quote(quote.symbol, quote.bid, quote.ask, middle, middle, quote.quoted_ns)
        self._news -= set(chosen)
        return given

    def news(self, symbols: Collection[str]) -> set[str]:
        """Those of these contracts that were quoted since they were last given."""
        return self._news & set(symbols)

    def keep_only(self, symbols: Collection[str]) -> None:
        """Forget contracts that are no longer watched."""
        for gone in self._quotes.keys() - set(symbols):
            del self._quotes[gone]
            self._news.discard(gone)


def _price(value: object) -> Decimal | None:
    """Whole cents of a price on the wire (a number, by its shortest text); None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(repr(value))
    if not number.is_finite() or abs(number) > _HIGHEST:
        return None
    return number.quantize(_CENT) if number else _ZERO.quantize(_CENT)


class OptionStream:
    """The socket of the option stream: keeps a set of contracts subscribed and notes their quotes in `book`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        book: QuoteBook,
        on_quote: Callable[[str], None],
        on_state: Callable[[State], None],
        tell: Tell,
    ) -> None:
        self.watched: frozenset[str] = frozenset()
        self._book = book
        self._on_quote = on_quote
        self.socket = MarketSocket(endpoint, on_message=self._take, on_state=on_state, tell=tell)

    def watch(self, symbols: frozenset[str]) -> frozenset[str]:
        """Stream exactly these contracts; the ones that are new."""
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
