"""Market data over REST: bars, latest quotes and the option chain, page by page.

GET only by construction; the feed interprets bars and quotes.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.brokers.alpaca.rest.client import (
    READING,
    V1BETA1,
    Access,
    QueuedClient,
    Raw,
    RequestQueue,
    a_list,
    an_object,
)
from daemon.brokers.alpaca.wire import time_text

SYMBOLS_MOST = 100  # symbols in one request


class MarketData:
    """Prices over REST: GET only by construction. Every method raises RestError. Numbers are JSON's."""

    def __init__(self, access: Access, queue: RequestQueue) -> None:
        self._stocks = QueuedClient(access, queue, READING)
        self._options = QueuedClient(access, queue, READING, V1BETA1)

    async def bars(self, symbol: str, start_ns: int, end_ns: int, feed: str) -> list[Raw]:
        """Return unadjusted minute bars {t, o, h, l, c, v, n, vw} that start between the two times, oldest first."""
        return (await self.minutes((symbol,), start_ns, end_ns, feed)).get(symbol, [])

    async def minutes(self, symbols: tuple[str, ...], start_ns: int, end_ns: int, feed: str) -> dict[str, list[Raw]]:
        """Return symbol -> bars as `bars`; symbols without one are absent."""
        query = {"timeframe": "1Min", "start": time_text(start_ns), "end": time_text(end_ns), "adjustment": "raw"}
        return await self._stock_bars(symbols, query, feed)

    async def day_bars(
        self, symbols: tuple[str, ...], start_ns: int, end_ns: int, feed: str, adjustment: str = "all"
    ) -> dict[str, list[Raw]]:
        """Return symbol -> day bars {t, o, h, l, c, v, n, vw}, oldest first, adjusted as of today.

        Both times are included: `end_ns` is the last bar's midnight. Symbols without a bar are absent. `adjustment` is
        "raw", "split" or "all".
        """
        query = {"timeframe": "1Day", "start": time_text(start_ns), "end": time_text(end_ns), "adjustment": adjustment}
        return await self._stock_bars(symbols, query, feed)

    async def _stock_bars(self, symbols: tuple[str, ...], query: Raw, feed: str) -> dict[str, list[Raw]]:
        bars: dict[str, list[Raw]] = {}
        for some in _hundreds(symbols):
            parameters = {"symbols": some, **query, "feed": feed, "limit": 10_000, "sort": "asc"}
            for page in await self._stocks.pages("/stocks/bars", parameters, "bars"):
                for symbol, rows in an_object(page or {}, "bars").items():
                    bars.setdefault(symbol, []).extend(a_list(rows or [], "bars"))
        return bars

    async def snapshots(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]:
        """Return symbol -> {latestTrade, latestQuote, minuteBar, dailyBar, prevDailyBar}, without unknown symbols."""
        return await _newest(self._stocks, "/stocks/snapshots", symbols, feed, "snapshot")

    async def latest_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]:
        """Return symbol -> the newest quote {t, bp, bs, ap, as, ...} of each stock; those without one are absent."""
        return await _newest(self._stocks, "/stocks/quotes/latest", symbols, feed, "quote", "quotes")

    async def latest_option_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]:
        """Return symbol -> the newest quote of each contract; those without one are absent."""
        return await _newest(self._options, "/options/quotes/latest", symbols, feed, "quote", "quotes")

    async def any_snapshot(self, underlying: str, feed: str) -> bool:
        """Return whether the chain has a contract, from a single row."""
        answer = await self._options.get(f"/options/snapshots/{underlying}", {"feed": feed, "limit": 1})
        return bool(an_object(answer, "snapshots").get("snapshots"))

    async def option_chain(
        self, underlying: str, expiry_from: str, expiry_to: str, strike_from: object, strike_to: object, feed: str
    ) -> dict[str, Raw]:
        """Return symbol -> snapshot of contracts between two New York dates and two strikes in USD, inclusive."""
        query = {
            "feed": feed,
            "limit": 1000,
            "expiration_date_gte": expiry_from,
            "expiration_date_lte": expiry_to,
            "strike_price_gte": str(strike_from),
            "strike_price_lte": str(strike_to),
        }
        pages = await self._options.pages(f"/options/snapshots/{underlying}", query, "snapshots")
        return {symbol: row for page in pages for symbol, row in an_object(page or {}, "snapshots").items()}


async def _newest(
    client: QueuedClient, path: str, symbols: tuple[str, ...], feed: str, subject: str, key: str = ""
) -> dict[str, Raw]:
    """Return symbol -> row in the answers, or below their `key`; symbols without one are absent."""
    by_symbol: dict[str, Raw] = {}
    for some in _hundreds(symbols):
        answer = an_object(await client.get(path, {"symbols": some, "feed": feed}), f"{subject}s")
        rows = an_object(answer.get(key) or {}, f"{subject}s") if key else answer
        by_symbol |= {symbol: an_object(row, subject) for symbol, row in rows.items() if row}
    return by_symbol


def _hundreds(symbols: tuple[str, ...]) -> Iterator[str]:
    """Yield the symbols as lists with commas, as many as one request may name."""
    for first in range(0, len(symbols), SYMBOLS_MOST):
        yield ",".join(symbols[first : first + SYMBOLS_MOST])
