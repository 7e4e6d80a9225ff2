"""The trading REST of the loopback Alpaca, driven by the unchanged alpaca-py `TradingClient`.

Expected values are worked out by hand from the tape below: one share costs 500.01 to buy and brings 500.00.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests

from strategies.contract import Bar, Session
from tests.alpaca_server.account import Account
from tests.alpaca_server.clock import SECOND_NS, SimClock
from tests.alpaca_server.faults import KINDS, Faults
from tests.alpaca_server.market import Market, asset_id
from tests.alpaca_server.server import DEFAULT_KEY, DEFAULT_SECRET, Rules
from tests.alpaca_server.serving import Serving, serving

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading import models
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, OrderStatus, PositionIntent, QueryOrderStatus, TimeInForce
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        ReplaceOrderRequest,
        StopOrderRequest,
        TrailingStopOrderRequest,
    )

MINUTE_NS = 60 * SECOND_NS
OPEN_NS = 1_748_871_000 * SECOND_NS  # 2025-06-02 13:30 UTC, 09:30 in New York
CLOSE_NS = OPEN_NS + 390 * MINUTE_NS
DAY_NS = 1440 * MINUTE_NS
SESSIONS = [
    Session("2025-06-02", OPEN_NS, CLOSE_NS),
    Session("2025-06-03", OPEN_NS + DAY_NS, OPEN_NS + DAY_NS + 210 * MINUTE_NS),  # a half day
]
FROZEN = 1e-6  # simulated seconds a second: time stands still until the test moves it
CALL, PUT = "SPY250602C00500000", "SPY250602P00500000"
WHOLE = Rules(fill_sizes=(1000, 1000))
PENDING = {OrderStatus.PENDING_NEW, OrderStatus.ACCEPTED}


class Impatient(requests.adapters.HTTPAdapter):
    """Waits a fifth of a second for a reply; alpaca-py by itself waits for ever."""

    def send(self, *given: Any, **named: Any) -> requests.Response:
        return super().send(*given, **{**named, "timeout": 0.2})


def tape() -> list[Bar]:
    """500.00 for an hour, 498.00 for an hour, then 503.00; the next session stands at 503.00."""
    prices = [500.0] * 60 + [498.0] * 60 + [503.0] * 270
    first = [(OPEN_NS + minute * MINUTE_NS, price) for minute, price in enumerate(prices)]
    second = [(OPEN_NS + DAY_NS + minute * MINUTE_NS, 503.0) for minute in range(210)]
    return [Bar("SPY", start_ns, p, p, p, p, 1000.0) for start_ns, p in first + second]


MARKET = Market.from_bars(tape(), sessions=SESSIONS)


@contextlib.contextmanager
def broker(
    *, at_ns: int = OPEN_NS + 10 * MINUTE_NS, rules: Rules = WHOLE, **settings: Any
) -> Iterator[tuple[Serving, TradingClient]]:
    """A server whose time stands still at `at_ns`, ten minutes after the open, and the real client."""
    with serving(MARKET, SimClock.starting_now(at_ns, FROZEN), rules=rules, **settings) as server:
        client = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url)
        with contextlib.closing(client._session):
            yield server, client


def buy(symbol: str, quantity: float, **fields: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, **fields)


def sell(symbol: str, quantity: float, **fields: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, **fields)


def buy_limit(symbol: str, quantity: float, price: float, **fields: Any) -> LimitOrderRequest:
    side, day = OrderSide.BUY, TimeInForce.DAY
    return LimitOrderRequest(
        symbol=symbol, qty=quantity, side=side, **{"time_in_force": day, "limit_price": price, **fields}
    )


def sell_limit(symbol: str, quantity: float, price: float) -> LimitOrderRequest:
    day = TimeInForce.DAY
    return LimitOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.SELL, time_in_force=day, limit_price=price)


def submitted(client: TradingClient, request: Any) -> models.Order:
    order = client.submit_order(request)
    assert isinstance(order, models.Order)
    return order


def found(client: TradingClient, order: models.Order) -> models.Order:
    again = client.get_order_by_id(order.id)
    assert isinstance(again, models.Order)
    return again


def held(client: TradingClient, symbol: str) -> models.Position:
    position = client.get_open_position(symbol)
    assert isinstance(position, models.Position)
    return position


def quoted(symbol: str, server: Serving) -> tuple[Decimal, Decimal]:
    quote = MARKET.quote(symbol, server.server.clock.now_ns())
    assert quote is not None
    return quote


def cash(client: TradingClient) -> Decimal:
    account = client.get_account()
    assert isinstance(account, models.TradeAccount)
    assert account.cash is not None
    return Decimal(account.cash)


def activities(client: TradingClient, **query: Any) -> list[dict[str, Any]]:
    rows = client.get("/account/activities", query)
    assert isinstance(rows, list)
    return rows


@contextlib.contextmanager
def refused(status: int, code: int, words: str) -> Iterator[None]:
    with pytest.raises(APIError) as raised:
        yield
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert words in raised.value.message


# --- account ----------------------------------------------------------------------------------------------------------


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
        seen = [found(client, order).filled_qty]
        for point in (1, 2, 3):
            server.jump_to(OPEN_NS + 10 * MINUTE_NS + point * 15 * SECOND_NS)
            seen.append(found(client, order).filled_qty)
        assert seen == ["4", "8", "10", "10"]
        rows = activities(client, activity_types="FILL", direction="asc", order_id=str(order.id))
        rows.sort(key=lambda row: int(row["cum_qty"]))
        assert [(row["type"], row["qty"], row["cum_qty"], row["leaves_qty"]) for row in rows] == [
            ("partial_fill", "4", "4", "6"),
            ("partial_fill", "4", "8", "2"),
            ("fill", "2", "10", "0"),
        ]
        paid = sum((Decimal(row["price"]) * Decimal(row["qty"]) * 100 for row in rows), Decimal(0))
        assert cash(client) == 10000 - paid
        assert abs(Decimal(str(found(client, order).filled_avg_price)) - paid / 1000) < Decimal("0.000001")


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
        stopped, trailed = submitted(client, stop), submitted(client, trailing)
        server.jump_to(OPEN_NS + 130 * MINUTE_NS)
        assert found(client, stopped).filled_avg_price == "498"
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


# --- the rules --------------------------------------------------------------------------------------------------------


def test_an_order_that_costs_more_than_the_account_has_is_refused_with_both_figures() -> None:
    with broker() as (_, client):
        with refused(403, 40310000, "insufficient options buying power (required: 20000, available: 10000)"):
            client.submit_order(buy_limit(CALL, 20, 10.0))
        with pytest.raises(APIError) as raised:
            client.submit_order(buy("SPY", 50))
        assert '"cost_basis": "25000.5"' in str(raised.value)
        assert '"buying_power": "20000.00"' in str(raised.value)


def test_working_orders_keep_their_cost_from_the_buying_power() -> None:
    with broker() as (_, client):
        submitted(client, buy_limit(CALL, 60, 1.0))
        with refused(403, 40310000, "(required: 5000, available: 4000)"):
            client.submit_order(buy_limit(PUT, 50, 1.0))


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"time_in_force": "gtc"}, 42210000, "order_time_in_force provided not supported for options trading"),
        ({"qty": 1.5}, 42210000, "qty must be integer for options trading"),
        ({"qty": None, "notional": 100}, 42210000, "notional orders are not supported for options trading"),
        ({"extended_hours": True}, 42210000, "extended hours is not supported for options trading"),
        ({"limit_price": 1.005}, 42210000, "sub-penny increment"),
        ({"symbol": "SPY250602C00900000"}, 42210000, 'asset "SPY250602C00900000" not found'),
        ({"symbol": "SPY250530C00500000"}, 42210000, 'contract "SPY250530C00500000" is expired'),
        ({"position_intent": "buy_to_close"}, 42210000, "inferred: buy_to_open, specified: buy_to_close"),
        ({"client_order_id": "x" * 129}, 40010001, "client_order_id must be no more than 128 characters"),
        ({"qty": None}, 40010001, "qty or notional is required"),
        ({"notional": 5}, 40010001, "only one of qty or notional is accepted"),
        ({"qty": 0}, 40010001, "qty must be > 0"),
        ({"limit_price": None}, 40010001, "limit orders require a limit price"),
        ({"side": "hold"}, 40010001, "invalid side"),
    ],
)
def test_an_option_order_against_a_rule_is_refused_with_422(fields: dict[str, Any], code: int, words: str) -> None:
    order = {"symbol": CALL, "qty": 1, "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": 1.0}
    with broker() as (_, client), refused(422, code, words):
        client.post("/orders", {name: value for name, value in {**order, **fields}.items() if value is not None})


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"qty": 0.5, "time_in_force": "gtc"}, 42210000, "fractional orders must be DAY orders"),
        ({"qty": "0.1234567891"}, 42210000, "qty must be limited to 9 decimal places"),
        ({"qty": 0.5, "type": "trailing_stop", "limit_price": None, "trail_price": 1}, 42210000, "fractional orders"),
        ({"extended_hours": True, "type": "market", "limit_price": None}, 42210000, "must be DAY or GTC limit orders"),
        ({"symbol": "NOSUCH"}, 42210000, 'asset "NOSUCH" not found'),
        ({"symbol": ""}, 40010001, "symbol is required"),
        ({"limit_price": "cheap"}, 40010001, "invalid limit_price"),
        ({"limit_price": -1}, 40010001, "limit price must be > 0"),
        ({"type": "stop"}, 40010001, "stop orders require a stop price"),
        ({"type": "market"}, 40010001, "market orders must not have a limit price"),
        ({"type": "trailing_stop", "limit_price": None}, 40010001, "require one of trail_price or trail_percent"),
        ({"order_class": "bracket"}, 42210000, "bracket orders are not supported by this server"),
    ],
)
def test_a_stock_order_against_a_rule_is_refused_with_422(fields: dict[str, Any], code: int, words: str) -> None:
    order = {"symbol": "SPY", "qty": 1, "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": 400}
    with broker() as (_, client), refused(422, code, words):
        client.post("/orders", {name: value for name, value in {**order, **fields}.items() if value is not None})


@pytest.mark.parametrize("force", [TimeInForce.OPG, TimeInForce.CLS])
def test_an_order_for_an_auction_is_taken_before_its_window_ends_and_trades_there(force: TimeInForce) -> None:
    with broker(at_ns=OPEN_NS - 60 * MINUTE_NS) as (server, client):
        order = submitted(client, buy_limit("SPY", 1, 510.0, time_in_force=force))
        at_ns, price = (OPEN_NS, "500.01") if force is TimeInForce.OPG else (CLOSE_NS, "503.01")
        server.jump_to(at_ns - SECOND_NS)
        assert found(client, order).filled_qty == "0"
        with refused(403, 40310000, f"{force.value} orders are not accepted at this time"):
            client.submit_order(buy_limit("SPY", 1, 510.0, time_in_force=force))
        server.jump_to(at_ns + SECOND_NS)
        assert (found(client, order).status, found(client, order).filled_avg_price) == (OrderStatus.FILLED, price)


def test_shares_are_sold_short_whole_or_not_at_all() -> None:
    with broker() as (server, client):
        with refused(403, 40310000, "account is not allowed to short"):
            client.submit_order(sell("SPY", 0.5))
        submitted(client, sell("SPY", 2))
        assert (held(client, "SPY").qty, held(client, "SPY").side.value) == ("-2", "short")
        assert cash(client) == 11_000
        assert activities(client)[0]["side"] == "sell_short"
        server.by_hand("close", symbol="SPY")
        assert cash(client) == Decimal("9999.98")
        waiting = submitted(client, buy_limit("SPY", 1, 400.0))
        with refused(403, 40310000, "cannot open a short sell while a long buy order is open"):
            client.submit_order(sell("SPY", 1))
        assert found(client, waiting).status == OrderStatus.NEW


def test_a_second_order_with_the_same_client_order_id_is_refused_and_the_first_one_is_found_by_it() -> None:
    with broker() as (_, client):
        first = submitted(client, buy(CALL, 1, client_order_id="desk-1"))
        with refused(422, 42210000, "client_order_id must be unique"):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        again = client.get_order_by_client_id("desk-1")
        assert isinstance(again, models.Order)
        assert again.id == first.id
        with refused(404, 40410000, "order not found for desk-2"):
            client.get_order_by_client_id("desk-2")


def test_no_more_is_sold_than_the_position_has_and_the_refusal_names_the_order_that_holds_it() -> None:
    with broker() as (_, client):
        submitted(client, buy(CALL, 5))
        working = submitted(client, sell_limit(CALL, 4, 90.0))
        assert held(client, CALL).qty_available == "1"
        with pytest.raises(APIError) as raised:
            client.submit_order(sell(CALL, 2))
        assert raised.value.code == 40310000
        assert raised.value.message == "insufficient qty available for order (requested: 2, available: 1)"
        assert str(working.id) in str(raised.value)


def test_an_uncovered_call_is_refused_and_a_covered_one_is_not() -> None:
    with broker(accounts=[Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(60_000))]) as (_, client):
        with refused(403, 40310000, "account not eligible to trade uncovered option contracts"):
            client.submit_order(sell(CALL, 1))
        submitted(client, buy("SPY", 100))
        submitted(client, sell(CALL, 1))
        assert held(client, CALL).qty == "-1"  # a short position is negative


@pytest.mark.parametrize(
    ("resting", "coming", "blocked"),
    [
        (sell_limit(CALL, 1, 9.0), buy(CALL, 1), "opposite side limit order exists"),
        (sell_limit(CALL, 1, 9.0), buy_limit(CALL, 1, 9.0), "opposite side limit order exists"),
        (sell_limit(CALL, 1, 9.0), buy_limit(CALL, 1, 8.99), ""),
    ],
)
def test_the_wash_trade_matrix_blocks_what_could_meet(resting: Any, coming: Any, blocked: str) -> None:
    with broker() as (_, client):
        submitted(client, buy(CALL, 2))
        submitted(client, resting)
        if not blocked:
            submitted(client, coming)
            return
        with refused(403, 40310000, "potential wash trade detected. use complex orders"):
            client.submit_order(coming)


def test_a_market_order_of_an_option_is_refused_before_the_open_and_a_limit_order_waits_for_it() -> None:
    with broker(at_ns=OPEN_NS - 30 * MINUTE_NS) as (server, client):
        with refused(422, 42210000, "options market orders are only allowed during market hours"):
            client.submit_order(buy(CALL, 1))
        order = submitted(client, buy_limit(CALL, 1, 9.0))
        assert order.status == OrderStatus.ACCEPTED
        server.jump_to(OPEN_NS - MINUTE_NS)
        assert found(client, order).status == OrderStatus.ACCEPTED
        server.jump_to(OPEN_NS + SECOND_NS)
        assert found(client, order).status == OrderStatus.FILLED


def test_the_last_half_hour_of_a_contract_opens_nothing_and_still_closes() -> None:
    with broker() as (server, client):
        submitted(client, buy(PUT, 1))
        server.jump_to(CLOSE_NS - 29 * MINUTE_NS)
        with refused(422, 42210000, "expires soon, unable to open new positions"):
            client.submit_order(buy(CALL, 1))
        submitted(client, sell(PUT, 1))


# --- listing, cancelling, replacing -----------------------------------------------------------------------------------


def test_orders_are_listed_by_state_side_symbol_time_and_direction() -> None:
    with broker() as (server, client):
        done = submitted(client, buy(CALL, 1))
        server.jump_to(OPEN_NS + 15 * MINUTE_NS)
        first = submitted(client, buy_limit("SPY", 1, 400.0))
        server.jump_to(OPEN_NS + 20 * MINUTE_NS)
        second = submitted(client, buy_limit(PUT, 1, 0.01))

        def listed(**query: Any) -> list[UUID]:
            orders = client.get_orders(GetOrdersRequest(**query))
            assert isinstance(orders, list)
            return [order.id for order in orders]

        assert listed() == [second.id, first.id]  # open ones, the newest first
        assert listed(status=QueryOrderStatus.CLOSED) == [done.id]
        assert listed(status=QueryOrderStatus.ALL, direction="asc") == [done.id, first.id, second.id]
        assert listed(status=QueryOrderStatus.ALL, symbols=["SPY", CALL], nested=True) == [first.id, done.id]
        assert listed(status=QueryOrderStatus.ALL, limit=1) == [second.id]
        assert listed(
            status=QueryOrderStatus.ALL, after=first.submitted_at + timedelta(seconds=1), side=OrderSide.BUY
        ) == [second.id]
        assert listed(status=QueryOrderStatus.ALL, until=second.submitted_at, direction="asc") == [done.id, first.id]


def test_a_cancelled_order_is_cancelled_once_and_an_unknown_one_not_at_all() -> None:
    with broker() as (_, client):
        order = submitted(client, buy_limit("SPY", 1, 400.0))
        client.cancel_order_by_id(order.id)
        after = found(client, order)
        assert after.status == OrderStatus.CANCELED
        assert after.canceled_at is not None
        with refused(422, 42210000, "order is not cancelable"):
            client.cancel_order_by_id(order.id)
        unknown = uuid4()
        with refused(404, 40410000, f"order not found for {unknown}"):
            client.cancel_order_by_id(unknown)


def test_cancelling_all_orders_answers_for_each() -> None:
    with broker() as (_, client):
        orders = [submitted(client, buy_limit("SPY", 1, 400.0 + number)) for number in range(3)]
        answers = client.cancel_orders()
        assert isinstance(answers, list)
        assert {(answer.id, answer.status) for answer in answers} == {(order.id, 200) for order in orders}
        assert client.get_orders() == []


def test_a_replacement_is_a_new_order_for_what_the_old_one_left() -> None:
    with broker(rules=Rules(fill_sizes=(2, 2))) as (_, client):
        old = submitted(client, buy_limit(CALL, 5, 9.0))  # two of five fill at once
        new = client.replace_order_by_id(old.id, ReplaceOrderRequest(qty=7, limit_price=0.01, client_order_id="new-1"))
        assert isinstance(new, models.Order)
        assert new.id != old.id
        assert (new.qty, new.limit_price, new.client_order_id) == ("5", "0.01", "new-1")  # 7 wanted, 2 are filled
        before = found(client, old)
        assert (before.status, before.replaced_by, new.replaces) == (OrderStatus.REPLACED, new.id, old.id)
        with refused(422, 42210000, "order parameters are not changed"):
            client.replace_order_by_id(new.id, ReplaceOrderRequest(limit_price=0.01))
        with refused(422, 42210000, "cannot replace order in replaced status"):
            client.replace_order_by_id(old.id, ReplaceOrderRequest(limit_price=0.02))


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_position_is_found_by_symbol_and_by_asset_id_and_closed_in_parts() -> None:
    with broker() as (_, client):
        submitted(client, buy(CALL, 4))
        assert held(client, asset_id(CALL)).symbol == CALL
        client.close_position(CALL, ClosePositionRequest(qty="1"))
        assert held(client, CALL).qty == "3"
        client.close_position(CALL, ClosePositionRequest(percentage="67"))  # 2.01 contracts are 2
        assert held(client, CALL).qty == "1"
        client.close_position(CALL)
        with refused(404, 40410000, "position does not exist"):
            client.get_open_position(CALL)


def test_closing_all_positions_cancels_first_and_answers_for_each() -> None:
    with broker() as (_, client):
        submitted(client, buy(CALL, 2))
        submitted(client, buy("SPY", 1))
        working = submitted(client, sell_limit(CALL, 2, 90.0))
        answers = client.close_all_positions(cancel_orders=True)
        assert isinstance(answers, list)
        assert [answer.status for answer in answers] == [200, 200]
        assert found(client, working).status == OrderStatus.CANCELED
        assert client.get_all_positions() == []


def test_exercising_a_call_in_the_money_brings_the_shares_for_the_strike() -> None:
    with broker(accounts=[Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(60_000))]) as (server, client):
        _, ask = quoted(CALL, server)
        submitted(client, buy(CALL, 1))
        with refused(422, 42210000, "out of the money"):
            client.exercise_options_position(CALL)
        server.jump_to(OPEN_NS + 130 * MINUTE_NS)  # 503.00
        client.exercise_options_position(CALL)
        assert held(client, "SPY").qty == "100"
        assert held(client, "SPY").avg_entry_price == "500"
        assert cash(client) == 60_000 - 100 * ask - 50_000


# --- the end of the day -----------------------------------------------------------------------------------------------


def test_at_the_close_day_orders_expire_and_worthless_contracts_vanish() -> None:
    with broker() as (server, client):
        submitted(client, buy(PUT, 2))
        working = submitted(client, buy_limit("SPY", 1, 400.0))
        kept = submitted(client, buy_limit("SPY", 1, 401.0, time_in_force=TimeInForce.GTC))
        before = cash(client)
        server.jump_to(CLOSE_NS + SECOND_NS)
        assert found(client, working).status == OrderStatus.EXPIRED
        assert found(client, kept).status == OrderStatus.NEW
        assert client.get_all_positions() == []  # the put is out of the money at 503.00
        assert cash(client) == before
        (row,) = activities(client, activity_types="OPEXP")
        assert (row["symbol"], row["qty"], row["net_amount"], row["date"]) == (PUT, "-2", "0", "2025-06-02")


def test_a_day_order_of_a_half_day_expires_at_one_and_one_of_the_evening_belongs_to_the_next_session() -> None:
    with broker(at_ns=CLOSE_NS + 60 * MINUTE_NS) as (server, client):
        order = submitted(client, buy_limit("SPY", 1, 400.0))
        assert order.status == OrderStatus.ACCEPTED
        assert order.expires_at == datetime(2025, 6, 3, 17, tzinfo=UTC)
        server.jump_to(OPEN_NS + DAY_NS + 209 * MINUTE_NS)
        assert found(client, order).status == OrderStatus.NEW
        server.jump_to(OPEN_NS + DAY_NS + 210 * MINUTE_NS)
        assert found(client, order).status == OrderStatus.EXPIRED


def test_a_call_in_the_money_that_the_account_cannot_exercise_is_sold_in_the_last_hour() -> None:
    with broker() as (server, client):
        mine = submitted(client, buy(CALL, 1))
        server.jump_to(CLOSE_NS - 59 * MINUTE_NS)
        assert client.get_all_positions() == []
        orders = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.CLOSED))
        assert isinstance(orders, list)
        foreign = [order for order in orders if order.id != mine.id]
        assert [(order.symbol, order.side, order.filled_qty) for order in foreign] == [(CALL, OrderSide.SELL, "1")]


def test_a_call_in_the_money_is_exercised_at_expiry_and_paper_tells_it_the_next_day() -> None:
    accounts = [Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(60_000))]
    rules = Rules(fill_sizes=(1000, 1000), late_activities=True)
    with broker(accounts=accounts, rules=rules) as (server, client):
        submitted(client, buy(CALL, 1))
        before = cash(client)
        server.jump_to(CLOSE_NS + SECOND_NS)
        assert cash(client) == before - 50_000  # 100 shares at the strike
        assert held(client, "SPY").qty == "100"
        assert activities(client, category="non_trade_activity") == []
        server.jump_to(OPEN_NS + DAY_NS)
        rows = activities(client, category="non_trade_activity")
        assert {(row["activity_type"], row["symbol"], row["qty"], row["net_amount"]) for row in rows} == {
            ("OPEXC", CALL, "-1", "0"),
            ("OPTRD", "SPY", "100", "-50000"),
        }


def test_a_contract_marked_do_not_exercise_lapses_in_the_money() -> None:
    with broker(accounts=[Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(60_000))]) as (server, client):
        submitted(client, buy(CALL, 1))
        before = cash(client)
        client.post(f"/positions/{CALL}/do-not-exercise")
        server.jump_to(CLOSE_NS + SECOND_NS)
        assert cash(client) == before
        assert [row["activity_type"] for row in activities(client, category="non_trade_activity")] == ["OPEXP"]


def test_a_written_put_is_secured_by_cash_and_its_assignment_brings_the_shares() -> None:
    faults = Faults()
    with broker(accounts=[Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(60_000))], faults=faults) as (
        server,
        client,
    ):
        with refused(403, 40310000, "insufficient options buying power (required: 100000, available: 60000)"):
            client.submit_order(sell(PUT, 2))
        submitted(client, sell(PUT, 1))
        before = cash(client)
        faults.add("assignment")
        server.jump_to(OPEN_NS + 11 * MINUTE_NS)
        assert cash(client) == before - 50_000
        assert held(client, "SPY").qty == "100"
        kinds = {row["activity_type"]: row["qty"] for row in activities(client, category="non_trade_activity")}
        assert kinds == {"OPASN": "1", "OPTRD": "100"}  # one short contract less, a hundred shares more


def test_fees_are_booked_for_each_contract_at_the_close() -> None:
    rules = Rules(fill_sizes=(1000, 1000), fee_per_contract=Decimal("0.05"))
    with broker(rules=rules) as (server, client):
        submitted(client, buy(CALL, 3))
        submitted(client, sell(CALL, 3))
        before = cash(client)
        server.jump_to(CLOSE_NS + SECOND_NS)
        assert cash(client) == before - Decimal("0.30")  # six contracts
        assert [row["net_amount"] for row in activities(client, activity_types="FEE")] == ["-0.3"]


def test_activities_are_paged_in_both_directions_by_the_last_id() -> None:
    with broker() as (server, client):
        for minute in range(5):
            server.jump_to(OPEN_NS + (10 + minute) * MINUTE_NS)
            submitted(client, buy("SPY", 1))
        whole = activities(client, direction="asc")
        assert len(whole) == 5
        pages, token = [], ""
        while page := activities(client, direction="asc", page_size=2, **({"page_token": token} if token else {})):
            pages.append(len(page))
            token = page[-1]["id"]
        assert pages == [2, 2, 1]
        assert [row["id"] for row in activities(client)] == [row["id"] for row in reversed(whole)]
        assert activities(client, page_token=whole[1]["id"]) == [whole[0]]
        assert whole[0]["id"].startswith("20250602094")  # New York time
        assert len(activities(client, after=whole[2]["transaction_time"])) == 2
        assert len(activities(client, date="2025-06-02")) == 5


# --- faults -----------------------------------------------------------------------------------------------------------


def test_the_rate_limit_is_two_hundred_a_simulated_minute_and_every_reply_tells_it() -> None:
    with broker() as (server, _):
        keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
        with requests.Session() as session:
            replies = [session.get(server.trading_url + "/v2/clock", headers=keys, timeout=5) for _ in range(201)]
            assert [reply.status_code for reply in replies] == [200] * 200 + [429]
            assert [replies[index].headers["X-Ratelimit-Remaining"] for index in (0, 199, 200)] == ["199", "0", "0"]
            assert replies[0].headers["X-Ratelimit-Limit"] == "200"
            assert int(replies[0].headers["X-Ratelimit-Reset"]) == (OPEN_NS + 11 * MINUTE_NS) // SECOND_NS
            server.jump_to(OPEN_NS + 11 * MINUTE_NS)
            assert session.get(server.trading_url + "/v2/clock", headers=keys, timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("kind", "parameters", "raised"),
    [
        ("http_error", {"status": 500, "moment": "after"}, APIError),
        ("http_error", {"status": 503, "moment": "after", "body": "empty"}, APIError),
        ("http_html", {"moment": "after"}, APIError),
        ("http_reset", {}, requests.ConnectionError),
        ("http_empty_body", {}, TypeError),  # alpaca-py has no answer to an empty one
        ("malformed_json", {}, requests.JSONDecodeError),
    ],
)
def test_a_reply_that_fails_after_the_order_was_accepted_leaves_the_order_alive(
    kind: str, parameters: dict[str, Any], raised: type[Exception]
) -> None:
    faults = Faults()
    faults.add(kind, where={"method": "POST"}, **parameters)
    with broker(faults=faults) as (_, client):
        with pytest.raises(raised):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        order = client.get_order_by_client_id("desk-1")
        assert isinstance(order, models.Order)
        assert order.status == OrderStatus.FILLED
        assert faults.met == {kind: 1}
        assert not faults.met_exposed[kind]  # nothing was open when it began


def test_an_error_before_the_order_was_accepted_leaves_nothing() -> None:
    faults = Faults()
    faults.add("http_error", status=502, where={"method": "POST"})
    with broker(faults=faults) as (server, client):
        with pytest.raises(APIError):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        with refused(404, 40410000, "order not found for desk-1"):
            client.get_order_by_client_id("desk-1")
        assert [(row.method, row.status) for row in server.server.requests] == [("POST", 502), ("GET", 404)]


def test_a_reply_that_never_comes_runs_into_the_clients_timeout_and_the_order_lives() -> None:
    faults = Faults()
    faults.add("http_hang", where={"path": "/v2/orders"}, seconds=20)
    with broker(faults=faults) as (_, client):
        client._session.mount("http://", Impatient())
        with pytest.raises(requests.ReadTimeout):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        assert client.get_order_by_client_id("desk-1") is not None


def test_a_status_of_tomorrow_breaks_alpaca_pys_list_and_raw_data_reads_it() -> None:
    faults = Faults()
    faults.add("http_unknown_enum", times=2, where={"method": "GET"})
    with broker(faults=faults) as (server, client):
        submitted(client, buy_limit("SPY", 1, 400.0))
        with pytest.raises(ValueError, match="status_of_tomorrow"):
            client.get_orders()
        raw = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url, raw_data=True)
        with contextlib.closing(raw._session):
            orders: Any = raw.get_orders()
        assert [order["status"] for order in orders] == ["status_of_tomorrow"]


def test_a_stale_read_does_not_yet_know_the_order() -> None:
    faults = Faults()
    with broker(faults=faults) as (_, client):
        order = submitted(client, buy(CALL, 1))
        faults.add("stale_read", age_s=5, times=2)
        with refused(404, 40410000, "order not found"):
            client.get_order_by_id(order.id)
        assert client.get_all_positions() == []
        assert held(client, CALL).qty == "1"
        assert faults.met_exposed["stale_read"] == 2


def test_a_cancellation_may_lose_be_refused_later_or_never_come() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        lost, stuck, kept = (submitted(client, buy_limit(CALL, 1, 0.01 + number / 100)) for number in range(3))
        faults.add("cancel_loses")
        client.cancel_order_by_id(lost.id)
        assert found(client, lost).status == OrderStatus.FILLED
        faults.add("cancel_stuck")
        client.cancel_order_by_id(stuck.id)
        faults.add("cancel_rejected")
        client.cancel_order_by_id(kept.id)
        assert found(client, kept).status == OrderStatus.NEW
        server.jump_to(OPEN_NS + 100 * MINUTE_NS)
        assert found(client, stuck).status == OrderStatus.PENDING_CANCEL


def test_a_documented_refusal_can_be_scripted_by_name() -> None:
    faults = Faults()
    faults.add("order_refused", reason="pattern_day_trader")
    faults.add("order_refused", status=403, code=40319999, message="for a reason of tomorrow")
    with broker(faults=faults) as (_, client):
        with refused(403, 40310100, "trade denied due to pattern day trading protection"):
            client.submit_order(buy(CALL, 1))
        with refused(403, 40319999, "for a reason of tomorrow"):
            client.submit_order(buy(CALL, 1))


def test_a_busted_fill_and_a_corrected_price_turn_the_books() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        submitted(client, buy("SPY", 1))
        order = submitted(client, buy("SPY", 2))
        faults.add("trade_correct", shift="-1.00")
        server.jump_to(OPEN_NS + 11 * MINUTE_NS)
        assert cash(client) == Decimal("8501.97")  # 10000 - 500.01 - 2 x 499.01
        faults.add("trade_bust")
        server.jump_to(OPEN_NS + 12 * MINUTE_NS)
        assert cash(client) == Decimal("9499.99")
        assert (held(client, "SPY").qty, held(client, "SPY").avg_entry_price) == ("1", "500.01")
        assert found(client, order).filled_qty == "0"
        rows = [row.get("status") for row in activities(client, direction="asc")]
        assert sorted(filter(None, rows)) == ["canceled", "correct"]


def test_dividends_splits_and_transfers_are_rows_and_book_entries() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        submitted(client, buy("SPY", 4))  # 2000.04
        faults.add("dividend", amount="1.25", from_ns=OPEN_NS + 11 * MINUTE_NS)
        faults.add("transfer", amount="-100", from_ns=OPEN_NS + 12 * MINUTE_NS)
        faults.add("split", ratio=2, from_ns=OPEN_NS + 13 * MINUTE_NS)
        for minute in (11, 12, 13):
            server.jump_to(OPEN_NS + minute * MINUTE_NS)
        assert cash(client) == Decimal("7904.96")  # 10000 - 2000.04 + 5.00 - 100
        assert (held(client, "SPY").qty, held(client, "SPY").avg_entry_price) == ("8", "250.005")
        kinds = {row["activity_type"]: row["net_amount"] for row in activities(client, category="non_trade_activity")}
        assert kinds == {"DIV": "5", "CSW": "-100", "SPLIT": "0"}


def test_a_blocked_account_says_so_and_takes_no_order() -> None:
    faults = Faults()
    faults.add("account_blocked", until_ns=OPEN_NS + 20 * MINUTE_NS)
    with broker(faults=faults) as (server, client):
        account = client.get_account()
        assert isinstance(account, models.TradeAccount)
        assert account.trading_blocked is True
        with refused(403, 40310000, "account is not authorized to trade"):
            client.submit_order(buy(CALL, 1))
        server.jump_to(OPEN_NS + 20 * MINUTE_NS)
        submitted(client, buy(CALL, 1))


def test_a_person_in_the_account_places_cancels_and_closes() -> None:
    with broker() as (server, client):
        placed = server.by_hand("place", symbol=CALL, qty="2", side="buy")
        assert held(client, CALL).qty == "2"
        assert placed["status"] == "pending_new"
        waiting = server.by_hand("place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="400")
        server.by_hand("cancel", order_id=waiting["id"])
        assert client.get_orders() == []
        server.by_hand("close", symbol=CALL)
        assert client.get_all_positions() == []


def test_a_manual_order_of_the_script_comes_at_its_time() -> None:
    faults = Faults()
    at_ns = OPEN_NS + 15 * MINUTE_NS
    faults.add("manual_order", from_ns=at_ns, action="place", symbol=CALL, qty="1", side="buy")
    with broker(faults=faults) as (server, client):
        server.jump_to(at_ns - SECOND_NS)
        assert client.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL)) == []
        server.jump_to(at_ns)
        assert held(client, CALL).qty == "1"


def test_a_position_that_cannot_be_closed_says_why_and_the_others_are_closed() -> None:
    with broker() as (_, client):
        submitted(client, buy(CALL, 2))
        submitted(client, buy("SPY", 1))
        submitted(client, sell_limit(CALL, 1, 90.0))
        answers = client.close_all_positions()
        assert isinstance(answers, list)
        assert {answer.symbol: answer.status for answer in answers} == {CALL: 403, "SPY": 200}
        failure = next(answer.body for answer in answers if answer.symbol == CALL)
        assert isinstance(failure, models.FailedClosePositionDetails)
        assert (failure.available, failure.existing_qty, failure.held_for_orders) == (1.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/orders?limit=501", "limit must be between 1 and 500"),
        ("/v2/orders?status=some", "invalid status"),
        ("/v2/orders?after=yesterday", "invalid time yesterday"),
        ("/v2/account/activities?page_size=101", "page_size must be between 1 and 100"),
        (
            "/v2/account/activities?activity_types=FILL&category=trade_activity",
            "only one of activity_types or category",
        ),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(path: str, words: str) -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    with broker() as (server, client):
        submitted(client, buy_limit("SPY", 1, 400.0))
        reply = requests.get(server.trading_url + path, headers=keys, timeout=5)
        assert reply.status_code == 422
        assert words in reply.json()["message"]


def test_an_unknown_endpoint_and_a_body_that_is_no_object_are_told_apart() -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    with broker() as (server, _):
        nowhere = requests.get(server.trading_url + "/v2/nowhere", headers=keys, timeout=5)
        assert (nowhere.status_code, nowhere.json()["code"]) == (404, 40410000)
        for body in ("[1]", "{"):
            reply = requests.post(server.trading_url + "/v2/orders", data=body, headers=keys, timeout=5)
            assert (reply.status_code, reply.json()["code"]) == (422, 40010001)


@pytest.mark.parametrize(
    ("kind", "parameters", "status"),
    [
        ("http_429", {"retry_after_s": 7}, 429),
        ("auth_failed", {}, 401),
        ("auth_failed", {"status": 403}, 403),
        ("http_slow", {"seconds": 0.01}, 200),
        ("http_unknown_field", {}, 200),
    ],
)
def test_faults_of_plain_http_have_their_status(kind: str, parameters: dict[str, Any], status: int) -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    faults = Faults()
    faults.add(kind, **parameters)
    with broker(faults=faults) as (server, _):
        reply = requests.get(server.trading_url + "/v2/account", headers=keys, timeout=5)
        assert reply.status_code == status
        assert reply.headers.get("Retry-After") == ("7" if kind == "http_429" else None)
        assert ("field_of_tomorrow" in reply.json()) == (kind == "http_unknown_field")
        assert requests.get(server.trading_url + "/v2/account", headers=keys, timeout=5).status_code == 200


def test_the_same_seed_gives_the_same_fault_at_the_same_opportunities() -> None:
    def taken(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add("update_lost", chance=0.3, until_ns=10)
        return [faults.take("update_lost") is not None for _ in range(50)]

    assert taken(7) == taken(7)
    assert taken(7) != taken(8)
    assert 0 < sum(taken(7)) < 50


def test_the_readme_has_a_line_for_each_fault_and_for_no_other() -> None:
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", readme, re.MULTILINE))
    assert rows == KINDS


def test_an_unknown_kind_of_fault_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="found 'earthquake'"):
        Faults().add("earthquake")
