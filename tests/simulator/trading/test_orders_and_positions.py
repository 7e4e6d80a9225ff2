"""Orders listed, cancelled and replaced, positions closed and exercised, by the unchanged `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from daemon.alpaca_api.wire import asset_id
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from tests.support.simulator.trading_tape import (
    CALL,
    MINUTE_NS,
    OPEN_NS,
    PUT,
    broker,
    buy,
    buy_limit,
    cash,
    found,
    held,
    quoted,
    refused,
    sell_limit,
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading import models
    from alpaca.trading.enums import OrderSide, OrderStatus, QueryOrderStatus
    from alpaca.trading.requests import ClosePositionRequest, GetOrdersRequest, ReplaceOrderRequest


def test_orders_are_listed_by_state_side_symbol_time_and_direction() -> None:
    with broker() as (server, client):
        closed_order = submitted(client, buy(CALL, 1))
        server.jump_to(OPEN_NS + 15 * MINUTE_NS)
        first = submitted(client, buy_limit("SPY", 1, 400.0))
        server.jump_to(OPEN_NS + 20 * MINUTE_NS)
        second = submitted(client, buy_limit(PUT, 1, 0.01))

        def listed(**query: Any) -> list[UUID]:
            orders = client.get_orders(GetOrdersRequest(**query))
            assert isinstance(orders, list)
            return [order.id for order in orders]

        assert listed() == [second.id, first.id]  # open ones, the newest first
        assert listed(status=QueryOrderStatus.CLOSED) == [closed_order.id]
        assert listed(status=QueryOrderStatus.ALL, direction="asc") == [closed_order.id, first.id, second.id]
        assert listed(status=QueryOrderStatus.ALL, symbols=["SPY", CALL], nested=True) == [first.id, closed_order.id]
        assert listed(status=QueryOrderStatus.ALL, limit=1) == [second.id]
        assert listed(
            status=QueryOrderStatus.ALL, after=first.submitted_at + timedelta(seconds=1), side=OrderSide.BUY
        ) == [second.id]
        assert listed(status=QueryOrderStatus.ALL, until=second.submitted_at, direction="asc") == [
            closed_order.id,
            first.id,
        ]


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
