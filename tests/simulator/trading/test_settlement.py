"""The end of the day: expiry, exercise, assignment, fees and activities, by the unchanged `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import math
import warnings
from datetime import UTC, datetime
from decimal import Decimal

from simulator.faults import Faults
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trading_tape import (
    CALL,
    CLOSE_NS,
    DAY_NS,
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
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading.enums import OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
    from alpaca.trading.requests import GetOrdersRequest


def test_at_the_close_day_orders_expire_and_worthless_contracts_vanish() -> None:
    with broker() as (server, client):
        submitted(client, buy(PUT, 2))
        working = submitted(client, buy_limit("SPY", 1, 400.0))
        order = submitted(client, buy_limit("SPY", 1, 401.0, time_in_force=TimeInForce.GTC))
        before = cash(client)
        server.jump_to(CLOSE_NS + SECOND_NS)
        assert found(client, working).status == OrderStatus.EXPIRED
        assert found(client, order).status == OrderStatus.NEW
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
        own_order = submitted(client, buy(CALL, 1))
        server.jump_to(CLOSE_NS - 59 * MINUTE_NS)
        assert client.get_all_positions() == []
        orders = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.CLOSED))
        assert isinstance(orders, list)
        foreign = [order for order in orders if order.id != own_order.id]
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


def test_fees_of_shares_are_a_line_of_each_kind_rounded_up_to_the_cent_at_the_close() -> None:
    taf, reg, cat = map(Decimal, ("0.000166", "0.0000278", "0.00048"))
    rules = Rules(fill_sizes=(1000, 1000), taf_per_share=taf, reg_rate=reg, cat_per_share=cat)
    with broker(rules=rules) as (server, client):
        submitted(client, buy("SPY", 30))
        submitted(client, sell("SPY", 30))
        (sale,) = [row for row in activities(client, activity_types="FILL") if row["side"] == "sell"]
        cents = math.ceil(30 * Decimal(sale["price"]) * Decimal("0.00278"))
        server.jump_to(CLOSE_NS + SECOND_NS)
        lines = {row["description"].split()[0]: row["net_amount"] for row in activities(client, activity_types="FEE")}
        # TAF 30 x 0.000166 = 0.00498; CAT 60 x 0.00048 = 0.0288
        assert lines == {"TAF": "-0.01", "REG": f"-{cents / 100:g}", "CAT": "-0.03"}


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
