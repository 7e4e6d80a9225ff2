"""The real alpaca-py, unchanged, at a sub-account of the gateway: another base address and the sub-account's keys."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_stage import CALL, KEYS, OPEN_NS, Stage, stage, table
from tests.support.simulator.trade_listeners import trade_updates

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient
    from alpaca.data.requests import OptionChainRequest, StockBarsRequest, StockLatestQuoteRequest
    from alpaca.data.timeframe import TimeFrame
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, QueryOrderStatus, TimeInForce
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetCalendarRequest,
        GetOptionContractsRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        ReplaceOrderRequest,
        StopOrderRequest,
    )

pytestmark = pytest.mark.host_time


async def call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """One blocking call of the library, in a thread: models, or JSON."""
    return await asyncio.to_thread(lambda: function(*arguments, **keywords))


def client(s: Stage, name: str) -> TradingClient:
    """The library's client of a sub-account."""
    return TradingClient(KEYS[name].key, KEYS[name].secret, url_override=s.url)


def buy(quantity: float, **more: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol="SPY", qty=quantity, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, **more)


def listening(s: Stage, name: str) -> contextlib.AbstractAsyncContextManager[list[Any]]:
    """What the library's stream hears of a sub-account."""
    return trade_updates(s.server.trade_stream, s.stream_url, KEYS[name].key, KEYS[name].secret)


async def test_orders_positions_and_account_of_a_sub_account(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        one, other = client(s, "a"), client(s, "b")
        order = await call(one.submit_order, buy(4, client_order_id="mine"))
        assert (order.client_order_id, order.symbol, order.qty) == ("mine", "SPY", "4")
        await s.until(lambda: bool(s.held("a")))
        account = await call(one.get_account)
        # 20,000 less 4 shares at 500.01; what they are worth is the middle, 500.005
        assert (account.cash, account.account_number, account.multiplier) == ("17999.96", "PA3LOOPBACK1-a", "1")
        (position,) = await call(one.get_all_positions)
        assert (position.symbol, position.qty, position.avg_entry_price) == ("SPY", "4", "500.01")
        assert await call(other.get_all_positions) == []
        assert (await call(one.get_order_by_client_id, "mine")).id == order.id
        with pytest.raises(APIError) as missing:
            await call(other.get_order_by_id, order.id)
        assert missing.value.status_code == 404
        rows = await call(one.get, "/account/activities", {"activity_types": "FILL"})
        assert [(row["order_id"], row["qty"], row["price"]) for row in rows] == [(str(order.id), "4", "500.01")]
        closing = await call(one.close_position, "SPY", ClosePositionRequest(qty="1"))
        assert (closing.side, closing.qty) == (OrderSide.SELL, "1")
        await s.until(lambda: s.held("a")["SPY"] == 3)
        await s.settled()


async def test_an_order_is_changed_and_cancelled(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s:
        one = client(s, "a")
        request = LimitOrderRequest(
            symbol="SPY", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=480
        )
        first = await call(one.submit_order, request)
        second = await call(one.replace_order_by_id, first.id, ReplaceOrderRequest(qty=3, limit_price=481))
        assert (second.replaces, second.qty) == (first.id, "3")
        assert [o.id for o in await call(one.get_orders)] == [second.id]
        await call(one.cancel_order_by_id, second.id)
        await s.until(lambda: not s.books.orders[str(second.client_order_id)].open)
        closed_orders = await call(one.get_orders, GetOrdersRequest(status=QueryOrderStatus.CLOSED))
        assert {o.id for o in closed_orders} == {first.id, second.id}
        responses = await call(one.cancel_orders)
        assert responses == []


async def test_a_program_fences_its_own_sub_account(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        one = client(s, "a")
        settings = await call(one.get_account_configurations)
        for fenced in (True, False):
            settings.suspend_trade = fenced
            assert (await call(one.set_account_configurations, settings)).suspend_trade is fenced
            assert (await call(one.get_account)).trade_suspended_by_user is fenced
        settings.no_shorting = False
        with pytest.raises(APIError, match="no_shorting cannot be set for a sub-account"):
            await call(one.set_account_configurations, settings)


async def test_a_stop_rests_at_the_broker_itself(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s:
        one = client(s, "a")
        await call(one.submit_order, buy(2))
        await s.until(lambda: bool(s.held("a")))
        request = StopOrderRequest(
            symbol="SPY", qty=2, side=OrderSide.SELL, time_in_force=TimeInForce.GTC, stop_price=450
        )
        stop = await call(one.submit_order, request)
        assert s.broker.account.orders[str(stop.id)].stop_price == 450


async def test_updates_come_to_their_owner_alone_with_its_own_position(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s, listening(s, "a") as updates_of_a, listening(s, "b") as updates_of_b:
        await call(client(s, "b").submit_order, buy(5))
        await call(client(s, "a").submit_order, buy(2, client_order_id="u-1"))
        await s.until(lambda: any(update.event == "fill" for update in updates_of_a))
        assert {update.order.client_order_id for update in updates_of_a} == {"u-1"}
        (fill,) = [update for update in updates_of_a if update.event == "fill"]
        assert (fill.qty, fill.price, fill.position_qty) == (2.0, 500.01, 2.0)
        assert all(update.order.client_order_id != "u-1" for update in updates_of_b)


async def test_clock_calendar_contracts_and_market_data_are_the_brokers(tmp_path: Path) -> None:
    async with stage(tmp_path, rate=1e-6) as s:
        one = client(s, "a")
        assert (await call(one.get_clock)).is_open
        days = await call(one.get_calendar, GetCalendarRequest(start=None, end=None))
        assert [str(day.date) for day in days] == ["2025-06-02", "2025-06-03", "2025-06-04"]
        contracts = await call(one.get_option_contracts, GetOptionContractsRequest(underlying_symbols=["SPY"]))
        assert CALL in {contract.symbol for contract in contracts.option_contracts}
        keys = (KEYS["a"].key, KEYS["a"].secret)
        shares = StockHistoricalDataClient(*keys, url_override=s.url)
        quote = await call(shares.get_stock_latest_quote, StockLatestQuoteRequest(symbol_or_symbols="SPY"))
        assert (quote["SPY"].bid_price, quote["SPY"].ask_price) == (500.0, 500.01)
        since = datetime.fromtimestamp(OPEN_NS / 1e9, UTC)
        request = StockBarsRequest(symbol_or_symbols="SPY", timeframe=TimeFrame.Minute, start=since)
        bars = await call(shares.get_stock_bars, request)
        assert len(bars["SPY"]) == 9  # of ten minutes since the open the last is not there yet
        chain = await call(
            OptionHistoricalDataClient(*keys, url_override=s.url).get_option_chain,
            OptionChainRequest(underlying_symbol="SPY"),
        )
        assert CALL in chain


async def test_wrong_keys_and_the_keys_of_another_see_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a"), rate=1e-6) as s:
        for key, secret in ((KEYS["a"].key, KEYS["b"].secret), (KEYS["b"].key, KEYS["b"].secret), ("x", "y")):
            with pytest.raises(APIError) as refused:
                await call(TradingClient(key, secret, url_override=s.url).get_account)
            assert refused.value.status_code == 401
