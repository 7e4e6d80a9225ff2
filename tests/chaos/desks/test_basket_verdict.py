"""Each verdict on several desks and their baskets finds the fault that it is for, in accounts written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

from daemon.alpaca_api.books import PositionChange
from daemon.core.limits import Trading
from daemon.core.state import Identity
from daemon.engine.recover import fresh_machine
from simulator.server import LoggedRequest
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from strategies.registry import strategy
from tests.chaos.desks import basket_verdict
from tests.support.desks.live_desk import Books

OPEN_NS = 1_732_199_400_000_000_000  # 2024-11-21 09:30 New York
SECOND_NS = 1_000_000_000
DAY_S = 86_400
START = Decimal(1_000)


class Scene:
    """One account of a desk `daily_rebalancer` with 1,000 USD."""

    def __init__(self, key: str = "key", epoch: str = "e1") -> None:
        self.account = Account(key, f"secret of {key}", cash=START)
        self.epoch = epoch

    def order(self, name: str, side: str, quantity: int, price: str, second: int, symbol: str = "KO") -> AlpacaOrder:
        """An order at the broker from that second on."""
        at_ns = OPEN_NS + second * SECOND_NS
        order = AlpacaOrder(
            self.account.new_id(), f"{self.epoch}-daily_rebalancer-{name}", symbol, side, "limit", "day",
            Decimal(quantity), None, at_ns, limit_price=Decimal(price), status="new",
        )  # fmt: skip
        order.past.append((at_ns, order.shown()))
        self.account.add(order)
        return order

    def fill(self, order: AlpacaOrder, quantity: int, price: str, second: int) -> None:
        """An execution."""
        at_ns = OPEN_NS + second * SECOND_NS
        self.account.trade(
            PositionChange(order.symbol, Decimal(quantity * order.sign), Decimal(price), at_ns, order.id, "x")
        )
        order.filled_qty += quantity
        order.status = "filled" if order.filled_qty == order.qty else "partially_filled"
        order.past.append((at_ns, order.shown()))

    def cancel(self, order: AlpacaOrder, second: int) -> None:
        """The order ends."""
        order.status = "canceled"
        order.past.append((OPEN_NS + second * SECOND_NS, order.shown()))

    def uncovered(self) -> list[str]:
        return basket_verdict.uncovered(self.account, START, OPEN_NS)


def books(*decisions: tuple[int, str, str]) -> Books:
    """A daily desk's decisions as (second since the open, kind, outcome)."""
    identity = Identity("paper", "paper", "daily_rebalancer", "e1", "sip")
    rows: list[dict[str, Any]] = [
        {"time_ns": OPEN_NS + second * SECOND_NS, "kind": kind, "outcome": outcome}
        for second, kind, outcome in decisions
    ]
    return Books(fresh_machine(strategy("daily_rebalancer"), identity, Trading()).state, decisions=rows)


def test_cash_that_the_broker_rounds_is_the_cash_that_buys_are_paid_from() -> None:
    scene = Scene()
    purchase = PositionChange("KO", Decimal("9.999"), Decimal(100), OPEN_NS, "x", "y", rounding=Decimal("0.1"))
    scene.account.trade(purchase)  # 999.90 USD, and 0.10 more: nothing is left
    assert basket_verdict.overdrawn(scene.account, START) == []
    assert basket_verdict.overdrawn(scene.account, START - Decimal("0.01")) == [f"cash -0.010 USD at {OPEN_NS}"]


def test_two_baskets_of_one_date_are_told_and_one_on_each_of_two_dates_is_not() -> None:
    apart = books((0, "policy", "ordered"), (DAY_S, "policy", "hold"))
    assert basket_verdict.baskets(apart) == {"2024-11-21": "ordered", "2024-11-22": "hold"}
    assert basket_verdict.baskets_doubled(apart) == []
    twice = books((0, "policy", "ordered"), (60, "policy", "expired"), (90, "rule", "exit"))
    assert basket_verdict.baskets_doubled(twice) == ["2024-11-21: more than one basket: ordered, expired"]


def test_a_buy_is_covered_by_what_other_working_buys_leave_and_by_no_more() -> None:
    scene = Scene()
    scene.order("1-0-0", "buy", 6, "100.00", 10)
    scene.order("1-1-0", "buy", 4, "100.00", 11)  # 600 and 400 of 1,000 USD
    assert scene.uncovered() == []
    scene.order("1-2-0", "buy", 1, "0.02", 12)
    assert len(scene.uncovered()) == 1


