"""What the loopback Alpaca refuses, driven by the unchanged alpaca-py `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import Any

import pytest

from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trading_tape import (
    CALL,
    CLOSE_NS,
    MINUTE_NS,
    OPEN_NS,
    PUT,
    activities,
    broker,
    buy,
    buy_limit,
    cash,
    found,
    held,
    refused,
    sell,
    sell_limit,
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading import models
    from alpaca.trading.enums import OrderStatus, TimeInForce


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
