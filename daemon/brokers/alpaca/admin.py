"""Alpaca's account outside of a desk: checks before a start, its clock, and the two requests of the panic."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import Raw, Refused
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.report import blocked, execution_of
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.api import AccountSummary, BrokerClock, BulkResult, LedgerStream, ShortSales
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS, FeedTable
from strategies.kit.units import DAY_NS

NOT_IN_PLAN = 403  # "subscription does not permit querying recent SIP data"; also of keys of another service
DONE = ("200", "204", "207")
SHORTING_CURE = (
    "set no_shorting in the account's configuration (its page at the broker, or PATCH /v2/account/configurations)"
)


class AlpacaAdmin:
    """The account's reads, prices for `--check`, and a client that can send, made on first use."""

    def __init__(
        self,
        reads: TradingReads,
        market: Callable[[], MarketData],
        orders: Callable[[], TradingOrders],
        feed: FeedTable,
    ) -> None:
        self._reads, self._market, self._orders, self._feed = reads, market, orders, feed

    async def account(self) -> AccountSummary:
        """GET /v2/account."""
        raw = await self._reads.account()
        level = str(raw.get("options_trading_level"))
        return AccountSummary(
            number=str(raw.get("account_number")),
            blocked=blocked(raw),
            cash=str(raw.get("cash")),
            equity=str(raw.get("equity")),
            options_level=int(level) if level.isascii() and level.isdecimal() else None,
        )

    async def short_sales(self) -> ShortSales:
        """GET /v2/account/configurations."""
        refused = (await self._reads.configurations()).get("no_shorting") is True
        return ShortSales(refused, "no_shorting", SHORTING_CURE)

    async def ledger_stream(self, since_ns: int, until_ns: int) -> LedgerStream:
        """Replay GET /v2beta1/events/activities, and compare each `ref_id` with the ids of the same lines in REST."""
        from daemon.brokers.alpaca.trading.activity_stream import probe

        access = self._reads.access
        answer = await probe(access, since_ns, until_ns, access.deadlines.whole_s)
        if answer.problem:
            return LedgerStream(answer.problem, 0, 0)
        executions = {execution_of(wire.text(row.get("id"))) for row in await self._reads.activities(since_ns - DAY_NS)}
        return LedgerStream("", len(answer.lines), sum(line.ref_id in executions for line in answer.lines))

    async def clock(self) -> BrokerClock:
        """GET /v2/clock."""
        return broker_clock(await self._reads.clock())

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Decimal]:
        """Return symbol -> newest bid; 0 for an unreadable one."""
        rows = await self._market().latest_quotes(tuple(symbols), self._feed.name)
        return {symbol: _bid(row) for symbol, row in rows.items()}

    async def feeds(self, symbol: str, *, options: bool) -> tuple[str, str]:
        """Read a quote, and a contract's snapshot, of the feeds by subscription; 403 means the free ones."""
        market = self._market()
        stocks = await _allowed(STOCK_FEEDS, lambda feed: market.latest_quotes((symbol,), feed))
        if not options:
            return stocks, OPTION_FEEDS[0]
        return stocks, await _allowed(OPTION_FEEDS, lambda feed: market.any_snapshot(symbol, feed))

    async def bars(self, symbol: str, start_ns: int, end_ns: int) -> int:
        """Return the feed's number of minute bars."""
        return len(await self._market().bars(symbol, start_ns, end_ns, self._feed.name))

    async def day_bars(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> Mapping[str, int]:
        """Return symbol -> the feed's number of daily bars."""
        rows = await self._market().day_bars(tuple(symbols), start_ns, end_ns, self._feed.name)
        return {symbol: len(bars) for symbol, bars in rows.items() if bars}

    async def contracts(self, symbol: str, dates: tuple[str, str], strikes: tuple[Decimal, Decimal]) -> int:
        """Return the number of contracts in the option chain."""
        return len(await self._market().option_chain(symbol, *dates, *strikes, self._feed.options))

    async def cancel_all(self) -> BulkResult:
        """DELETE /v2/orders."""
        return _asked(await self._orders().cancel_all())

    async def close_all(self) -> BulkResult:
        """DELETE /v2/positions, orders cancelled."""
        return _asked(await self._orders().close_all())

    async def left(self) -> tuple[str, ...]:
        """Return open orders, then positions."""
        open_orders = await self._reads.open_orders()
        positions = await self._reads.positions()
        return (
            *(f"order {row.get('id')} {row.get('side')} {row.get('qty')} {row.get('symbol')}" for row in open_orders),
            *(f"position {row.get('qty')} {row.get('symbol')}" for row in positions),
        )


async def _allowed(feeds: tuple[str, str], ask: Callable[[str], Awaitable[object]]) -> str:
    """The first of these feeds that the account may read. Raises RestError; Refused where it may read neither."""
    by_subscription, free = feeds
    try:
        await ask(by_subscription)
    except Refused as refused:
        if refused.status != NOT_IN_PLAN:
            raise
        await ask(free)  # keys that are refused altogether are refused here, too
        return free
    return by_subscription


def broker_clock(raw: Raw) -> BrokerClock:
    """Parse the answer of GET /v2/clock. Raises Malformed."""
    is_open, next_open_ns = raw.get("is_open"), 0
    with contextlib.suppress(wire.Malformed):
        next_open_ns = wire.time_ns(raw.get("next_open"), "next_open")
    now_ns = wire.time_ns(raw.get("timestamp"))
    return BrokerClock(now_ns, is_open if isinstance(is_open, bool) else None, next_open_ns)


def _bid(row: Raw) -> Decimal:
    try:
        return wire.decimal(row.get("bp"), "bp")
    except wire.Malformed:
        return Decimal(0)


def _asked(rows: list[Raw]) -> BulkResult:
    """Parse a row for each order or position: {symbol or id, status, body}."""
    refused = []
    for row in rows:
        if str(row.get("status")) not in DONE:
            body = row.get("body")
            message = wire.text(body.get("message")) if isinstance(body, dict) else ""
            refused.append(f"{row.get('symbol') or row.get('id')}: refused: {row.get('status')} {message}")
    return BulkResult(len(rows), tuple(refused))