def test_a_buy_keeps_back_its_open_rest_and_nothing_once_it_is_over() -> None:
    scene = Scene()
    first = scene.order("1-0-0", "buy", 10, "100.00", 10)
    scene.fill(first, 4, "90.00", 20)  # 640 USD of cash, 600 of them kept back
    scene.order("1-1-0", "buy", 1, "40.00", 30)
    assert scene.uncovered() == []
    scene.cancel(first, 40)
    scene.order("1-2-0", "buy", 6, "100.00", 50)  # and 40 for the one before
    assert scene.uncovered() == []


def test_a_sale_pays_for_a_buy_from_its_fill_on_and_not_before() -> None:
    scene = Scene()
    scene.account.trade(PositionChange("PEP", Decimal(5), Decimal(0), OPEN_NS - SECOND_NS))
    sale = scene.order("1-0-0", "sell", 5, "100.00", 10, "PEP")
    scene.order("1-1-0", "buy", 11, "100.00", 20)
    scene.fill(sale, 5, "100.00", 30)
    assert len(scene.uncovered()) == 1
    assert "1-1-0: 1100.00 USD of KO, cash 1000" in scene.uncovered()[0]


def test_cash_below_zero_is_told_and_a_dividend_in_time_prevents_it() -> None:
    scene = Scene()
    scene.fill(scene.order("1-0-0", "buy", 10, "100.10", 10), 10, "100.10", 20)
    assert basket_verdict.overdrawn(scene.account, START) == [f"cash -1.00 USD at {OPEN_NS + 20 * SECOND_NS}"]
    scene.account.note(OPEN_NS, {"activity_type": "DIV", "net_amount": "1.00"})
    assert basket_verdict.overdrawn(scene.account, START) == []


def test_an_order_of_another_desk_or_symbol_and_a_request_with_a_wrong_key_are_told() -> None:
    scene = Scene()
    scene.order("1-0-0", "buy", 1, "10.00", 10)
    owners = {"daily_rebalancer": (scene.account, "e1", frozenset({"KO"}))}
    body = json.dumps({"client_order_id": "e1-daily_rebalancer-1-0-0"})
    request = LoggedRequest(OPEN_NS, "POST", "/v2/orders", body, 200, "key")
    assert basket_verdict.strangers(owners, [request]) == []
    other = LoggedRequest(OPEN_NS, "POST", "/v2/orders", body.replace("e1-", "e2-"), 200, "key")
    assert len(basket_verdict.strangers(owners, [request, other])) == 1
    scene.order("1-1-0", "buy", 1, "10.00", 11, "PEP")
    scene.epoch = "e2"
    scene.order("1-2-0", "buy", 1, "10.00", 12)
    assert len(basket_verdict.strangers(owners, [])) == 2
    by_hand = scene.order("1-3-0", "buy", 1, "10.00", 13, "SPY")
    assert len(basket_verdict.strangers(owners, [])) == 4
    scene.account.by_hand.add(by_hand.id)
    assert len(basket_verdict.strangers(owners, [])) == 2


def test_an_order_of_the_brokers_call_to_close_is_the_desks_whose_key_asked() -> None:
    scene = Scene()
    owners = {"daily_rebalancer": (scene.account, "e1", frozenset({"KO"}))}
    sale = scene.order("1-0-0", "sell", 1, "10.00", 11)
    sale.client_order_id = "f7213187-b9ee-454a-8616-8636167a535d"  # the broker's
    assert len(basket_verdict.strangers(owners, [])) == 1
    call = LoggedRequest(sale.created_ns, "DELETE", "/v2/positions/KO?qty=1", "", 200, scene.account.key)
    assert basket_verdict.strangers(owners, [call]) == []
    for other in ({"key": "another"}, {"path": "/v2/positions/PEP?qty=1"}, {"time_ns": sale.created_ns - 1}):
        assert len(basket_verdict.strangers(owners, [replace(call, **other)])) == 1


def test_a_name_in_two_accounts_is_told() -> None:
    first, second = Scene(), Scene("other")
    first.order("1-0-0", "buy", 1, "10.00", 10)
    assert basket_verdict.names_twice([first.account, second.account]) == []
    second.order("1-0-0", "buy", 1, "10.00", 10)
    assert basket_verdict.names_twice([first.account, second.account]) == [
        "e1-daily_rebalancer-1-0-0: in 2 accounts",
    ]
