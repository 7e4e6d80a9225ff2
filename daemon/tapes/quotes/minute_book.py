"""Collect streamed option quotes into one row for each contract and minute. Pure: no clock, no files.

A quote stands until the next one while the stream has no gap; values that a gap makes unknown are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from daemon.tapes.quotes.faults import STALE_NS
from strategies.kit.units import MINUTE_NS

AHEAD = 2  # minutes after the last closed one in which quotes are accepted


class MinuteQuote(NamedTuple):
    """A contract at a minute's end: prices in USD a share (0: no such side), sizes in contracts; None if unknown."""

    symbol: str
    bid: float
    ask: float
    bid_size: int | None
    ask_size: int | None
    low_bid: float | None
    high_bid: float | None
    low_ask: float | None
    high_ask: float | None


class StreamQuote(NamedTuple):
    """A quote of the stream."""

    bid: float
    ask: float
    bid_size: int | None
    ask_size: int | None
    quoted_ns: int


@dataclass(slots=True)
class _Minute:
    """A contract's newest quote within a minute, and the extremes of its quotes."""

    newest: StreamQuote
    low_bid: float
    high_bid: float
    low_ask: float
    high_ask: float

    def add(self, quote: StreamQuote) -> None:
        if quote.quoted_ns >= self.newest.quoted_ns:
            self.newest = quote
        self.low_bid, self.high_bid = min(self.low_bid, quote.bid), max(self.high_bid, quote.bid)
        self.low_ask, self.high_ask = min(self.low_ask, quote.ask), max(self.high_ask, quote.ask)


class MinuteBook:
    """The open minutes, and each contract's last quote before them."""

    def __init__(self, now_ns: int) -> None:
        self.counts: Counter[str] = Counter()  # quotes that were dropped, by reason
        self._closed_ns = now_ns // MINUTE_NS * MINUTE_NS
        self._open: dict[int, dict[str, _Minute]] = {}  # by the minute's end
        self._last: dict[str, StreamQuote] = {}

    def add(self, symbol: str, quote: StreamQuote) -> None:
        """Add a quote; an impossible one, or one of a closed or distant minute, is counted and dropped."""
        end_ns = -(-quote.quoted_ns // MINUTE_NS) * MINUTE_NS
        if reason := self._judge(quote, end_ns):
            self.counts[reason] += 1
            return
        minute = self._open.setdefault(end_ns, {})
        former = minute.get(symbol)
        if former is None:
            minute[symbol] = _Minute(quote, quote.bid, quote.bid, quote.ask, quote.ask)
        else:
            former.add(quote)

    def _judge(self, quote: StreamQuote, end_ns: int) -> str:
        bid, ask = quote.bid, quote.ask
        if not (math.isfinite(bid) and math.isfinite(ask)) or bid < 0 or ask < 0:
            return "not_finite"
        if not bid and not ask:
            return "empty"
        if bid > ask > 0:
            return "crossed"
        if end_ns <= self._closed_ns:
            return "late"
        return "early" if end_ns > self._closed_ns + AHEAD * MINUTE_NS else ""

    def interrupt(self) -> None:
        """Drop all quotes: after a gap in the stream none of them is known to stand."""
        self._open.clear()
        self._last.clear()

    def keep_only(self, symbols: Collection[str]) -> None:
        """Drop the contracts that are no longer streamed."""
        chosen = set(symbols)
        self._last = {symbol: quote for symbol, quote in self._last.items() if symbol in chosen}
        for end_ns, minutes in self._open.items():
            self._open[end_ns] = {symbol: minute for symbol, minute in minutes.items() if symbol in chosen}

    def close(self, end_ns: int) -> list[MinuteQuote]:
        """Return the rows of the minute that ends then, by symbol; later quotes for it are dropped."""
        minutes: dict[str, _Minute] = {}
        for end in sorted(end for end in self._open if end <= end_ns):  # earlier ones got no row of their own
            minutes = self._open.pop(end)
            if end < end_ns:
                self._last |= {symbol: minute.newest for symbol, minute in minutes.items()}
                minutes = {}
        last_quotes, self._closed_ns = self._last, max(self._closed_ns, end_ns)
        stand = last_quotes | {symbol: minute.newest for symbol, minute in minutes.items()}
        self._last = {symbol: quote for symbol, quote in stand.items() if end_ns - quote.quoted_ns <= STALE_NS}
        return [
            _row(symbol, quote, last_quotes.get(symbol), minutes.get(symbol))
            for symbol, quote in sorted(self._last.items())
        ]


def _row(symbol: str, quote: StreamQuote, quote_before: StreamQuote | None, minute: _Minute | None) -> MinuteQuote:
    """Return a row; the extremes include the quote that stood when the minute began, and are unknown without one."""
    extremes: tuple[float | None, ...] = (None,) * 4
    if quote_before is not None:
        at_end = minute or _Minute(quote_before, quote_before.bid, quote_before.bid, quote_before.ask, quote_before.ask)
        extremes = (
            min(at_end.low_bid, quote_before.bid),
            max(at_end.high_bid, quote_before.bid),
            min(at_end.low_ask, quote_before.ask),
            max(at_end.high_ask, quote_before.ask),
        )
    return MinuteQuote(symbol, quote.bid, quote.ask, quote.bid_size, quote.ask_size, *extremes)
