"""The wire form of bars, quotes and trades: `*_fields` for streams, `*_row` for REST, so that the two never differ.

Pure functions of the market and the simulated time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from daemon.alpaca_api.wire import stamp
from simulator.faults import Context, Faults
from simulator.prices.market import Market
from simulator.trading.venue import Brokerage
from strategies.kit.contract import Bar

Fields = dict[str, Any]


def bar_fields(bar: Bar) -> Fields:
    """Return `o h l c v n vw` of a bar; count and VWAP are derived from volume and prices."""
    typical = round((bar.open + bar.high + bar.low + bar.close) / 4, 6)
    return {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": int(bar.volume),
        "n": max(1, int(bar.volume) // 100),
        "vw": typical,
    }


def quote_fields(market: Market, symbol: str, at_ns: int) -> Fields | None:
    """Return `bx bp bs ax ap as c` (and `z` of a stock) of the quote; a missing side has price and size 0."""
    quote = market.quote(symbol, at_ns)
    if quote is None:
        return None
    bid, ask = quote
    chance = zlib.crc32(f"{symbol}{market.last_change(symbol, at_ns)}".encode())
    bids, asks = 1 + chance % 50 if bid else 0, 1 + (chance >> 8) % 50
    if symbol in market.bars:  # shares; lots of a hundred
        sides = {"bx": "Q", "bp": float(bid), "bs": 100 * bids, "ax": "P", "ap": float(ask), "as": 100 * asks}
        return {**sides, "c": ["R"], "z": "B"}
    return {"bx": "C", "bp": float(bid), "bs": bids, "ax": "C", "ap": float(ask), "as": asks, "c": "A"}


def trade_fields(market: Market, symbol: str, at_ns: int) -> Fields | None:
    """Return a trade at the path point's price, or at an option's mid: stock `i x p s c z`, option `p s x c`."""
    quote = market.quote(symbol, at_ns)
    if quote is None:
        return None
    chance = zlib.crc32(f"{market.last_change(symbol, at_ns)}{symbol}".encode())
    if symbol not in market.bars:
        return {"p": float(sum(quote) / 2), "s": 1 + chance % 10, "x": "N", "c": "S"}
    shares = {"i": 52_983_525_000_000 + chance, "x": "P", "p": float(quote[0]), "s": 1 + chance % 300}
    return {**shares, "c": ["@"], "z": "B"}


def never_trades(symbol: str) -> bool:
    """Return whether an option is one of the third that never trade, whose snapshots lack `latestTrade`."""
    return zlib.crc32(symbol.encode()) % 3 == 0


def bar_row(bar: Bar) -> Fields:
    """Return a bar as REST shows it."""
    return {"t": stamp(bar.start_ns), **bar_fields(bar)}


def quote_row(venue: Brokerage, symbol: str, now_ns: int) -> Fields | None:
    """Return the latest quote as REST shows it, one-sided under that fault."""
    at_ns = venue.market.last_change(symbol, now_ns)
    fields = quote_fields(venue.market, symbol, now_ns)
    if at_ns is None or fields is None:
        return None
    return {"t": stamp(at_ns), **fields, **missing_side(venue.faults, {"stream": "rest", "symbol": symbol})}


def missing_side(faults: Faults, context: Context) -> Fields:
    """Return price and size 0 of the side removed by `quote_one_sided`; {} without that fault."""
    fault = faults.take("quote_one_sided", context)
    side = "a" if fault is not None and fault.get("side", "bid") == "ask" else "b"
    return {} if fault is None else {f"{side}p": 0.0, f"{side}s": 0}


def trade_row(venue: Brokerage, symbol: str, now_ns: int) -> Fields | None:
    """Return the latest trade as REST shows it; None for a third of the options, which never traded."""
    if symbol not in venue.market.bars and never_trades(symbol):
        return None
    at_ns = venue.market.last_change(symbol, now_ns)
    fields = trade_fields(venue.market, symbol, now_ns)
    return None if at_ns is None or fields is None else {"t": stamp(at_ns), **fields}


def merge_bars(bars: Iterable[Bar], start_ns: int) -> Bar | None:
    """Merge bars in time order into one, labelled `start_ns`; None without bars."""
    rows = list(bars)
    if not rows:
        return None
    high, low = max(bar.high for bar in rows), min(bar.low for bar in rows)
    volume = sum(bar.volume for bar in rows)
    return Bar(rows[0].symbol, start_ns, rows[0].open, high, low, rows[-1].close, volume)
