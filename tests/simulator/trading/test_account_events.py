"""What befalls an account: busts, dividends, blocks and a person at work in it, by the unchanged `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import Any

from simulator.faults import Faults
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trading_tape import (
    CALL,
    MINUTE_NS,
    OPEN_NS,
    activities,
    broker,
    buy,
    cash,
    found,
    held,
    refused,
    sell_limit,
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading import models
    from alpaca.trading.enums import QueryOrderStatus
    from alpaca.trading.requests import GetOrdersRequest


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


def test_a_line_of_any_kind_moves_its_cash_and_its_shares() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        submitted(client, buy("SPY", 4))  # 2000.04
        at_ns = OPEN_NS + 11 * MINUTE_NS
        faults.add("ledger_line", activity_type="WH", amount="-3.10", from_ns=at_ns)
        reo: dict[str, Any] = {
            "activity_type": "REO",
            "activity_sub_type": "REOSC",
            "symbol": "SPY",
            "quantity": "-1",
            "amount": "510",
        }
        faults.add("ledger_line", from_ns=at_ns + MINUTE_NS, **reo)
        faults.add("ledger_line", activity_type="JNLS", symbol="SPY", quantity="2", from_ns=at_ns + 2 * MINUTE_NS)
        for minute in (11, 12, 13):
            server.jump_to(OPEN_NS + minute * MINUTE_NS)
        assert (cash(client), held(client, "SPY").qty) == (Decimal("8506.86"), "5")  # 10000 - 2000.04 - 3.10 + 510
        rows = activities(client, category="non_trade_activity", direction="asc")
        lines = [(row["activity_type"], row["net_amount"], row.get("qty")) for row in rows]
        assert lines == [("WH", "-3.1", None), ("REO", "510", "-1"), ("JNLS", "0", "2")]
        assert rows[1]["activity_sub_type"] == "REOSC"


def test_one_order_s_fills_are_given_by_its_id() -> None:
    with broker() as (_, client):
        submitted(client, buy("SPY", 1))
        order = submitted(client, buy("SPY", 2))
        assert [(row["order_id"], row["qty"]) for row in activities(client, order_id=str(order.id))] == [
            (str(order.id), "2")
        ]


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


def test_an_account_in_a_deficit_of_margin_says_so_and_may_only_close_positions() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        submitted(client, buy(CALL, 1))
        faults.add("margin_deficit", until_ns=OPEN_NS + 20 * MINUTE_NS, amount="250")
        account = client.get_account()
        assert isinstance(account, models.TradeAccount)
        assert Decimal(str(account.maintenance_margin)) - Decimal(str(account.equity)) == 250
        with refused(403, 40310000, "account has an intraday margin deficit and may only close positions"):
            client.submit_order(buy(CALL, 1))
        client.close_position(CALL)
        server.jump_to(OPEN_NS + 20 * MINUTE_NS)
        submitted(client, buy(CALL, 1))


def test_a_cash_account_does_not_spend_what_it_sold_today() -> None:
    with broker(accounts=[Account(DEFAULT_KEY, DEFAULT_SECRET, margin=1, settles=True)]) as (_, client):
        submitted(client, buy("SPY", 19))  # 9,500.19 of 10,000 USD
        client.close_position("SPY")
        account = client.get_account()
        assert isinstance(account, models.TradeAccount)
        assert (account.cash, account.buying_power) == ("9999.81", "499.81")
        with refused(403, 40310000, "insufficient buying power"):
            client.submit_order(buy("SPY", 1))


def test_a_market_that_is_closed_by_surprise_says_so_and_when_it_opens_next() -> None:
    faults = Faults()
    with broker(faults=faults) as (_, client):
        usual = client.get_clock()
        faults.add("market_closed", until_ns=OPEN_NS + 20 * MINUTE_NS)
        surprise = client.get_clock()
        assert isinstance(usual, models.Clock)
        assert isinstance(surprise, models.Clock)
        assert (usual.is_open, surprise.is_open, surprise.next_open == usual.next_open) == (True, False, True)


def test_a_person_in_the_account_places_cancels_and_closes() -> None:
    with broker() as (server, client):
        placed = server.by_hand("place", symbol=CALL, qty="2", side="buy")
        assert held(client, CALL).qty == "2"
        assert placed["status"] == "pending_new"
        waiting = server.by_hand("place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="400")
        server.by_hand("cancel", order_id=waiting["id"])
        assert client.get_orders() == []
        close_order = server.by_hand("close", symbol=CALL)
        assert client.get_all_positions() == []
        client.submit_order(buy("SPY", 1))
        assert server.server.account.by_hand == {placed["id"], waiting["id"], close_order["id"]}


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
