"""Accounts, fills and books of the loopback Alpaca, driven by the unchanged alpaca-py `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import contextlib
import warnings
from decimal import Decimal

import pytest

from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trading_tape import (
    CALL,
    MINUTE_NS,
    OPEN_NS,
    PENDING,
    activities,
    broker,
    buy,
    buy_limit,
    cash,
    found,
    held,
    quoted,
    refused,
    sell,
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading import models
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, OrderStatus, PositionIntent, TimeInForce
    from alpaca.trading.requests import MarketOrderRequest, StopOrderRequest, TrailingStopOrderRequest


def test_a_new_account_has_ten_thousand_dollars_and_option_level_three() -> None:
    with broker() as (_, client):
        account = client.get_account()
        assert isinstance(account, models.TradeAccount)
        assert (account.cash, account.equity, account.options_buying_power) == ("10000.00", "10000.00", "10000.00")
        assert (account.options_approved_level, account.options_trading_level) == (3, 3)
        assert account.pattern_day_trader is None  # gone from responses since 2026-07-06
        assert account.daytrade_count is None


def test_a_lower_option_level_in_the_configuration_refuses_long_options() -> None:
    with broker() as (_, client):
        configuration = client.get_account_configurations()
        assert isinstance(configuration, models.AccountConfiguration)
        assert configuration.max_options_trading_level is None
        configuration.max_options_trading_level = 1
        client.set_account_configurations(configuration)
        with refused(403, 40310000, "account not eligible for level2 options trading"):
            client.submit_order(buy(CALL, 1))


def test_each_pair_of_keys_is_an_account_of_its_own() -> None:
    accounts = [Account(DEFAULT_KEY, DEFAULT_SECRET), Account("PKTWO", "two", cash=Decimal(500), account_number="PA2")]
    with broker(accounts=accounts) as (server, client):
        submitted(client, buy("SPY", 1))
        other = TradingClient("PKTWO", "two", url_override=server.trading_url)
        with contextlib.closing(other._session):
            assert cash(client) == Decimal("9499.99")
            assert cash(other) == Decimal(500)
            assert other.get_all_positions() == []


def test_wrong_credentials_are_unauthorized_and_no_secret_is_in_the_log() -> None:
    with broker() as (server, _):
        wrong = TradingClient(DEFAULT_KEY, "wrong-secret", url_override=server.trading_url)
        with contextlib.closing(wrong._session), pytest.raises(APIError) as raised:
            wrong.get_account()
        assert raised.value.status_code == 401
        assert raised.value.message == "unauthorized."
        assert "secret" not in repr(server.server.requests)
        assert DEFAULT_SECRET not in repr(server.server.accounts)


# --- fills and books --------------------------------------------------------------------------------------------------


def test_a_market_order_fills_at_the_ask_and_cash_and_position_follow() -> None:
    with broker() as (_, client):
        order = submitted(client, buy("SPY", 2))
        assert order.status in PENDING
        after = found(client, order)
        assert (after.status, after.filled_qty, after.filled_avg_price) == (OrderStatus.FILLED, "2", "500.01")
        assert cash(client) == Decimal("8999.98")  # 10000 - 2 x 500.01
        position = held(client, "SPY")
        assert (position.qty, position.avg_entry_price, position.cost_basis) == ("2", "500.01", "1000.02")
        assert position.current_price == "500.005"
        assert position.unrealized_pl == "-0.01"


def test_two_buys_and_a_part_sold_keep_the_average_entry_price() -> None:
    with broker() as (server, client):
        submitted(client, buy("SPY", 1))  # at 500.01
        server.jump_to(OPEN_NS + 70 * MINUTE_NS)
        submitted(client, buy("SPY", 3))  # at 498.01
        assert held(client, "SPY").avg_entry_price == "498.51"  # (500.01 + 3 x 498.01) / 4
        server.jump_to(OPEN_NS + 130 * MINUTE_NS)
        submitted(client, sell("SPY", 2))  # at 503.00
        position = held(client, "SPY")
        assert (position.qty, position.avg_entry_price) == ("2", "498.51")
        assert cash(client) == Decimal("9011.96")  # 10000 - 500.01 - 1494.03 + 1006.00


def test_an_option_costs_a_hundred_times_its_price_and_gives_it_back_when_sold() -> None:
    with broker() as (server, client):
        bid, ask = quoted(CALL, server)
        submitted(client, buy(CALL, 3, position_intent=PositionIntent.BUY_TO_OPEN))
        assert cash(client) == 10000 - 300 * ask
        position = held(client, CALL)
        assert (position.qty, position.qty_available, position.exchange.value) == ("3", "3", "")
        assert position.cost_basis == f"{300 * ask:f}".rstrip("0").rstrip(".")
        submitted(client, sell(CALL, 3, position_intent=PositionIntent.SELL_TO_CLOSE))
        assert client.get_all_positions() == []
        assert cash(client) == 10000 - 300 * (ask - bid)


def test_an_order_of_ten_fills_in_three_parts_of_at_most_four_a_path_point() -> None:
    with broker(rules=Rules(fill_sizes=(4, 4))) as (server, client):
        order = submitted(client, buy(CALL, 10))
        fills = [found(client, order).filled_qty]
        for point in (1, 2, 3):
            server.jump_to(OPEN_NS + 10 * MINUTE_NS + point * 15 * SECOND_NS)
            fills.append(found(client, order).filled_qty)
        assert fills == ["4", "8", "10", "10"]
        rows = activities(client, activity_types="FILL", direction="asc", order_id=str(order.id))
        rows.sort(key=lambda row: int(row["cum_qty"]))
        assert [(row["type"], row["qty"], row["cum_qty"], row["leaves_qty"]) for row in rows] == [
            ("partial_fill", "4", "4", "6"),
            ("partial_fill", "4", "8", "2"),
            ("fill", "2", "10", "0"),
        ]
        cost = sum((Decimal(row["price"]) * Decimal(row["qty"]) * 100 for row in rows), Decimal(0))
        assert cash(client) == 10000 - cost
        assert abs(Decimal(str(found(client, order).filled_avg_price)) - cost / 1000) < Decimal("0.000001")


def test_a_limit_order_waits_until_the_price_comes_to_it() -> None:
    with broker() as (server, client):
        order = submitted(client, buy_limit("SPY", 1, 498.50))
        server.jump_to(OPEN_NS + 59 * MINUTE_NS)
        assert found(client, order).status == OrderStatus.NEW
        server.jump_to(OPEN_NS + 61 * MINUTE_NS)
        after = found(client, order)
        assert (after.status, after.filled_avg_price) == (OrderStatus.FILLED, "498.01")  # better than its limit


def test_a_stop_sells_once_the_price_fell_to_it_and_a_trailing_stop_follows_the_top() -> None:
    with broker() as (server, client):
        submitted(client, buy("SPY", 2))
        stop = StopOrderRequest(symbol="SPY", qty=1, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, stop_price=499)
        trailing = TrailingStopOrderRequest(
            symbol="SPY", qty=1, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, trail_price=10.0
        )
        stop_id, trailed = submitted(client, stop), submitted(client, trailing)
        server.jump_to(OPEN_NS + 130 * MINUTE_NS)
        assert found(client, stop_id).filled_avg_price == "498"
        after = found(client, trailed)
        assert after.status == OrderStatus.NEW
        assert (after.hwm, after.stop_price) == ("503.005", "493.005")  # the top of the middle, 10.00 below


def test_a_notional_order_buys_the_fraction_that_its_dollars_pay() -> None:
    with broker() as (_, client):
        request = MarketOrderRequest(symbol="SPY", notional=1000.02, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
        order = found(client, submitted(client, request))
        assert (order.status, order.qty, order.filled_qty) == (OrderStatus.FILLED, None, "2")
        assert cash(client) == Decimal("8999.98")


def test_immediate_orders_are_cancelled_with_what_they_could_not_fill() -> None:
    with broker(rules=Rules(fill_sizes=(2, 2))) as (_, client):
        partly = submitted(client, buy_limit("SPY", 300, 20.0, time_in_force=TimeInForce.FOK))
        assert found(client, partly).status == OrderStatus.CANCELED
        at_once = submitted(client, buy_limit("SPY", 10, 501.0, time_in_force=TimeInForce.FOK))
        assert found(client, at_once).status == OrderStatus.FILLED
